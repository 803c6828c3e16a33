"""label: draw image triplets from the clusters, and let the teacher's dot products say which image is the odd one.

The driver draws (the same rows for any number of workers), tasks label parts of fixed size. label@raw takes the
triplets of label@aligned, part by part, and relabels them by the teacher without its human alignment.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from alignet_ray import runtime
from alignet_ray.artifacts.schemas import TRIPLETS, check
from alignet_ray.config import Config
from alignet_ray.core import labelling
from alignet_ray.data import deepmind
from alignet_ray.data.embeddings import TeacherFeatures
from alignet_ray.data.triplet_sampling import SPLITS, TRIPLET_KINDS, ImagePool, SampledTriplets, Split, sample_triplets
from alignet_ray.errors import UserError
from alignet_ray.stages import Work
from alignet_ray.store import Artifact, Draft

VERSION = 2
HELD_OUT = "held_out.parquet"
MATCHED = 65_536
"""Triplets over which the control's choice entropy is matched to the aligned teacher's."""
IMAGES, SIMILARITIES = TRIPLETS.names[:3], TRIPLETS.names[3:]


@dataclass(frozen=True)
class Teacher:
    """Whose judgement: dot products of `source`, times `scale`; on a GPU, if the cluster has one."""

    source: TeacherFeatures
    scale: float = 1.0

    def label(self, triplets: np.ndarray) -> labelling.Labelled:
        """Triplets of image_ids with their scaled dot products, the odd one last."""
        matrix = self.source.matrix()
        rows = matrix.rows(triplets)
        if ray.get_gpu_ids():
            return labelling.odd_last(
                triplets, labelling.resident_similarities(_on_gpu(self.source), rows) * self.scale
            )
        return labelling.odd_last(triplets, labelling.similarities(matrix.features, rows) * np.float32(self.scale))


@lru_cache(maxsize=1)
def _on_gpu(source: TeacherFeatures) -> torch.Tensor:
    """The whole matrix in the GPU's memory; it stays there for the parts that this process labels next."""
    return torch.from_numpy(np.array(source.matrix().features)).cuda()


def inputs(cfg: Config, role: str) -> dict[str, Any]:
    """Config fields that change the result; the control takes its triplets from the aligned labels."""
    if role == "raw":
        return {}
    return {"seed": cfg.seed} | cfg.label.result_fields()


def sources(cfg: Config, role: str) -> list[str]:
    """Triplet files that are taken instead of drawing."""
    return [path for path in (cfg.label.from_, cfg.label.from_valid) if path and role == "aligned"]


def estimate(cfg: Config, role: str, sources: list[Any]) -> str:
    """Size, for `plan`."""
    total = cfg.label.train + cfg.label.valid
    return f"{total:,} triplets, {max(1, round(total * 26 / 1e6)):,} MB"


def run(work: Work) -> None:
    """Label both sets part by part; finished parts of an interrupted run are kept."""
    embed = next(artifact for name, artifact in work.parents.items() if name.startswith("embed@"))
    source = TeacherFeatures(embed, work.parents["align"], runtime.state_dir(work.cfg) / "cache", work.role == "raw")
    if work.role == "raw":
        stats = _relabel(work, source)
    else:
        stats = _import(work, source) if work.cfg.label.from_ else _draw_and_label(work, source)
    work.out.write_json("stats.json", stats)
    work.facts |= {side: stats[side]["triplets"] for side in SPLITS}
    work.facts |= {"scale": stats["scale"]} | {f: stats["train"][f] for f in ("entropy", "ties")}


def _draw_and_label(work: Work, source: TeacherFeatures) -> dict[str, Any]:
    """Draw both sides and label them by the aligned teacher."""
    cfg = work.cfg
    corpus = ImagePool.of(work.parents["cluster"], source.embed, cfg.label.held_out, cfg.seed)
    source.matrix()
    drawn: dict[Split, SampledTriplets] = {}
    weights = cfg.label.model_dump(include=set(TRIPLET_KINDS))
    counts: dict[Split, int] = {"train": cfg.label.train, "valid": cfg.label.valid}
    for split, count in counts.items():
        drawn[split] = sample_triplets(corpus, split, count, weights, cfg.seed)
    for side in SPLITS:
        if drawn[side].warning:
            work.warn(drawn[side].warning)
    work.out.write_table(HELD_OUT, pa.table({"image_id": corpus.ids[corpus.held_out]}))
    shared = ray.put(corpus)
    jobs = {}
    for side, (triplets, _) in drawn.items():
        size = part_size(len(triplets))
        for part in range(-(-len(triplets) // size)):
            jobs[f"{side}/part-{part:05d}.parquet"] = (triplets[part * size : (part + 1) * size], shared)
    stats: dict[str, Any] = {"scale": 1.0, "images": len(corpus.ids), "held_out_images": int(corpus.held_out.sum())}
    totals = _label(work, Teacher(source), draw_part, jobs)
    for side in SPLITS:
        stats[side] = labelling.averages(totals[side]) | _coverage(corpus, drawn[side].triplets, corpus.in_split(side))
    return stats


def _relabel(work: Work, source: TeacherFeatures) -> dict[str, Any]:
    """Relabel the aligned teacher's triplets, as decided on average as its labels are."""
    parent = work.parents["label@aligned"]
    teacher = Teacher(source, _matched_scale(parent, source))
    held_out = parent.read_table(HELD_OUT)
    work.out.write_table(HELD_OUT, held_out)
    jobs = {name: (parent,) for side in SPLITS for name in parent.parts(side)}
    stats: dict[str, Any] = {"scale": teacher.scale, "held_out_images": len(held_out)}
    return stats | {k: labelling.averages(v) for k, v in _label(work, teacher, relabel_part, jobs).items()}


def _import(work: Work, source: TeacherFeatures) -> dict[str, Any]:
    """Take triplets that others labelled: for training those without an image set aside, for validation the others.

    The images set aside are those of the validation file; without one they are drawn as for our own triplets.
    """
    cfg = work.cfg.label
    corpus = ImagePool.of(work.parents["cluster"], source.embed, cfg.held_out, work.cfg.seed)
    images = source.embed.read_table("images.parquet")
    aside = corpus.ids[corpus.held_out]
    if cfg.from_valid:
        aside = np.unique(
            np.concatenate([_columns(t, IMAGES) for t in deepmind.import_triplets(cfg.from_valid, images)])
        )
    work.out.write_table(HELD_OUT, pa.table({"image_id": aside}))
    seen = np.setdiff1d(corpus.ids, aside)
    tally = deepmind.ImportCounts()
    stats: dict[str, Any] = {"scale": 1.0, "images": len(corpus.ids), "held_out_images": len(aside)}
    for side, path, among in (("train", cfg.from_, seen), ("valid", cfg.from_valid or cfg.from_, aside)):
        found: list[dict[str, Any]] = []
        for table in deepmind.import_triplets(str(path), images, tally):
            kept = table.filter(pa.array(np.isin(_columns(table, IMAGES), among).all(axis=1)))
            if len(kept):
                work.out.write_table(f"{side}/part-{len(found):05d}.parquet", kept)
                found.append(labelling.describe(_columns(kept, SIMILARITIES)))
        if not found:
            raise UserError(f"{path} gives no {side} triplets of images that are in the corpus and may be used for it")
        stats[side] = labelling.averages(_summed(found))
    return stats | {"read": tally.rows, "permuted": tally.permuted}


def part_size(n: int) -> int:
    """Triplets of a part: about 32 parts, none too small to be worth a task or too large for a worker's memory."""
    return min(max(-(-n // 32), 5_000), 500_000)


def _matched_scale(parent: Artifact, source: TeacherFeatures) -> float:
    """The factor that gives the raw dot products the mean choice entropy of the aligned labels.

    Raw dot products of hundreds of standardised features would saturate the softmax, and the control would learn from
    one-hot labels where the aligned student sees graded ones.
    """
    table = next(parent.iter_parts("train")).slice(0, MATCHED)
    target = float(labelling.entropy(_columns(table, SIMILARITIES)).mean())
    matrix = source.matrix()
    raw = labelling.similarities(matrix.features, matrix.rows(_columns(table, IMAGES)))
    return labelling.matching_scale(raw, target)


def _label(work: Work, teacher: Teacher, task: Any, jobs: dict[str, tuple[Any, ...]]) -> dict[str, dict[str, Any]]:
    """Run a task for every part, a few at a time; returns the summed description of each set."""
    there = [name for side in SPLITS for name in work.out.parts(side)]
    if there:
        work.screen.line(f"   {len(there)} of {len(jobs)} parts are there from an interrupted run and reused")
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    remote = ray.remote(num_cpus=1, num_gpus=1 if resources.get("GPU") else 0, max_retries=3)(task)
    slots = 2 * max(1, int(resources.get("CPU", 1)))
    waiting, found = list(jobs), {}
    pending: dict[Any, str] = {}
    with work.screen.progress(len(jobs), "parts") as bar:
        while waiting or pending:
            while waiting and len(pending) < slots:
                name = waiting.pop(0)
                pending[remote.remote(teacher, work.out, name, *jobs[name])] = name
            ready, _ = ray.wait(list(pending), num_returns=1)
            found[pending.pop(ready[0])] = ray.get(ready[0])
            bar.add(1)
    parts = {side: [found[name] for name in jobs if name.startswith(side)] for side in SPLITS}
    return {side: _summed(of) for side, of in parts.items()}


def _summed(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: sum(part[key] for part in parts) for key in parts[0]}


def draw_part(teacher: Teacher, out: Draft, name: str, triplets: np.ndarray, corpus: ImagePool) -> dict[str, Any]:
    """Task: label drawn triplets (image_ids), unless the part is there; returns its description."""
    table = _part(teacher, out, name, triplets)
    found = labelling.describe(_columns(table, SIMILARITIES))
    clusters = corpus.clusters[np.searchsorted(corpus.ids, _columns(table, IMAGES))]
    one, two, odd = clusters.T
    border = (one == two) | (one == odd) | (two == odd)
    found["border"] = (border & ~((one == two) & (two == odd))).sum()
    found["odd_is_the_other"] = ((one == two) & (two != odd)).sum()
    return found


def relabel_part(teacher: Teacher, out: Draft, name: str, parent: Artifact) -> dict[str, Any]:
    """Task: label the images of the parent's part of the same name; the description counts the common odd ones."""
    before = parent.read_table(name)
    table = _part(teacher, out, name, _columns(before, IMAGES))
    found = labelling.describe(_columns(table, SIMILARITIES))
    found["agreement"] = (table["i2"].to_numpy() == before["i2"].to_numpy()).sum()
    return found


def _part(teacher: Teacher, out: Draft, name: str, triplets: np.ndarray) -> pa.Table:
    """The labelled table of a part, made only if it is not there."""
    if not out.has(name):
        labelled = teacher.label(triplets)
        columns = [*labelled.triplets.T, *labelled.similarities.T]
        out.write_table(name, check(pa.table(columns, schema=TRIPLETS), TRIPLETS))
    return out.read_table(name)


def _columns(table: pa.Table, names: list[str]) -> np.ndarray:
    """Some columns side by side, (n, len(names))."""
    return np.stack([table[name].to_numpy() for name in names], axis=1)


def _coverage(corpus: ImagePool, triplets: np.ndarray, side: np.ndarray) -> dict[str, Any]:
    """How often the images, clusters and classes of one side are used."""
    uses = np.bincount(np.searchsorted(corpus.ids, triplets.ravel()), minlength=len(corpus.ids))
    used = uses[side]
    return {
        "image_uses": {"min": int(used.min()), "median": float(np.median(used)), "max": int(used.max())},
        "images_used": int((used > 0).sum()),
        "cluster_uses": np.bincount(corpus.clusters, weights=uses).astype(np.int64).tolist(),
        "class_uses": np.bincount(corpus.classes, weights=uses).astype(np.int64).tolist(),
    }
