"""Noise ceilings: the best score a model can reach on human responses or similarity matrices, given their noise."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int64

from alignet_ray.core import scores, similarity
from alignet_ray.core.triplet_rows import set_keys

Method = Literal["spearman", "pearson"]


@dataclass(frozen=True)
class Ceiling:
    """A ceiling with its 95 % interval (resampling triplets), as fractions.

    Attributes:
        value, low, high: the ceiling and its interval.
        triplets, answers: number of triplets and of responses that it rests on.
    """

    value: float
    low: float
    high: float
    triplets: int
    answers: int


def noise_ceilings(rows: Int64[np.ndarray, "n 3"]) -> dict[str, Ceiling]:
    """Both ceilings of responses (pair, pair, odd), from the sets of three that at least two people saw.

    `modal`: share of responses that are the most frequent one of their triplet (an upper bound, as it knows them all).
    `leave_one_out`: share of responses that the most frequent of the *other* responses predicts; ties share the credit.

    Raises:
        ValueError: no set of three occurs twice.
    """
    # A triplet that one person saw always agrees with its own mode and says nothing about noise.
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


def correlations(
    matrix: Float[np.ndarray, "n n"], people: Float[np.ndarray, "p n n"], method: Method
) -> Float[np.ndarray, " p"]:
    """Correlation of a matrix with each person's, over the pairs that this person rated (the others are NaN)."""
    model = similarity.upper(matrix)
    values = []
    for ratings in _upper_triangles(people):
        rated = np.isfinite(ratings)
        values.append(similarity.correlation(model[rated], ratings[rated], method))
    return np.array(values)


def rsa_ceilings(people: Float[np.ndarray, "p n n"], method: Method) -> tuple[float, float]:
    """Bounds on the mean correlation with single people that the true model could reach.

    Lower bound: each person with the mean of the others. Upper bound: each person with the mean of all, which includes
    the person. Means are of ranks (Spearman) or of standardised values (Pearson), which is what maximises them. Nili et
    al., "A toolbox for representational similarity analysis" (PLoS Computational Biology 2014).
    """
    ratings = _upper_triangles(people)
    comparable = np.stack([_comparable(values, method) for values in ratings])
    lower = []
    upper = []
    for person, own in enumerate(ratings):
        others = np.delete(comparable, person, axis=0)
        lower.append(_correlation_with_mean(others, own, method))
        upper.append(_correlation_with_mean(comparable, own, method))
    return float(np.mean(lower)), float(np.mean(upper))


def _predicted_by_others(counts: Int64[np.ndarray, "t 3"]) -> Float[np.ndarray, " t"]:
    """Expected number of responses of each triplet that the mode of its other responses predicts."""
    predicted = np.zeros(len(counts))
    # Responses with the same choice all see the same others, so three cases cover all responses of a triplet.
    for choice in range(3):
        others = counts.copy()
        others[:, choice] -= 1
        mode = others.max(axis=1)
        credit = (others[:, choice] == mode) / (others == mode[:, None]).sum(axis=1)
        predicted += np.where(counts[:, choice] > 0, counts[:, choice] * credit, 0)
    return predicted


def _ceiling(counts: Int64[np.ndarray, "t 3"], hits: Float[np.ndarray, " t"], draws: int = 500) -> Ceiling:
    """The share of predicted responses, with its interval over resampled triplets."""
    answers = counts.sum(axis=1)
    rng = np.random.default_rng(0)
    # Triplets are resampled with all their responses, which are not independent of each other.
    drawn = np.empty(draws)
    for draw in range(draws):
        resampled = rng.integers(len(counts), size=len(counts))
        drawn[draw] = hits[resampled].sum() / answers[resampled].sum()

    low, high = scores.interval(drawn)
    return Ceiling(float(hits.sum() / answers.sum()), low, high, len(counts), int(answers.sum()))


def _upper_triangles(people: Float[np.ndarray, "p n n"]) -> Float[np.ndarray, "p q"]:
    return np.stack([similarity.upper(person) for person in people])


def _comparable(ratings: Float[np.ndarray, " q"], method: Method) -> Float[np.ndarray, " q"]:
    """One person's ratings as ranks or standardised values, so that they can be averaged with other people's."""
    if method == "spearman":
        # Commands that only plan rank nothing, and this import takes a while.
        from scipy.stats import rankdata

        return np.asarray(rankdata(ratings, nan_policy="omit"))
    spread = float(np.nanstd(ratings)) or 1.0
    return np.asarray((ratings - np.nanmean(ratings)) / spread)


def _correlation_with_mean(people: Float[np.ndarray, "k q"], own: Float[np.ndarray, " q"], method: Method) -> float:
    """Correlation of one person's ratings with the mean of some people, over the pairs that both have."""
    shared = np.isfinite(own) & np.isfinite(people).any(axis=0)
    mean = np.nanmean(people[:, shared], axis=0)
    return similarity.correlation(mean, own[shared], method)
