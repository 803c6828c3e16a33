"""Similarity matrices and their comparison: RSA, centred kernel alignment, shared neighbours, and clustering."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from alignet_ray.errors import UserError

Kind = Literal["dot", "cosine", "correlation"]

MIN_ITEMS = 3
"""Items of the smallest similarity matrix that is of any use."""

ASYMMETRY = 1e-4
"""Largest difference between mirrored entries of a symmetric matrix, relative to its largest entry."""

BOOTSTRAP_ENTRIES = 50_000_000
"""Matrix entries that `rsa_bootstrap` correlates in total before it makes fewer draws."""


def unit_rows(features: Float[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Rows scaled to length 1, so that dot products are cosines; a row of zeros stays zero."""
    rows = features.astype(np.float32, copy=False)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12), dtype=np.float32)


def similarity_matrix(features: Float[np.ndarray, "n d"], kind: Kind = "cosine") -> Float[np.ndarray, "n n"]:
    """All pairwise similarities: dot products, cosines, or Pearson correlations of the rows; exactly symmetric."""
    rows = features.astype(np.float32)
    if kind == "correlation":
        rows = rows - rows.mean(axis=1, keepdims=True)
    if kind != "dot":
        rows = unit_rows(rows)
    return np.asarray(rows @ rows.T)


def check_matrix(
    matrix: np.ndarray, name: str = "the similarity matrix", gaps: bool = False
) -> Float[np.ndarray, "n n"]:
    """A square, symmetric, finite matrix of at least three items in float64.

    Args:
        matrix: what to check; its diagonal does not matter.
        name: what messages call it.
        gaps: NaN entries may stay.

    Raises:
        UserError: saying what is wrong with it.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise UserError(f"{name} has shape {matrix.shape}; it must be square, one row and one column per item")
    if matrix.shape[0] < MIN_ITEMS:
        raise UserError(f"{name} has {matrix.shape[0]} items; at least {MIN_ITEMS} are needed")

    square = matrix.astype(np.float64)
    # Diagonals are left out of all checks: files hold ones, zeros or NaN there.
    off_diagonal = ~np.eye(len(square), dtype=bool)
    entries = square[off_diagonal]
    bad = np.isinf(entries) if gaps else ~np.isfinite(entries)
    if bad.any():
        raise UserError(f"{name} has {int(bad.sum())} entries that are not numbers: fill or leave out their items")
    if gaps and np.isnan(entries).all():
        raise UserError(f"{name} has no entry that is a number: leave it out")

    difference = float(np.nanmax(np.abs(square - square.T)[off_diagonal]))
    if difference > ASYMMETRY * max(1.0, float(np.nanmax(np.abs(entries)))):
        raise UserError(
            f"{name} is not symmetric (entries differ by up to {difference:.3g}): average it with its transpose if "
            "that is meant"
        )
    return square


def upper(matrix: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " p"]:
    """Entries above the diagonal, row by row."""
    return matrix[np.triu_indices(len(matrix), 1)]


def correlation(a: Float[np.ndarray, " p"], b: Float[np.ndarray, " p"], method: str = "spearman") -> float:
    """Spearman (mean ranks for ties) or Pearson correlation; NaN where one of the two is constant."""
    if method == "spearman":
        from scipy.stats import rankdata  # imported late: a student loads without scipy

        a = rankdata(a)
        b = rankdata(b)
    a = a.astype(np.float64) - a.mean(dtype=np.float64)
    b = b.astype(np.float64) - b.mean(dtype=np.float64)

    # Plain sums: for vectors of this length the threads of a dot product cost more than they bring.
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    if scale == 0:
        return float("nan")
    return float((a * b).sum()) / scale


def rsa(
    a: Float[np.ndarray, "n n"], b: Float[np.ndarray, "n n"], method: Literal["spearman", "pearson"] = "spearman"
) -> float:
    """Representational similarity analysis: the correlation of two matrices over their upper triangles.

    Both must hold similarities, or both dissimilarities (Kriegeskorte et al. 2008).
    """
    return correlation(upper(a), upper(b), method)


def rsa_bootstrap(
    a: Float[np.ndarray, "n n"], b: Float[np.ndarray, "n n"], draws: int = 200, seed: int = 0, method: str = "spearman"
) -> Float[np.ndarray, " draws"]:
    """RSA under resampling of items with replacement; pairs of an item with its own copy are left out.

    Above 700 items or so, fewer than `draws` (at least 20) are made: there the interval is narrow anyway.
    """
    draws = min(draws, max(20, BOOTSTRAP_ENTRIES // len(a) ** 2))
    rng = np.random.default_rng(seed)
    rows, columns = np.triu_indices(len(a), 1)
    left, right = _Entries(upper(a), method), _Entries(upper(b), method)

    # Items are resampled and not pairs, which are not independent: pairs share items. Two items that were drawn twice
    # and three times stand for six equal pairs, which are counted instead of written out and sorted.
    values = []
    for _ in range(draws):
        times = np.bincount(rng.integers(0, len(a), len(a)), minlength=len(a))
        weights = (times[rows] * times[columns]).astype(np.float64)
        values.append(_weighted_correlation(left.scores(weights), right.scores(weights), weights))
    return np.array(values)


class _Entries:
    """Entries of a matrix of which each counts several times, as values (Pearson) or as ranks (Spearman)."""

    def __init__(self, values: Float[np.ndarray, " p"], method: str) -> None:
        self.values = values.astype(np.float64)
        self.by_rank = method == "spearman"
        # Equal values have one rank, the mean of the places that they take together.
        _, self.group = np.unique(self.values, return_inverse=True)

    def scores(self, weights: Float[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
        """What is to be correlated, where entry i counts `weights[i]` times."""
        if not self.by_rank:
            return self.values
        taken = np.bincount(self.group, weights=weights)
        last = np.cumsum(taken)
        mean_rank = last - (taken - 1) / 2
        return np.asarray(mean_rank[self.group])


def _weighted_correlation(
    a: Float[np.ndarray, " p"], b: Float[np.ndarray, " p"], weights: Float[np.ndarray, " p"]
) -> float:
    """Pearson correlation where entry i counts `weights[i]` times; NaN where one of the two is constant."""
    total = weights.sum()
    if total == 0:
        return float("nan")
    a = a - (weights * a).sum() / total
    b = b - (weights * b).sum() / total
    scale = float(np.sqrt((weights * a * a).sum() * (weights * b * b).sum()))
    if scale == 0:
        return float("nan")
    return float((weights * a * b).sum()) / scale


def linear_cka(x: Float[np.ndarray, "n p"], y: Float[np.ndarray, "n q"], unbiased: bool = False) -> float:
    """Linear centred kernel alignment of two representations of the same items, 1 for equal up to rotation and scale.

    Kornblith et al., "Similarity of neural network representations revisited" (ICML 2019). `unbiased` uses the
    estimator of HSIC by Song et al. (JMLR 2012), which does not grow with the width when items are few.
    """
    hsic = _unbiased_hsic if unbiased else _hsic
    gram_x = similarity_matrix(x, "dot").astype(np.float64)
    gram_y = similarity_matrix(y, "dot").astype(np.float64)

    # HSIC is a scalar product of Gram matrices, so this is their cosine.
    scale = hsic(gram_x, gram_x) * hsic(gram_y, gram_y)
    if not scale > 0:  # also where an estimate is NaN
        return float("nan")
    return hsic(gram_x, gram_y) / float(np.sqrt(scale))


def nearest(similarity: Float[np.ndarray, "n n"], k: int) -> Int[np.ndarray, "n k"]:
    """The `k` most similar other items of every item, best first (ties by index)."""
    others = similarity.astype(np.float64)  # a copy, as the diagonal is overwritten
    np.fill_diagonal(others, -np.inf)
    return np.argsort(-others, axis=1, kind="stable")[:, :k]


def neighbour_overlap(a: Float[np.ndarray, "n n"], b: Float[np.ndarray, "n n"], k: int) -> Float[np.ndarray, " n"]:
    """Share of each item's `k` nearest neighbours under `a` that are among its `k` nearest under `b`."""
    rows = np.arange(len(a))[:, None]
    shared = _is_neighbour(a, k)[rows, nearest(b, k)]
    return np.asarray(shared.mean(axis=1))


def category_order(similarity: Float[np.ndarray, "n n"], labels: list[str]) -> Int[np.ndarray, " n"]:
    """An order of items for a picture of the matrix: by label, and within each label by average linkage."""
    order: list[int] = []
    for group in sorted(set(labels)):
        rows = np.array([row for row, label in enumerate(labels) if label == group])
        within = _linkage_order(similarity[np.ix_(rows, rows)])
        order.extend(rows[within].tolist())
    return np.array(order, dtype=np.int64)


def tree_clusters(similarity: Float[np.ndarray, "n n"], k: int) -> Int[np.ndarray, " n"]:
    """At most `k` clusters (numbers from 0) of items by average linkage on a similarity matrix."""
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(similarity) < 2:
        return np.zeros(len(similarity), np.int64)
    tree = linkage(_condensed_distances(similarity), "average")
    return np.asarray(fcluster(tree, k, "maxclust"), np.int64) - 1


def _hsic(a: Float[np.ndarray, "n n"], b: Float[np.ndarray, "n n"]) -> float:
    """Hilbert-Schmidt independence criterion of two Gram matrices, up to a factor."""
    centred = a - a.mean(axis=0) - a.mean(axis=1)[:, None] + a.mean()
    return float((centred * b).sum())


def _unbiased_hsic(a: Float[np.ndarray, "n n"], b: Float[np.ndarray, "n n"]) -> float:
    """The unbiased estimator of Song et al. (2012); NaN for fewer than four items."""
    n = len(a)
    if n < 4:
        return float("nan")
    off_diagonal = 1 - np.eye(n)
    a = a * off_diagonal
    b = b * off_diagonal

    trace = (a * b).sum()
    sums = a.sum() * b.sum() / ((n - 1) * (n - 2))
    cross = 2 * (a.sum(axis=0) @ b.sum(axis=0)) / (n - 2)
    return float(trace + sums - cross) / (n * (n - 3))


def _is_neighbour(similarity: Float[np.ndarray, "n n"], k: int) -> Bool[np.ndarray, "n n"]:
    """Whether column j is among the `k` nearest of row i."""
    member = np.zeros(similarity.shape, dtype=bool)
    np.put_along_axis(member, nearest(similarity, k), True, axis=1)
    return member


def _linkage_order(similarity: Float[np.ndarray, "n n"]) -> Int[np.ndarray, " n"]:
    """Leaves of the average-linkage tree, from left to right."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    if len(similarity) < 3:
        return np.arange(len(similarity))
    return np.asarray(leaves_list(linkage(_condensed_distances(similarity), "average")), np.int64)


def _condensed_distances(similarity: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " p"]:
    """Distances between all pairs in scipy's condensed form, zero for the most similar pair."""
    values = upper(similarity.astype(np.float64))
    return np.asarray(values.max() - values)
