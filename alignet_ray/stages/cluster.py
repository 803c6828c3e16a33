"""cluster: k-means over the corpus' embeddings, without the images of validation and test objects.

In each Lloyd iteration the actors assign their shards to centroids, and the driver merges the partial sums in shard
order. Shards have a fixed size, so the result does not depend on the number of actors; what takes seconds needs none.
The state is saved after every iteration, from which an interrupted run continues.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from jaxtyping import Float, Int

from alignet_ray import cluster_nodes, runtime
from alignet_ray.artifacts.cluster import ClusterArtifact, ClusterStats, CurvePoint
from alignet_ray.artifacts.soften import SoftenArtifact
from alignet_ray.config import Cluster, Config
from alignet_ray.core import gpu, kmeans
from alignet_ray.data.embeddings import FeatureMatrix, TeacherFeatures
from alignet_ray.data.triplet_sampling import class_numbers
from alignet_ray.stages import Work, amounts
from alignet_ray.stages.small_work import stays_here
from alignet_ray.store import Artifact, JsonObject

VERSION = 2

SHARD = 1 << 16
"""Rows of a shard."""

GROUPS = 256
"""Groups of shards whose sums come to the driver one by one, however many shards there are."""

FAR_ROWS = 64
"""Rows that a shard offers to empty clusters: those furthest from their centroids."""

MULTIPLICATIONS_PER_SECOND = 5e9
"""What one core does at least, with memory in between; to decide where rows are assigned."""


@dataclass
class ClusterFacts:
    """What artifact.json says of a clustering: see `ClusterStats`."""

    images: int
    k: int
    inertia: float
    smallest: int
    largest: int
    purity: float | None


def inputs(cfg: Config, role: str) -> JsonObject:
    """The section, and whether images of held-out objects have to be left out of the corpus."""
    return {"seed": cfg.seed, "objects_in_corpus": cfg.objects.path is None} | cfg.cluster.result_fields()


def sources(cfg: Config, role: str) -> list[str]:
    """Nothing besides artifacts."""
    return []


def run(work: Work) -> None:
    """Fit the centroids and write the cluster of every image."""
    artifact = ClusterArtifact(work.out)
    cache = runtime.cache_dir(work.cfg)
    is_raw = work.cfg.cluster.space == "raw"
    features = TeacherFeatures(work.parents["embed@corpus"], work.parents["align"], cache, is_raw)
    matrix = features.matrix()

    objects_in_corpus = work.cfg.objects.path is None
    # Held-out objects are kept out of training only where their images are in the corpus at all.
    soften = None
    if objects_in_corpus:
        soften = work.parents.get("soften")
    rows = allowed_rows(matrix, soften)
    section = _choose_k(work, artifact, features, rows)

    # Centroids of an interrupted run are as good as new ones: the fit depends on the seed alone.
    pool: ShardPool | ShardsHere
    if stays_here(work.cfg, _seconds(section, matrix, rows)):
        pool = ShardsHere(ShardWorker(features, soften, section.spherical, SHARD), len(rows))
    else:
        pool = ShardPool(features, soften, len(rows), section.spherical)
    if not artifact.has_centroids():
        KMeansFit(work, artifact, section, pool, matrix, rows).run()
    _write_clusters(work, artifact, section.k, pool, matrix.ids[rows])


def _seconds(section: Cluster, matrix: FeatureMatrix, rows: np.ndarray) -> float:
    """What all passes take at most on one core."""
    passes = section.iterations * section.restarts
    width = int(matrix.features.shape[1])
    return len(rows) * width * section.k * passes / MULTIPLICATIONS_PER_SECOND


def allowed_rows(matrix: FeatureMatrix, soften: Artifact | None) -> Int[np.ndarray, " n"]:
    """Rows that training may use: not those of validation and test objects, if these are part of the corpus."""
    if soften is None:
        return np.arange(len(matrix.ids))
    held_out = SoftenArtifact(soften).held_out_image_ids()
    return np.flatnonzero(~np.isin(matrix.ids, held_out))


# The number of clusters


def _choose_k(work: Work, artifact: ClusterArtifact, features: TeacherFeatures, rows: np.ndarray) -> Cluster:
    """The section, with `k` replaced by the best candidate if there are candidates."""
    section = work.cfg.cluster
    amounts.require_clusters(work.cfg, len(rows))
    if not section.candidates:
        return section

    # The curve of an interrupted run is used again.
    points = artifact.curve()
    if points is None:
        points = _fit_candidates(section, features, rows, work.cfg.seed)
        artifact.write_curve(points)

    candidates = [point.k for point in points]
    # Inertia falls with every further cluster, so its bend counts; the silhouette has a maximum of its own.
    if section.choose == "elbow":
        best = kmeans.elbow(candidates, [point.inertia for point in points])
    else:
        best = int(np.argmax([point.silhouette for point in points]))
    names = ", ".join(map(str, candidates))
    work.screen.line(f"   {candidates[best]} clusters, by the {section.choose} over {names}")
    return section.model_copy(update={"k": candidates[best]})


def _fit_candidates(section: Cluster, features: TeacherFeatures, rows: np.ndarray, seed: int) -> list[CurvePoint]:
    """One fit for each candidate, in Ray's tasks."""
    # Candidates are compared on a sample, each in one task; only the chosen one is fitted to all images.
    task = ray.remote(num_cpus=1)(curve_point)
    shared = ray.put(rows)
    pending = []
    for k in sorted(set(section.candidates)):
        candidate = section.model_copy(update={"k": k})
        # Names in Ray's dashboard and `ray list tasks`.
        named = task.options(name=f"cluster: try {k} clusters")
        pending.append(named.remote(features, shared, candidate, seed))
    points: list[CurvePoint] = ray.get(pending)
    return points


def curve_point(features: TeacherFeatures, rows: np.ndarray, section: Cluster, seed: int) -> CurvePoint:
    """Ray task: a fit of one candidate on a sample of the rows."""
    sample = _sample(section, features.matrix(), rows, np.random.default_rng([seed, 0]))
    start = kmeans.seed_centroids(sample.numpy(), section.k, seed % 2**32)
    fitted = kmeans.fit(sample, start, section.iterations, section.tolerance, section.spherical)
    return CurvePoint(section.k, fitted.inertia, fitted.silhouette)


def _sample(
    section: Cluster, matrix: FeatureMatrix, rows: np.ndarray, rng: np.random.Generator
) -> Float[torch.Tensor, "n p"]:
    """Random rows in float32, normalised for spherical k-means."""
    # Enough rows for every cluster to have some, and few enough for one process.
    size = min(len(rows), max(section.sample, 20 * section.k))
    chosen = np.sort(rng.permutation(len(rows))[:size])
    sample = torch.from_numpy(matrix.features[rows[chosen]].astype(np.float32))
    if section.spherical:
        return kmeans.normalise(sample)
    return sample


# The distributed assignment


class ShardWorker:
    """Assigns rows of the shared matrix; an actor, or for few rows an object of this process.

    What it returns depends on its arguments alone, so Ray may restart it at any time.
    """

    def __init__(self, features: TeacherFeatures, soften: Artifact | None, spherical: bool, shard_size: int) -> None:
        matrix = features.matrix()
        self.features = matrix.features
        self.rows = allowed_rows(matrix, soften)
        self.spherical = spherical
        self.shard_size = shard_size
        self.device = torch.device("cpu")
        if torch.cuda.is_available():
            self.device = torch.device("cuda")
        self.on_gpu: dict[int, torch.Tensor] = {}
        self.has_room = True

    def __repr__(self) -> str:
        return "k-means worker"  # its name in Ray's dashboard

    def assign(self, shard: int, centroids: np.ndarray) -> tuple[kmeans.Partial, Int[np.ndarray, " n"]]:
        """Partial sums of one shard, and the cluster of each of its rows."""
        # Sums and counts travel back, never the rows: they add up over shards to the next centroids.
        on_device = torch.tensor(centroids, device=self.device)
        partial, labels = kmeans.step(self._shard(shard), on_device, self.spherical, FAR_ROWS)
        return partial, labels.cpu().numpy().astype(np.int32)

    def assign_group(self, shards: range, centroids: np.ndarray) -> tuple[kmeans.Partial, Int[np.ndarray, " n"]]:
        """The merged sums of several shards, and the cluster of each of their rows."""
        return _merged(self.assign(shard, centroids) for shard in shards)

    def _shard(self, shard: int) -> torch.Tensor:
        """The rows of a shard; a GPU keeps them for the next iteration."""
        if shard in self.on_gpu:
            return self.on_gpu[shard]

        rows = self.rows[shard * self.shard_size : (shard + 1) * self.shard_size]
        features = torch.from_numpy(self.features[rows]).to(self.device)
        # What does not fit is sent again in every iteration, while the shards before it stay.
        if self.device.type == "cuda" and self.has_room:
            self.on_gpu[shard] = features
            self.has_room = gpu.fits(features.nbytes)
        return features


class ShardsHere:
    """All shards in this process, for few rows; the same results as of a `ShardPool`."""

    def __init__(self, worker: ShardWorker, rows: int) -> None:
        self.worker = worker
        self.shards = math.ceil(rows / SHARD)

    def assign(self, centroids: np.ndarray) -> tuple[kmeans.Partial, Int[np.ndarray, " n"]]:
        """One assignment of all rows: the merged sums, and the cluster of every row."""
        return _merged(self.worker.assign_group(group, centroids) for group in shard_groups(self.shards))


class ShardPool:
    """The actors; groups of shards are dealt out in turn, so that each actor always gets the same ones.

    Attributes:
        shards: number of shards.
        actors: handles of the actors.
    """

    def __init__(self, features: TeacherFeatures, soften: Artifact | None, rows: int, spherical: bool) -> None:
        offered = cluster_nodes.cluster_resources()
        # As many as are free, since actors that find no place would be waited for without end.
        free = cluster_nodes.free_resources()
        self.shards = math.ceil(rows / SHARD)
        # One actor a GPU; on CPUs half of the slots, as each actor's matrix product uses several cores.
        size = free.cpus // 2
        if offered.gpus:
            size = free.gpus
        size = max(1, min(self.shards, size))
        gpus_per_actor = min(1, offered.gpus)
        actor = ray.remote(num_cpus=1, num_gpus=gpus_per_actor, max_restarts=-1, max_task_retries=-1)(ShardWorker)
        # A restarted actor builds its matrix again from the files, and repeats the calls that were lost.
        self.actors: list[Any] = [actor.remote(features, soften, spherical, SHARD) for _ in range(size)]

    def assign(self, centroids: np.ndarray) -> tuple[kmeans.Partial, Int[np.ndarray, " n"]]:
        """One assignment of all rows: the merged sums, and the cluster of every row."""
        shared = ray.put(centroids)
        pending = []
        for number, group in enumerate(shard_groups(self.shards)):
            actor = self.actors[number % len(self.actors)]
            named = actor.assign_group.options(name=f"cluster: assign shards {group[0]} to {group[-1]}")
            pending.append(named.remote(group, shared))

        return _merged(ray.get(answer) for answer in pending)


def shard_groups(shards: int) -> list[range]:
    """Consecutive shards in groups, which depend on the number of shards alone and never on that of the actors."""
    size = math.ceil(shards / GROUPS)
    return [range(first, min(first + size, shards)) for first in range(0, shards, size)]


def _merged(
    results: Iterable[tuple[kmeans.Partial, Int[np.ndarray, " _"]]],
) -> tuple[kmeans.Partial, Int[np.ndarray, " n"]]:
    """Sums and labels of shards or of groups of them, in their order; one set of sums is in memory beside the total."""
    # Sums of floats depend on their order: merged by shard, they are the same on any number of actors.
    total: kmeans.Partial | None = None
    labels: list[np.ndarray] = []
    for partial, own_labels in results:
        if total is None:
            total = partial
        else:
            total = kmeans.merge([total, partial])
        labels.append(own_labels)
    assert total is not None, "there are shards"
    return total, np.concatenate(labels)


# The fit


@dataclass
class KMeansFit:
    """All restarts of Lloyd's algorithm; the centroids with the lowest inertia are written, with the whole history."""

    work: Work
    artifact: ClusterArtifact
    section: Cluster
    pool: ShardPool | ShardsHere
    matrix: FeatureMatrix
    rows: Int[np.ndarray, " n"]

    def run(self) -> None:
        """Fit, or continue the fit of an interrupted run."""
        state = self._resume()
        total = self.section.restarts * self.section.iterations
        with self.work.screen.progress(total, "passes", state.passes) as bar:
            while state.restart < self.section.restarts:
                for note in self._iterate(state):
                    bar.add(1, note)

                # Lloyd's algorithm ends in a local minimum, so the best of several restarts counts.
                inertia = state.history[-1][-1]["inertia"]
                if inertia < state.best_inertia:
                    state.best = state.centroids
                    state.best_inertia = inertia

                state.restart += 1
                if state.restart < self.section.restarts:
                    self._seed(state)
                self.artifact.write_fit_state(state.to_bytes())
            # A fit that converges early is complete all the same.
            bar.total = bar.done
        self.artifact.write_fit(state.best, state.history)

    def _resume(self) -> kmeans.State:
        """The state that an interrupted fit left, or a fresh one."""
        stored = self.artifact.fit_state()
        if stored is not None:
            state = kmeans.State.from_bytes(stored)
            self.work.screen.line(f"   the fit of an interrupted run goes on (restart {state.restart + 1})")
            return state

        no_centroids = np.empty((0, 0), dtype=np.float32)
        state = kmeans.State(no_centroids, self._no_labels(), 0, [], no_centroids)
        self._seed(state)
        return state

    def _seed(self, state: kmeans.State) -> None:
        """k-means++ centroids for the next restart, from a random sample of the rows."""
        rng = np.random.default_rng([self.work.cfg.seed, state.restart])
        sample = _sample(self.section, self.matrix, self.rows, rng).numpy()
        state.centroids = kmeans.seed_centroids(sample, self.section.k, int(rng.integers(2**31)))
        state.labels = self._no_labels()
        state.history.append([])

    def _no_labels(self) -> Int[np.ndarray, " n"]:
        return np.full(len(self.rows), -1, dtype=np.int32)

    def _iterate(self, state: kmeans.State) -> Iterator[str]:
        """Lloyd iterations of one restart until it converges.

        The last one only assigns, so that labels and centroids belong together.
        """
        section = self.section
        history = state.history[-1]
        converged = False
        while not converged:
            merged, labels = self.pool.assign(state.centroids)
            moved = float(np.mean(labels != state.labels))
            # Share by which the inertia fell; without an earlier iteration there is nothing to stop for.
            gain = 1.0
            if history and history[-1]["inertia"]:
                gain = 1 - merged.inertia / history[-1]["inertia"]

            history.append({"inertia": merged.inertia, "moved": moved})
            is_last = len(history) >= section.iterations
            has_stalled = len(history) > 1 and gain <= section.tolerance
            converged = is_last or has_stalled or moved <= section.reassign_tol
            if not converged:
                state.centroids = kmeans.update(merged, state.centroids, section.spherical)
                state.labels = labels
                self.artifact.write_fit_state(state.to_bytes())

            self.work.tracker.log_curve({"inertia": merged.inertia, "moved": moved}, state.passes)
            yield f"inertia {merged.inertia:.6g}, {moved:.1%} moved"


# The result


def _write_clusters(
    work: Work, artifact: ClusterArtifact, k: int, pool: ShardPool | ShardsHere, ids: np.ndarray
) -> None:
    """Clusters of all images, one part per shard, and the statistics."""
    merged, labels = pool.assign(artifact.centroids())
    for shard in range(pool.shards):
        rows = slice(shard * SHARD, (shard + 1) * SHARD)
        artifact.write_labels(shard, ids[rows], labels[rows])

    classes, names = class_numbers(work.parents["embed@corpus"], ids)
    stats = _statistics(artifact, k, labels, classes, names, merged.inertia)
    artifact.write_stats(stats)
    work.facts = ClusterFacts(stats.images, stats.k, stats.inertia, stats.smallest, stats.largest, stats.purity)


def _statistics(
    artifact: ClusterArtifact,
    k: int,
    labels: np.ndarray,
    classes: np.ndarray,
    names: list[str],
    inertia: float,
) -> ClusterStats:
    """Figures of the clustering; with class folders also purity and the most frequent classes of every cluster."""
    # A corpus without class folders has one class for all images, of which every cluster is pure.
    purity = None
    commonest: list[list[tuple[str, int]]] = []
    if len(names) > 1:
        composition = kmeans.composition(labels, classes, k)
        purity = composition.purity
        for cluster in composition.commonest:
            named = [(names[number], count) for number, count in cluster]
            commonest.append(named)

    sizes = np.bincount(labels, minlength=k)
    return ClusterStats(
        images=len(labels),
        k=k,
        inertia=inertia,
        smallest=int(sizes.min()),
        largest=int(sizes.max()),
        sizes=sizes.tolist(),
        purity=purity,
        classes=commonest,
        history=artifact.history(),
        curve=artifact.curve() or [],
    )
