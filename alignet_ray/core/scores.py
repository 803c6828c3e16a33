"""Scores of agreement with people on odd-one-out triplets, with bootstrap intervals, chance and ceiling correction."""

from dataclasses import dataclass
from math import comb

import numpy as np
from jaxtyping import Float, Int

CHANCE = 1 / 3
"""Agreement of blind guessing among three pairs."""

DATASETS = ("objects", "answers", "choices", "matrix", "ood")
"""Data sets of the scores table that a run itself has; sets of judgements from outside have other names."""

METRIC_TITLES = {
    "odd_one_out": "agreement with people",
    "comparison_votes": "which of two is more like a third, share of people's votes",
    "comparison_majority": "which of two is more like a third, agreement with most people",
    "comparison_votes_known": "which of two known objects is more like a new one, share of people's votes",
    "comparison_majority_known": "which of two known objects is more like a new one, agreement with most people",
    "knn_category": "category, by the 5 nearest images of other objects",
    "few_shot_1": "object, learned from 1 image",
    "few_shot_5": "object, learned from 5 images",
    "same_object": "object of the nearest other image",
    "shift_source": "category, new images of known objects",
    "shift_target": "category, objects never seen",
    "anomaly_auroc": "spotting images of another category (AUROC)",
    "ood_auroc": "spotting images from the other folder (AUROC)",
    "ood_knn": "class of the other folder's images, by the 5 nearest known images",
    "ood_probe": "class of the other folder's images, learned from known images",
}
"""Metrics of the scores table -> what people read."""

NORMAL_LIMIT = 10_000
"""Items above which a resampled mean is drawn from its normal limit: the same to three digits, and fast."""

BOOTSTRAP_BLOCK = 20_000_000
"""Weights (draws x triplets) that `object_bootstrap` holds at once; bounds its memory."""


@dataclass(frozen=True)
class Score:
    """One row of the scores table.

    Attributes:
        model, layer: what is scored.
        dataset, metric, level: on what, and how; `level` names a subset of the items ("": all of them).
        value, low, high: the score and its 95 % interval (NaN: none).
        n: number of items.
        split: which objects ("": the items belong to no split).
        seed: of the run.
    """

    model: str
    layer: str
    dataset: str
    metric: str
    value: float
    low: float = float("nan")
    high: float = float("nan")
    n: int = 0
    level: str = ""
    split: str = "test"
    seed: int = 0


def all_triplets(m: int, limit: int | None = None, seed: int = 0) -> Int[np.ndarray, "t 3"]:
    """Triplets i < j < k of `m` objects: all of them, or `limit` distinct random ones where there are more."""
    total = comb(m, 3)
    if limit is not None and total > limit:
        return _random_triplets(m, limit, seed)

    # Every pair i < j is followed by the m - 1 - j objects above j.
    first, second = np.triu_indices(m, 1)
    counts = m - 1 - second
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    second_repeated = np.repeat(second, counts)
    third = np.arange(total) - starts + second_repeated + 1
    return np.stack([np.repeat(first, counts), second_repeated, third], axis=1).astype(np.int64)


def ceiling(probabilities: Float[np.ndarray, "t 3"]) -> Float[np.ndarray, " t"]:
    """The best expected agreement that any model can reach per triplet: the largest probability."""
    return np.asarray(probabilities.max(axis=1).astype(np.float64))


def chance_corrected(value: float, chance: float = CHANCE) -> float:
    """0 at chance, 1 at perfect agreement: (value - chance) / (1 - chance)."""
    return (value - chance) / (1 - chance)


def ceiling_normalised(value: float, top: float, chance: float = CHANCE) -> float:
    """0 at chance, 1 at the ceiling `top`: (value - chance) / (top - chance). NaN where the ceiling is at chance."""
    if top <= chance:
        return float("nan")
    return (value - chance) / (top - chance)


def object_bootstrap(
    values: Float[np.ndarray, "t s"], triplets: Int[np.ndarray, "t 3"], m: int, draws: int = 1000, seed: int = 0
) -> Float[np.ndarray, "draws s"]:
    """Means of the columns of `values` under resampling of objects with replacement.

    Triplets share objects, so they are not independent; what is resampled is the set of objects. A triplet then counts
    c_i c_j c_k times, where c says how often each of its objects was drawn. All columns see the same draws, so that
    differences between models are paired. Draws that contain no triplet repeat the plain mean.

    Args:
        values: one row a triplet, one column a model.
        triplets: object numbers 0..m-1.
        m: number of objects.
        draws: number of resamplings.
        seed: of the resamplings.
    """
    # How often each object is drawn is all that a resampling of objects decides.
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(m, np.full(m, 1 / m), size=draws).T.astype(np.float32)
    sums = np.zeros((draws, values.shape[1] + 1))

    chunk = max(1, BOOTSTRAP_BLOCK // draws)
    for start in range(0, len(triplets), chunk):
        first, second, third = triplets[start : start + chunk].T
        block = values[start : start + chunk]
        # A column of ones sums up the weights themselves.
        with_ones = np.column_stack([block, np.ones(len(block))]).astype(np.float32)
        sums += (counts[first] * counts[second] * counts[third]).T @ with_ones

    total = sums[:, -1:]
    return np.where(total > 0, sums[:, :-1] / np.maximum(total, 1), values.mean(axis=0))


def interval(draws: Float[np.ndarray, " b"], level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap draws; NaN draws are left out."""
    tail = (1 - level) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def mean_draws(values: Float[np.ndarray, " n"], draws: int = 1000, seed: int = 0) -> Float[np.ndarray, " draws"]:
    """Means of independent items under resampling with replacement; the same items are drawn for the same seed."""
    rng = np.random.default_rng(seed)
    n = len(values)
    if n > NORMAL_LIMIT:
        return rng.normal(values.mean(), values.std() / np.sqrt(n), draws)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=draws)
    return np.asarray(counts @ values / n)


def mean_interval(values: Float[np.ndarray, " n"], draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of independent items, by resampling them."""
    return interval(mean_draws(values, draws, seed))


def paired_p_value(differences: Float[np.ndarray, " b"]) -> float:
    """Two-sided p value of "no difference" from paired bootstrap draws of a difference (never below 2 / (b + 1))."""
    draws = len(differences)
    # One draw is counted on top: finitely many draws cannot show that p is 0.
    tail = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (draws + 1))


def holm(p_values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Holm's step-down correction for many tests (Holm 1979): adjusted p values in the given order."""
    # The smallest p value is multiplied by n, the next by n - 1, ...; the maximum so far keeps them in order.
    order = np.argsort(p_values)
    scaled = p_values[order] * (len(p_values) - np.arange(len(p_values)))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted


def _random_triplets(m: int, limit: int, seed: int) -> Int[np.ndarray, "t 3"]:
    """`limit` distinct triplets i < j < k, uniformly, by rejection: each is one number (i m + j) m + k."""
    rng = np.random.default_rng(seed)
    numbers = np.empty(0, np.int64)
    while (missing := limit - len(numbers)) > 0:
        # An eighth more than is missing, as draws with a repeated object or a known number are dropped.
        drawn = np.sort(rng.integers(0, m, (missing + missing // 8 + 16, 3)), axis=1)
        first, second, third = drawn[(drawn[:, 0] < drawn[:, 1]) & (drawn[:, 1] < drawn[:, 2])].T
        numbers = np.unique(np.concatenate([numbers, (first * m + second) * m + third]))

    # `np.unique` sorted them: without a permutation the cut would keep the triplets of the first objects.
    numbers = np.sort(rng.permutation(numbers)[:limit])
    return np.stack([numbers // (m * m), numbers // m % m, numbers % m], axis=1)
