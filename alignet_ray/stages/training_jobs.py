"""What the processes of `distill` and of `align`'s network teacher get, put together from config and artifacts."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

from alignet_ray import cluster_nodes
from alignet_ray.artifacts.cluster import ClusterArtifact
from alignet_ray.artifacts.embed import EmbedArtifact
from alignet_ray.artifacts.label import LabelArtifact
from alignet_ray.artifacts.spans import NO_OFFSET
from alignet_ray.artifacts.student_files import Provenance
from alignet_ray.config import Config, Distill
from alignet_ray.data.embeddings import TeacherFeatures
from alignet_ray.data.triplet_sampling import TRIPLET_KINDS, class_numbers
from alignet_ray.human.dataset import human_model, split_images
from alignet_ray.human.objects import images_folder
from alignet_ray.images.cache import CachedImages, CacheWriter, DecodedImages, pack_once
from alignet_ray.images.transform import PixelTransform
from alignet_ray.models.backbone import load_backbone
from alignet_ray.stages import Work
from alignet_ray.store import Artifact, digest
from alignet_ray.training.batches import KindInBatch, labelled_batches, validation_batch
from alignet_ray.training.student_worker import StudentJob
from alignet_ray.training.teacher_job import TeacherJob
from alignet_ray.training.validation import HumanValidation, human_validation, object_images

IMAGES_PER_OBJECT = 8
"""Images of each validation object that the trained student is scored on: few-shot tasks need more than five."""


def make_student_job(work: Work, cache: Path, workers: int, pack: Callable[[CacheWriter], None] | None) -> StudentJob:
    """The job of a student or of the control, whose teacher is the unaligned one.

    Args:
        work: its parents are label, embed, align and cluster; and soften, if there are human responses.
        cache: local folder for packed images and the teacher's matrix, which student and control share.
        workers: number of training processes.
        pack: fills a pack of images; None: every machine has a cache of its own, and fills its packs.
    """
    settings = work.cfg.distill
    # Validation triplets consist of held-out images, which training must not see in any batch.
    label = LabelArtifact(work.parent("label"))
    embed = work.parent("embed")
    clustered = ClusterArtifact(work.parents["cluster"]).labels()
    in_training = np.flatnonzero(~np.isin(clustered.ids, label.held_out()))
    chosen = _choice(settings, work.cfg.seed, in_training)
    needed = clustered.ids
    if len(chosen) < len(in_training):
        needed = np.union1d(clustered.ids[chosen], _labelled_images(label, settings))

    view = load_backbone(settings.model, settings.size, squash=settings.squash).pixel_transform
    threads = threads_per_worker(workers * work.concurrent)
    decoder = _corpus_images(work, embed, needed, view, threads)
    images: CachedImages | DecodedImages = decoder
    if settings.packs(len(needed)):
        images = _packed(decoder, embed, cache, pack)

    validation = _student_validation(work, view)
    one_image_each = None
    if validation is not None:
        one_image_each = validation.one_image_each()
    return StudentJob(
        settings=settings,
        seed=work.cfg.seed,
        out=work.out,
        label=label.files,
        teacher=TeacherFeatures(embed, work.parents["align"], cache, raw=work.role == "control"),
        scale=label.stats().scale,
        image_ids=clustered.ids[chosen],
        clusters=clustered.clusters[chosen],
        kinds=_kinds_in_batch(work.cfg, embed, clustered.ids[chosen], clustered.clusters[chosen]),
        images=images,
        threads=threads,
        human_validation=one_image_each,
        interpolation_objects=validation,
        provenance=_provenance(work, work.role),
    )


def _choice(settings: Distill, seed: int, positions: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """The images that training chooses from, ascending: random ones, so that clusters keep their shares."""
    count = settings.images_to_choose_from(len(positions))
    if count == len(positions):
        return positions
    rng = np.random.default_rng([seed, len(positions)])
    return np.sort(positions[rng.choice(len(positions), count, replace=False, shuffle=False)])


def _labelled_images(label: LabelArtifact, settings: Distill) -> Int[np.ndarray, " n"]:
    """The images of the triplets that a training reads: validation triplets, and those that it learns from."""
    ids = validation_batch(label.files, settings.valid).image_ids
    if settings.batching == "triplets":
        ids = np.union1d(ids, labelled_batches(label.files, settings.batch_size, 0).image_ids)
    return ids


def _kinds_in_batch(
    cfg: Config, embed: Artifact, ids: Int[np.ndarray, " n"], clusters: Int[np.ndarray, " n"]
) -> tuple[KindInBatch, ...]:
    """The kinds of triplets of `label` with their weights; none where a batch's triplets are any three images."""
    if cfg.distill.batching != "in_batch" or cfg.distill.in_batch_kinds == "any":
        return ()

    kinds = []
    for name, kind in TRIPLET_KINDS.items():
        weight = float(getattr(cfg.label, name))

        # Classes are read where a kind asks for them alone: not every corpus has class folders.
        groups = clusters
        if weight and kind.grouping == "class":
            groups, _ = class_numbers(embed, ids)
        if weight:
            kinds.append(KindInBatch(kind.sampler, groups, weight))
    return tuple(kinds)


def make_teacher_job(work: Work, workers: int) -> TeacherJob:
    """The job of a network teacher.

    Args:
        work: its parent is soften: the model of human choices, and the split of objects.
        workers: number of training processes.

    Raises:
        UserError: too few objects, or as `load_backbone`.
    """
    (model,) = work.cfg.embed.model  # the config refuses several
    soften = work.parents["soften"]
    view = load_backbone(model, work.cfg.embed.size).pixel_transform

    # The network trains on pixels, so that images which cannot be read must be found before the processes start.
    folder = images_folder(work.cfg.objects.path, work.cfg.corpus.path)
    images, unreadable = object_images(soften, folder, work.listings, view).readable()
    if unreadable:
        work.warn(f"{len(unreadable):,} images of annotated objects cannot be read and are left out: {unreadable[0]!r}")

    return TeacherJob(
        settings=work.cfg.align.network,
        model=model,
        size=work.cfg.embed.size,
        seed=work.cfg.seed,
        out=work.out,
        human=human_model(soften, work.cfg.soften.num_samples, work.cfg.seed),
        split=split_images(soften, images.ids),
        images=images,
        threads=threads_per_worker(workers * work.concurrent),
        provenance=_provenance(work, "teacher"),
    )


def threads_per_worker(workers: int) -> int:
    """CPU threads of each of so many training processes: its share of the cores of all machines, taken to be alike."""
    cores = cluster_nodes.cores()
    return max(1, cores // workers)


def _provenance(work: Work, role: str) -> Provenance:
    parents = {name: artifact.id for name, artifact in work.parents.items()}
    return {"role": role, "artifact": work.out.id, "parents": parents}


def _student_validation(work: Work, view: PixelTransform) -> HumanValidation | None:
    """Annotated objects to validate a student on; None without human responses."""
    if "soften" not in work.parents:
        return None
    soften = work.parents["soften"]
    images = object_images(soften, images_folder(work.cfg.objects.path, work.cfg.corpus.path), work.listings, view)
    human = human_model(soften, work.cfg.soften.num_samples, work.cfg.seed)
    return human_validation(soften, human, images, IMAGES_PER_OBJECT)


def _corpus_images(work: Work, embed: Artifact, ids: np.ndarray, view: PixelTransform, threads: int) -> DecodedImages:
    """These images of the corpus, decoded whenever they are read."""
    # Piece by piece, so that paths of other images never lie in memory. Ids ascend, here and in the table.
    kept: list[pa.RecordBatch] = []
    for block in EmbedArtifact(embed).image_blocks(["image_id", "path", "bytes", "offset"]):
        listed_ids = block["image_id"].to_numpy()
        start, stop = np.searchsorted(ids, [listed_ids[0], listed_ids[-1] + 1])
        kept.append(block.take(pa.array(np.searchsorted(listed_ids, ids[start:stop]))))
    listed = pa.Table.from_batches(kept).combine_chunks()

    offsets = sizes = None
    if pc.max(listed["offset"]).as_py() != NO_OFFSET:
        offsets = listed["offset"].to_numpy()
        sizes = listed["bytes"].to_numpy()
    paths = listed["path"].combine_chunks()
    return DecodedImages(str(work.cfg.corpus.path), ids, paths, view, threads, offsets, sizes)


def _packed(
    decoder: DecodedImages, embed: Artifact, cache: Path, pack: Callable[[CacheWriter], None] | None
) -> CachedImages:
    """All images decoded and resized once into a file, which is made here, or on each machine, if it is not there."""
    ids_hash = hashlib.sha256(decoder.ids.tobytes()).hexdigest()
    # The name hashes all that decides the pixels, so that student, control and later runs share one file.
    target = cache / f"pixels-{digest([embed.id, decoder.transform.data_config, ids_hash])}.u8"
    if pack is None:
        return CachedImages(target, decoder.ids, decoder.transform.size, source=decoder)
    if not target.exists():
        # Each task decodes its range in one thread, as Ray runs a task for every core.
        pack_once(target, replace(decoder, threads=1), pack)
    return CachedImages(target, decoder.ids, decoder.transform.size)
