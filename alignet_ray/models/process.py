"""One process of a training run: from a job to the student's folder, with checkpoints and metrics. No Ray in it."""

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignet_ray.config import Config
from alignet_ray.data.batches import Batches, InBatch, by_cluster, held_out, labelled
from alignet_ray.data.embeddings import Source
from alignet_ray.data.pixels import Decoder, Packed
from alignet_ray.models import checkpoints
from alignet_ray.models.ranks import rank
from alignet_ray.models.student import make_student, save_student
from alignet_ray.models.training import Recipe, Training
from alignet_ray.store import Artifact, Draft


@dataclass(frozen=True)
class Job:
    """What every training process gets: small, since the arrays lie in files that all of them map.

    Attributes:
        seen: image ids that training may see, ascending.
        scale: factor of the teacher's dot products.
    """

    cfg: Config
    out: Draft
    label: Artifact
    teacher: Source
    scale: float
    seen: np.ndarray
    clusters: np.ndarray
    images: Packed | Decoder
    threads: int
    provenance: dict[str, Any]

    def batches(self) -> Batches:
        """A batch for every step, the same in every process."""
        distill = self.cfg.distill
        if distill.batching == "triplets":
            return labelled(self.label, distill.batch, self.cfg.seed)
        matrix = self.teacher.matrix()
        return InBatch(
            ids=self.seen,
            teacher=matrix.x,
            rows=matrix.rows(self.seen),
            batch=distill.batch,
            seed=self.cfg.seed,
            scale=self.scale,
            most=distill.in_batch_triplets,
            groups=by_cluster(self.clusters) if distill.per_cluster else None,
            per_group=distill.per_cluster,
        )


def recipe(cfg: Config) -> Recipe:
    """The loop's recipe."""
    d = cfg.distill
    return Recipe(
        steps=d.steps,
        lr=d.lr,
        warmup=round(d.warmup * d.steps if d.warmup < 1 else d.warmup),
        objective=d.objective,
        tau=None if d.tau == "auto" else d.tau,
        normalize=d.normalize,
        features=d.features,
        decay=d.decay_to_init,
        clip=d.clip,
        mean=d.ema,
        frozen_norm=d.batch_norm == "frozen",
        trainable=d.trainable,
        crop=d.crop,
        micro=d.micro,
        bfloat16=d.bfloat16,
        seed=cfg.seed,
    )


def images_per_step(cfg: Config) -> int:
    """Images that are forwarded in one update."""
    return cfg.distill.batch * (1 if cfg.distill.batching == "in_batch" else 3)


class Process:
    """One training process: builds the student, goes on from the newest checkpoint, and keeps what the loop finds.

    `report` is called with a dictionary, equally often in all processes: first the process id, then metrics (empty
    but in the first process), then the last step.
    """

    def __init__(self, job: Job, device: str, report: Callable[[dict[str, Any]], None]) -> None:
        torch.set_num_threads(job.threads)
        d = job.cfg.distill
        student = make_student(d.model, d.size, d.head, job.cfg.seed)
        self.job, self.training = job, Training(student, recipe(job.cfg), device, d.compile)
        self.history = checkpoints.resume(job.out, self.training)
        self.valid = held_out(job.label, d.valid)
        self.is_first = rank() == 0
        self.report = report
        self.recent: list[dict[str, float]] = []
        self.saved = self.logged = time.monotonic()

    def train(self) -> None:
        """The loop, then the student's files."""
        self.report({"pid": os.getpid(), "step": self.training.step})
        batches, images, steps = self.job.batches(), self.job.images, self.training.recipe.steps
        if self.training.step == 0:
            self.training.calibrate(batches, images)
            self.log({})
        self.training.run(batches, images, self.after)
        if self.is_first:
            checkpoints.save(self.job.out, self.training, self.history)
            self.write()
        self.report({"step": steps})

    def after(self, training: Training, figures: dict[str, float]) -> None:
        """After each update: a row of metrics every so often, a checkpoint every so many seconds."""
        self.recent.append(figures)
        if training.step % self.job.cfg.distill.log_every == 0 or training.step == training.recipe.steps:
            self.log({k: sum(f[k] for f in self.recent) / len(self.recent) for k in figures})
        if self.is_first and time.monotonic() - self.saved >= self.job.cfg.distill.checkpoint_every:
            checkpoints.save(self.job.out, training, self.history)
            self.saved = time.monotonic()

    def log(self, row: dict[str, float]) -> None:
        """Add held-out figures; keep the row, and report it with its speed."""
        seconds = time.monotonic() - self.logged
        stall = row.pop("stall", 0.0) * len(self.recent) / seconds
        speed = len(self.recent) * images_per_step(self.job.cfg) / seconds
        row = {"step": self.training.step, **row, **self.training.validate(self.valid, self.job.images)}
        self.history.append(row)
        self.report({**row, "images_per_second": speed, "stall": stall} if self.is_first else {})
        self.recent, self.logged = [], time.monotonic()

    def write(self) -> None:
        """The student's folder and the metrics."""
        with tempfile.TemporaryDirectory() as folder:
            save_student(Path(folder), self.training.result(), self.job.provenance)
            for file in sorted(Path(folder).iterdir()):
                self.job.out.write_bytes(file.name, file.read_bytes())
        rows = "".join(json.dumps(row) + "\n" for row in self.history)
        self.job.out.write_bytes("metrics.jsonl", rows.encode())
