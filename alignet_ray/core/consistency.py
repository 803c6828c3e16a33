"""Whether triplets hold together by themselves: repeats, duplicates beyond chance, and which column is the odd one."""

from dataclasses import dataclass
from math import comb

import numpy as np
import scipy.sparse as sparse
from jaxtyping import Bool, Int64
from scipy.sparse.linalg import svds

from alignet_ray.core.triplets import ODD_LAST, set_keys

COLUMNS = dict(zip(("last", "middle", "first"), ODD_LAST, strict=True))
"""For each place of the odd one, the columns of (pair, pair, odd)."""


@dataclass(frozen=True)
class Duplicates:
    """Rows that repeat an earlier set of three, and how many of them chance alone would give."""

    found: int
    expected: float
    rows: int

    @property
    def suspicious(self) -> bool:
        """More than chance gives (five standard deviations, and a tenth of a percent of the rows)."""
        return bool(self.found > self.expected + 5 * self.expected**0.5 + 1e-3 * self.rows)


@dataclass(frozen=True)
class Reading:
    """How well answers predict each other for each place of the odd one (last, middle, first)."""

    shares: tuple[float, float, float]
    sure: bool

    @property
    def best(self) -> str:
        """The place that fits clearly better than the last, or else the last."""
        best = int(np.argmax(self.shares))
        return list(COLUMNS)[best] if self.sure else "last"


def repeats(rows: Int64[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
    """Rows that name an item twice."""
    a, b, c = rows.T
    return np.asarray((a == b) | (a == c) | (b == c))


def duplicates(rows: Int64[np.ndarray, "n 3"]) -> Duplicates:
    """Repeated sets of three; the expectation is that of n uniform draws from all sets of the items that occur."""
    n, sets = len(rows), float(max(comb(len(np.unique(rows)), 3), 1))
    distinct = len(np.unique(set_keys(rows)))
    expected = n + sets * np.expm1(n * np.log1p(-1 / sets)) if sets > 1 else n - 1.0
    return Duplicates(n - distinct, float(max(expected, 0.0)), n)


def expected_shared(a: Int64[np.ndarray, "n 3"], b: Int64[np.ndarray, "k 3"]) -> float:
    """How many rows of `a` chance alone would find in `b`, both being uniform draws from the sets of their items."""
    sets = max(comb(len(np.union1d(a.reshape(-1), b.reshape(-1))), 3), 1)
    return float(len(a) * -np.expm1(-len(b) / sets))


def odd_position(rows: Int64[np.ndarray, "n 3"], rank: int = 10, seed: int = 0) -> Reading:
    """Which column is the odd one, by the answers alone.

    Half of the rows give a similarity matrix (a pair gains where it was chosen and loses where it was not; its leading
    eigenvectors take the noise out), which predicts the other half. Only with the true odd column do the chosen pairs
    agree with each other across rows, so that column predicts best.

    Args:
        rows: triplets; the last column is claimed to be the odd one.
        rank: dimensions kept.
        seed: of the halving.
    """
    items, dense = np.unique(rows, return_inverse=True)
    dense = dense.reshape(rows.shape)[np.random.default_rng(seed).permutation(len(rows))[:400_000]]
    half, m = len(dense) // 2, len(items)
    if m <= rank + 2 or half < 30:
        return Reading((1 / 3, 1 / 3, 1 / 3), False)
    shares = []
    for columns in COLUMNS.values():
        learn, test = dense[:half][:, columns], dense[half:][:, columns]
        shares.append(_predicted(_similarity(learn, m, rank), test))
    error = (2 / 9 / (len(dense) - half)) ** 0.5
    gap = max(shares) - sorted(shares)[-2]
    return Reading((shares[0], shares[1], shares[2]), gap > 4 * error)


def _similarity(rows: Int64[np.ndarray, "n 3"], m: int, rank: int) -> np.ndarray:
    a, b, c = rows.T
    n = len(rows)
    values = np.concatenate([np.full(n, 2 / 3), np.full(2 * n, -1 / 3)])
    pairs = sparse.coo_matrix((values, (np.concatenate([a, a, b]), np.concatenate([b, c, c]))), shape=(m, m)).tocsr()
    u, s, vt = svds((pairs + pairs.T).asfptype(), k=rank, random_state=0)
    signs = np.sign((u * vt.T).sum(axis=0))
    keep = signs > 0  # a similarity has positive eigenvalues; the others are noise or the wrong column
    return np.asarray((u[:, keep] * s[keep]) @ vt[keep])


def _predicted(similarity: np.ndarray, rows: Int64[np.ndarray, "n 3"]) -> float:
    a, b, c = rows.T
    pair, others = similarity[a, b], np.maximum(similarity[a, c], similarity[b, c])
    return float((pair > others).mean())
