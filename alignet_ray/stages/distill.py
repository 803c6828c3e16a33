"""distill: train the student (or the control) to judge similarity as the teacher does, through Ray Train.

The loop itself is `training/loop.py` and each process `training/student_worker.py`, in plain PyTorch. Here stand the
stage's inputs, its processes, and what a person sees meanwhile.
"""

import os
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import ray

from alignet_ray import cluster_nodes, runtime
from alignet_ray.artifacts.distill import DistillArtifact
from alignet_ray.config import Config, Distill
from alignet_ray.errors import UserError
from alignet_ray.models.model_spec import ModelSpec
from alignet_ray.screen import Progress
from alignet_ray.stages import Work
from alignet_ray.stages.ray_train import DISK_ERRORS, MetricsRow, Reports, disk_problem, run_training
from alignet_ray.stages.small_work import stays_here
from alignet_ray.store import JsonObject

if TYPE_CHECKING:
    from ray.train import ScalingConfig

    from alignet_ray.images.cache import CacheWriter

VERSION = 7

PACKED_AT_ONCE = 32
"""Images that this process packs before it asks itself whether tasks would do the rest sooner."""

SHOWN_STALL = 0.05
"""Share of the time above which the progress line says that training waits for images."""


@dataclass
class DistillFacts:
    """What artifact.json says of a training.

    Attributes:
        steps: updates.
        images: images of the corpus that training draws from.
        resumed: updates that an interrupted run had done; 0 for a run from the beginning.
        processes: process ids of the training processes.
        figures: the last value of every metric by name.
    """

    steps: int
    images: int
    resumed: int
    processes: list[int] = field(default_factory=list)
    figures: MetricsRow = field(default_factory=dict)


def inputs(cfg: Config, role: str) -> JsonObject:
    """Config fields that change the student."""
    # A checkpoint's folder does not change the student; its content has a fingerprint among the sources.
    fields = cfg.distill.result_fields()
    fields["model"] = ModelSpec.parse(cfg.distill.model).identity
    fields["seed"] = cfg.seed
    return fields


def sources(cfg: Config, role: str) -> list[str]:
    """The images, and the student's weights where they are files."""
    files = []
    if cfg.corpus.path:
        files.append(cfg.corpus.path)
    return files + ModelSpec.parse(cfg.distill.model).local_files


def estimate(cfg: Config, role: str, sources: list[Any]) -> str:
    """Size, for `plan`."""
    return f"{cfg.distill.steps * cfg.distill.images_per_step:,} image passes"


def refuse(cfg: Config, role: str) -> None:
    """Refuse an unknown model, a size that it cannot take, and triplets that nothing would learn from, at the start."""
    from alignet_ray.models.backbone import check_model, may_have_classifier

    if cfg.label.from_ and cfg.distill.batching == "in_batch":
        raise UserError(
            "--label.from gives labelled triplets, but in_batch training labels the triplets of its own batches: add "
            "--distill.batching triplets to learn from the file"
        )
    if cfg.distill.in_batch_kinds == "label" and cfg.distill.batching == "triplets":
        raise UserError("--distill.in-batch-kinds does nothing with --distill.batching triplets: leave one of them out")
    check_model(cfg.distill.model, cfg.distill.size)
    if cfg.distill.class_retention and not may_have_classifier(cfg.distill.model):
        from alignet_ray.training.student_worker import no_classifier

        raise UserError(no_classifier(cfg.distill.model))


def run(work: Work) -> None:
    """Train the student in Ray Train's processes, and show and keep what they report."""
    from alignet_ray.images.cache import CachedImages
    from alignet_ray.stages.training_jobs import make_student_job

    settings = work.cfg.distill
    workers = worker_count(settings)
    cache = runtime.cache_dir(work.cfg)
    pack = None
    if cluster_nodes.nodes_share(cache):
        pack = partial(_pack_images, work)
    job = make_student_job(work, cache, workers, pack)
    if pack is None and isinstance(job.images, CachedImages):
        work.screen.line("   each machine packs the images into a cache of its own, before its first update")
    facts = DistillFacts(settings.steps, len(job.image_ids), _first_step(work))
    work.facts = facts
    last = _train(work, facts, job, workers)

    # The file also has what a killed run reported before this one went on.
    for row in DistillArtifact(work.out).metrics():
        facts.figures |= row
    facts.figures |= last
    _tell_interpolation(work, facts)
    _warn_if_nothing_learned(work, facts.figures)
    del facts.figures["step"]


def worker_count(settings: Distill) -> int:
    """Largest number of training processes.

    Raises:
        UserError: more processes than images, or fewer than the settings ask for.
    """
    # Without GPUs two processes use a small machine's cores best (jobs/README.md).
    default = min(2, settings.batch_size)
    # A process a GPU, unless the user says otherwise.
    workers = settings.workers or cluster_nodes.cluster_resources().gpus or default
    fewest = settings.min_workers or workers
    if fewest > workers:
        raise UserError(
            f"--distill.min-workers {fewest} is more than the {workers} training processes: use {workers} or less"
        )
    if workers > settings.batch_size:
        raise UserError(
            f"--distill.batch-size {settings.batch_size} is less than one for each of the {workers} training "
            f"processes: use --distill.workers {settings.batch_size} or less"
        )
    if settings.gpus_per_worker < 1 and workers > 1:
        raise UserError(
            f"--distill.gpus-per-worker {settings.gpus_per_worker:g} with {workers} training processes: two of them on "
            "one GPU cannot exchange gradients (NCCL); a share of a GPU is for --distill.workers 1"
        )
    return workers


def _first_step(work: Work) -> int:
    """Updates that an interrupted run has done already; training goes on from there."""
    from alignet_ray.training import checkpoints

    checkpoint = checkpoints.latest(work.out)
    if checkpoint is None:
        return 0
    work.screen.line(f"   resumed from {checkpoint}")
    return checkpoints.step_of(checkpoint)


def _pack_images(work: Work, writer: "CacheWriter") -> None:
    """Decode and resize all images: first here; once the rest would take longer than starting processes, in tasks."""
    total = len(writer.images.ids)
    with work.screen.progress(total, "images packed") as bar:
        packed = 0
        # Nothing is begun here only where the user sends all work to Ray (`ray.force`).
        if stays_here(work.cfg, 0):
            packed = _pack_here(work, writer, bar)
        if packed < total:
            _pack_in_tasks(work, writer, packed, bar)


def _pack_here(work: Work, writer: "CacheWriter", bar: Progress) -> int:
    """Pack images in this process until the rest would take too long; returns how many it has packed."""
    total = len(writer.images.ids)
    for start in range(0, total, PACKED_AT_ONCE):
        stop = min(start + PACKED_AT_ONCE, total)
        begun = time.perf_counter()
        bar.add(writer.write(start, stop))
        seconds = time.perf_counter() - begun
        seconds_left = seconds / (stop - start) * (total - stop)

        # The first images wait for the decoders to be imported, which says nothing about the others.
        is_first = start == 0
        if not is_first and not stays_here(work.cfg, seconds_left):
            return stop
    return total


def _pack_in_tasks(work: Work, writer: "CacheWriter", packed: int, bar: Progress) -> None:
    """Pack the images from this one on, a range of them in each Ray task."""
    # Ranges small enough to keep every core busy to the end, large enough to be worth a task.
    total = len(writer.images.ids)
    size = max(16, min(4096, (total - packed) // 16))
    shared = ray.put(writer)
    task = ray.remote(scheduling_strategy="SPREAD")(_pack_range)  # not inside a trial's own CPU
    pending = []
    for start in range(packed, total, size):
        stop = min(start + size, total)
        named = task.options(name=f"{work.node.name}: pack images {start} to {stop - 1}")
        pending.append(named.remote(shared, start, stop))
    while pending:
        done, pending = ray.wait(pending)
        bar.add(sum(ray.get(done)))


def _pack_range(writer: "CacheWriter", start: int, stop: int) -> int:
    return writer.write(start, stop)


def _train(work: Work, facts: DistillFacts, job: Any, workers: int) -> MetricsRow:
    """Train, with a progress line and rows for the tracking server; returns the last row of metrics.

    Args:
        work: the stage's work.
        facts: `resumed` says where progress begins; `processes` is set as soon as they are known.
        job: what the processes get.
        workers: the largest number of them.

    Raises:
        UserError: what a process said that the user can fix, or a disk that cannot be written.
    """
    from alignet_ray.training.student_worker import StudentWorker

    settings = work.cfg.distill
    images = work.cfg.distill.images_per_step
    last: MetricsRow = {}
    with work.screen.progress(settings.steps * images, "images", facts.resumed * images) as bar:

        def show(reports: Reports) -> None:
            main = reports[0]
            if main.pid is not None:
                facts.processes = [report.pid for report in reports if report.pid is not None]
            # Only the main process measures; the progress line keeps the last validation between two of them.
            if "images_per_second" in main.metrics:
                last.update(main.metrics)
                bar.add(int(last["step"]) * images - bar.done, _progress_note(last))
                work.tracker.log_curve(_curves(main.metrics), int(last["step"]))

        # Workers raise inside Ray, so an error of the disk arrives as text.
        try:
            run_training(work, StudentWorker, job, _scaling(settings, workers), show, settings.max_failures)
        except UserError:
            raise
        except Exception as failure:
            explanation = _explain_failure(work, failure)
            if explanation is None:
                raise
            raise explanation from failure
    return last


def _curves(row: MetricsRow) -> dict[str, float]:
    """What the tracking server gets of a row of metrics."""
    left_out = {"step"}
    # Before the first step there is no speed; its zero would stand at the beginning of a curve.
    if not row["step"]:
        left_out |= {"images_per_second", "stall"}
    return {name: value for name, value in row.items() if name not in left_out}


def _scaling(settings: Distill, workers: int) -> "ScalingConfig":
    """Processes and their resources; a range of processes where fewer may go on."""
    from ray.train import ScalingConfig

    # The processes decode images in threads of their own, which need no slots: Ray only counts, it does not limit.
    use_gpu = cluster_nodes.cluster_resources().gpus > 0
    resources = {"CPU": 1.0}
    if use_gpu:
        resources["GPU"] = settings.gpus_per_worker

    number: int | tuple[int, int] = workers
    if settings.min_workers and settings.min_workers < workers:
        number = (settings.min_workers, workers)
    return ScalingConfig(num_workers=number, use_gpu=use_gpu, resources_per_worker=resources)  # type: ignore[arg-type]


def _explain_failure(work: Work, failure: BaseException) -> UserError | None:
    """What the user can fix about a lost run; None if that is nothing."""
    text = str(failure)
    for number in DISK_ERRORS:
        if os.strerror(number) in text:
            return UserError(disk_problem(number, work.out.uri))
    return None


def _progress_note(row: MetricsRow) -> str:
    """A row of metrics in words, for the progress line."""
    # A row holds what was due at its step: training figures, validation, or both.
    notes = []
    if "loss" in row:
        notes.append(f"loss {row['loss']:.4f}, agreement {row['agreement']:.1%}")
    if "valid_loss" in row:
        notes.append(f"held out {row['valid_loss']:.4f}, {row['valid_agreement']:.1%}")
    if "human_agreement" in row:
        notes.append(f"people {row['human_agreement']:.1%}")
    if "lr" in row:
        notes.append(f"lr {row['lr']:.1e}")
    notes.append(f"{row['memory']:.1f} GB")
    if row["stall"] > SHOWN_STALL:
        notes.append(f"waits for images {row['stall']:.0%}")
    return ", ".join(notes)


def _tell_interpolation(work: Work, facts: DistillFacts) -> None:
    """Say where the student is between its pretrained weights and its trained ones."""
    interpolation = DistillArtifact(work.out).interpolation()
    facts.figures["interpolation"] = interpolation.chosen
    if interpolation.chosen < 1:
        work.screen.line(f"   drawn back to {interpolation.chosen:.0%} of the way: {interpolation.reason}")


def _warn_if_nothing_learned(work: Work, figures: MetricsRow) -> None:
    """Warn of a student at chance, or of a collapsed head."""
    # Three pairs to choose from: chance is 1/3, and a little above it is no learning either.
    if figures["valid_agreement"] < 0.36:
        work.warn(
            "on held-out images the student agrees with the teacher no more than chance (1/3): raise --distill.lr or "
            "--distill.steps, and look at the teacher's own score"
        )
    if figures["valid_rank"] < 1.5 or figures.get("all_equal", 0.0) > 0.5:
        work.warn("the head's outputs collapsed to one direction: lower --distill.lr or raise --distill.decay-to-init")
