"""Checks of odd-one-out responses by themselves: repeated items, duplicates beyond chance, position of the odd one."""

from dataclasses import dataclass
from math import comb

import numpy as np
import scipy.sparse as sparse
from jaxtyping import Bool, Float, Int64
from scipy.sparse.linalg import svds

from alignet_ray.core.triplet_rows import ODD_LAST, set_keys

ODD_POSITIONS = ("last", "middle", "first")
"""Positions that the odd one may have in a row, in the order in which `ODD_LAST` lists their columns."""

CHECKED_ROWS = 400_000
"""Rows that the position of the odd one is read from; more would not make it surer."""


@dataclass(frozen=True)
class Duplicates:
    """Rows that repeat an earlier set of three, beside the number that chance alone would give.

    Attributes:
        found: repeated rows.
        expected: repeated rows if all rows were uniform draws.
        rows: all rows.
    """

    found: int
    expected: float
    rows: int

    @property
    def suspicious(self) -> bool:
        """More than chance gives (by five standard deviations and a tenth of a percent of the rows)."""
        return bool(self.found > self.expected + 5 * self.expected**0.5 + 1e-3 * self.rows)


@dataclass(frozen=True)
class OddPosition:
    """How well responses predict each other under each assumed position of the odd one.

    Attributes:
        shares: predicted share of held-out rows for each of `ODD_POSITIONS`; chance is a third.
        sure: whether the best position is significantly better than the second.
    """

    shares: tuple[float, float, float]
    sure: bool

    @property
    def best(self) -> str:
        """The position that predicts significantly better than the others, or else "last"."""
        if not self.sure:
            return "last"
        return ODD_POSITIONS[int(np.argmax(self.shares))]


def repeats(rows: Int64[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
    """Rows that name an item twice."""
    first, second, third = rows.T
    return np.asarray((first == second) | (first == third) | (second == third))


def duplicates(rows: Int64[np.ndarray, "n 3"]) -> Duplicates:
    """Repeated sets of three; expected are those of n uniform draws from all sets of the items that occur."""
    n = len(rows)
    sets = float(max(comb(len(np.unique(rows)), 3), 1))
    distinct = len(np.unique(set_keys(rows)))

    # n draws hit sets * (1 - (1 - 1 / sets)^n) different sets; the logarithm keeps this exact for large `sets`.
    expected = n - 1.0
    if sets > 1:
        expected = n + sets * np.expm1(n * np.log1p(-1 / sets))
    return Duplicates(n - distinct, float(max(expected, 0.0)), n)


def expected_shared(rows: Int64[np.ndarray, "n 3"], other: Int64[np.ndarray, "k 3"]) -> float:
    """Rows that chance alone would find in `other`, too, if both are uniform draws from the sets of their items."""
    # 1 - (1 - 1 / sets)^k, the chance that k draws hit a given set, by its exponential limit.
    items = np.union1d(rows.reshape(-1), other.reshape(-1))
    sets = max(comb(len(items), 3), 1)
    return float(len(rows) * -np.expm1(-len(other) / sets))


def odd_position(rows: Int64[np.ndarray, "n 3"], rank: int = 10, seed: int = 0) -> OddPosition:
    """Which column holds the odd one, judging by the responses alone.

    Half of the rows give a similarity matrix, which predicts the other half. Only with the true odd column do the
    chosen pairs agree with each other across rows, so this column predicts best.

    Args:
        rows: triplets; the last column is claimed to be the odd one.
        rank: dimensions kept of the similarity matrix.
        seed: of the halving.
    """
    items, numbers = np.unique(rows, return_inverse=True)
    shuffled = numbers.reshape(rows.shape)[np.random.default_rng(seed).permutation(len(rows))[:CHECKED_ROWS]]
    half = len(shuffled) // 2
    # Too few items for a low-rank matrix, or too few rows for a share to mean anything.
    if len(items) <= rank + 2 or half < 30:
        return OddPosition((1 / 3, 1 / 3, 1 / 3), False)

    shares = []
    for columns in ODD_LAST:
        similarity = _response_similarity(shuffled[:half][:, columns], len(items), rank)
        shares.append(_predicted_share(similarity, shuffled[half:][:, columns]))

    # The variance of one prediction at chance is 1/3 * 2/3.
    standard_error = (2 / 9 / (len(shuffled) - half)) ** 0.5
    gap = max(shares) - sorted(shares)[-2]
    return OddPosition((shares[0], shares[1], shares[2]), gap > 4 * standard_error)


def _response_similarity(rows: Int64[np.ndarray, "n 3"], items: int, rank: int) -> Float[np.ndarray, "m m"]:
    """A low-rank similarity matrix: a pair gains where it was chosen and loses where it was not."""
    first, second, odd = rows.T
    n = len(rows)
    # Gains of 2/3 and -1/3 add up to zero in each row: an item that is merely shown often gains nothing.
    gains = np.concatenate([np.full(n, 2 / 3), np.full(2 * n, -1 / 3)])
    left = np.concatenate([first, first, second])
    right = np.concatenate([second, odd, odd])
    one_sided = sparse.coo_matrix((gains, (left, right)), shape=(items, items)).tocsr()

    # Low rank, so that pairs that were never shown get a similarity from those that were.
    u, singular, vt = svds((one_sided + one_sided.T).asfptype(), k=rank, random_state=0)
    # A similarity has positive eigenvalues; the others are noise, or come from the wrong column.
    positive = np.sign((u * vt.T).sum(axis=0)) > 0
    return np.asarray((u[:, positive] * singular[positive]) @ vt[positive])


def _predicted_share(similarity: Float[np.ndarray, "m m"], rows: Int64[np.ndarray, "n 3"]) -> float:
    """Share of rows whose pair is more similar than both pairs with the odd one."""
    first, second, odd = rows.T
    others = np.maximum(similarity[first, odd], similarity[second, odd])
    return float((similarity[first, second] > others).mean())
