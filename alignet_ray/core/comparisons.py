"""Reference comparisons: which of two objects is more like a third one; people's votes, and how well a model agrees.

A row names (reference, a, b). Of the three pairs of a triplet only (reference, a) and (reference, b) compete, in the
order of `core.triplet_rows.PAIRS` the first two; the pair (a, b) is never asked about.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int64

CHANCE = 1 / 2
"""Agreement of blind guessing between two objects."""

CANDIDATES = 2
"""The first two pairs of a triplet, which compete."""


class Comparisons(NamedTuple):
    """People's reference comparisons; each question stands in one row.

    Attributes:
        rows: objects (or image_ids) reference, a and b.
        votes: how many people chose a, and how many chose b, or their shares; at least one of them is above 0.
    """

    rows: Int64[np.ndarray, "n 3"]
    votes: Float[np.ndarray, "n 2"]

    def among(self, objects: Int[np.ndarray, " m"]) -> "Comparisons":
        """The comparisons of these objects alone: all three of a row are among them."""
        inside = np.isin(self.rows, objects).all(axis=1)
        return Comparisons(self.rows[inside], self.votes[inside])

    @property
    def answers(self) -> int:
        """Number of votes."""
        return round(float(self.votes.sum()))


def no_comparisons() -> Comparisons:
    """No comparisons."""
    return Comparisons(np.empty((0, 3), np.int64), np.empty((0, 2)))


def merged(comparisons: Comparisons) -> Comparisons:
    """One row for each question: votes of equal questions are added, whichever of the two objects was shown first.

    Rows come in the order of their objects, with the lower one of the two candidates as a.
    """
    rows = comparisons.rows
    is_swapped = rows[:, 1] > rows[:, 2]
    ordered = np.where(is_swapped[:, None], rows[:, [0, 2, 1]], rows)
    votes = np.where(is_swapped[:, None], comparisons.votes[:, ::-1], comparisons.votes)

    questions, position = np.unique(ordered, axis=0, return_inverse=True)
    total = np.zeros((len(questions), CANDIDATES))
    np.add.at(total, position.reshape(-1), votes)
    return Comparisons(questions.reshape(-1, 3).astype(np.int64), total)


def single_answers(comparisons: Comparisons) -> Int64[np.ndarray, "v 3"]:
    """One row for each vote: (reference, chosen, other). Votes must be counts."""
    counts = comparisons.votes.round().astype(np.int64)
    for_a = np.repeat(comparisons.rows, counts[:, 0], axis=0)
    for_b = np.repeat(comparisons.rows[:, [0, 2, 1]], counts[:, 1], axis=0)
    return np.concatenate([for_a, for_b])


def vote_agreement(similarities: Float[np.ndarray, "n 2"], votes: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
    """Share of the votes for the object that a model finds more like the reference.

    A tie is no choice and earns nothing, so that a collapsed model scores 0 and not the votes for one side.

    Args:
        similarities: of the reference to a, and to b.
        votes: for a, and for b.
    """
    shares = votes / votes.sum(axis=1, keepdims=True)
    to_a, to_b = similarities.T
    agreement = np.where(to_a > to_b, shares[:, 0], shares[:, 1])
    # NaN compares as false with everything, and is no choice either.
    return np.where((to_a > to_b) | (to_b > to_a), agreement, 0.0)


def majority_share(votes: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
    """The largest `vote_agreement` that any model can reach in each row: the share of the side with more votes."""
    return np.asarray(votes.max(axis=1) / votes.sum(axis=1))


def has_majority(votes: Float[np.ndarray, "n 2"]) -> np.ndarray:
    """Rows in which one side has more votes than the other."""
    return np.asarray(votes[:, 0] != votes[:, 1])


def majority_agreement(
    similarities: Float[np.ndarray, "n 2"], votes: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, " n"]:
    """1 where a model chooses the side with more votes, else 0; rows without a majority must have been left out."""
    majority = (votes == votes.max(axis=1, keepdims=True)).astype(np.float64)
    return vote_agreement(similarities, majority)


def predicted_by_others(votes: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
    """Share of each row's votes that the majority of its *other* votes predicts; where those are even, half.

    A ceiling that does not know the vote which it predicts. Rows need at least two votes, as counts.
    """
    total = votes.sum(axis=1)
    predicted = np.zeros(len(votes))
    # Votes for one side all see the same others, so two cases cover all votes of a row.
    for side in range(CANDIDATES):
        own = votes[:, side]
        others = own - 1
        opposite = votes[:, 1 - side]
        credit = np.where(others > opposite, 1.0, np.where(others == opposite, 0.5, 0.0))
        predicted += own * credit
    return np.asarray(predicted / total)
