"""A variational model of human odd-one-out choices: which pair people find most similar, and how sure they are.

After Muttenthaler et al., "VICE: Variational Interpretable Concept Embeddings" (NeurIPS 2022), from the paper's
formulas: the embedding of m objects is X in R^{m x d} with posterior q(X) = prod N(mu_ij, sigma_ij^2); a draw goes
through a ReLU, similarities are dot products, and the three pairs of a triplet compete in a softmax. The prior is a
spike and slab: p(X) = prod [pi N(0, spike^2) + (1 - pi) N(0, slab^2)].
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from scipy.special import ndtr
from torch import Tensor

from alignet_ray.core.triplets import gram_similarities, pair_similarities

CHUNK = 1 << 20
"""Triplets whose similarities are gathered at once (bounds memory)."""


@dataclass(frozen=True)
class Prior:
    """Spike-and-slab prior of one entry: pi N(0, spike^2) + (1 - pi) N(0, slab^2)."""

    spike: float
    slab: float
    pi: float

    def log_density(self, x: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """log p(x) of every entry."""
        return torch.logaddexp(
            math.log(self.pi) + _log_normal(x, self.spike), math.log1p(-self.pi) + _log_normal(x, self.slab)
        )


@dataclass(frozen=True)
class Schedule:
    """How a fit runs.

    Attributes:
        dims: dimensions at the start.
        steps: largest number of optimiser steps.
        batch_size: triplets a step.
        lr: Adam's step size at its peak; it falls to a twentieth along a cosine.
        kl_anneal: share of the steps over which the weight of the prior grows to 1; with full weight from the start,
            every
            dimension is pressed to zero before the answers can say what it is for.
        settle: share of the steps after which dimensions are no longer merged or left out.
        every: steps between two counts of the significant dimensions.
        window: counts in a row that must agree for the fit to be called stable.
    """

    dims: int
    steps: int
    batch_size: int
    lr: float
    kl_anneal: float
    settle: float = 0.8
    every: int = 100
    window: int = 3


@dataclass(frozen=True)
class Fit:
    """A fitted model, pruned and sorted by L1 norm.

    Attributes:
        mu, sigma: posterior of the kept dimensions, (m, d').
        history: one row for each count: step, mean cross-entropy since the last one (nats), significant dimensions.
        stable: whether the number of dimensions held still over the last window.
    """

    mu: Float32[np.ndarray, "m d"]
    sigma: Float32[np.ndarray, "m d"]
    history: list[dict[str, float]]
    stable: bool


def fit(
    triplets: Int[np.ndarray, "n 3"],
    objects: int,
    schedule: Schedule,
    prior: Prior,
    seed: int,
    report: Callable[[int, float, int], None] | None = None,
    device: str = "cpu",
) -> Fit:
    """Fit the posterior by stochastic gradients on the one-sample negative ELBO.

    Args:
        triplets: rows (pair, pair, odd) of object numbers in 0..objects-1.
        objects: m, the number of objects.
        schedule: steps, batch and step size.
        prior: spike and slab.
        seed: of initial values, batches and draws, which are the same on every device.
        report: called with (step, cross-entropy, dimensions) at every count.
        device: where the gradients are computed.
    """
    rng = torch.Generator().manual_seed(seed)
    rows = torch.from_numpy(np.ascontiguousarray(triplets, dtype=np.int64))
    mu = (torch.rand(objects, schedule.dims, generator=rng) / math.sqrt(schedule.dims) * 2).to(device)
    state = _State(mu, torch.full_like(mu, math.log(0.1)), schedule.lr)
    history: list[dict[str, float]] = []
    running, since = torch.zeros((), device=device), 0
    for step in range(1, schedule.steps + 1):
        done = step / schedule.steps
        weight = min(1.0, done / schedule.kl_anneal) if schedule.kl_anneal else 1.0
        batch = rows[torch.randint(len(rows), (min(schedule.batch_size, len(rows)),), generator=rng)].to(device)
        cross_entropy, complexity = elbo_terms(state.mu, state.log_sigma, batch, prior, rng)
        state.descend(cross_entropy + weight * complexity / len(rows), schedule.lr * _cosine(done))
        running, since = running + cross_entropy.detach(), since + 1
        if step % schedule.every == 0 or step == schedule.steps:
            if schedule.kl_anneal <= done < schedule.settle:
                state = state.condensed(schedule.lr)
            kept = int(significant(*state.arrays()).sum())
            history.append({"step": float(step), "cross_entropy": float(running) / since, "dims": float(kept)})
            running, since = torch.zeros_like(running), 0
            if report:
                report(step, history[-1]["cross_entropy"], kept)
    counts = [row["dims"] for row in history[-schedule.window :]]
    return Fit(*prune(*state.arrays()), history, len(counts) == schedule.window and len(set(counts)) == 1)


class _State:
    """The posterior's parameters with their optimiser."""

    def __init__(self, mu: Float[Tensor, "m d"], log_sigma: Float[Tensor, "m d"], lr: float) -> None:
        self.mu, self.log_sigma = mu.requires_grad_(), log_sigma.requires_grad_()
        self.optimizer = torch.optim.Adam([self.mu, self.log_sigma], lr=lr)

    def descend(self, loss: Float[Tensor, ""], lr: float) -> None:
        """One step."""
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def arrays(self) -> tuple[Float32[np.ndarray, "m d"], Float32[np.ndarray, "m d"]]:
        """mu and sigma."""
        return self.mu.detach().cpu().numpy().copy(), self.log_sigma.detach().exp().cpu().numpy()

    def condensed(self, lr: float) -> "_State":
        """The same without dimensions that say nothing, and with one dimension for those that say the same."""
        mu, sigma = condense(*self.arrays())
        if mu.shape[1] == self.mu.shape[1]:
            return self
        device = self.mu.device
        return _State(torch.from_numpy(mu).to(device), torch.from_numpy(sigma).log().to(device), lr)


def condense(
    mu: Float32[np.ndarray, "m d"], sigma: Float32[np.ndarray, "m d"], alike: float = 0.7
) -> tuple[Float32[np.ndarray, "m k"], Float32[np.ndarray, "m k"]]:
    """Leave out dimensions that are not significant, and merge those whose positive parts point the same way.

    A dimension that is split in two proportional ones has the same similarities, so gradients never undo it; merged as
    sqrt(a^2 + b^2), it keeps every dot product of proportional columns.

    Args:
        mu, sigma: posterior.
        alike: cosine from which on two dimensions are merged, the most similar ones first.
    """
    keep = significant(mu, sigma)
    if not keep.any():
        return mu, sigma
    mu, sigma = mu[:, keep], sigma[:, keep]
    while mu.shape[1] > 1:
        x = np.maximum(mu, 0)
        x = x / np.maximum(np.linalg.norm(x, axis=0), 1e-12)
        cosine = np.triu(x.T @ x, 1)
        a, b = np.unravel_index(int(cosine.argmax()), cosine.shape)
        if cosine[a, b] < alike:
            break
        mu[:, a] = np.hypot(np.maximum(mu[:, a], 0), np.maximum(mu[:, b], 0))
        mu, sigma = np.delete(mu, b, axis=1), np.delete(sigma, b, axis=1)
    return np.ascontiguousarray(mu), np.ascontiguousarray(sigma)


def elbo_terms(
    mu: Float[Tensor, "m d"],
    log_sigma: Float[Tensor, "m d"],
    batch: Int[Tensor, "b 3"],
    prior: Prior,
    rng: torch.Generator,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean cross-entropy of a batch (nats), and log q(X) - log p(X), both at one posterior draw X."""
    noise = torch.randn(mu.shape, generator=rng, dtype=mu.dtype).to(mu.device)
    x = mu + log_sigma.exp() * noise
    z = torch.relu(x)
    logits = pair_similarities(torch.nn.functional.embedding(batch, z))  # its backward is twice an index's speed
    cross_entropy = -torch.log_softmax(logits, dim=1)[:, 0].mean()
    log_q = -(log_sigma + noise.square() / 2 + math.log(2 * math.pi) / 2)
    return cross_entropy, (log_q - prior.log_density(x)).sum()


def significant(
    mu: Float[np.ndarray, "m d"], sigma: Float[np.ndarray, "m d"], fdr: float = 0.05, objects: int = 5
) -> Bool[np.ndarray, " d"]:
    """Dimensions in which more than `objects` objects are significantly positive.

    p_ij = Phi(-mu_ij / sigma_ij), per dimension the Benjamini-Hochberg procedure at level `fdr`.
    """
    p = np.sort(ndtr(-mu / np.maximum(sigma, 1e-12)), axis=0)
    m = len(p)
    passes = p <= fdr * np.arange(1, m + 1)[:, None] / m
    last = np.where(
        passes.any(axis=0), m - passes[::-1].argmax(axis=0), 0
    )  # rejections: up to the last one that passes
    return np.asarray(last > min(objects, m // 4))


def prune(
    mu: Float[np.ndarray, "m d"], sigma: Float[np.ndarray, "m d"]
) -> tuple[Float32[np.ndarray, "m k"], Float32[np.ndarray, "m k"]]:
    """Significant dimensions only, those with the largest L1 norm of max(mu, 0) first; sigma alike.

    All dimensions are kept where none is significant (too few answers to say anything).
    """
    keep = significant(mu, sigma)
    chosen = np.flatnonzero(keep if keep.any() else np.ones_like(keep))
    order = chosen[np.argsort(-np.maximum(mu[:, chosen], 0).sum(axis=0), kind="stable")]
    return mu[:, order].astype(np.float32), sigma[:, order].astype(np.float32)


def reproducibility(
    mu: Float32[np.ndarray, "m d"], others: Sequence[Float32[np.ndarray, "m _"]], threshold: float = 0.8
) -> float:
    """Share of dimensions that other fits found too: the best correlation with any of theirs is above the threshold.

    Args:
        mu: the fit in question; others: fits from other seeds, at least one.
        threshold: Pearson correlation over objects (the paper's 0.8).
    """
    shares = []
    for other in others:
        both = np.corrcoef(np.maximum(mu, 0).T, np.maximum(other, 0).T)[: mu.shape[1], mu.shape[1] :]
        shares.append(float((np.nan_to_num(both).max(axis=1) > threshold).mean()))
    return float(np.mean(shares))


def choice_probabilities(
    mu: Float[np.ndarray, "m d"],
    sigma: Float[np.ndarray, "m d"],
    triplets: Int[np.ndarray, "n 3"],
    draws: int,
    seed: int,
) -> Float32[np.ndarray, "n 3"]:
    """Probabilities that people choose pair 01, 02 or 12 of each triplet: the softmax, averaged over posterior draws.

    A published embedding has sigma = 0 everywhere: then one pass with X = mu, without a ReLU, is exact.

    Args:
        mu, sigma: posterior of the m objects.
        triplets: any rows of object numbers.
        draws: posterior draws.
        seed: of the draws.
    """
    published = not sigma.any()
    total = np.zeros((len(triplets), 3), dtype=np.float32)
    rng = np.random.default_rng(seed)
    for _ in range(1 if published else draws):
        x = mu if published else np.maximum(mu + sigma * rng.standard_normal(mu.shape, dtype=np.float32), 0)
        similarity = torch.from_numpy((x @ x.T).astype(np.float32))
        for start in range(0, len(triplets), CHUNK):
            part = torch.from_numpy(triplets[start : start + CHUNK].astype(np.int64))
            total[start : start + CHUNK] += torch.softmax(gram_similarities(similarity, part), dim=1).numpy()
    return total / (1 if published else draws)


def expected(mu: Float32[np.ndarray, "m d"], sigma: Float32[np.ndarray, "m d"]) -> Float32[np.ndarray, "m d"]:
    """Mean of the rectified posterior, E[max(X, 0)] for X of N(mu, sigma^2); a published embedding (sigma 0) as it is.

    For a positive sigma it is mu Phi(mu / sigma) + sigma phi(mu / sigma).

    Args:
        mu, sigma: posterior of the m objects.
    """
    if not sigma.any():
        return mu
    scale = np.maximum(sigma.astype(np.float64), 1e-12)
    z = mu / scale
    return np.asarray(scale * (z * ndtr(z) + np.exp(-np.square(z) / 2) / math.sqrt(2 * math.pi)), dtype=np.float32)


def _log_normal(x: Float[Tensor, "*s"], scale: float) -> Float[Tensor, "*s"]:
    return -0.5 * (x / scale).square() - math.log(scale * math.sqrt(2 * math.pi))


def _cosine(done: float) -> float:
    return 0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2
