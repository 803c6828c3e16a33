"""Noise ceilings: how well other people, or the best prediction, predict a person's answers or similarity matrix."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int64
from scipy.stats import rankdata

from alignet_ray.core import scores, similarity
from alignet_ray.core.triplets import set_keys


@dataclass(frozen=True)
class Ceiling:
    """A ceiling with its 95 % interval (resampling triplets), in fractions.

    Attributes:
        value, low, high: the ceiling.
        triplets, answers: what it rests on.
    """

    value: float
    low: float
    high: float
    triplets: int
    answers: int


def noise_ceilings(rows: Int64[np.ndarray, "n 3"]) -> dict[str, Ceiling]:
    """Both ceilings of answers (pair, pair, odd), from the sets of three that at least two people saw.

    `modal`: share of answers that are the most frequent one of their triplet (an upper bound, since it knows them all).
    `leave_one_out`: share of answers that the most frequent answer of the others predicts; equals share the credit.

    Raises:
        ValueError: no set of three occurs twice.
    """
    counts = answer_counts(rows)
    counts = counts[counts.sum(axis=1) >= 2]
    if len(counts) == 0:
        raise ValueError("no triplet was answered twice, so there is no noise ceiling")
    return {
        "modal": _ceiling(counts, counts.max(axis=1).astype(np.float64)),
        "leave_one_out": _ceiling(counts, _predicted_by_others(counts)),
    }


def repeated(rows: Int64[np.ndarray, "n 3"]) -> bool:
    """Whether some set of three was answered more than once."""
    return len(np.unique(set_keys(rows))) < len(rows)


def answer_counts(rows: Int64[np.ndarray, "n 3"]) -> Int64[np.ndarray, "t 3"]:
    """For every set of three, how often its smallest, middle and largest object was the odd one."""
    _, group = np.unique(set_keys(rows), return_inverse=True)
    odd = (np.sort(rows, axis=1) == rows[:, 2:]).argmax(axis=1)
    counts = np.zeros((int(group.max(initial=-1)) + 1, 3), dtype=np.int64)
    np.add.at(counts, (group.reshape(-1), odd), 1)
    return counts


def _predicted_by_others(counts: Int64[np.ndarray, "t 3"]) -> Float[np.ndarray, " t"]:
    """Expected number of answers of each triplet that the mode of its other answers predicts."""
    total = np.zeros(len(counts))
    for choice in range(3):
        others = counts.copy()
        others[:, choice] -= 1
        top = others.max(axis=1)
        hit = (others[:, choice] == top) / (others == top[:, None]).sum(axis=1)
        total += np.where(counts[:, choice] > 0, counts[:, choice] * hit, 0)
    return total


def _ceiling(counts: Int64[np.ndarray, "t 3"], hits: Float[np.ndarray, " t"], draws: int = 500) -> Ceiling:
    answers = counts.sum(axis=1)
    rng = np.random.default_rng(0)
    drawn = np.empty(draws)
    for draw in range(draws):
        some = rng.integers(len(counts), size=len(counts))
        drawn[draw] = hits[some].sum() / answers[some].sum()
    low, high = scores.interval(drawn)
    return Ceiling(float(hits.sum() / answers.sum()), low, high, len(counts), int(answers.sum()))


def correlations(
    matrix: Float[np.ndarray, "n n"], people: Float[np.ndarray, "p n n"], method: Literal["spearman", "pearson"]
) -> Float[np.ndarray, " p"]:
    """Correlation of a matrix with each person's, over the pairs that the person judged (the others are NaN)."""
    model, judged = similarity.upper(matrix), _pairs(people)
    seen = np.isfinite(judged)
    return np.array([similarity.correlation(model[k], v[k], method) for v, k in zip(judged, seen, strict=True)])


def rsa_ceilings(people: Float[np.ndarray, "p n n"], method: Literal["spearman", "pearson"]) -> tuple[float, float]:
    """Bounds on the mean correlation with single people that the true model could reach (Nili et al. 2014).

    Lower: each person with the mean of the others. Upper: each person with the mean of all, which knows the person,
    too. Means are of ranks (Spearman) or of standardised values (Pearson), which is what maximises them.
    """
    judged = _pairs(people)
    even = np.stack([_even(values, method) for values in judged])
    lower: list[float] = []
    upper: list[float] = []
    for person in range(len(judged)):
        seen = np.isfinite(judged[person])
        for bounds, others in ((lower, np.delete(even, person, axis=0)), (upper, even)):
            known = seen & np.isfinite(others).any(axis=0)
            pooled = np.nanmean(others[:, known], axis=0)
            bounds.append(similarity.correlation(pooled, judged[person, known], method))
    return float(np.mean(lower)), float(np.mean(upper))


def _pairs(people: Float[np.ndarray, "p n n"]) -> Float[np.ndarray, "p q"]:
    return np.stack([similarity.upper(person) for person in people])


def _even(values: Float[np.ndarray, " q"], method: str) -> Float[np.ndarray, " q"]:
    """One person's values on a scale that all share."""
    if method == "spearman":
        return np.asarray(rankdata(values, nan_policy="omit"))
    spread = float(np.nanstd(values))
    return np.asarray((values - np.nanmean(values)) / (spread or 1.0))
