"""VICE: a variational model of human similarity choices, which says how people choose and how sure they are.

After Muttenthaler et al., "VICE: Variational Interpretable Concept Embeddings" (NeurIPS 2022), from the paper's
formulas: the embedding of m objects is X in R^{m x d} with posterior q(X) = prod N(mu_ij, sigma_ij^2). A sample goes
through a ReLU, similarities are dot products, and the three pairs of a triplet compete in a softmax. The prior is a
spike and slab: p(X) = prod [pi N(0, spike^2) + (1 - pi) N(0, slab^2)].

Beyond the paper: in a reference comparison (which of a and b is more like a reference?) only the pairs with the
reference compete. One model learns from both kinds of question, and predicts both.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from scipy.special import expit, ndtr
from torch import Tensor

from alignet_ray.core.answer_rows import AnswerBatch, AnswerRows, competing
from alignet_ray.core.optim import cosine_to_twentieth
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
        log_spike = math.log(self.pi) + _log_normal(x, self.spike)
        log_slab = math.log1p(-self.pi) + _log_normal(x, self.slab)
        return torch.logaddexp(log_spike, log_slab)


@dataclass(frozen=True)
class Schedule:
    """How a fit runs.

    Attributes:
        dims: dimensions at the start.
        steps: largest number of optimiser steps.
        batch_size: triplets per step.
        lr: Adam's step size at its peak; it falls to a twentieth along a cosine.
        kl_anneal: share of the steps over which the weight of the prior grows to 1. With full weight from the start,
            every dimension is pressed to zero before the responses can give it a meaning.
        settle: share of the steps after which dimensions are no longer merged or removed.
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
        history: one row per count: step, mean cross-entropy since the last one (nats), significant dimensions.
        stable: whether the number of dimensions did not change over the last window.
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
    comparisons: Int[np.ndarray, "c 3"] | None = None,
) -> Fit:
    """Fit the posterior by stochastic gradients on the one-sample negative ELBO.

    Args:
        triplets: rows (pair, pair, odd) of object numbers in 0..objects-1.
        objects: m, the number of objects.
        schedule: steps, batch and step size.
        prior: spike and slab.
        seed: of initial values, batches and posterior samples, which are the same on every device.
        report: called with (step, cross-entropy, dimensions) at every count.
        device: where the gradients are computed.
        comparisons: rows (reference, chosen, other), one for each person's answer.
    """
    # All random numbers come from one generator on the CPU, so that a GPU sees the same ones.
    rng = torch.Generator().manual_seed(seed)
    answers = AnswerRows(triplets, comparisons)

    # Means start positive, as the ReLU passes no gradient to negative ones; deviations start at 0.1.
    mu = (torch.rand(objects, schedule.dims, generator=rng) / math.sqrt(schedule.dims) * 2).to(device)
    state = _State(mu, torch.full_like(mu, math.log(0.1)), schedule.lr)

    batch_size = min(schedule.batch_size, len(answers))
    history: list[dict[str, float]] = []
    running = torch.zeros((), device=device)  # sum of cross-entropies since the last count
    since = 0
    for step in range(1, schedule.steps + 1):
        progress = step / schedule.steps
        batch = answers.draw(batch_size, rng, device)
        cross_entropy, complexity = elbo_terms(state.mu, state.log_sigma, batch, prior, rng)
        # The ELBO per answer: the posterior's complexity counts once for all answers, hence the division.
        loss = cross_entropy + _prior_weight(progress, schedule) * complexity / len(answers)
        state.optimizer_step(loss, schedule.lr * cosine_to_twentieth(progress))
        running = running + cross_entropy.detach()
        since += 1

        if step % schedule.every and step != schedule.steps:
            continue

        # Not before the prior has its full weight, and early enough for what is left to converge again.
        if schedule.kl_anneal <= progress < schedule.settle:
            state = state.condensed(schedule.lr)
        dims = int(significant(*state.arrays()).sum())
        mean = float(running) / since
        history.append({"step": float(step), "cross_entropy": mean, "dims": float(dims)})
        running = torch.zeros_like(running)
        since = 0
        if report:
            report(step, mean, dims)

    mu_kept, sigma_kept = prune(*state.arrays())
    return Fit(mu_kept, sigma_kept, history, _is_stable(history, schedule.window))


def _is_stable(history: list[dict[str, float]], window: int) -> bool:
    """VICE's criterion of convergence: the number of dimensions did not change over the last counts."""
    counts = [row["dims"] for row in history[-window:]]
    return len(counts) == window and len(set(counts)) == 1


class _State:
    """The posterior's parameters with their optimiser."""

    def __init__(self, mu: Float[Tensor, "m d"], log_sigma: Float[Tensor, "m d"], lr: float) -> None:
        self.mu = mu.requires_grad_()
        self.log_sigma = log_sigma.requires_grad_()
        self.optimizer = torch.optim.Adam([self.mu, self.log_sigma], lr=lr)

    def optimizer_step(self, loss: Float[Tensor, ""], lr: float) -> None:
        """One step of Adam."""
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def arrays(self) -> tuple[Float32[np.ndarray, "m d"], Float32[np.ndarray, "m d"]]:
        """mu and sigma."""
        return self.mu.detach().cpu().numpy().copy(), self.log_sigma.detach().exp().cpu().numpy()

    def condensed(self, lr: float) -> "_State":
        """The same posterior after `condense`, with a fresh optimiser if that changed anything."""
        mu, sigma = condense(*self.arrays())
        if mu.shape[1] == self.mu.shape[1]:
            return self
        device = self.mu.device
        return _State(torch.from_numpy(mu).to(device), torch.from_numpy(sigma).log().to(device), lr)


def condense(
    mu: Float32[np.ndarray, "m d"], sigma: Float32[np.ndarray, "m d"], alike: float = 0.7
) -> tuple[Float32[np.ndarray, "m k"], Float32[np.ndarray, "m k"]]:
    """Remove dimensions that are not significant, and merge those whose positive parts point in the same direction.

    A dimension that is split in two proportional ones has the same similarities, so gradients never undo the split.
    Merged as sqrt(a^2 + b^2), proportional columns keep every dot product.

    Args:
        mu, sigma: posterior.
        alike: cosine from which on two dimensions are merged, the most similar ones first.
    """
    keep = significant(mu, sigma)
    if not keep.any():
        return mu, sigma  # early on nothing may be significant yet
    mu = mu[:, keep]
    sigma = sigma[:, keep]

    # Cosines of the positive parts, since the model never sees what the ReLU cuts off.
    while mu.shape[1] > 1:
        positive = np.maximum(mu, 0)
        directions = positive / np.maximum(np.linalg.norm(positive, axis=0), 1e-12)
        cosines = np.triu(directions.T @ directions, 1)
        first, second = np.unravel_index(int(cosines.argmax()), cosines.shape)
        if cosines[first, second] < alike:
            break

        mu[:, first] = np.hypot(positive[:, first], positive[:, second])
        mu = np.delete(mu, second, axis=1)
        sigma = np.delete(sigma, second, axis=1)
    return np.ascontiguousarray(mu), np.ascontiguousarray(sigma)


def elbo_terms(
    mu: Float[Tensor, "m d"],
    log_sigma: Float[Tensor, "m d"],
    batch: AnswerBatch,
    prior: Prior,
    rng: torch.Generator,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Both terms of the negative ELBO at one posterior sample X.

    Args:
        mu, log_sigma: the posterior.
        batch: answers.
        prior: of one entry.
        rng: of the sample.

    Returns:
        The mean cross-entropy of the batch (nats), and log q(X) - log p(X).
    """
    # Reparametrisation (Kingma and Welling, 2014): gradients reach mu and sigma through the sample.
    noise = torch.randn(mu.shape, generator=rng, dtype=mu.dtype).to(mu.device)
    sample = mu + log_sigma.exp() * noise

    # The backward pass of `embedding` is twice as fast as that of an index.
    members = torch.nn.functional.embedding(batch.rows, torch.relu(sample))
    log_probabilities = torch.log_softmax(competing(pair_similarities(members), batch.is_comparison), dim=1)
    cross_entropy = -log_probabilities[:, 0].mean()

    # log N(sample; mu, sigma^2), in which (sample - mu) / sigma is the noise itself.
    log_q = -(log_sigma + noise.square() / 2 + math.log(2 * math.pi) / 2)
    return cross_entropy, (log_q - prior.log_density(sample)).sum()


def significant(
    mu: Float[np.ndarray, "m d"], sigma: Float[np.ndarray, "m d"], fdr: float = 0.05, objects: int = 5
) -> Bool[np.ndarray, " d"]:
    """Dimensions in which more than `objects` objects are significantly positive.

    p_ij = Phi(-mu_ij / sigma_ij); per dimension, the Benjamini-Hochberg procedure (1995) at level `fdr` rejects all
    hypotheses up to the last one that passes its threshold.
    """
    # Benjamini-Hochberg's step-up rule takes the last p value under its threshold, not the first above it.
    p_values = np.sort(ndtr(-mu / np.maximum(sigma, 1e-12)), axis=0)
    m = len(p_values)
    passes = p_values <= fdr * np.arange(1, m + 1)[:, None] / m
    last_passing = m - passes[::-1].argmax(axis=0)
    rejections = np.where(passes.any(axis=0), last_passing, 0)
    return np.asarray(rejections > min(objects, m // 4))


def prune(
    mu: Float[np.ndarray, "m d"], sigma: Float[np.ndarray, "m d"]
) -> tuple[Float32[np.ndarray, "m k"], Float32[np.ndarray, "m k"]]:
    """Significant dimensions only, those with the largest L1 norm of max(mu, 0) first.

    All dimensions are kept where none is significant (too few responses to say anything).
    """
    keep = significant(mu, sigma)
    if not keep.any():
        keep = np.ones_like(keep)
    # The order of dimensions is arbitrary to the model; readers expect the strongest first.
    columns = np.flatnonzero(keep)
    norms = np.maximum(mu[:, columns], 0).sum(axis=0)
    order = columns[np.argsort(-norms, kind="stable")]
    return mu[:, order].astype(np.float32), sigma[:, order].astype(np.float32)


def reproducibility(
    mu: Float32[np.ndarray, "m d"], others: Sequence[Float32[np.ndarray, "m _"]], threshold: float = 0.8
) -> float:
    """Share of dimensions that other fits found, too: their best correlation with any of theirs is above the threshold.

    Args:
        mu: the fit in question.
        others: fits from other seeds, at least one.
        threshold: Pearson correlation over objects (the paper's 0.8).
    """
    dims = mu.shape[1]
    shares = []
    # Dimensions come in any order in each fit, so each is compared with all of the other fit and matched to its best.
    for other in others:
        stacked = np.corrcoef(np.maximum(mu, 0).T, np.maximum(other, 0).T)
        between = np.nan_to_num(stacked[:dims, dims:])
        shares.append(float((between.max(axis=1) > threshold).mean()))
    return float(np.mean(shares))


def choice_probabilities(
    mu: Float[np.ndarray, "m d"],
    sigma: Float[np.ndarray, "m d"],
    triplets: Int[np.ndarray, "n 3"],
    draws: int,
    seed: int,
) -> Float32[np.ndarray, "n 3"]:
    """Probabilities that people choose pair 01, 02 or 12: the softmax, averaged over posterior samples.

    A published embedding has sigma = 0 everywhere: then one pass with X = mu, without a ReLU, is exact.

    Args:
        mu, sigma: posterior of the m objects.
        triplets: any rows of object numbers.
        draws: posterior samples.
        seed: of the samples.
    """
    total = np.zeros((len(triplets), 3), dtype=np.float32)
    samples = _Samples(mu, sigma, draws, seed)

    # All pairs of objects once per sample: usually fewer dot products than three for every triplet.
    for sample in samples:
        gram = torch.from_numpy((sample @ sample.T).astype(np.float32))
        for start in range(0, len(triplets), CHUNK):
            part = torch.from_numpy(triplets[start : start + CHUNK].astype(np.int64))
            total[start : start + CHUNK] += torch.softmax(gram_similarities(gram, part), dim=1).numpy()
    return total / len(samples)


class _Samples:
    """Samples of the rectified posterior, drawn one at a time: all of them would not fit into memory."""

    def __init__(self, mu: Float[np.ndarray, "m d"], sigma: Float[np.ndarray, "m d"], draws: int, seed: int) -> None:
        self.mu = mu
        self.sigma = sigma
        # A published embedding has no spread: one sample says all, and it is taken as it is.
        self.is_published = not sigma.any()
        self.draws = draws
        if self.is_published:
            self.draws = 1
        self.seed = seed

    def __len__(self) -> int:
        return self.draws

    def __iter__(self) -> Iterator[Float[np.ndarray, "m d"]]:
        if self.is_published:
            yield self.mu
            return
        rng = np.random.default_rng(self.seed)
        for _ in range(self.draws):
            yield np.maximum(self.mu + self.sigma * rng.standard_normal(self.mu.shape, dtype=np.float32), 0)


def comparison_probabilities(
    mu: Float[np.ndarray, "m d"],
    sigma: Float[np.ndarray, "m d"],
    rows: Int[np.ndarray, "n 3"],
    draws: int,
    seed: int,
) -> Float32[np.ndarray, " n"]:
    """Probability that people find a more like the reference than b: the softmax of two, averaged over samples.

    Args:
        mu, sigma: posterior of the m objects; a sigma of 0 everywhere as in `choice_probabilities`.
        rows: objects (reference, a, b).
        draws: posterior samples.
        seed: of the samples.
    """
    samples = _Samples(mu, sigma, draws, seed)
    total = np.zeros(len(rows), dtype=np.float64)
    for sample in samples:
        gram = sample @ sample.T
        total += expit(gram[rows[:, 0], rows[:, 1]] - gram[rows[:, 0], rows[:, 2]])
    return np.asarray(total / len(samples), dtype=np.float32)


class Predictions(NamedTuple):
    """What a model says of answers that people gave.

    Attributes:
        chosen: probability of the pair that was chosen.
        confidence: of the likeliest pair.
        is_hit: whether that is the chosen one; a tie is no prediction.
    """

    chosen: Float[np.ndarray, " n"]
    confidence: Float[np.ndarray, " n"]
    is_hit: Bool[np.ndarray, " n"]

    @property
    def cross_entropy(self) -> float:
        """Mean cross-entropy in nats."""
        return float(-np.log(np.maximum(self.chosen, 1e-12)).mean())


def predict(
    mu: Float[np.ndarray, "m d"],
    sigma: Float[np.ndarray, "m d"],
    triplets: Int[np.ndarray, "n 3"],
    comparisons: Int[np.ndarray, "c 3"],
    draws: int,
    seed: int,
) -> Predictions:
    """How well a model predicts answers: responses first, then comparisons.

    Args:
        mu, sigma: posterior of the m objects.
        triplets: rows (pair, pair, odd).
        comparisons: rows (reference, chosen, other).
        draws, seed: of posterior samples.
    """
    of_responses = choice_probabilities(mu, sigma, triplets, draws, seed).astype(np.float64)
    first = comparison_probabilities(mu, sigma, comparisons, draws, seed).astype(np.float64)
    # Of a comparison's two probabilities the other one stands twice, which changes neither the largest nor a tie.
    of_comparisons = np.stack([first, 1 - first, 1 - first], axis=1)
    probabilities = np.concatenate([of_responses, of_comparisons])
    chosen = probabilities[:, 0]
    return Predictions(chosen, probabilities.max(axis=1), chosen > probabilities[:, 1:].max(axis=1))


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
    density = np.exp(-np.square(z) / 2) / math.sqrt(2 * math.pi)
    return np.asarray(scale * (z * ndtr(z) + density), dtype=np.float32)


def _log_normal(x: Float[Tensor, "*s"], scale: float) -> Float[Tensor, "*s"]:
    """log density of N(0, scale^2)."""
    return -0.5 * (x / scale).square() - math.log(scale * math.sqrt(2 * math.pi))


def _prior_weight(progress: float, schedule: Schedule) -> float:
    """Weight of the prior, which grows linearly from 0 to 1 (KL annealing)."""
    if not schedule.kl_anneal:
        return 1.0
    return min(1.0, progress / schedule.kl_anneal)
