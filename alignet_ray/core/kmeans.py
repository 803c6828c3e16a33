"""k-means as three functions per pass of Lloyd's algorithm: a shard's part, merging the parts, updating the centroids.

A shard's part does not depend on the others, and merging adds them in float64, so the centroids are the same for any
number of shards, to rounding. Lloyd, "Least squares quantization in PCM" (1982); the seeding is k-means++ (Arthur and
Vassilvitskii, 2007).
"""

import io
import json
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from alignet_ray.core.gpu import exact_products

BLOCK = 4096
"""Rows of one matrix product."""

BLOCKS_IN_FLOAT32 = 4
"""Blocks whose rows are added up in float32 before they are added to the float64 sums."""


class Partial(NamedTuple):
    """What one shard contributes after an assignment.

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
    # Late: a plan, and a run with nothing to do, import this module and cluster nothing.
    from sklearn.cluster import kmeans_plusplus

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
    """One shard's part of a pass, and its labels.

    Args:
        x: the shard's rows.
        centroids: float32.
        spherical: rows are normalised first.
        far: how many of the furthest rows to name, as candidates for empty clusters.
    """
    labels, distances, sums = _pass(x, centroids, spherical, add=True)
    # The furthest rows travel with the sums: whoever merges shards cannot see their rows any more.
    furthest = _largest(distances, min(far, len(x)))
    partial = Partial(
        sums=sums.cpu().numpy(),
        counts=torch.bincount(labels, minlength=len(centroids)).cpu().numpy(),
        inertia=float(distances.sum(dtype=torch.float64)),
        far=furthest.cpu().numpy(),
        far_rows=_widened(x[furthest], spherical).cpu().numpy(),
        far_distances=distances[furthest].cpu().numpy(),
        far_labels=labels[furthest].cpu().numpy(),
    )
    return partial, labels


def merge(parts: list[Partial]) -> Partial:
    """One partial result from several, in the given order; ties between far rows go to the earlier shard."""
    # A stable sort keeps the order of the shards among equal distances.
    distances = np.concatenate([part.far_distances for part in parts])
    furthest = np.argsort(-distances, kind="stable")[: max(len(part.far) for part in parts)]
    return Partial(
        sums=np.sum([part.sums for part in parts], axis=0),
        counts=np.sum([part.counts for part in parts], axis=0),
        inertia=float(np.sum([part.inertia for part in parts])),
        far=np.concatenate([part.far for part in parts])[furthest],
        far_rows=np.concatenate([part.far_rows for part in parts])[furthest],
        far_distances=distances[furthest],
        far_labels=np.concatenate([part.far_labels for part in parts])[furthest],
    )


def update(partial: Partial, previous: Float[np.ndarray, "k d"], spherical: bool = False) -> Float[np.ndarray, "k d"]:
    """New centroids (float32): the mean of every cluster.

    An empty cluster takes the row furthest from its centroid, which leaves the cluster that had it (scikit-learn's
    rule); a row that is its cluster's last one stays. Without a row to take, it keeps its previous centroid.
    """
    sums = partial.sums.copy()
    counts = partial.counts.astype(np.int64)
    donors = iter(zip(partial.far_rows, partial.far_labels, strict=True))
    for empty in np.flatnonzero(counts == 0):
        # The iterator goes on where the last empty cluster stopped: no row is given away twice.
        for row, label in donors:
            if counts[label] > 1:
                sums[label] -= row
                counts[label] -= 1
                sums[empty] = row
                counts[empty] = 1
                break

    means = sums / np.maximum(counts, 1)[:, None]
    centroids = np.where(counts[:, None] > 0, means, previous)
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
    # Lloyd's algorithm: assign every row to its nearest centroid, then move centroids to the means of their rows.
    previous_inertia = np.inf
    passes = 0
    while passes < iterations:
        passes += 1
        partial, _ = step(x, torch.from_numpy(centroids), spherical, far=len(centroids))
        if partial.inertia >= previous_inertia * (1 - tolerance):
            break
        previous_inertia = partial.inertia
        centroids = update(partial, centroids, spherical)

    # Distances are taken anew, as the silhouette also needs the second nearest centroid.
    distances = torch.cdist(_widened(x, spherical), torch.from_numpy(centroids))
    nearest, second = distances.topk(2, largest=False).values.unbind(dim=1)
    silhouette = ((second - nearest) / second.clamp_min(1e-12)).mean()
    inertia = nearest.double().square().sum()
    return FittedClusters(centroids, float(inertia), float(silhouette), passes)


def elbow(ks: list[int], inertias: list[float]) -> int:
    """Index of the bend of the curve: the point furthest below the straight line from the first to the last.

    Both axes are scaled to 0..1, k on a logarithmic scale (Satopaa et al., "Finding a kneedle in a haystack", 2011).
    """
    # In the scaled plot the line falls from (0, 1) to (1, 0); a point lies 1 - across - down below it.
    log_k = np.log(ks)
    inertia = np.asarray(inertias)
    across = (log_k - log_k[0]) / (log_k[-1] - log_k[0])
    down = (inertia - inertia[-1]) / max(inertia[0] - inertia[-1], 1e-300)
    return int(np.argmax(1 - across - down))


@dataclass
class State:
    """A fit between two passes, as a checkpoint.

    Attributes:
        centroids: of the next pass.
        labels: clusters by the last pass (-1: none yet).
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

    @property
    def passes(self) -> int:
        """Passes over the data so far, of all restarts."""
        return sum(len(iterations) for iterations in self.history)

    def to_bytes(self) -> bytes:
        """As npz, without pickles."""
        # A nested list has no plain dtype; as JSON it needs no pickle.
        fields = dict(vars(self))
        fields["history"] = json.dumps(self.history)
        stream = io.BytesIO()
        np.savez(stream, **fields)
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "State":
        """Inverse of `to_bytes`."""
        stored = np.load(io.BytesIO(data), allow_pickle=False)
        return cls(
            centroids=stored["centroids"],
            labels=stored["labels"],
            restart=int(stored["restart"]),
            history=json.loads(str(stored["history"])),
            best=stored["best"],
            best_inertia=float(stored["best_inertia"]),
        )


class Composition(NamedTuple):
    """Which classes the clusters consist of.

    Attributes:
        purity: share of the rows that belong to the commonest class of their cluster.
        commonest: for every cluster, its commonest classes with their counts, commonest first.
    """

    purity: float
    commonest: list[list[tuple[int, int]]]


def composition(labels: Int[np.ndarray, " n"], classes: Int[np.ndarray, " n"], k: int, top: int = 5) -> Composition:
    """Purity and commonest classes per cluster; among equally common classes the lower number comes first."""
    # Each pair of cluster and class as one number, sorted by cluster, then count, then class.
    width = int(classes.max()) + 1
    pairs, counts = np.unique(labels.astype(np.int64) * width + classes, return_counts=True)
    order = np.lexsort((pairs % width, -counts, pairs // width))

    # The first class of a cluster is its commonest one, whose members make the purity.
    commonest: list[list[tuple[int, int]]] = [[] for _ in range(k)]
    of_commonest = 0
    for pair, count in zip(pairs[order].tolist(), counts[order].tolist(), strict=True):
        cluster, class_number = divmod(pair, width)
        if not commonest[cluster]:
            of_commonest += count
        if len(commonest[cluster]) < top:
            commonest[cluster].append((class_number, count))
    return Composition(of_commonest / len(labels), commonest)


def _largest(values: Float[Tensor, " n"], count: int) -> Int[Tensor, " c"]:
    """Positions of the largest values, largest first, equal ones in their order: a stable sort of the few alone."""
    if count == 0:
        return torch.empty(0, dtype=torch.int64, device=values.device)
    # topk alone does not say which of equal values it takes, and not the same ones on every device.
    candidates = torch.nonzero(values >= values.topk(count).values[-1])[:, 0]
    return candidates[torch.argsort(values[candidates], descending=True, stable=True)[:count]]


def _pass(
    x: Float[Tensor, "n d"], centroids: Float[Tensor, "k d"], spherical: bool, add: bool
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, "k d"]]:
    """Labels, squared distances and (if `add`) float64 sums by cluster: one matrix product per block of rows.

    A block is widened to float32 once, for both the product and the sums.
    """
    with exact_products():
        return _pass_over_blocks(x, centroids, spherical, add)


def _pass_over_blocks(
    x: Float[Tensor, "n d"], centroids: Float[Tensor, "k d"], spherical: bool, add: bool
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, "k d"]]:
    """`_pass`, in whatever precision the process multiplies."""
    labels = torch.empty(len(x), dtype=torch.int64, device=x.device)
    distances = torch.empty(len(x), device=x.device)
    sums = torch.zeros(centroids.shape, dtype=torch.float64, device=x.device)
    recent = torch.zeros_like(centroids)

    # Reused by all blocks: fresh memory for each would cost more than filling it.
    buffer = torch.empty(min(BLOCK, len(x)), x.shape[1], device=x.device)
    scores = torch.empty(len(buffer), len(centroids), device=x.device)

    # The nearest centroid c of a row r maximises r c - |c|^2 / 2, as |r - c|^2 = |r|^2 - 2 (r c - |c|^2 / 2).
    offset = -0.5 * centroids.square().sum(1)
    columns = centroids.T.contiguous()
    for start in range(0, len(x), BLOCK):
        block = _widened(x[start : start + BLOCK], spherical, buffer)
        largest, nearest = torch.addmm(offset, block, columns, out=scores[: len(block)]).max(1)
        labels[start : start + BLOCK] = nearest
        square_norms = torch.linalg.vector_norm(block, dim=1).square()
        distances[start : start + BLOCK] = (square_norms - 2 * largest).clamp_min(0)

        # A few blocks add up in float32, which is fast; float64 keeps these sums accurate over many blocks.
        if add:
            _add_by_cluster(recent, nearest, block)
            is_last = start + BLOCK >= len(x)
            if is_last or start // BLOCK % BLOCKS_IN_FLOAT32 == BLOCKS_IN_FLOAT32 - 1:
                sums += recent
                recent.zero_()
    return labels, distances, sums


def _add_by_cluster(sums: Float[Tensor, "k d"], labels: Int[Tensor, " n"], rows: Float[Tensor, "n d"]) -> None:
    """Add every row to the sum of its cluster."""
    if labels.device.type == "cpu":
        sums.index_add_(0, labels, rows)
        return
    # A GPU's threads would add in the order in which they come; a product adds in the same order every time.
    is_member = labels[:, None] == torch.arange(len(sums), device=labels.device)
    sums.addmm_(is_member.float().T, rows)


def _widened(
    rows: Float[Tensor, "n d"], spherical: bool, buffer: Float[Tensor, "b d"] | None = None
) -> Float[Tensor, "n d"]:
    """A float32 copy of rows, in `buffer` if there is one (fresh memory costs more than the copying)."""
    if buffer is None:
        wide = rows.to(torch.float32)
    else:
        wide = buffer[: len(rows)].copy_(rows)
    return normalise(wide) if spherical else wide
