"""label: draw image triplets from the clusters, and let the teacher's dot products say which image is the odd one.

The driver draws (the same rows for any number of workers), tasks label parts of fixed size. label@raw takes the
triplets of label@aligned, part by part, and relabels them by the teacher without its human alignment.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from alignet_ray import runtime
from alignet_ray.config import Config
from alignet_ray.core import labelling, sampling
from alignet_ray.data.embeddings import Source
from alignet_ray.data.schemas import TRIPLETS, check
from alignet_ray.errors import UserError
from alignet_ray.stages import Work
from alignet_ray.store import Artifact, Draft

VERSION = 1
SETS = ("train", "valid")
HELD_OUT = "held_out.parquet"
MATCHED = 65_536
"""Triplets over which the control's choice entropy is matched to the aligned teacher's."""
KINDS = {
    "cluster_border": ("border", "cluster"),
    "within_cluster": ("within", "cluster"),
    "class_border": ("border", "class"),
    "within_class": ("within", "class"),
    "between_class": ("between", "class"),
    "uniform": ("uniform", "cluster"),
}
"""Config field -> kind of draw, and the groups that it draws from."""
IMAGES, SIMILARITIES = TRIPLETS.names[:3], TRIPLETS.names[3:]


@dataclass(frozen=True)
class Teacher:
    """Whose judgement: dot products of `source`, times `scale`."""

    source: Source
    scale: float = 1.0


@dataclass(frozen=True)
class Corpus:
    """The images that triplets are drawn from.

    Attributes:
        ids: image_ids, ascending.
        clusters: cluster of each.
        held_out: whether an image is set aside for validation.
    """

    ids: np.ndarray
    clusters: np.ndarray
    held_out: np.ndarray


def inputs(cfg: Config, role: str) -> dict[str, Any]:
    """Config fields that change the result; the control takes its triplets from the aligned labels."""
    return {"seed": cfg.seed} | cfg.label.model_dump() if role == "aligned" else {}


def sources(cfg: Config, role: str) -> list[str]:
    """Nothing but artifacts is read."""
    return []


def estimate(cfg: Config, role: str) -> str:
    """Size, for `plan`."""
    total = cfg.label.train + cfg.label.valid
    return f"{total:,} triplets, {max(1, round(total * 26 / 1e6)):,} MB"


def run(work: Work) -> None:
    """Label both sets part by part; finished parts of an interrupted run are kept."""
    embed = next(artifact for name, artifact in work.parents.items() if name.startswith("embed@"))
    source = Source(embed, work.parents["align"], runtime.state_dir(work.cfg) / "cache", work.role == "raw")
    source.matrix()
    stats = _relabel(work, source) if work.role == "raw" else _draw_and_label(work, source)
    work.out.write_json("stats.json", stats)
    work.facts |= {kind: stats[kind]["triplets"] for kind in SETS}
    work.facts |= {"scale": stats["scale"]} | {f: stats["train"][f] for f in ("entropy", "ties")}


def _draw_and_label(work: Work, source: Source) -> dict[str, Any]:
    """Draw both sets and label them by the aligned teacher."""
    corpus = _corpus(work)
    drawn = {"train": _draw(work, corpus, "train"), "valid": _draw(work, corpus, "valid")}
    work.out.write_table(HELD_OUT, pa.table({"image_id": corpus.ids[corpus.held_out]}))
    shared = ray.put(corpus)
    jobs = {}
    for kind, triplets in drawn.items():
        size = part_size(len(triplets))
        for part in range(-(-len(triplets) // size)):
            rows = triplets[part * size : (part + 1) * size]
            jobs[f"{kind}/part-{part:05d}.parquet"] = (rows, shared)
    stats: dict[str, Any] = {"scale": 1.0, "images": len(corpus.ids), "held_out_images": int(corpus.held_out.sum())}
    for kind, total in _label(work, Teacher(source), draw_part, jobs).items():
        stats[kind] = labelling.averages(total) | _coverage(corpus, drawn[kind], kind == "valid")
    return stats


def _relabel(work: Work, source: Source) -> dict[str, Any]:
    """Relabel the aligned teacher's triplets, as decided on average as its labels are."""
    parent = work.parents["label@aligned"]
    teacher = Teacher(source, _matched_scale(parent, source))
    held_out = parent.read_table(HELD_OUT)
    work.out.write_table(HELD_OUT, held_out)
    jobs = {name: (parent,) for kind in SETS for name in parent.parts(kind)}
    stats: dict[str, Any] = {"scale": teacher.scale, "held_out_images": len(held_out)}
    return stats | {k: labelling.averages(v) for k, v in _label(work, teacher, relabel_part, jobs).items()}


def part_size(n: int) -> int:
    """Triplets of a part: about 32 parts, none too small to be worth a task or too large for a worker's memory."""
    return min(max(-(-n // 32), 5_000), 500_000)


def _corpus(work: Work) -> Corpus:
    """The clustered images, in the order of their ids, and which of them are set aside."""
    table = work.parents["cluster"].read_parts().sort_by("image_id")
    ids = table["image_id"].to_numpy()
    return Corpus(ids, table["cluster"].to_numpy(), sampling.held_out(ids, work.cfg.label.held_out, work.cfg.seed))


def _draw(work: Work, corpus: Corpus, kind: str) -> np.ndarray:
    """The image_ids of one set, drawn from its side of the images.

    Raises:
        UserError: fewer distinct training triplets exist than are asked for, or no validation triplet at all.
    """
    asked: int = getattr(work.cfg.label, kind)
    side = corpus.held_out == (kind == "valid")
    weights = {name: getattr(work.cfg.label, name) for name in KINDS}
    if not sum(weights.values()):
        raise UserError("label: every kind of draw has weight 0: give one, say --label.cluster-border 1")
    counts = {name: n for name, n in sampling.shares(weights, asked).items() if n}
    groups = {by: _groups(work, corpus, side, by) for by in {KINDS[name][1] for name in counts}}
    plan = [(KINDS[name][0], groups[KINDS[name][1]], n) for name, n in counts.items()]
    if kind == "valid":
        plan = _possible(work, plan, groups, int(side.sum()))
    try:
        drawn = sampling.mixture(plan, work.cfg.seed, SETS.index(kind))
    except sampling.Exhausted as error:
        raise UserError(
            f"label.{kind} asks for {asked:,} triplets, but the {int(side.sum()):,} images give only {error.found:,}"
            f" distinct ones of kind {error.kind!r}: lower --label.{kind}, mix in --label.uniform, or add images"
        ) from error
    return np.asarray(corpus.ids[drawn])


def _possible(
    work: Work, plan: list[tuple[str, sampling.Groups, int]], groups: dict[str, sampling.Groups], images: int
) -> list[tuple[str, sampling.Groups, int]]:
    """The validation draw cut down to what its few images can give; any triplets if they give none of the kinds."""
    if images < 3:
        raise UserError(
            f"label.held_out sets {images} images aside for validation; a triplet needs 3:"
            " raise --label.held-out, or add images"
        )
    cut = [(kind, group, min(n, sampling.count(kind, group))) for kind, group, n in plan]
    if not sum(n for *_, n in cut):
        everything = next(iter(groups.values()))
        cut = [("uniform", everything, min(sum(n for *_, n in plan), sampling.count("uniform", everything)))]
        work.warn("the images set aside for validation give no triplet of the kinds asked for; any triplets are taken")
    elif cut != plan:
        found = sum(n for *_, n in cut)
        work.warn(f"label.valid: the {images} images set aside give only {found:,} distinct triplets; all are taken")
    return cut


def _groups(work: Work, corpus: Corpus, side: np.ndarray, by: str) -> sampling.Groups:
    """The images of one side by cluster or by class folder.

    Raises:
        UserError: the images lie in no class folders, or all in one.
    """
    if by == "cluster":
        return sampling.group_by(np.where(side, corpus.clusters, -1))
    embed = next(artifact for name, artifact in work.parents.items() if name.startswith("embed@"))
    images = embed.read_table("images.parquet", ["image_id", "label"]).sort_by("image_id")
    rows = np.searchsorted(images["image_id"].to_numpy(), corpus.ids)
    classes = images["label"].take(pa.array(rows)).combine_chunks().dictionary_encode()
    if len(classes.dictionary) < 2:
        raise UserError("label: draws by class need images in two or more class folders; use the draws by cluster")
    return sampling.group_by(np.where(side, classes.indices.to_numpy(zero_copy_only=False), -1))


def _matched_scale(parent: Artifact, source: Source) -> float:
    """The factor that gives the raw dot products the mean choice entropy of the aligned labels.

    Raw dot products of hundreds of standardised features would saturate the softmax, and the control would learn from
    one-hot labels where the aligned student sees graded ones.
    """
    table = next(parent.iter_parts("train")).slice(0, MATCHED)
    target = float(labelling.entropy(_columns(table, SIMILARITIES)).mean())
    matrix = source.matrix()
    raw = labelling.similarities(matrix.x, matrix.rows(_columns(table, IMAGES)))
    return labelling.matching_scale(raw, target)


def _label(work: Work, teacher: Teacher, task: Any, jobs: dict[str, tuple[Any, ...]]) -> dict[str, dict[str, Any]]:
    """Run a task for every part, a few at a time; returns the summed description of each set."""
    there = [name for kind in SETS for name in work.out.parts(kind)]
    if there:
        work.screen.line(f"   {len(there)} of {len(jobs)} parts are there from an interrupted run and reused")
    remote = ray.remote(num_cpus=1, max_retries=3)(task)
    slots = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
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
    parts = {kind: [found[name] for name in jobs if name.startswith(kind)] for kind in SETS}
    return {kind: {key: sum(part[key] for part in of) for key in of[0]} for kind, of in parts.items()}


def draw_part(teacher: Teacher, out: Draft, name: str, triplets: np.ndarray, corpus: Corpus) -> dict[str, Any]:
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
        matrix = teacher.source.matrix()
        sims = labelling.similarities(matrix.x, matrix.rows(triplets)) * np.float32(teacher.scale)
        labelled = labelling.odd_last(triplets, sims)
        columns = [*labelled.triplets.T, *labelled.similarities.T]
        out.write_table(name, check(pa.table(columns, schema=TRIPLETS), TRIPLETS))
    return out.read_table(name)


def _columns(table: pa.Table, names: list[str]) -> np.ndarray:
    """Some columns side by side, (n, len(names))."""
    return np.stack([table[name].to_numpy() for name in names], axis=1)


def _coverage(corpus: Corpus, triplets: np.ndarray, valid: bool) -> dict[str, Any]:
    """How often images and clusters of one side are used."""
    side = corpus.held_out == valid
    uses = np.bincount(np.searchsorted(corpus.ids, triplets.ravel()), minlength=len(corpus.ids))
    by_cluster = np.bincount(corpus.clusters, weights=uses).astype(np.int64)
    used = uses[side]
    figures = {"min": int(used.min()), "median": float(np.median(used)), "max": int(used.max())}
    return {"image_uses": figures, "images_used": int((used > 0).sum()), "cluster_uses": by_cluster.tolist()}
