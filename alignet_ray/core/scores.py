"""Agreement with people on odd-one-out triplets, its uncertainty, and how to read it against chance and ceiling.

A triplet (i, j, k) has three pairs in the order (ij, ik, jk). A model chooses the pair with the strictly largest
similarity; a tie is no choice and counts as wrong. With the probabilities that people choose each pair, the expected
agreement of a triplet is the probability of the model's pair: what its accuracy would be over endlessly many answers
of people.
"""

from dataclasses import dataclass
from math import comb

import numpy as np
from jaxtyping import Float, Int

CHANCE = 1 / 3
"""Agreement of blind guessing among three pairs."""


@dataclass(frozen=True)
class Score:
    """One row of the scores table: `value` with its 95 % interval [low, high] (NaN: none) over `n` items."""

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
    """Triplets i < j < k of `m` objects: all of them, or `limit` distinct ones drawn at random where there are more."""
    total = comb(m, 3)
    if limit is not None and total > limit:
        return _random_triplets(m, limit, seed)
    i, j = np.triu_indices(m, 1)
    counts = m - 1 - j
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    k = np.arange(total) - starts + np.repeat(j, counts) + 1
    return np.stack([np.repeat(i, counts), np.repeat(j, counts), k], axis=1).astype(np.int64)


def _random_triplets(m: int, limit: int, seed: int) -> Int[np.ndarray, "t 3"]:
    rng = np.random.default_rng(seed)
    keys = np.empty(0, np.int64)
    while (missing := limit - len(keys)) > 0:
        drawn = np.sort(rng.integers(0, m, (missing + missing // 8 + 16, 3)), axis=1)
        distinct = drawn[(drawn[:, 0] < drawn[:, 1]) & (drawn[:, 1] < drawn[:, 2])]
        keys = np.unique(np.concatenate([keys, (distinct[:, 0] * m + distinct[:, 1]) * m + distinct[:, 2]]))
    keys = np.sort(rng.permutation(keys)[:limit])
    return np.stack([keys // (m * m), keys // m % m, keys % m], axis=1)


def ceiling(probabilities: Float[np.ndarray, "t 3"]) -> Float[np.ndarray, " t"]:
    """The best expected agreement that any model can reach per triplet: the largest probability."""
    return np.asarray(probabilities.max(axis=1).astype(np.float64))


def chance_corrected(value: float, chance: float = CHANCE) -> float:
    """0 at chance, 1 at perfect agreement: (value - chance) / (1 - chance)."""
    return (value - chance) / (1 - chance)


def ceiling_normalised(value: float, top: float, chance: float = CHANCE) -> float:
    """0 at chance, 1 at the ceiling `top`: (value - chance) / (top - chance). NaN where the ceiling is at chance."""
    return (value - chance) / (top - chance) if top > chance else float("nan")


def object_bootstrap(
    values: Float[np.ndarray, "t s"], triplets: Int[np.ndarray, "t 3"], m: int, draws: int = 1000, seed: int = 0
) -> Float[np.ndarray, "draws s"]:
    """Means of the columns of `values` under resampling of objects with replacement.

    Triplets share objects, so they are not independent: what is drawn anew is the set of objects. A triplet then counts
    c_i c_j c_k times, c being how often its objects were drawn. All columns see the same draws, so that differences
    between models are paired. Draws that contain no triplet repeat the plain mean.
    """
    counts = np.random.default_rng(seed).multinomial(m, np.full(m, 1 / m), size=draws).T.astype(np.float32)
    sums = np.zeros((draws, values.shape[1] + 1))
    chunk = max(1, 20_000_000 // draws)
    for start in range(0, len(triplets), chunk):
        i, j, k = triplets[start : start + chunk].T
        block = values[start : start + chunk]
        weighted = np.column_stack([block, np.ones(len(block))]).astype(np.float32)
        sums += (counts[i] * counts[j] * counts[k]).T @ weighted
    total = sums[:, -1:]
    return np.where(total > 0, sums[:, :-1] / np.maximum(total, 1), values.mean(axis=0))


def interval(draws: Float[np.ndarray, " b"], level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap draws (NaN draws are left out)."""
    tail = (1 - level) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return float(low), float(high)


MANY = 10_000
"""Items above which a resampled mean is drawn from its normal limit: the same to three digits, and fast."""


def mean_draws(values: Float[np.ndarray, " n"], draws: int = 1000, seed: int = 0) -> Float[np.ndarray, " draws"]:
    """Means of independent items under resampling with replacement; the same items are drawn for the same seed."""
    rng, n = np.random.default_rng(seed), len(values)
    if n > MANY:
        return rng.normal(values.mean(), values.std() / np.sqrt(n), draws)
    return np.asarray(rng.multinomial(n, np.full(n, 1 / n), size=draws) @ values / n)


def mean_interval(values: Float[np.ndarray, " n"], draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of independent items, by resampling them."""
    return interval(mean_draws(values, draws, seed))


def paired_p_value(differences: Float[np.ndarray, " b"]) -> float:
    """Two-sided p value of "no difference" from paired bootstrap draws of a difference (never below 2 / (b + 1))."""
    b = len(differences)
    tail = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (b + 1))


def holm(p_values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Holm's step-down correction for many tests (Holm 1979): adjusted p values in the given order."""
    order = np.argsort(p_values)
    scaled = p_values[order] * (len(p_values) - np.arange(len(p_values)))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted
