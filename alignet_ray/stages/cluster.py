"""cluster: k-means over the corpus' embeddings, without the images of validation and test objects.

In one Lloyd pass every actor assigns its shards, and the driver merges the partial sums in the order of the shards.
Shards have a fixed size, so the result does not depend on the number of actors. The state is saved after every pass: a
killed run goes on from it.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import safetensors.numpy
import torch

from alignet_ray import runtime
from alignet_ray.config import Config
from alignet_ray.core import kmeans
from alignet_ray.data.embeddings import Matrix, Source
from alignet_ray.data.objects import held_out_ids, objects_in_corpus
from alignet_ray.data.schemas import CLUSTERS, check
from alignet_ray.errors import UserError
from alignet_ray.stages import Work
from alignet_ray.store import Artifact

VERSION = 1
SHARD = 1 << 16
FAR = 64
STATE = ".fit.npz"
CENTROIDS = "centroids.safetensors"


def inputs(cfg: Config, role: str) -> dict[str, Any]:
    """Config fields that change the result."""
    return {"seed": cfg.seed, "objects_in_corpus": objects_in_corpus(cfg)} | cfg.cluster.model_dump()


def sources(cfg: Config, role: str) -> list[str]:
    """Nothing but artifacts is read."""
    return []


def run(work: Work) -> None:
    """Fit the centroids and write the cluster of every image."""
    cache = runtime.state_dir(work.cfg) / "cache"
    source = Source(work.parents["embed@corpus"], work.parents["align"], cache, work.cfg.cluster.space == "raw")
    matrix = source.matrix()
    soften = work.parents.get("soften") if objects_in_corpus(work.cfg) else None
    rows = allowed(matrix, soften)
    if len(rows) < work.cfg.cluster.k:
        raise UserError(
            f"cluster.k is {work.cfg.cluster.k}, but only {len(rows)} images may be clustered:"
            " set a smaller --cluster.k, or add images"
        )
    pool = Pool(source, soften, len(rows), work.cfg.cluster.spherical)
    if work.out.has(CENTROIDS):
        work.screen.line("   the centroids of an interrupted run are reused")
    else:
        _fit(work, pool, matrix, rows)
    _write_parts(work, pool, matrix.ids[rows])


def allowed(matrix: Matrix, soften: Artifact | None) -> np.ndarray:
    """Rows that training may see: without those of validation and test objects, if these lie in the corpus."""
    if soften is None:
        return np.arange(len(matrix.ids))
    objects = soften.read_table("objects.parquet", ["split", "image_ids"])
    return np.flatnonzero(~np.isin(matrix.ids, held_out_ids(objects)))


class Shards:
    """An actor: assigns rows of the shared matrix. A pure function of (shard, centroids): it may be restarted."""

    def __init__(self, source: Source, soften: Artifact | None, spherical: bool) -> None:
        matrix = source.matrix()
        self.x, self.rows, self.spherical = matrix.x, allowed(matrix, soften), spherical
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.resident: dict[int, torch.Tensor] = {}

    def step(self, shard: int, centroids: np.ndarray) -> tuple[kmeans.Partial, np.ndarray]:
        """Partial sums of one shard, and the cluster of each of its rows."""
        x, c = self._features(shard), torch.tensor(centroids, device=self.device)
        labels, distances = kmeans.assign(x, c, self.spherical)
        partial = kmeans.accumulate(x, labels, distances, len(c), self.spherical, FAR)
        return partial, labels.cpu().numpy().astype(np.int32)

    def _features(self, shard: int) -> torch.Tensor:
        """The rows of a shard; on a GPU they stay there."""
        if shard in self.resident:
            return self.resident[shard]
        x = torch.from_numpy(self.x[self.rows[shard * SHARD : (shard + 1) * SHARD]]).to(self.device)
        if self.device.type == "cuda":
            self.resident[shard] = x
        return x


class Pool:
    """The actors, and which shards each of them holds."""

    def __init__(self, source: Source, soften: Artifact | None, rows: int, spherical: bool) -> None:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = int(resources.get("GPU", 0))
        self.shards = -(-rows // SHARD)
        size = min(self.shards, gpus or max(1, int(resources.get("CPU", 1)) // 2))
        actor = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_restarts=-1, max_task_retries=-1)(Shards)
        self.actors: list[Any] = [actor.remote(source, soften, spherical) for _ in range(size)]

    def step(self, centroids: np.ndarray) -> tuple[kmeans.Partial, np.ndarray]:
        """One assignment of all rows: merged sums, and the clusters."""
        shared = ray.put(centroids)
        pending = [self.actors[s % len(self.actors)].step.remote(s, shared) for s in range(self.shards)]
        results = ray.get(pending)
        return kmeans.merge([p for p, _ in results]), np.concatenate([labels for _, labels in results])


@dataclass
class Fit:
    """The state of a fit between two passes; `labels` are those of the pass before (-1: none)."""

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
    def from_bytes(cls, data: bytes) -> "Fit":
        """The inverse."""
        state = dict(np.load(io.BytesIO(data), allow_pickle=False))
        history = json.loads(str(state["history"]))
        scalars = {"restart": int(state["restart"]), "best_inertia": float(state["best_inertia"])}
        return cls(**{**state, **scalars, "history": history})


def _fit(work: Work, pool: Pool, matrix: Matrix, rows: np.ndarray) -> None:
    """All restarts; writes the centroids of the lowest inertia, with the history of every restart."""
    cfg = work.cfg.cluster
    fit = _resume(work, matrix, rows)
    with work.screen.progress(cfg.restarts * cfg.iterations, "passes", fit.restart * cfg.iterations) as bar:
        while fit.restart < cfg.restarts:
            for note in _lloyd(work, pool, fit):
                bar.add(1, note)
            inertia = fit.history[-1][-1]["inertia"]
            if inertia < fit.best_inertia:
                fit.best, fit.best_inertia = fit.centroids, inertia
            fit.restart += 1
            if fit.restart < cfg.restarts:
                _seed(work, matrix, rows, fit)
            work.out.write_bytes(STATE, fit.to_bytes())
        bar.total = bar.done
    work.out.write_json("history.json", fit.history)
    work.out.write_bytes(CENTROIDS, safetensors.numpy.save({"centroids": fit.best}))
    work.out.remove(STATE)


def _resume(work: Work, matrix: Matrix, rows: np.ndarray) -> Fit:
    """The state that an interrupted fit left, or a fresh one."""
    if work.out.has(STATE):
        fit = Fit.from_bytes(work.out.read_bytes(STATE))
        work.screen.line(f"   the fit of an interrupted run goes on (restart {fit.restart + 1})")
        return fit
    empty = np.empty((0, 0), dtype=np.float32)
    fit = Fit(empty, np.full(len(rows), -1, dtype=np.int32), 0, [], empty)
    _seed(work, matrix, rows, fit)
    return fit


def _seed(work: Work, matrix: Matrix, rows: np.ndarray, fit: Fit) -> None:
    """k-means++ centroids for the next restart, from a random sample of the rows."""
    cfg = work.cfg.cluster
    rng = np.random.default_rng([work.cfg.seed, fit.restart])
    size = min(len(rows), max(cfg.seeding, 20 * cfg.k))
    x = torch.from_numpy(matrix.x[rows[np.sort(rng.permutation(len(rows))[:size])]].astype(np.float32))
    x = kmeans.normalise(x) if cfg.spherical else x
    fit.centroids = kmeans.seed_centroids(x.numpy(), cfg.k, int(rng.integers(2**31)))
    fit.labels = np.full(len(rows), -1, dtype=np.int32)
    fit.history.append([])


def _lloyd(work: Work, pool: Pool, fit: Fit) -> Iterator[str]:
    """Passes of one restart until it converges; the last one only assigns, so labels and centroids belong together."""
    cfg = work.cfg.cluster
    passes = fit.history[-1]
    while True:
        merged, labels = pool.step(fit.centroids)
        moved = float(np.mean(labels != fit.labels))
        gain = 1 - merged.inertia / passes[-1]["inertia"] if passes and passes[-1]["inertia"] else 1.0
        passes.append({"inertia": merged.inertia, "moved": moved})
        done = len(passes) >= cfg.iterations or moved <= cfg.moved or (len(passes) > 1 and gain <= cfg.tolerance)
        if not done:
            fit.centroids, fit.labels = kmeans.update(merged, fit.centroids, cfg.spherical), labels
            work.out.write_bytes(STATE, fit.to_bytes())
        work.tracker.log_batch({"inertia": merged.inertia, "moved": moved}, sum(map(len, fit.history)))
        yield f"inertia {merged.inertia:.6g}, {moved:.1%} moved"
        if done:
            return


def _write_parts(work: Work, pool: Pool, ids: np.ndarray) -> None:
    """Clusters of all images, one part per shard, and the statistics."""
    centroids = safetensors.numpy.load(work.out.read_bytes(CENTROIDS))["centroids"]
    merged, labels = pool.step(centroids)
    for shard in range(pool.shards):
        part = slice(shard * SHARD, (shard + 1) * SHARD)
        table = pa.table({"image_id": ids[part], "cluster": labels[part]}, schema=CLUSTERS)
        work.out.write_table(f"part-{shard:05d}.parquet", check(table, CLUSTERS))
    stats = _stats(work, ids, labels, merged)
    work.out.write_json("stats.json", stats)
    work.facts |= {k: stats[k] for k in ("images", "k", "inertia", "smallest", "largest", "purity")}


def _stats(work: Work, ids: np.ndarray, labels: np.ndarray, merged: kmeans.Partial) -> dict[str, Any]:
    """Figures of the clustering; with class folders also purity and the commonest classes of every cluster."""
    images = work.parents["embed@corpus"].read_table("images.parquet", ["image_id", "label"])
    order = np.argsort(images["image_id"].to_numpy())
    names = images["label"].take(pa.array(order[np.searchsorted(images["image_id"].to_numpy(), ids, sorter=order)]))
    classes = names.combine_chunks().dictionary_encode()
    found = kmeans.composition(labels, classes.indices.to_numpy(zero_copy_only=False), work.cfg.cluster.k)
    dictionary = classes.dictionary.to_pylist()
    sizes = np.bincount(labels, minlength=work.cfg.cluster.k)
    return {
        "images": len(ids),
        "k": work.cfg.cluster.k,
        "inertia": merged.inertia,
        "smallest": int(sizes.min()),
        "largest": int(sizes.max()),
        "sizes": sizes.tolist(),
        "purity": found.purity if len(dictionary) > 1 else None,
        "classes": [[[dictionary[c], n] for c, n in top] for top in found.commonest] if len(dictionary) > 1 else [],
        "history": work.out.read_json("history.json"),
    }
