"""Fit the teacher's transform to human choice probabilities: AligNet's uncertainty distillation, gLocal's penalties.

For features x, standardised by one scalar mean and std, y = x W + b and S = y y^T, the objective is

    (1 - alpha) * mean_t KL(q_t || softmax(S_01, S_02, S_12)) + alpha * L_local + identity_penalty * R_eye(W)

over triplets t, where q are the human model's probabilities (AligNet, Muttenthaler et al., Nature 2025); one-hot q give
gLocal's hard loss. L_local and R_eye (gLocal, Muttenthaler et al., NeurIPS 2023) are `losses.locality` and
`losses.identity_penalty`. Every step maps one random image of each object and reads all similarities from S.
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
from alignet_ray.core.optim import update_ema
from alignet_ray.core.triplet_set import ChoiceScore, TripletSet, score
from alignet_ray.core.triplets import gram_similarities

MapKind = Literal["affine", "low_rank", "diagonal", "orthogonal"]

MIN_PRODUCTS = 1e11
"""Products of a fit, forward, from which on a GPU is worth while: some ten seconds of two CPU cores."""

FIRST_SCALES = (2.0 ** np.arange(-3, 6)).tolist()
"""Multiples of the identity that are tried as the start of a fit."""


@dataclass(frozen=True)
class FitSettings:
    """How a transform is fitted.

    Attributes:
        kind: affine (full W), low_rank (W acts on the `rank` principal dimensions), diagonal, or orthogonal. Dot
            products do not change under a rotation, so of an orthogonal map only scale and offset are fitted.
        rank: principal dimensions of low_rank.
        identity_penalty: weight of R_eye (on the core in the principal basis for low_rank; none for orthogonal), for
            features of unit mean square norm, so that a value suits any width. gLocal's lambda is this times the mean
            square norm of the features as they are.
        alpha, tau: weight and temperature of the local term.
        lr: Adam's step size, for features of unit mean square norm.
        batch_size: triplets per step.
        steps: largest number of steps.
        patience: evaluations without a lower cross-entropy after which the fit stops.
        mean: decay of the moving average of the weights, which is what is evaluated and kept; 0: the last weights. A
            step sees one random image of each object, so the last weights wander, and the best of them would be best
            by chance.
        every: steps between two evaluations on the held-out objects.
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
    """The best transform of a fit.

    Attributes:
        transform: the map.
        step: when it was reached.
        score: on the held-out objects.
        history: one row per evaluation: step, training loss, held-out accuracy and cross-entropy.
    """

    transform: AffineTransform
    step: int
    score: ChoiceScore
    history: list[dict[str, float]]


class Core(torch.nn.Module):
    """The trained part: y = z C + b on features z that are centred, projected and of unit mean square norm.

    C is stored as a full matrix, as its diagonal, or as one scalar, depending on the kind of map.
    """

    def __init__(self, width: int, kind: MapKind, identity_penalty: float, scale: float) -> None:
        super().__init__()
        self.kind = kind
        self.identity_penalty = identity_penalty
        if kind == "diagonal":
            start = torch.full((width,), scale)
        elif kind == "orthogonal":
            start = torch.tensor(scale)
        else:
            start = scale * torch.eye(width)
        self.weight = torch.nn.Parameter(start)
        self.bias = torch.nn.Parameter(torch.zeros(width))

    def forward(self, features: Float[Tensor, "n r"]) -> Float[Tensor, "n r"]:
        """Map rows."""
        if self.weight.ndim == 2:
            return features @ self.weight + self.bias
        return features * self.weight + self.bias

    def penalty(self) -> Float[Tensor, ""]:
        """R_eye, times its weight."""
        if self.kind == "orthogonal":
            return torch.zeros(())
        return self.identity_penalty * losses.identity_penalty(self.matrix())

    def matrix(self) -> Float[Tensor, "r r"]:
        """C as a full matrix."""
        if self.weight.ndim == 2:
            return self.weight
        return torch.diag(self.weight.expand(len(self.bias)))


def fit(
    x: Float32[np.ndarray, "n p"],
    train: TripletSet,
    valid: TripletSet,
    settings: FitSettings,
    seed: int,
    report: Callable[[dict[str, float]], None] | None = None,
    device: str = "cpu",
) -> FittedTransform:
    """Fit a transform on the training objects; keep the one with the lowest cross-entropy on the held-out objects.

    Args:
        x: features of all images; only rows of `train` decide the standardisation and the principal dimensions.
        train, valid: objects to learn from, and held-out objects for early stopping.
        settings: form of the map and of the optimisation.
        seed: of the images and triplets drawn.
        report: called with each row of the history.
        device: where the steps are computed; images and triplets are drawn alike on all devices.
    """
    # Standardisation and principal axes see training images alone; all images are then expressed in them.
    basis = _Basis.of(x, np.unique(train.rows.numpy()), settings)
    features = torch.from_numpy(basis.project(x)).to(device)
    train = train.on(device)
    rng = torch.Generator().manual_seed(seed)
    scale = _first_scale(features, train, rng)
    core = Core(features.shape[1], settings.kind, settings.identity_penalty, scale).to(device)
    mean = copy.deepcopy(core)
    optimizer = torch.optim.Adam(core.parameters(), lr=settings.lr)

    # What the local term compares with: the features before any map.
    before = torch.from_numpy(basis.standardise(x)).to(device) if settings.alpha else None

    # The untrained map counts as step 0: a fit that only makes things worse returns it.
    held_out_rows, held_out = valid.on(device).compact()
    held_out_features = features[held_out_rows]
    best = FittedTransform(basis.export(core), 0, score(core(held_out_features).detach(), held_out), [])
    history: list[dict[str, float]] = []

    for step in range(1, settings.steps + 1):
        loss = _update(optimizer, _loss(core, features, before, train, settings, rng), step)

        # The moving average begins with the weights of the first step.
        decay = settings.mean if step > 1 else 0.0
        update_ema(list(mean.parameters()), list(core.parameters()), decay)
        if step % settings.every:
            continue

        # Early stopping by the averaged weights: those of a single step wander with the images it happened to draw.
        current = score(mean(held_out_features).detach(), held_out)
        row = {"step": float(step), "loss": loss}
        row |= {"accuracy": current.accuracy, "cross_entropy": current.cross_entropy}
        history.append(row)
        if report:
            report(row)

        if current.cross_entropy < best.score.cross_entropy:
            best = FittedTransform(basis.export(mean), step, current, [])
        elif step - best.step >= settings.patience * settings.every:
            break
    return FittedTransform(best.transform, best.step, best.score, history)


def _update(optimizer: torch.optim.Optimizer, loss: Float[Tensor, ""], step: int) -> float:
    """Move the weights down the gradient of a loss; returns its value."""
    value = loss.item()
    assert math.isfinite(value), f"the loss is {value} at step {step}"
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return value


def worth_a_gpu(settings: FitSettings, objects: int, width: int) -> bool:
    """Whether a fit computes for longer on a CPU than a GPU takes to be made ready.

    Args:
        settings: of the fit.
        objects: to learn from.
        width: of the features.
    """
    if settings.kind == "low_rank":
        width = min(width, settings.rank)
    # The map of every object, and the similarities of all pairs.
    products = objects * width * (width + objects)
    return settings.steps * products > MIN_PRODUCTS


def triplet_loss(
    features: Float[Tensor, "n r"], triplets: Int[Tensor, "b 3"], targets: Float[Tensor, "b 3"]
) -> Float[Tensor, ""]:
    """Mean KL divergence from choice probabilities to dot-product similarities, in nats.

    Args:
        features: one row per object.
        triplets: rows of `features`.
        targets: human choice probabilities; for one-hot rows this is the cross-entropy.
    """
    similarities = gram_similarities(features @ features.T, triplets)
    return losses.kl_to_choices(similarities, targets).mean()


@dataclass(frozen=True)
class _Basis:
    """The fixed part of a map: standardise by two scalars, centre, project on `axes`, scale to unit mean square norm.

    Attributes:
        mean, std: of all features of the training images.
        centre: mean row of the standardised features.
        axes: principal axes as columns; None: no projection.
        norm: root mean square norm of the projected rows.
    """

    mean: np.float32
    std: np.float32
    centre: Float32[np.ndarray, " p"]
    axes: Float32[np.ndarray, "p r"] | None
    norm: float

    @classmethod
    def of(cls, x: Float32[np.ndarray, "n p"], rows: Int64[np.ndarray, " t"], settings: FitSettings) -> "_Basis":
        """The basis of the rows of the training images."""
        mean = x[rows].mean(dtype=np.float64)
        std = x[rows].std(dtype=np.float64)
        standardised = (x[rows] - np.float32(mean)) / np.float32(std)
        centre = standardised.mean(axis=0)

        # Principal axes by SVD of the centred features; axes without variance would only add noise.
        axes = None
        if settings.kind == "low_rank":
            _, singular, right = np.linalg.svd(standardised - centre, full_matrices=False)
            rank = min(settings.rank, int((singular > singular[0] * 1e-6).sum()))
            axes = np.ascontiguousarray(right[:rank].T)

        # Unit mean square norm makes learning rate and penalty mean the same for features of any width and scale.
        unscaled = cls(np.float32(mean), np.float32(std), centre, axes, 1.0)
        norm = float(np.sqrt(np.square(unscaled.project(x[rows])).sum(axis=1).mean()))
        return cls(unscaled.mean, unscaled.std, centre, axes, norm)

    def standardise(self, x: Float32[np.ndarray, "n p"]) -> Float32[np.ndarray, "n p"]:
        """Features with the two scalars taken out."""
        return np.asarray((x - self.mean) / self.std)

    def project(self, x: Float32[np.ndarray, "n p"]) -> Float32[np.ndarray, "n r"]:
        """The features that the core works on."""
        scaled = (self.standardise(x) - self.centre) / np.float32(self.norm)
        if self.axes is None:
            return np.asarray(scaled)
        return np.asarray(scaled @ self.axes)

    def export(self, core: Core) -> AffineTransform:
        """The map as full (p, p) weights: axes C axes^T has the same dot products as C in the principal basis."""
        # Centring, projection and scaling become part of weights and bias: AffineTransform only standardises.
        weights = core.matrix().detach().cpu().numpy() / np.float32(self.norm)
        bias = core.bias.detach().cpu().numpy().copy()
        if self.axes is None:
            return AffineTransform(float(self.mean), float(self.std), weights.copy(), bias - self.centre @ weights)

        bias = bias - (self.centre @ self.axes) @ weights
        full = self.axes @ weights @ self.axes.T
        return AffineTransform(float(self.mean), float(self.std), full, bias @ self.axes.T)


def _loss(
    core: Core,
    features: Float[Tensor, "n r"],
    before: Float[Tensor, "n p"] | None,
    train: TripletSet,
    settings: FitSettings,
    rng: torch.Generator,
) -> Float[Tensor, ""]:
    """The objective of the module's docstring on random images and triplets."""
    # One image per object and step: all triplets are then read from one small matrix of similarities.
    rows = train.draw(rng)
    mapped = core(features[rows])
    batch_size = min(settings.batch_size, len(train.triplets))
    batch = torch.randint(len(train.triplets), (batch_size,), generator=rng)

    loss = (1 - settings.alpha) * triplet_loss(mapped, train.triplets[batch], train.targets[batch])
    if before is not None:
        loss = loss + settings.alpha * losses.locality(before[rows], mapped, settings.tau)
    return loss + core.penalty()


def _first_scale(features: Float[Tensor, "n r"], train: TripletSet, rng: torch.Generator) -> float:
    """The multiple of the identity with the lowest loss, so that the fit starts from the base's own similarities."""
    drawn = features[train.draw(rng)]
    triplets = train.triplets[:20_000]
    targets = train.targets[:20_000]
    # Too large a scale saturates the softmax, too small a one makes all choices equally likely.
    losses_at = {scale: float(triplet_loss(scale * drawn, triplets, targets)) for scale in FIRST_SCALES}
    return float(min(losses_at, key=losses_at.__getitem__))
