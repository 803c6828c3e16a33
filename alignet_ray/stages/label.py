"""label: draw image triplets from the clusters, and label the odd one out by the teacher's dot products.

The driver draws (the same triplets for any number of workers), and Ray tasks label parts of fixed size. label@raw
relabels the triplets of label@aligned, part by part, by the teacher without its human alignment.
"""

import functools
import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray
import torch
from jaxtyping import Int

from alignet_ray import cluster_nodes, runtime
from alignet_ray.artifacts.base import part_name
from alignet_ray.artifacts.embed import EmbedArtifact
from alignet_ray.artifacts.label import (
    IMAGE_COLUMNS,
    SIMILARITY_COLUMNS,
    SUBSETS,
    LabelArtifact,
    LabelStats,
    Subset,
    SubsetStats,
)
from alignet_ray.artifacts.schemas import column_matrix
from alignet_ray.config import Config
from alignet_ray.core import gpu, labelling
from alignet_ray.data import deepmind
from alignet_ray.data.embeddings import TeacherFeatures
from alignet_ray.data.triplet_sampling import TRIPLET_KINDS, ImagePool, SampledTriplets, sample_triplets
from alignet_ray.errors import UserError
from alignet_ray.stages import Work
from alignet_ray.stages.ray_tasks import in_tasks
from alignet_ray.stages.small_work import stays_here
from alignet_ray.store import JsonObject

VERSION = 2

MATCHED_TRIPLETS = 65_536
"""Triplets over which the control's choice entropy is matched to the aligned teacher's."""

TRIPLETS_PER_SECOND = 70_000
"""Triplets that one core labels in a second, where features are wide; to decide where they are labelled."""

GPU_PAYS_SECONDS = 60
"""Time on all cores above which GPUs label: their processes start, and the matrix is copied, in less."""

BYTES_PER_TRIPLET = 26
"""Size of a stored triplet, for the plan."""

PARTS = 32
MIN_PART = 5_000
MAX_PART = 500_000
"""Number of parts, and bounds of the triplets in one: worth a task, but not too large for a worker's memory."""


@dataclass
class LabelFacts:
    """What artifact.json says of labelled triplets.

    Attributes:
        train, valid: numbers of triplets.
        scale: factor of the teacher's dot products.
        entropy: mean entropy of the choice probabilities of training triplets (nats).
        ties: training triplets whose two largest similarities are equal.
    """

    train: int
    valid: int
    scale: float
    entropy: float
    ties: int


@dataclass(frozen=True)
class Teacher:
    """Labels triplets by dot products of features, times a scale; on a GPU if the task has one."""

    features: TeacherFeatures
    scale: float = 1.0

    def label(self, triplets: Int[np.ndarray, "n 3"]) -> labelling.Labelled:
        """Triplets of image_ids with their similarities, the odd one last."""
        matrix = self.features.matrix()
        rows = matrix.rows(triplets)
        if ray.get_gpu_ids() and _fits_on_gpu(self.features):
            on_gpu = labelling.resident_similarities(_matrix_on_gpu(self.features), rows)
            return labelling.odd_last(triplets, on_gpu * self.scale)
        similarities = labelling.similarities(matrix.features, rows)
        return labelling.odd_last(triplets, similarities * np.float32(self.scale))


@functools.lru_cache(maxsize=1)
def _matrix_on_gpu(features: TeacherFeatures) -> torch.Tensor:
    """The whole matrix in the GPU's memory, where it stays for the next parts that this process labels."""
    return torch.from_numpy(np.array(features.matrix().features)).cuda()


@functools.lru_cache(maxsize=1)
def _fits_on_gpu(features: TeacherFeatures) -> bool:
    """Whether the whole matrix fits; asked once, before it takes the memory. A larger one stays with the cores."""
    return gpu.fits(features.matrix().features.nbytes)


class PartTask(NamedTuple):
    """One part to be labelled.

    Attributes:
        name: file name of the part.
        subset: the table that it belongs to.
        triplets: image_ids to label; None to take those of the aligned part of the same name.
    """

    name: str
    subset: Subset
    triplets: Int[np.ndarray, "n 3"] | None = None


def inputs(cfg: Config, role: str) -> JsonObject:
    """The section and the seed; label@raw takes its triplets from label@aligned."""
    if role == "raw":
        return {}
    return {"seed": cfg.seed} | cfg.label.result_fields()


def sources(cfg: Config, role: str) -> list[str]:
    """Files of triplets that replace drawing."""
    if role == "raw":
        return []
    return [path for path in (cfg.label.from_, cfg.label.from_valid) if path]


def refuse(cfg: Config, role: str) -> None:
    """Refuse files of triplets that are none, before anything starts."""
    for path in sources(cfg, role):
        if not deepmind.is_release(Path(path).expanduser()):
            raise UserError(f"{path} holds no labelled triplets: expected an .npz as DeepMind published them")


def estimate(cfg: Config, role: str, sources: list[Any]) -> str:
    """Number and size of the triplets."""
    total = cfg.label.train + cfg.label.valid
    return f"{total:,} triplets, {max(1, round(total * BYTES_PER_TRIPLET / 1e6)):,} MB"


def run(work: Work) -> None:
    """Label both subsets part by part; finished parts of an interrupted run are kept."""
    artifact = LabelArtifact(work.out)
    embed = work.parent("embed")
    cache = runtime.cache_dir(work.cfg)
    features = TeacherFeatures(embed, work.parents["align"], cache, work.role == "raw")

    if work.role == "raw":
        stats = _relabel(work, artifact, features)
    elif work.cfg.label.from_:
        stats = _import(work, artifact, features)
    else:
        stats = _draw_and_label(work, artifact, features)

    artifact.write_stats(stats)
    work.facts = LabelFacts(
        train=stats.train.triplets,
        valid=stats.valid.triplets,
        scale=stats.scale,
        entropy=stats.train.entropy,
        ties=stats.train.ties,
    )


# Where triplets come from


def _draw_and_label(work: Work, artifact: LabelArtifact, features: TeacherFeatures) -> LabelStats:
    """Draw triplets and label them by the aligned teacher."""
    label = work.cfg.label
    seed = work.cfg.seed
    features.matrix()  # built before the tasks that share it
    pool = ImagePool.of(work.parents["cluster"], features.embed, label.held_out, seed)
    artifact.write_held_out(pool.ids[pool.held_out])

    # The config names a share for every kind of triplet, and the kinds are the names of those fields.
    weights = label.model_dump(include=set(TRIPLET_KINDS))
    counts: dict[Subset, int] = {"train": label.train, "valid": label.valid}
    drawn: dict[Subset, SampledTriplets] = {}
    for subset, count in counts.items():
        drawn[subset] = sample_triplets(pool, subset, count, weights, seed)
        if drawn[subset].warning:
            work.warn(drawn[subset].warning)

    parts: list[PartTask] = []
    for subset in SUBSETS:
        parts += _split_into_parts(subset, drawn[subset].triplets)
    sums = _label_parts(work, artifact, parts, sum(counts.values()), Teacher(features), pool=pool)

    stats: dict[Subset, SubsetStats] = {}
    for subset in SUBSETS:
        stats[subset] = _with_coverage(_stats(sums[subset]), pool, drawn[subset].triplets, subset)
    return LabelStats(
        scale=1.0,
        held_out_images=int(pool.held_out.sum()),
        train=stats["train"],
        valid=stats["valid"],
        images=len(pool.ids),
    )


def _relabel(work: Work, artifact: LabelArtifact, features: TeacherFeatures) -> LabelStats:
    """Relabel the aligned teacher's triplets, with the same mean choice entropy."""
    # Same triplets, same held-out images: student and control then differ in nothing but the teacher.
    aligned = LabelArtifact(work.parents["label@aligned"])
    held_out = aligned.held_out()
    artifact.write_held_out(held_out)

    parts: list[PartTask] = []
    for subset in SUBSETS:
        parts += [PartTask(name, subset) for name in aligned.part_names(subset)]
    teacher = Teacher(features, _matched_scale(aligned, features))
    stats = aligned.stats()
    triplets = stats.train.triplets + stats.valid.triplets
    sums = _label_parts(work, artifact, parts, triplets, teacher, aligned=aligned)

    return LabelStats(
        scale=teacher.scale,
        held_out_images=len(held_out),
        train=_stats(sums["train"]),
        valid=_stats(sums["valid"]),
    )


def _import(work: Work, artifact: LabelArtifact, features: TeacherFeatures) -> LabelStats:
    """Take triplets that others labelled: training triplets without held-out images, validation triplets of these only.

    The held-out images are those of the validation file; without one they are drawn as for our own triplets.
    """
    label = work.cfg.label
    pool = ImagePool.of(work.parents["cluster"], features.embed, label.held_out, work.cfg.seed)
    images = EmbedArtifact(features.embed).images()
    held_out = pool.ids[pool.held_out]

    # Whoever made the validation file chose its images: all of them must stay out of training.
    if label.from_valid:
        tables = deepmind.import_triplets(label.from_valid, images)
        held_out = np.unique(np.concatenate([column_matrix(table, IMAGE_COLUMNS) for table in tables]))
    artifact.write_held_out(held_out)

    training_images = np.setdiff1d(pool.ids, held_out)
    counts = deepmind.ImportCounts()
    from_train = str(label.from_)
    from_valid = label.from_valid or from_train
    train = _import_subset(artifact, "train", deepmind.import_triplets(from_train, images, counts), training_images)
    valid = _import_subset(artifact, "valid", deepmind.import_triplets(from_valid, images, counts), held_out)
    for subset, parts, path in (("train", train, from_train), ("valid", valid, from_valid)):
        if not parts:
            raise UserError(
                f"{path} gives no {subset} triplets of images that are in the corpus and may be used for it"
            )

    return LabelStats(
        scale=1.0,
        held_out_images=len(held_out),
        train=_stats(_total(train)),
        valid=_stats(_total(valid)),
        images=len(pool.ids),
        read=counts.rows,
        permuted=counts.permuted,
    )


def _import_subset(
    artifact: LabelArtifact, subset: Subset, tables: Iterable[pa.Table], allowed: Int[np.ndarray, " n"]
) -> list[labelling.LabelSums]:
    """Write the triplets of allowed images, one part for each table that has any; their sums part by part."""
    sums: list[labelling.LabelSums] = []
    for table in tables:
        # A triplet with one image of the other subset would leak it, so all three must be allowed.
        is_allowed = np.isin(column_matrix(table, IMAGE_COLUMNS), allowed).all(axis=1)
        kept = table.filter(pa.array(is_allowed))
        if len(kept):
            similarities = column_matrix(kept, SIMILARITY_COLUMNS)
            artifact.write_part(part_name(len(sums), subset), column_matrix(kept, IMAGE_COLUMNS), similarities)
            sums.append(labelling.describe(similarities))
    return sums


def _matched_scale(aligned: LabelArtifact, features: TeacherFeatures) -> float:
    """The factor that gives the raw dot products the mean choice entropy of the aligned labels.

    Raw dot products of hundreds of standardised features would saturate the softmax, and the control would learn from
    one-hot labels where the aligned student sees graded ones.
    """
    # A mean over some ten thousand triplets is exact enough, so the first part of the training triplets will do.
    table = next(aligned.triplets("train")).slice(0, MATCHED_TRIPLETS)
    target = float(labelling.entropy(column_matrix(table, SIMILARITY_COLUMNS)).mean())
    matrix = features.matrix()
    raw = labelling.similarities(matrix.features, matrix.rows(column_matrix(table, IMAGE_COLUMNS)))
    return labelling.matching_scale(raw, target)


# Labelling in parts


def part_size(count: int) -> int:
    """Triplets of a part."""
    return min(max(math.ceil(count / PARTS), MIN_PART), MAX_PART)


def _split_into_parts(subset: Subset, triplets: Int[np.ndarray, "n 3"]) -> list[PartTask]:
    """Parts whose size follows from the number of triplets alone, never from the cluster."""
    size = part_size(len(triplets))
    parts = []
    for number, start in enumerate(range(0, len(triplets), size)):
        parts.append(PartTask(part_name(number, subset), subset, triplets[start : start + size]))
    return parts


def _label_parts(
    work: Work,
    artifact: LabelArtifact,
    parts: Sequence[PartTask],
    triplets: int,
    teacher: Teacher,
    pool: ImagePool | None = None,
    aligned: LabelArtifact | None = None,
) -> dict[Subset, labelling.LabelSums]:
    """Label every part and add up what they say: here if that takes seconds, otherwise in Ray's tasks.

    Returns:
        The sums over each subset.
    """
    finished = sum(len(artifact.part_names(subset)) for subset in SUBSETS)
    if finished:
        work.screen.line(f"   {finished} of {len(parts)} parts are there from an interrupted run and reused")

    sums_by_part: dict[str, labelling.LabelSums] = {}
    with work.screen.progress(len(parts), "parts") as bar:
        if stays_here(work.cfg, triplets / TRIPLETS_PER_SECOND):
            for part in parts:
                sums_by_part[part.name] = label_part(teacher, artifact, part, pool, aligned)
                bar.add(1)
        else:
            for part, part_sums in _label_in_tasks(work.node.name, artifact, parts, triplets, teacher, pool, aligned):
                sums_by_part[part.name] = part_sums
                bar.add(1)

    # Added in the order of the parts and not in that of their ends, so that rounding is the same in every run.
    sums: dict[Subset, labelling.LabelSums] = {}
    for subset in SUBSETS:
        sums[subset] = _total([sums_by_part[part.name] for part in parts if part.subset == subset])
    return sums


def _label_in_tasks(
    node: str,
    artifact: LabelArtifact,
    parts: Sequence[PartTask],
    triplets: int,
    teacher: Teacher,
    pool: ImagePool | None,
    aligned: LabelArtifact | None,
) -> Iterator[tuple[PartTask, labelling.LabelSums]]:
    """Run a task for every part, a limited number at a time; each part with its sums, in the order of their ends."""
    offered = cluster_nodes.cluster_resources()
    task = part_task(offered, triplets)
    shared_pool = ray.put(pool)  # once into the object store, instead of with every task

    def label(part: PartTask) -> Any:
        # The name in Ray's dashboard and `ray list tasks`, such as `label@aligned: train/part-00007`.
        named = task.options(name=f"{node}: {part.name.removesuffix('.parquet')}")
        return named.remote(teacher, artifact, part, shared_pool, aligned)

    # Two tasks a core keep all cores busy; more would only hold their triplets in the object store.
    yield from in_tasks(parts, label, 2 * max(1, offered.cpus))


def part_task(offered: cluster_nodes.ClusterResources, triplets: int) -> Any:
    """The task that labels a part: on a GPU only where the cores would take so long that copying the matrix pays."""
    gpus_per_task = 0
    if offered.gpus and triplets / (TRIPLETS_PER_SECOND * max(1, offered.cpus)) > GPU_PAYS_SECONDS:
        gpus_per_task = 1
    # Ray would end a process after each task on a GPU, and with it the matrix that waits there for the next part.
    return ray.remote(num_cpus=1, num_gpus=gpus_per_task, max_retries=3, max_calls=0)(label_part)


def label_part(
    teacher: Teacher, artifact: LabelArtifact, part: PartTask, pool: ImagePool | None, aligned: LabelArtifact | None
) -> labelling.LabelSums:
    """Label one part unless it is finished; also a Ray task.

    Args:
        teacher: whose similarities label the triplets.
        artifact: where the part goes.
        part: the part.
        pool: the images that its triplets were drawn from; None where they are relabelled.
        aligned: the labels to be relabelled; None where triplets were drawn.

    Returns:
        Sums over the part.
    """
    triplets = part.triplets
    before = None
    if aligned is not None:
        before = aligned.read_part(part.name)
        triplets = column_matrix(before, IMAGE_COLUMNS)

    assert triplets is not None, "a part has triplets of its own or those of the aligned labels"
    if not artifact.has_part(part.name):
        labelled = teacher.label(triplets)
        artifact.write_part(part.name, labelled.triplets, labelled.similarities)

    # Figures come from the stored part, so that a part of an interrupted run counts like a new one.
    table = artifact.read_part(part.name)
    sums = labelling.describe(column_matrix(table, SIMILARITY_COLUMNS))
    if before is not None:
        same_odd = table["i2"].to_numpy() == before["i2"].to_numpy()
        sums = replace(sums, agreement=int(same_odd.sum()))
    if pool is not None:
        sums = _with_border_counts(sums, column_matrix(table, IMAGE_COLUMNS), pool)
    return sums


def _with_border_counts(
    sums: labelling.LabelSums, triplets: Int[np.ndarray, "n 3"], pool: ImagePool
) -> labelling.LabelSums:
    """Sums that also count triplets with two images of one cluster and one of another, and which one is odd there."""
    clusters = pool.clusters[np.searchsorted(pool.ids, triplets)]
    first, second, odd = clusters.T
    any_equal = (first == second) | (first == odd) | (second == odd)
    all_equal = (first == second) & (second == odd)
    return replace(
        sums,
        border=int((any_equal & ~all_equal).sum()),
        odd_is_the_other=int(((first == second) & (second != odd)).sum()),
    )


def _total(parts: Sequence[labelling.LabelSums]) -> labelling.LabelSums:
    """The sums over all parts, added in their order: the same floats for any number of workers."""
    return functools.reduce(operator.add, parts)


def _stats(sums: labelling.LabelSums) -> SubsetStats:
    """Figures of one subset: counts and histograms as they are, all other sums as means."""
    count = sums.triplets
    return SubsetStats(
        triplets=count,
        ties=sums.ties,
        entropy=sums.entropy / count,
        margin=sums.margin / count,
        entropy_histogram=sums.entropy_histogram.tolist(),
        margin_histogram=sums.margin_histogram.tolist(),
        border=_share(sums.border, count),
        odd_is_the_other=_share(sums.odd_is_the_other, count),
        agreement=_share(sums.agreement, count),
    )


def _share(part: int | None, total: int) -> float | None:
    if part is None:
        return None
    return part / total


def _with_coverage(
    stats: SubsetStats, pool: ImagePool, triplets: Int[np.ndarray, "n 3"], subset: Subset
) -> SubsetStats:
    """Figures that also say how often the images, clusters and classes of the subset are used."""
    positions = np.searchsorted(pool.ids, triplets.ravel())
    uses = np.bincount(positions, minlength=len(pool.ids))
    # Images of the other subset are never drawn: their zeros would hide the least used image of this one.
    own_uses = uses[pool.in_subset(subset)]
    return replace(
        stats,
        image_uses={
            "min": int(own_uses.min()),
            "median": float(np.median(own_uses)),
            "max": int(own_uses.max()),
        },
        images_used=int((own_uses > 0).sum()),
        cluster_uses=np.bincount(pool.clusters, weights=uses).astype(np.int64).tolist(),
        class_uses=np.bincount(pool.classes, weights=uses).astype(np.int64).tolist(),
    )
