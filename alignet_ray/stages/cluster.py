"""cluster: k-means over the corpus' embeddings, without the images of validation and test objects.

In one Lloyd pass every actor assigns its shards, and the driver merges the partial sums in the order of the shards.
Shards have a fixed size, so the result does not depend on the number of actors. The state is saved after every pass: a
killed run goes on from it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import safetensors.numpy
import torch

from alignet_ray import runtime
from alignet_ray.artifacts.schemas import CLUSTERS, check
from alignet_ray.config import Cluster, Config
from alignet_ray.core import kmeans
from alignet_ray.data.embeddings import FeatureMatrix, TeacherFeatures
from alignet_ray.data.triplet_sampling import class_numbers
from alignet_ray.errors import UserError
from alignet_ray.human.objects import held_out_ids
from alignet_ray.stages import Work
from alignet_ray.store import Artifact

VERSION = 2
SHARD = 1 << 16
"""Rows of a shard."""
FAR = 64
"""Rows that a shard offers to empty clusters."""
STATE = ".fit.npz"
CENTROIDS, HISTORY, CURVE = "centroids.safetensors", "history.json", "curve.json"


def inputs(cfg: Config, role: str) -> dict[str, Any]:
    """Config fields that change the result."""
    return {"seed": cfg.seed, "objects_in_corpus": cfg.objects.path is None} | cfg.cluster.result_fields()


def sources(cfg: Config, role: str) -> list[str]:
    """Nothing but artifacts is read."""
    return []


def run(work: Work) -> None:
    """Fit the centroids and write the cluster of every image."""
    cache = runtime.state_dir(work.cfg) / "cache"
    source = TeacherFeatures(
        work.parents["embed@corpus"], work.parents["align"], cache, work.cfg.cluster.space == "raw"
    )
    matrix = source.matrix()
    soften = work.parents.get("soften") if work.cfg.objects.path is None else None
    rows = allowed(matrix, soften)
    cfg = _chosen(work, source, rows)
    pool = Pool(source, soften, len(rows), cfg.spherical)
    if not work.out.has(CENTROIDS):
        _fit(work, cfg, pool, matrix, rows)
    _write_parts(work, cfg, pool, matrix.ids[rows])


def _check(cfg: Cluster, images: int) -> None:
    """A UserError where so many clusters cannot be made of so many images, or the candidates are no curve."""
    most, field = max(cfg.candidates or (cfg.k,)), "candidates" if cfg.candidates else "k"
    if images < most:
        raise UserError(
            f"cluster.{field} asks for {most} clusters, but only {images} images may be clustered:"
            f" set a smaller --cluster.{field}, or add images"
        )
    if cfg.candidates and (len(set(cfg.candidates)) < 3 or min(cfg.candidates) < 2):
        raise UserError("cluster.candidates must be three or more different numbers from 2 up")


def _chosen(work: Work, source: TeacherFeatures, rows: np.ndarray) -> Cluster:
    """The section with the k that is chosen among the candidates, if there are any; the curve is kept in curve.json."""
    cfg = work.cfg.cluster
    _check(cfg, len(rows))
    if not cfg.candidates:
        return cfg
    ks = sorted(set(cfg.candidates))
    if not work.out.has(CURVE):
        shared, task = ray.put(rows), ray.remote(num_cpus=1)(curve_point)
        sized = {k: cfg.model_copy(update={"k": k}) for k in ks}
        points = ray.get([task.remote(source, shared, sized[k], work.cfg.seed) for k in ks])
        work.out.write_json(CURVE, points)
    points = work.out.read_json(CURVE)
    inertias, silhouettes = [p["inertia"] for p in points], [p["silhouette"] for p in points]
    best = kmeans.elbow(ks, inertias) if cfg.choose == "elbow" else int(np.argmax(silhouettes))
    work.screen.line(f"   {ks[best]} clusters, by the {cfg.choose} over {', '.join(map(str, ks))}")
    return cfg.model_copy(update={"k": ks[best]})


def curve_point(source: TeacherFeatures, rows: np.ndarray, cfg: Cluster, seed: int) -> dict[str, float]:
    """Task: a fit of one candidate on a sample of the rows."""
    x = _sample(cfg, source.matrix(), rows, np.random.default_rng([seed, 0]))
    start = kmeans.seed_centroids(x.numpy(), cfg.k, seed % 2**32)
    found = kmeans.fit(x, start, cfg.iterations, cfg.tolerance, cfg.spherical)
    return {"k": cfg.k, "inertia": found.inertia, "silhouette": found.silhouette}


def _sample(cfg: Cluster, matrix: FeatureMatrix, rows: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """Random rows in float32, of length one where directions are clustered."""
    size = min(len(rows), max(cfg.sample, 20 * cfg.k))
    x = torch.from_numpy(matrix.features[rows[np.sort(rng.permutation(len(rows))[:size])]].astype(np.float32))
    return kmeans.normalise(x) if cfg.spherical else x


def allowed(matrix: FeatureMatrix, soften: Artifact | None) -> np.ndarray:
    """Rows that training may see: without those of validation and test objects, if these lie in the corpus."""
    if soften is None:
        return np.arange(len(matrix.ids))
    objects = soften.read_table("objects.parquet", ["split", "image_ids"])
    return np.flatnonzero(~np.isin(matrix.ids, held_out_ids(objects)))


class Shards:
    """An actor: assigns rows of the shared matrix. A pure function of (shard, centroids): it may be restarted."""

    def __init__(self, source: TeacherFeatures, soften: Artifact | None, spherical: bool, size: int) -> None:
        matrix = source.matrix()
        self.x, self.rows, self.spherical, self.size = matrix.features, allowed(matrix, soften), spherical, size
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.resident: dict[int, torch.Tensor] = {}

    def step(self, shard: int, centroids: np.ndarray) -> tuple[kmeans.Partial, np.ndarray]:
        """Partial sums of one shard, and the cluster of each of its rows."""
        c = torch.tensor(centroids, device=self.device)
        partial, labels = kmeans.step(self._features(shard), c, self.spherical, FAR)
        return partial, labels.cpu().numpy().astype(np.int32)

    def _features(self, shard: int) -> torch.Tensor:
        """The rows of a shard; on a GPU they stay there."""
        if shard in self.resident:
            return self.resident[shard]
        rows = self.rows[shard * self.size : (shard + 1) * self.size]
        x = torch.from_numpy(self.x[rows]).to(self.device)
        if self.device.type == "cuda":
            self.resident[shard] = x
        return x


class Pool:
    """The actors, and which shards each of them holds."""

    def __init__(self, source: TeacherFeatures, soften: Artifact | None, rows: int, spherical: bool) -> None:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = int(resources.get("GPU", 0))
        self.shards = -(-rows // SHARD)
        size = min(self.shards, gpus or max(1, int(resources.get("CPU", 1)) // 2))
        actor = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_restarts=-1, max_task_retries=-1)(Shards)
        self.actors: list[Any] = [actor.remote(source, soften, spherical, SHARD) for _ in range(size)]

    def step(self, centroids: np.ndarray) -> tuple[kmeans.Partial, np.ndarray]:
        """One assignment of all rows: merged sums, and the clusters."""
        shared = ray.put(centroids)
        pending = [self.actors[s % len(self.actors)].step.remote(s, shared) for s in range(self.shards)]
        results = ray.get(pending)
        return kmeans.merge([p for p, _ in results]), np.concatenate([labels for _, labels in results])


def _fit(work: Work, cfg: Cluster, pool: Pool, matrix: FeatureMatrix, rows: np.ndarray) -> None:
    """All restarts; writes the centroids of the lowest inertia, with the history of every restart."""
    fit = _resume(work, cfg, matrix, rows)
    done = sum(map(len, fit.history))
    with work.screen.progress(cfg.restarts * cfg.iterations, "passes", done) as bar:
        while fit.restart < cfg.restarts:
            for note in _lloyd(work, cfg, pool, fit):
                bar.add(1, note)
            inertia = fit.history[-1][-1]["inertia"]
            if inertia < fit.best_inertia:
                fit.best, fit.best_inertia = fit.centroids, inertia
            fit.restart += 1
            if fit.restart < cfg.restarts:
                _seed(work, cfg, matrix, rows, fit)
            work.out.write_bytes(STATE, fit.to_bytes())
        bar.total = bar.done
    work.out.write_json(HISTORY, fit.history)
    work.out.write_bytes(CENTROIDS, safetensors.numpy.save({"centroids": fit.best}))
    work.out.remove(STATE)


def _resume(work: Work, cfg: Cluster, matrix: FeatureMatrix, rows: np.ndarray) -> kmeans.State:
    """The state that an interrupted fit left, or a fresh one."""
    if work.out.has(STATE):
        fit = kmeans.State.from_bytes(work.out.read_bytes(STATE))
        work.screen.line(f"   the fit of an interrupted run goes on (restart {fit.restart + 1})")
        return fit
    empty = np.empty((0, 0), dtype=np.float32)
    fit = kmeans.State(empty, np.full(len(rows), -1, dtype=np.int32), 0, [], empty)
    _seed(work, cfg, matrix, rows, fit)
    return fit


def _seed(work: Work, cfg: Cluster, matrix: FeatureMatrix, rows: np.ndarray, fit: kmeans.State) -> None:
    """k-means++ centroids for the next restart, from a random sample of the rows."""
    rng = np.random.default_rng([work.cfg.seed, fit.restart])
    sample = _sample(cfg, matrix, rows, rng).numpy()
    fit.centroids = kmeans.seed_centroids(sample, cfg.k, int(rng.integers(2**31)))
    fit.labels = np.full(len(rows), -1, dtype=np.int32)
    fit.history.append([])


def _lloyd(work: Work, cfg: Cluster, pool: Pool, fit: kmeans.State) -> Iterator[str]:
    """Passes of one restart until it converges; the last one only assigns, so labels and centroids belong together."""
    passes = fit.history[-1]
    while True:
        merged, labels = pool.step(fit.centroids)
        moved = float(np.mean(labels != fit.labels))
        gain = 1 - merged.inertia / passes[-1]["inertia"] if passes and passes[-1]["inertia"] else 1.0
        passes.append({"inertia": merged.inertia, "moved": moved})
        done = len(passes) >= cfg.iterations or moved <= cfg.reassign_tol or (len(passes) > 1 and gain <= cfg.tolerance)
        if not done:
            fit.centroids, fit.labels = kmeans.update(merged, fit.centroids, cfg.spherical), labels
            work.out.write_bytes(STATE, fit.to_bytes())
        work.tracker.log_batch({"inertia": merged.inertia, "moved": moved}, sum(map(len, fit.history)))
        yield f"inertia {merged.inertia:.6g}, {moved:.1%} moved"
        if done:
            return


def _write_parts(work: Work, cfg: Cluster, pool: Pool, ids: np.ndarray) -> None:
    """Clusters of all images, one part per shard, and the statistics."""
    centroids = safetensors.numpy.load(work.out.read_bytes(CENTROIDS))["centroids"]
    merged, labels = pool.step(centroids)
    for shard in range(pool.shards):
        part = slice(shard * SHARD, (shard + 1) * SHARD)
        table = check(pa.table([ids[part], labels[part]], schema=CLUSTERS), CLUSTERS)
        work.out.write_table(f"part-{shard:05d}.parquet", table)
    stats = _stats(work, cfg.k, ids, labels, merged)
    work.out.write_json("stats.json", stats)
    work.facts |= {k: stats[k] for k in ("images", "k", "inertia", "smallest", "largest", "purity")}


def _stats(work: Work, k: int, ids: np.ndarray, labels: np.ndarray, merged: kmeans.Partial) -> dict[str, Any]:
    """Figures of the clustering; with class folders also purity and the commonest classes of every cluster."""
    classes, names = class_numbers(work.parents["embed@corpus"], ids)
    found = kmeans.composition(labels, classes, k)
    sizes = np.bincount(labels, minlength=k)
    return {
        "images": len(ids),
        "k": k,
        "inertia": merged.inertia,
        "smallest": int(sizes.min()),
        "largest": int(sizes.max()),
        "sizes": sizes.tolist(),
        "purity": found.purity if len(names) > 1 else None,
        "classes": [[[names[c], n] for c, n in top] for top in found.commonest] if len(names) > 1 else [],
        "history": work.out.read_json(HISTORY),
        "curve": work.out.read_json(CURVE) if work.out.has(CURVE) else [],
    }
