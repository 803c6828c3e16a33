"""k-means as a Lloyd step in three functions: a shard's part of it, merging the parts, updating the centroids.

A shard's part does not depend on the others, and merging adds them in float64: the centroids are the same for
any number of shards, to rounding. Lloyd, "Least squares quantization in PCM" (1982); seeding: Arthur and Vassilvitskii,
"k-means++" (2007).
"""

import io
import json
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.cluster import kmeans_plusplus
from torch import Tensor

BLOCK = 4096


class Partial(NamedTuple):
    """What one shard knows after an assignment.

    Attributes:
        sums: sum of the rows of every cluster.
        counts: rows of every cluster.
        inertia: sum of squared distances to the assigned centroid.
        far: the rows (numbered within the shard) furthest from their centroid, furthest first.
        far_rows: those rows themselves.
        far_distances: their squared distances.
        far_labels: their clusters.
    """

    sums: Float[np.ndarray, "k d"]
    counts: Int[np.ndarray, " k"]
    inertia: float
    far: Int[np.ndarray, " f"]
    far_rows: Float[np.ndarray, "f d"]
    far_distances: Float[np.ndarray, " f"]
    far_labels: Int[np.ndarray, " f"]


def seed_centroids(x: Float[np.ndarray, "n d"], k: int, seed: int) -> Float[np.ndarray, "k d"]:
    """k-means++ centroids (scikit-learn) from a sample of rows, float32."""
    centroids, _ = kmeans_plusplus(np.ascontiguousarray(x, dtype=np.float32), k, random_state=seed)
    return np.asarray(centroids, dtype=np.float32)


def normalise(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows of length one (zero rows stay zero): spherical k-means clusters directions."""
    return torch.nn.functional.normalize(x, dim=1)


def assign(
    x: Float[Tensor, "n d"], centroids: Float[Tensor, "k d"], spherical: bool = False
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Nearest centroid of every row and the squared distance to it.

    Args:
        x: rows in any float format; float32 copies are made of one block at a time.
        centroids: float32.
        spherical: rows are normalised first (centroids are expected to be).
    """
    labels, distances, _ = _pass(x, centroids, spherical, add=False)
    return labels, distances


def step(
    x: Float[Tensor, "n d"], centroids: Float[Tensor, "k d"], spherical: bool = False, far: int = 0
) -> tuple[Partial, Int[Tensor, " n"]]:
    """One shard's part of a Lloyd step, and its labels.

    Rows are widened once for both the product and the sums; blocks are added in float32, their sums in float64.
    """
    labels, distances, sums = _pass(x, centroids, spherical, add=True)
    order = _largest(distances, min(far, len(x)))
    partial = Partial(
        sums.cpu().numpy(),
        torch.bincount(labels, minlength=len(centroids)).cpu().numpy(),
        float(distances.sum(dtype=torch.float64)),
        order.cpu().numpy(),
        _wide(x[order], spherical).cpu().numpy(),
        distances[order].cpu().numpy(),
        labels[order].cpu().numpy(),
    )
    return partial, labels


def merge(parts: list[Partial]) -> Partial:
    """One partial result from several, in the given order; ties between far rows go to the earlier shard."""
    distances = np.concatenate([p.far_distances for p in parts])
    order = np.argsort(-distances, kind="stable")[: max(len(p.far) for p in parts)]
    return Partial(
        np.sum([p.sums for p in parts], axis=0),
        np.sum([p.counts for p in parts], axis=0),
        float(np.sum([p.inertia for p in parts])),
        np.concatenate([p.far for p in parts])[order],
        np.concatenate([p.far_rows for p in parts])[order],
        distances[order],
        np.concatenate([p.far_labels for p in parts])[order],
    )


def update(partial: Partial, previous: Float[np.ndarray, "k d"], spherical: bool = False) -> Float[np.ndarray, "k d"]:
    """New centroids (float32): the mean of every cluster.

    An empty cluster takes the row furthest from its centroid, which leaves the cluster that had it (scikit-learn's
    rule); a row that is its cluster's last one stays. Without a row to take, it keeps its previous centroid.
    """
    sums, counts = partial.sums.copy(), partial.counts.astype(np.int64)
    donors = iter(zip(partial.far_rows, partial.far_labels, strict=True))
    for empty in np.flatnonzero(counts == 0):
        for row, label in donors:
            if counts[label] > 1:
                sums[label] -= row
                counts[label] -= 1
                sums[empty], counts[empty] = row, 1
                break
    centroids = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], previous)
    if spherical:
        centroids /= np.maximum(np.linalg.norm(centroids, axis=1, keepdims=True), 1e-12)
    return centroids.astype(np.float32)


class FittedClusters(NamedTuple):
    """A fit in memory.

    Attributes:
        centroids: float32.
        inertia: sum of squared distances to them.
        silhouette: mean over the rows of (b - a) / b, a and b the distances to the nearest and the second centroid
            (the simplified silhouette of Hruschka, de Castro and Campello, 2004).
        passes: Lloyd passes that were made.
    """

    centroids: Float[np.ndarray, "k d"]
    inertia: float
    silhouette: float
    passes: int


def fit(
    x: Float[Tensor, "n d"],
    centroids: Float[np.ndarray, "k d"],
    iterations: int,
    tolerance: float = 1e-4,
    spherical: bool = False,
) -> FittedClusters:
    """Lloyd passes over rows in memory, until a pass gains less than `tolerance` of the inertia."""
    before, passes = np.inf, 0
    while passes < iterations:
        passes += 1
        partial, _ = step(x, torch.from_numpy(centroids), spherical, far=len(centroids))
        if partial.inertia >= before * (1 - tolerance):
            break
        before, centroids = partial.inertia, update(partial, centroids, spherical)
    c, wide = torch.from_numpy(centroids), _wide(x, spherical)
    nearest = torch.cdist(wide, c).topk(2, largest=False).values
    silhouette = ((nearest[:, 1] - nearest[:, 0]) / nearest[:, 1].clamp_min(1e-12)).mean()
    return FittedClusters(centroids, float(nearest[:, 0].double().square().sum()), float(silhouette), passes)


def elbow(ks: list[int], inertias: list[float]) -> int:
    """Index of the bend of the curve: the point furthest below the straight line from the first to the last.

    Both axes are scaled to 0..1, k on a logarithmic scale (Satopaa et al., "Finding a kneedle in a haystack", 2011).
    """
    x, y = np.log(ks), np.asarray(inertias)
    across = (x - x[0]) / (x[-1] - x[0])
    down = (y - y[-1]) / max(y[0] - y[-1], 1e-300)
    return int(np.argmax(1 - across - down))


@dataclass
class State:
    """A fit between two passes, so that it can be put down and taken up.

    Attributes:
        centroids: of the pass to come.
        labels: clusters by the pass before (-1: none yet).
        restart: number of the seeding.
        history: inertia and share of moved rows of every pass of every restart.
        best, best_inertia: the best restart so far.
    """

    centroids: np.ndarray
    labels: np.ndarray
    restart: int
    history: list[list[dict[str, float]]]
    best: np.ndarray
    best_inertia: float = float("inf")

    def to_bytes(self) -> bytes:
        """As npz, without pickles."""
        sink = io.BytesIO()
        np.savez(sink, **{k: v for k, v in vars(self).items() if k != "history"}, history=json.dumps(self.history))
        return sink.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "State":
        """The inverse."""
        state = dict(np.load(io.BytesIO(data), allow_pickle=False))
        history = json.loads(str(state["history"]))
        scalars = {"restart": int(state["restart"]), "best_inertia": float(state["best_inertia"])}
        return cls(**{**state, **scalars, "history": history})


class Composition(NamedTuple):
    """What classes clusters are made of.

    Attributes:
        purity: share of the rows that belong to the commonest class of their cluster.
        commonest: for every cluster, its commonest classes with their counts, commonest first.
    """

    purity: float
    commonest: list[list[tuple[int, int]]]


def composition(labels: Int[np.ndarray, " n"], classes: Int[np.ndarray, " n"], k: int, top: int = 5) -> Composition:
    """Purity and commonest classes per cluster; among equally common classes the lower number comes first."""
    width = int(classes.max()) + 1
    pairs, counts = np.unique(labels.astype(np.int64) * width + classes, return_counts=True)
    order = np.lexsort((pairs % width, -counts, pairs // width))
    commonest: list[list[tuple[int, int]]] = [[] for _ in range(k)]
    for pair, count in zip(pairs[order].tolist(), counts[order].tolist(), strict=True):
        if len(commonest[pair // width]) < top:
            commonest[pair // width].append((pair % width, count))
    return Composition(sum(c[0][1] for c in commonest if c) / len(labels), commonest)


def _largest(values: Float[Tensor, " n"], count: int) -> Int[Tensor, " c"]:
    """Positions of the largest values, largest first, equal ones in their order: a stable sort of the few alone."""
    if count == 0:
        return torch.empty(0, dtype=torch.int64, device=values.device)
    candidates = torch.nonzero(values >= values.topk(count).values[-1])[:, 0]
    return candidates[torch.argsort(values[candidates], descending=True, stable=True)[:count]]


def _pass(
    x: Float[Tensor, "n d"], centroids: Float[Tensor, "k d"], spherical: bool, add: bool
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, "k d"]]:
    """Labels, squared distances and (if `add`) float64 sums by cluster: one matrix product per block of rows."""
    labels = torch.empty(len(x), dtype=torch.int64, device=x.device)
    distances = torch.empty(len(x), device=x.device)
    sums = torch.zeros(centroids.shape, dtype=torch.float64, device=x.device)
    recent = torch.zeros_like(centroids)
    buffer = torch.empty(min(BLOCK, len(x)), x.shape[1], device=x.device)
    scores = torch.empty(len(buffer), len(centroids), device=x.device)
    offset, columns = -0.5 * centroids.square().sum(1), centroids.T.contiguous()
    for start in range(0, len(x), BLOCK):
        block = _wide(x[start : start + BLOCK], spherical, buffer)
        best, which = torch.addmm(offset, block, columns, out=scores[: len(block)]).max(1)
        labels[start : start + BLOCK] = which
        norms = torch.linalg.vector_norm(block, dim=1).square()
        distances[start : start + BLOCK] = (norms - 2 * best).clamp_min(0)
        if add:
            recent.index_add_(0, which, block)
            if start // BLOCK % 4 == 3 or start + BLOCK >= len(x):
                sums += recent
                recent.zero_()
    return labels, distances, sums


def _wide(
    rows: Float[Tensor, "n d"], spherical: bool, buffer: Float[Tensor, "b d"] | None = None
) -> Float[Tensor, "n d"]:
    """A float32 copy of some rows, in `buffer` if there is one (fresh memory costs more than the copying)."""
    wide = rows.to(torch.float32) if buffer is None else buffer[: len(rows)].copy_(rows)
    return normalise(wide) if spherical else wide
