"""One process of a student's training: from a job to the student's folder, with checkpoints and metrics (no Ray)."""

import os
import time
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from jaxtyping import Int, Int64

from alignet_ray.artifacts.distill import DistillArtifact, Interpolation
from alignet_ray.artifacts.student_files import Provenance
from alignet_ray.config import Distill
from alignet_ray.data.embeddings import TeacherFeatures
from alignet_ray.errors import UserError
from alignet_ray.evals import retention
from alignet_ray.images.cache import CachedImages, DecodedImages
from alignet_ray.models.backbone import Classifier, classifier
from alignet_ray.models.embedding_network import make_network
from alignet_ray.store import Artifact, Draft
from alignet_ray.training import checkpoints
from alignet_ray.training.batches import (
    Batches,
    InBatchTriplets,
    KindInBatch,
    cluster_members,
    labelled_batches,
    validation_batch,
)
from alignet_ray.training.circumstances import ORDINARY, Circumstances, take_notices
from alignet_ray.training.distributed import is_main_process
from alignet_ray.training.interpolation import StudentInterpolation
from alignet_ray.training.loop import Report, Training
from alignet_ray.training.outputs import write_network
from alignet_ray.training.recipe import student_recipe
from alignet_ray.training.validation import HumanValidation


@dataclass(frozen=True)
class StudentJob:
    """What every training process gets: small, because arrays lie in files that all processes map.

    Attributes:
        settings: the config section.
        seed: of weights, batches and augmentation.
        out: where checkpoints and the student go.
        label: labelled triplets for training and validation.
        teacher: the teacher's embeddings.
        scale: factor of the teacher's dot products.
        image_ids: images that training may see, ascending.
        clusters: the cluster of each of them.
        kinds: kinds of triplets within a batch; none: any three images.
        images: pixels of all images.
        threads: CPU threads of each process.
        human_validation: annotated objects to validate the student on; None without human responses.
        interpolation_objects: the same objects with several images each, to choose `distill.interpolation` on.
        provenance: what model.json says of the student's origin.
    """

    settings: Distill
    seed: int
    out: Draft
    label: Artifact
    teacher: TeacherFeatures
    scale: float
    image_ids: Int64[np.ndarray, " n"]
    clusters: Int[np.ndarray, " n"]
    kinds: tuple[KindInBatch, ...]
    images: CachedImages | DecodedImages
    threads: int
    human_validation: HumanValidation | None
    interpolation_objects: HumanValidation | None
    provenance: Provenance

    def batches(self) -> Batches:
        """The batch of every step, the same in every process."""
        settings = self.settings
        if settings.batching == "triplets":
            return labelled_batches(self.label, settings.batch_size, self.seed)

        # Triplets within a batch are labelled as they are drawn, for which the teacher's features are at hand.
        matrix = self.teacher.matrix()
        clusters = None
        if settings.per_cluster:
            clusters = cluster_members(self.clusters)

        return InBatchTriplets(
            image_ids=self.image_ids,
            teacher=matrix.features,
            teacher_rows=matrix.rows(self.image_ids),
            batch_size=settings.batch_size,
            seed=self.seed,
            scale=self.scale,
            max_triplets=settings.in_batch_triplets,
            clusters=clusters,
            images_per_cluster=settings.per_cluster,
            kinds=self.kinds,
        )


class StudentWorker:
    """One training process: builds the student, resumes from the newest checkpoint, logs, validates and saves.

    `report` is called with a dictionary, equally often in all processes: first the process id, then metrics (empty
    except in the main process), then the last step.
    """

    def __init__(self, job: StudentJob, device: str, report: Report, circumstances: Circumstances = ORDINARY) -> None:
        torch.set_num_threads(min(job.threads, os.cpu_count() or 1))
        settings = job.settings
        student = make_network(settings.model, settings.size, settings.head, job.seed, settings.squash)
        self.job = job
        self.report = report

        class_layer = None
        if settings.class_retention:
            class_layer = _classifier(settings.model, student.backbone.width)

        # The student is built as for step 0 even where a checkpoint follows: the decay aims at these initial weights.
        recipe = student_recipe(settings, job.seed)
        self.training = Training(student, recipe, device, settings.compile, class_layer)
        self.training.change(circumstances.micro_batch, circumstances.compile)
        self.circumstances = circumstances
        self.checkpoints = checkpoints.CheckpointWriter(job.out)
        self.metrics = checkpoints.resume(job.out, self.training)
        self.validation = validation_batch(job.label, settings.valid)
        self.last_log = time.monotonic()
        self.last_checkpoint: float | None = None

    def train(self) -> None:
        """Train to the end, then write the student and its metrics."""
        # Before the first update, as all processes wait for each other from then on. Not before training: a machine
        # whose disk is full is alone with that, and what ends `train` of one process is told to all.
        if isinstance(self.job.images, CachedImages):
            self.job.images.require()
        with closing(self.checkpoints):
            self._train()

    def _train(self) -> None:
        self.report({"pid": os.getpid(), "step": self.training.step})
        batches = self.job.batches()

        if self.training.step == 0:
            self.training.calibrate(batches, self.job.images)
            self.log({})
        self.training.run(batches, self.job.images, self.on_update)

        # The last checkpoint lets a run that is killed while it writes the student end without training.
        if is_main_process():
            self.checkpoints.save(self.training, self.metrics)
            self.checkpoints.wait()

        # Every process takes part in choosing the point, one of them writes.
        with self.training.use_ema():
            interpolation = self.interpolate()
            if is_main_process():
                artifact = DistillArtifact(self.job.out)
                write_network(self.job.out, self.training.model.eval(), self.job.provenance)
                artifact.write_interpolation(interpolation)
                artifact.write_metrics(self.metrics.rows)
        self.report({"step": self.training.recipe.steps})

    def interpolate(self) -> Interpolation:
        """Draw the trained student back towards its pretrained weights, as far as the settings say."""
        settings = self.job.settings
        if settings.trainable == "head":
            return Interpolation(1.0, "only the head was trained", [])
        if settings.interpolation == 1:
            return Interpolation(1.0, "as the settings say", [])

        # The student as it was before training is loaded anew: a copy from then on would take memory all the time.
        student = make_network(settings.model, settings.size, settings.head, self.job.seed, settings.squash)
        interpolation = StudentInterpolation(self.training, student.backbone)
        if settings.interpolation != "auto":
            interpolation.move_to(settings.interpolation)
            return Interpolation(settings.interpolation, "as the settings say", [])
        if self.job.interpolation_objects is None:
            interpolation.move_to(retention.SAFE_SHARE)
            return Interpolation(retention.SAFE_SHARE, "cannot tell what more would lose (no annotated objects)", [])
        return interpolation.choose(self.job.interpolation_objects, self.job.seed)

    def on_update(self, training: Training, figures: dict[str, float]) -> None:
        """Log every few updates; save a checkpoint after the first update and then every few seconds."""
        recent = self.metrics.recent
        recent.append(figures)
        if self._is_due(self.job.settings.log_every) or self._is_due(self.job.settings.valid_every):
            means = {}
            for name in figures:
                means[name] = sum(update[name] for update in recent) / len(recent)
            self.log(means)
            # All processes ask at the same update, as they wait for each other's answer.
            if self.circumstances.is_leaving():
                self.last_checkpoint = None

        if is_main_process() and self._checkpoint_is_due():
            self.checkpoints.save(training, self.metrics)
            self.last_checkpoint = time.monotonic()

    def log(self, figures: dict[str, float]) -> None:
        """Keep a row of metrics, with those of validation when it is due, and report it with the current speed."""
        # Speed depends on the machine, so it is reported but no part of the metrics, which are the same after a resume.
        seconds = time.monotonic() - self.last_log
        updates = len(self.metrics.recent)
        stall = figures.pop("stall", 0.0) * updates / seconds
        images_per_second = figures.pop("images", 0.0) * updates / seconds

        row = {"step": self.training.step, **figures}
        if self._is_due(self.job.settings.valid_every):
            row |= self.validate()
        self.metrics.rows.append(row)

        # Ray Train waits until all processes have reported, so the others report as well.
        report: dict[str, float] = {}
        if is_main_process():
            memory = used_memory(self.training.device)
            report = {**row, "images_per_second": images_per_second, "stall": stall, "memory": memory}
        self.report(report | take_notices(self.training))
        self.metrics.recent = []
        self.last_log = time.monotonic()

    def validate(self) -> dict[str, float]:
        """Agreement with the teacher on held-out images, and with people on held-out objects."""
        with self.training.use_ema():
            figures = self.training.validate(self.validation, self.job.images)
            if self.job.human_validation:
                figures["human_agreement"] = self.job.human_validation.agreement(self.training)
        return figures

    def _is_due(self, every: int) -> bool:
        """Whether something is due that happens every few updates, and after the last one."""
        return self.training.step % every == 0 or self.training.step == self.training.recipe.steps

    def _checkpoint_is_due(self) -> bool:
        if self.last_checkpoint is None:
            return True
        seconds = self.job.settings.checkpoint_seconds(on_gpu=self.training.device != "cpu")
        return time.monotonic() - self.last_checkpoint >= seconds


def used_memory(device: str) -> float:
    """Memory of this process in GB: on a GPU the peak so far, in main memory what is used now."""
    if device == "cpu":
        used = psutil.Process().memory_info().rss
    else:
        used = torch.cuda.max_memory_allocated()
    return float(used / 1e9)


def _classifier(model: str, width: int) -> Classifier:
    """The classifier that the student's pretrained weights came with.

    Raises:
        UserError: they came without one.
    """
    found = classifier(model, width)
    if found is None:
        raise UserError(no_classifier(model))
    return found


def no_classifier(model: str) -> str:
    """What to do about weights that come without a classifier."""
    return f"--distill.class-retention keeps classes, but the weights of {model} come without a classifier: set it to 0"
