"""The cluster artifact: centroids, the cluster of every image, and statistics of the clustering."""

from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import safetensors.numpy
from jaxtyping import Float32, Int

from alignet_ray.artifacts import schemas
from alignet_ray.artifacts.base import ArtifactView, from_rows, part_name, to_rows

CENTROIDS = "centroids.safetensors"
HISTORY = "history.json"
CURVE = "curve.json"
STATISTICS = "stats.json"
FIT_STATE = ".fit.npz"
"""State of an unfinished fit; removed when the centroids are written."""


class ClusterLabels(NamedTuple):
    """Cluster of every image, by ascending image_id."""

    ids: Int[np.ndarray, " n"]
    clusters: Int[np.ndarray, " n"]


@dataclass(frozen=True)
class CurvePoint:
    """A candidate number of clusters, fitted on a sample of the images."""

    k: int
    inertia: float
    silhouette: float


@dataclass(frozen=True)
class ClusterStats:
    """Statistics of a clustering.

    Attributes:
        images: images clustered.
        k: clusters.
        inertia: sum of squared distances to the centroids.
        smallest, largest: images of these clusters.
        sizes: images of every cluster.
        purity: share of images whose class is the commonest one of their cluster; None without class folders.
        classes: the commonest classes of every cluster with their counts; empty without class folders.
        history: inertia and share of reassigned images of every pass, restart by restart.
        curve: the candidates for k that were tried.
    """

    images: int
    k: int
    inertia: float
    smallest: int
    largest: int
    sizes: list[int]
    purity: float | None
    classes: list[list[tuple[str, int]]]
    history: list[list[dict[str, float]]]
    curve: list[CurvePoint]


@dataclass(frozen=True)
class ClusterArtifact(ArtifactView):
    """k-means clusters of the corpus."""

    def labels(self) -> ClusterLabels:
        """Cluster of every image."""
        table = self.files.read_parts()
        ids = table["image_id"].to_numpy()
        clusters = table["cluster"].to_numpy()
        # Sorted by id, the labels match other tables of the same images row by row; mostly they are as they come.
        if (ids[1:] < ids[:-1]).any():
            order = np.argsort(ids)
            ids, clusters = ids[order], clusters[order]
        return ClusterLabels(ids, clusters)

    def write_labels(self, part: int, ids: Int[np.ndarray, " n"], clusters: Int[np.ndarray, " n"]) -> None:
        """Write the clusters of some images as one part of the table CLUSTERS."""
        table = pa.table([ids, clusters], schema=schemas.CLUSTERS)
        self.draft.write_table(part_name(part), schemas.check(table, schemas.CLUSTERS))

    def has_centroids(self) -> bool:
        """Whether the fit is finished."""
        return self.files.has(CENTROIDS)

    def centroids(self) -> Float32[np.ndarray, "k p"]:
        """Centroids of the fit of lowest inertia."""
        return safetensors.numpy.load(self.files.read_bytes(CENTROIDS))["centroids"]

    def history(self) -> list[list[dict[str, float]]]:
        """Inertia and share of reassigned images of every pass, restart by restart."""
        history: list[list[dict[str, float]]] = self.files.read_json(HISTORY)
        return history

    def write_fit(self, centroids: Float32[np.ndarray, "k p"], history: list[list[dict[str, float]]]) -> None:
        """Write a finished fit; the state of the unfinished one goes."""
        # The centroids say that the fit is finished, so all else is written before them.
        self.draft.write_json(HISTORY, history)
        self.draft.write_bytes(CENTROIDS, safetensors.numpy.save({"centroids": centroids}))
        self.draft.remove(FIT_STATE)

    def fit_state(self) -> bytes | None:
        """State of an interrupted fit; None if there is none."""
        if not self.files.has(FIT_STATE):
            return None
        return self.files.read_bytes(FIT_STATE)

    def write_fit_state(self, state: bytes) -> None:
        """Keep the state of an unfinished fit."""
        self.draft.write_bytes(FIT_STATE, state)

    def curve(self) -> list[CurvePoint] | None:
        """Candidates for the number of clusters that were tried; None before any was."""
        if not self.files.has(CURVE):
            return None
        return from_rows(CurvePoint, self.files.read_json(CURVE))

    def write_curve(self, points: list[CurvePoint]) -> None:
        """Write the candidates for the number of clusters."""
        self.draft.write_json(CURVE, to_rows(points))

    def stats(self) -> ClusterStats:
        """Statistics of the clustering."""
        stored = self.files.read_json(STATISTICS)
        curve = from_rows(CurvePoint, stored["curve"])

        # JSON has no tuples: a class and its count come back as a list.
        classes = []
        for cluster in stored["classes"]:
            pairs = map(tuple, cluster)
            classes.append(list(pairs))
        return ClusterStats(**stored | {"curve": curve, "classes": classes})

    def write_stats(self, stats: ClusterStats) -> None:
        """Write the statistics."""
        self.draft.write_json(STATISTICS, asdict(stats))
