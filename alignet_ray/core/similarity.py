"""Comparing whole spaces: similarity matrices, representational similarity analysis, centred kernel alignment."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from scipy.stats import rankdata

from alignet_ray.errors import UserError

Kind = Literal["dot", "cosine", "correlation"]


def unit_rows(x: Float[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Rows scaled to length 1, so that dot products are cosines; a row of zeros stays zero."""
    rows = x.astype(np.float32, copy=False)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12), dtype=np.float32)


def similarity_matrix(x: Float[np.ndarray, "n d"], kind: Kind = "cosine") -> Float[np.ndarray, "n n"]:
    """All pairwise similarities: dot products, cosines, or Pearson correlations of the rows; exactly symmetric."""
    x = x.astype(np.float32)
    if kind == "correlation":
        x = x - x.mean(axis=1, keepdims=True)
    rows = x if kind == "dot" else unit_rows(x)
    return np.asarray(rows @ rows.T)


def check_matrix(
    matrix: np.ndarray, name: str = "the similarity matrix", gaps: bool = False
) -> Float[np.ndarray, "n n"]:
    """A square, symmetric, finite matrix of at least three items in float64; with `gaps`, NaN entries may stay.

    Raises:
        UserError: saying what is wrong with it.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise UserError(f"{name} has shape {matrix.shape}; it must be square, one row and one column per item")
    if matrix.shape[0] < 3:
        raise UserError(f"{name} has {matrix.shape[0]} items; at least 3 are needed")
    square = matrix.astype(np.float64)
    off = square[~np.eye(len(square), dtype=bool)]
    bad = int(np.isinf(off).sum() if gaps else (~np.isfinite(off)).sum())
    if bad:
        raise UserError(f"{name} has {bad} entries that are not numbers: fill or leave out their items")
    if gaps and np.isnan(off).all():
        raise UserError(f"{name} has no entry that is a number: leave it out")
    worst = float(np.nanmax(np.abs(square - square.T)[~np.eye(len(square), dtype=bool)]))
    if worst > 1e-4 * max(1.0, float(np.nanmax(np.abs(off)))):
        raise UserError(
            f"{name} is not symmetric (entries differ by up to {worst:.3g}): average it with its transpose if that "
            "is meant"
        )
    return square


def upper(matrix: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " p"]:
    """Entries above the diagonal, row by row."""
    return matrix[np.triu_indices(len(matrix), 1)]


def correlation(a: Float[np.ndarray, " p"], b: Float[np.ndarray, " p"], method: str = "spearman") -> float:
    """Spearman (mean ranks for ties) or Pearson correlation; NaN where one side is constant."""
    if method == "spearman":
        a, b = rankdata(a), rankdata(b)
    a, b = (v.astype(np.float64) - v.mean(dtype=np.float64) for v in (a, b))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else float("nan")


def rsa(
    a: Float[np.ndarray, "n n"], b: Float[np.ndarray, "n n"], method: Literal["spearman", "pearson"] = "spearman"
) -> float:
    """Representational similarity analysis: the correlation of two matrices over their upper triangles.

    Both similarities or both dissimilarities (Kriegeskorte et al. 2008).
    """
    return correlation(upper(a), upper(b), method)


def rsa_bootstrap(
    a: Float[np.ndarray, "n n"], b: Float[np.ndarray, "n n"], draws: int = 200, seed: int = 0, method: str = "spearman"
) -> Float[np.ndarray, " draws"]:
    """RSA under resampling of items with replacement; pairs of an item with its own copy are left out.

    Above 700 items or so, fewer than `draws` (at least 20) are made: there the interval is narrow anyway.
    """
    draws = min(draws, max(20, 50_000_000 // len(a) ** 2))
    rng = np.random.default_rng(seed)
    rows, columns = np.triu_indices(len(a), 1)
    values = []
    for _ in range(draws):
        pick = rng.integers(0, len(a), len(a))
        i, j = pick[rows], pick[columns]
        keep = i != j
        values.append(correlation(a[i[keep], j[keep]], b[i[keep], j[keep]], method))
    return np.array(values)


def linear_cka(x: Float[np.ndarray, "n p"], y: Float[np.ndarray, "n q"], unbiased: bool = False) -> float:
    """Linear centred kernel alignment of two representations of the same items, 1 for equal up to rotation and scale.

    Kornblith et al. 2019; `unbiased` uses the estimator of HSIC by Song et al. 2012, which does not grow with the
    width when items are few.
    """
    a, b = (similarity_matrix(v, "dot").astype(np.float64) for v in (x, y))
    product = _unbiased_hsic if unbiased else _hsic
    scale = product(a, a) * product(b, b)
    return product(a, b) / float(np.sqrt(scale)) if scale > 0 else float("nan")


def _hsic(a: Float[np.ndarray, "n n"], b: Float[np.ndarray, "n n"]) -> float:
    centred = a - a.mean(axis=0) - a.mean(axis=1)[:, None] + a.mean()
    return float((centred * b).sum())


def _unbiased_hsic(a: Float[np.ndarray, "n n"], b: Float[np.ndarray, "n n"]) -> float:
    n = len(a)
    if n < 4:
        return float("nan")
    a, b = (m * (1 - np.eye(n)) for m in (a, b))
    trace = (a * b).sum()
    sums = a.sum() * b.sum() / ((n - 1) * (n - 2))
    cross = 2 * (a.sum(axis=0) @ b.sum(axis=0)) / (n - 2)
    return float(trace + sums - cross) / (n * (n - 3))


def nearest(similarity: Float[np.ndarray, "n n"], k: int) -> Int[np.ndarray, "n k"]:
    """The `k` most similar other items of every item, best first (ties by index)."""
    s = similarity.astype(np.float64)
    np.fill_diagonal(s, -np.inf)
    return np.argsort(-s, axis=1, kind="stable")[:, :k]


def neighbour_overlap(a: Float[np.ndarray, "n n"], b: Float[np.ndarray, "n n"], k: int) -> Float[np.ndarray, " n"]:
    """Share of each item's `k` nearest neighbours under `a` that are among its `k` nearest under `b`."""
    return np.asarray(_membership(a, k)[np.arange(len(a))[:, None], nearest(b, k)].mean(axis=1))


def _membership(similarity: Float[np.ndarray, "n n"], k: int) -> Bool[np.ndarray, "n n"]:
    member = np.zeros(similarity.shape, dtype=bool)
    np.put_along_axis(member, nearest(similarity, k), True, axis=1)
    return member


def category_order(similarity: Float[np.ndarray, "n n"], labels: list[str]) -> Int[np.ndarray, " n"]:
    """An order of items for a picture: by label where labels are given, inside each (or all) by average linkage."""
    groups = sorted(set(labels))
    order: list[int] = []
    for group in groups:
        rows = np.array([r for r, label in enumerate(labels) if label == group])
        order += rows[_linkage_order(similarity[np.ix_(rows, rows)])].tolist()
    return np.array(order, dtype=np.int64)


def _linkage_order(similarity: Float[np.ndarray, "n n"]) -> Int[np.ndarray, " n"]:
    from scipy.cluster.hierarchy import leaves_list, linkage

    if len(similarity) < 3:
        return np.arange(len(similarity))
    return np.asarray(leaves_list(linkage(_condensed(similarity), "average")), np.int64)


def tree_clusters(similarity: Float[np.ndarray, "n n"], k: int) -> Int[np.ndarray, " n"]:
    """At most `k` clusters (numbers from 0) of items by average linkage on a similarity matrix."""
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(similarity) < 2:
        return np.zeros(len(similarity), np.int64)
    return np.asarray(fcluster(linkage(_condensed(similarity), "average"), k, "maxclust"), np.int64) - 1


def _condensed(similarity: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " p"]:
    values = upper(similarity.astype(np.float64))
    return np.asarray(values.max() - values)
