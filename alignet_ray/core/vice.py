"""A variational model of human odd-one-out choices: which pair people find most similar, and how sure they are.

After Muttenthaler et al., "VICE: Variational Interpretable Concept Embeddings" (NeurIPS 2022), from the paper's
formulas: the embedding of m objects is X in R^{m x d} with posterior q(X) = prod N(mu_ij, sigma_ij^2); a draw goes
through a ReLU, similarities are dot products, and the three pairs of a triplet compete in a softmax. The prior is a
spike and slab: p(X) = prod [pi N(0, spike^2) + (1 - pi) N(0, slab^2)].
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from scipy.special import ndtr
from torch import Tensor

CHUNK = 1 << 20
"""Triplets whose similarities are gathered at once (bounds memory)."""


@dataclass(frozen=True)
class Prior:
    """Spike-and-slab prior of one entry: pi N(0, spike^2) + (1 - pi) N(0, slab^2)."""

    spike: float = 0.25
    slab: float = 1.0
    pi: float = 0.5

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
        batch: triplets a step.
        lr: Adam's step size at its peak; it falls to a twentieth along a cosine.
        warm: share of the steps over which the weight of the prior grows to 1; with full weight from the start, every
            dimension is pressed to zero before the answers can say what it is for.
        every: steps between two counts of the significant dimensions.
        window: counts in a row that must agree for the fit to be called stable.
    """

    dims: int = 100
    steps: int = 1500
    batch: int = 8192
    lr: float = 1e-2
    warm: float = 0.3
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
) -> Fit:
    """Fit the posterior by stochastic gradients on the one-sample negative ELBO.

    Args:
        triplets: rows (pair, pair, odd) of object numbers in 0..objects-1.
        objects: m, the number of objects.
        schedule: steps, batch and step size.
        prior: spike and slab.
        seed: of initial values, batches and draws.
        report: called with (step, cross-entropy, dimensions) at every count.
    """
    rng = torch.Generator().manual_seed(seed)
    rows = torch.from_numpy(np.ascontiguousarray(triplets, dtype=np.int64))
    mu = (torch.rand(objects, schedule.dims, generator=rng) / math.sqrt(schedule.dims) * 2).requires_grad_()
    log_sigma = torch.full((objects, schedule.dims), math.log(0.1)).requires_grad_()
    optimizer = torch.optim.Adam([mu, log_sigma], lr=schedule.lr)
    history: list[dict[str, float]] = []
    running = torch.zeros(())
    for step in range(1, schedule.steps + 1):
        optimizer.param_groups[0]["lr"] = schedule.lr * _cosine(step / schedule.steps)
        weight = min(1.0, step / max(1.0, schedule.warm * schedule.steps))
        batch = rows[torch.randint(len(rows), (min(schedule.batch, len(rows)),), generator=rng)]
        cross_entropy, complexity = elbo_terms(mu, log_sigma, batch, prior, rng)
        optimizer.zero_grad(set_to_none=True)
        (cross_entropy + weight * complexity / len(rows)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        running += cross_entropy.detach()
        if step % schedule.every == 0 or step == schedule.steps:
            kept = int(significant(mu.detach().numpy(), log_sigma.detach().exp().numpy()).sum())
            mean = float(running) / (step - (int(history[-1]["step"]) if history else 0))
            history.append({"step": float(step), "cross_entropy": mean, "dims": float(kept)})
            running.zero_()
            if report:
                report(step, mean, kept)
    counts = [row["dims"] for row in history[-schedule.window :]]
    kept_mu, kept_sigma = prune(mu.detach().numpy(), log_sigma.detach().exp().numpy())
    return Fit(kept_mu, kept_sigma, history, len(counts) == schedule.window and len(set(counts)) == 1)


def elbo_terms(
    mu: Float[Tensor, "m d"],
    log_sigma: Float[Tensor, "m d"],
    batch: Int[Tensor, "b 3"],
    prior: Prior,
    rng: torch.Generator,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean cross-entropy of a batch (nats), and log q(X) - log p(X), both at one posterior draw X."""
    noise = torch.randn(mu.shape, generator=rng, dtype=mu.dtype)
    x = mu + log_sigma.exp() * noise
    z = torch.relu(x)
    first, second, odd = torch.nn.functional.embedding(batch, z).unbind(1)  # its backward is twice an index's speed
    logits = torch.stack([(first * second).sum(1), (first * odd).sum(1), (second * odd).sum(1)], dim=1)
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
            total[start : start + CHUNK] += torch.softmax(pair_entries(similarity, part), dim=1).numpy()
    return total / (1 if published else draws)


def pair_entries(similarity: Float[Tensor, "m m"], triplets: Int[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Entries (01, 02, 12) of a similarity matrix for every triplet."""
    flat, m = similarity.reshape(-1), similarity.shape[0]
    i, j, k = triplets.unbind(1)
    return torch.stack([flat[i * m + j], flat[i * m + k], flat[j * m + k]], dim=1)


def _log_normal(x: Float[Tensor, "*s"], scale: float) -> Float[Tensor, "*s"]:
    return -0.5 * (x / scale).square() - math.log(scale * math.sqrt(2 * math.pi))


def _cosine(done: float) -> float:
    return 0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2
