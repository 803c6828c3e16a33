"""Fit the teacher's transform to human choice probabilities ("uncertainty distillation").

Objective, for features x standardised by one scalar mean and std, y = x W + b, and S' = y y^T:

    (1 - alpha) * mean_s KL(q_s || softmax(S'_01, S'_02, S'_12)) + alpha * L_local + identity_penalty * || W -
    mean(diag W) I ||_F^2

q are the human model's probabilities (AligNet, Muttenthaler et al., Nature 2025); one-hot q gives gLocal's hard loss.
L_local (gLocal, NeurIPS 2023) keeps each item's distribution over its neighbours. Every step maps one random image of
each object and reads all similarities from the one matrix S'.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor

from alignet_ray.core import losses
from alignet_ray.core.affine import AffineTransform
from alignet_ray.core.optim import update_mean
from alignet_ray.core.triplet_set import ChoiceScore, TripletSet, score
from alignet_ray.core.triplets import gram_similarities

MapKind = Literal["affine", "low_rank", "diagonal", "orthogonal"]


@dataclass(frozen=True)
class FitSettings:
    """How a transform is fitted.

    Attributes:
        kind: affine (full W), low_rank (W acts on the `rank` principal dimensions), diagonal, or orthogonal. Dot
            products do not see a rotation, so what is fitted of the last one is its scale and offset.
        rank: principal dimensions of low_rank.
        identity_penalty: weight of R_eye (on the core in the principal basis for low_rank; none for orthogonal), for
            features of
            unit mean square norm, so that a value suits any width; gLocal's lambda is this over that norm's square.
        alpha, tau: weight and temperature of the local term.
        lr: Adam's step size, for features of unit mean square norm.
        mean: decay of a running mean of the weights, which is what is judged and kept; 0: the last weights are. A step
            sees one random image of each object, so the last weights wander, and the held-out minimum would be where
            chance put it.
        batch_size: triplets a step; steps: largest number of steps.
        every: steps between two looks at the held-out objects; patience: looks without a better cross-entropy.
    """

    kind: MapKind
    rank: int
    identity_penalty: float
    alpha: float
    tau: float
    lr: float
    batch_size: int
    steps: int
    patience: int
    mean: float = 0.95
    every: int = 20


@dataclass(frozen=True)
class FittedTransform:
    """The best transform seen, where it was, and one row a look: step, loss, held-out accuracy and cross-entropy."""

    transform: AffineTransform
    step: int
    score: ChoiceScore
    history: list[dict[str, float]]


class Core(torch.nn.Module):
    """The trained part: y = z C + b on features z (centred, projected, unit mean square norm)."""

    def __init__(self, z: Float[Tensor, "n r"], kind: MapKind, identity_penalty: float, scale: float) -> None:
        super().__init__()
        r = z.shape[1]
        self.kind = kind
        self.identity_penalty = identity_penalty
        start = {"diagonal": torch.full((r,), scale), "orthogonal": torch.tensor(scale)}
        self.weight = torch.nn.Parameter(start.get(kind, scale * torch.eye(r)))
        self.bias = torch.nn.Parameter(torch.zeros(r))

    def forward(self, z: Float[Tensor, "n r"]) -> Float[Tensor, "n r"]:
        """Map rows."""
        return (z @ self.weight if self.weight.ndim == 2 else z * self.weight) + self.bias

    def penalty(self) -> Float[Tensor, ""]:
        """R_eye: squared distance to the nearest multiple of the identity, times its weight."""
        if self.kind == "orthogonal":
            return torch.zeros(())
        return self.identity_penalty * losses.identity_penalty(self.matrix())

    def matrix(self) -> Float[Tensor, "r r"]:
        """C as a full matrix."""
        return self.weight if self.weight.ndim == 2 else torch.diag(self.weight.expand(len(self.bias)))


def fit(
    x: Float32[np.ndarray, "n p"],
    train: TripletSet,
    valid: TripletSet,
    settings: FitSettings,
    seed: int,
    report: Callable[[dict[str, float]], None] | None = None,
) -> FittedTransform:
    """Fit a transform on the training objects; stop by the cross-entropy of the held-out objects, and keep the best.

    Args:
        x: features of all images; only rows of `train` decide the standardisation and the principal dimensions.
        train, valid: objects to learn from and to stop by.
        settings: form of the map and of the optimisation.
        seed: of images and triplets drawn.
        report: called with each row of the history.
    """
    basis = _Basis.of(x, np.unique(train.rows.numpy()), settings)
    z = torch.from_numpy(basis.project(x))
    rng = torch.Generator().manual_seed(seed)
    core = Core(z, settings.kind, settings.identity_penalty, _first_scale(z, train, rng))
    before = torch.from_numpy((x - basis.mean) / basis.std) if settings.alpha else None
    mean = copy.deepcopy(core)
    optimizer = torch.optim.Adam(core.parameters(), lr=settings.lr)
    held_rows, held = valid.compact()
    held_z = z[held_rows]
    best = FittedTransform(basis.export(core), 0, score(core(held_z).detach(), held), [])
    history: list[dict[str, float]] = []
    for step in range(1, settings.steps + 1):
        loss = _loss(core, z, before, train, settings, rng)
        assert math.isfinite(loss.item()), f"the loss is {loss.item()} at step {step}"
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        decay = settings.mean if step > 1 else 0.0  # the mean begins with the first step's weights
        update_mean(list(mean.parameters()), list(core.parameters()), decay)
        if step % settings.every:
            continue
        found = score(mean(held_z).detach(), held)
        history.append(
            {"step": float(step), "loss": loss.item(), "accuracy": found.accuracy, "cross_entropy": found.cross_entropy}
        )
        if report:
            report(history[-1])
        if found.cross_entropy < best.score.cross_entropy:
            best = FittedTransform(basis.export(mean), step, found, [])
        elif step - best.step >= settings.patience * settings.every:
            break
    return FittedTransform(best.transform, best.step, best.score, history)


def triplet_loss(
    y: Float[Tensor, "n r"], triplets: Int[Tensor, "b 3"], targets: Float[Tensor, "b 3"]
) -> Float[Tensor, ""]:
    """Mean KL(q || p) of dot-product similarities, in nats; targets q may be one-hot (then it is the cross-entropy)."""
    return losses.kl_to_choices(gram_similarities(y @ y.T, triplets), targets).mean()


@dataclass(frozen=True)
class _Basis:
    """Standardisation by two scalars, centring, scaling to unit mean square norm, projection on `axes` (None: all)."""

    mean: np.float32
    std: np.float32
    centre: Float32[np.ndarray, " p"]
    axes: Float32[np.ndarray, "p r"] | None
    norm: float

    @classmethod
    def of(cls, x: Float32[np.ndarray, "n p"], rows: Int64[np.ndarray, " t"], settings: FitSettings) -> "_Basis":
        mean, std = x[rows].mean(dtype=np.float64), x[rows].std(dtype=np.float64)
        standard = (x[rows] - np.float32(mean)) / np.float32(std)
        centre = standard.mean(axis=0)
        axes = None
        if settings.kind == "low_rank":
            _, values, right = np.linalg.svd(standard - centre, full_matrices=False)
            rank = min(settings.rank, int((values > values[0] * 1e-6).sum()))
            axes = np.ascontiguousarray(right[:rank].T)
        plain = cls(np.float32(mean), np.float32(std), centre, axes, 1.0)
        norm = float(np.sqrt(np.square(plain.project(x[rows])).sum(axis=1).mean()))
        return cls(plain.mean, plain.std, centre, axes, norm)

    def project(self, x: Float32[np.ndarray, "n p"]) -> Float32[np.ndarray, "n r"]:
        z = ((x - self.mean) / self.std - self.centre) / np.float32(self.norm)
        return np.asarray(z if self.axes is None else z @ self.axes)

    def export(self, core: Core) -> AffineTransform:
        """The map as full (p, p) weights: axes C axes^T has the same dot products as C in the principal basis."""
        c = core.matrix().detach().numpy() / np.float32(self.norm)
        bias = core.bias.detach().numpy().copy()
        if self.axes is None:
            return AffineTransform(float(self.mean), float(self.std), c.copy(), bias - self.centre @ c)
        bias = bias - (self.centre @ self.axes) @ c
        return AffineTransform(float(self.mean), float(self.std), self.axes @ c @ self.axes.T, bias @ self.axes.T)


def _loss(
    core: Core, z: Tensor, before: Tensor | None, train: TripletSet, settings: FitSettings, rng: torch.Generator
) -> Float[Tensor, ""]:
    rows = train.draw(rng)
    y = core(z[rows])
    some = torch.randint(len(train.triplets), (min(settings.batch_size, len(train.triplets)),), generator=rng)
    loss = (1 - settings.alpha) * triplet_loss(y, train.triplets[some], train.targets[some])
    if before is not None:
        loss = loss + settings.alpha * losses.locality(before[rows], y, settings.tau)
    return loss + core.penalty()


def _first_scale(z: Tensor, train: TripletSet, rng: torch.Generator) -> float:
    """The multiple of the identity that fits best, among powers of two: the fit starts from the base's similarities."""
    y = z[train.draw(rng)]
    some = slice(0, 20_000)
    losses = {s: float(triplet_loss(s * y, train.triplets[some], train.targets[some])) for s in 2.0 ** np.arange(-3, 6)}
    return float(min(losses, key=losses.__getitem__))
