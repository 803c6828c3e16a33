"""One process of a training run: from a job to the student's folder, with checkpoints and metrics. No Ray in it."""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import torch

from alignet_ray.config import Config
from alignet_ray.data.embeddings import TeacherFeatures
from alignet_ray.images.cache import Decoder, Pack, Packed
from alignet_ray.models.backbone import load_backbone
from alignet_ray.models.student import make_student, save_student
from alignet_ray.store import Artifact, Draft, digest
from alignet_ray.training import checkpoints
from alignet_ray.training.batches import Batches, InBatch, by_cluster, held_out, labelled, repeat
from alignet_ray.training.distributed import rank
from alignet_ray.training.loop import Recipe, Training
from alignet_ray.training.validation import HumanValidation, human_validation


@dataclass(frozen=True)
class StudentJob:
    """What every training process gets: small, since the arrays lie in files that all of them map.

    Attributes:
        seen: image ids that training may see, ascending.
        scale: factor of the teacher's dot products.
        human_validation: judged objects to watch the student by; None where nobody judged.
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
    human_validation: HumanValidation | None
    provenance: dict[str, Any]

    def batches(self) -> Batches:
        """A batch for every step, the same in every process."""
        distill = self.cfg.distill
        if distill.batching == "triplets":
            return labelled(self.label, distill.batch_size, self.cfg.seed)
        matrix = self.teacher.matrix()
        return InBatch(
            ids=self.seen,
            teacher=matrix.features,
            rows=matrix.rows(self.seen),
            batch=distill.batch_size,
            seed=self.cfg.seed,
            scale=self.scale,
            most=distill.in_batch_triplets,
            groups=by_cluster(self.clusters) if distill.per_cluster else None,
            per_group=distill.per_cluster,
        )


def make_student_job(
    cfg: Config,
    role: str,
    out: Draft,
    parents: Mapping[str, Artifact],
    cache: Path,
    workers: int,
    pack: Callable[[Pack], None],
) -> StudentJob:
    """The inputs of a run's processes.

    Args:
        role: `student` or `control`, whose teacher is the unaligned one.
        out: where checkpoints and the student go.
        parents: by node name: label, embed, align, cluster; and soften, where people judged.
        cache: local folder for packed images and the teacher's matrix, which student and control share.
        workers: number of processes on this machine.
        pack: fills a pack of images.
    """
    label, embed = (next(a for n, a in parents.items() if n.startswith(f"{s}@")) for s in ("label", "embed"))
    clusters = parents["cluster"].read_parts().sort_by("image_id")
    ids = clusters["image_id"].to_numpy()
    seen = ~np.isin(ids, label.read_table("held_out.parquet")["image_id"].to_numpy())
    threads = max(1, (os.cpu_count() or 1) // workers)
    return StudentJob(
        cfg=cfg,
        out=out,
        label=label,
        teacher=TeacherFeatures(embed, parents["align"], cache, raw=role == "control"),
        scale=float(label.read_json("stats.json")["scale"]),
        seen=ids[seen],
        clusters=clusters["cluster"].to_numpy()[seen],
        images=_images(cfg, embed, ids, cache, threads, pack),
        threads=threads,
        human_validation=human_validation(cfg, parents["soften"]) if "soften" in parents else None,
        provenance={"role": role, "artifact": out.id, "parents": {n: a.id for n, a in parents.items()}},
    )


def _images(
    cfg: Config, embed: Artifact, ids: np.ndarray, cache: Path, threads: int, pack: Callable[[Pack], None]
) -> Packed | Decoder:
    """Where pixels come from: a file that is packed here if it is not there yet, or the images themselves."""
    view = load_backbone(cfg.distill.model, cfg.distill.size, squash=cfg.distill.squash).view
    listed = embed.read_table("images.parquet", ["image_id", "path"]).sort_by("image_id")
    paths = listed["path"].take(pa.array(np.searchsorted(listed["image_id"].to_numpy(), ids))).to_pylist()
    decoder = Decoder(str(cfg.corpus.path), ids, tuple(paths), view, threads)
    if not cfg.distill.cache_pixels:
        return decoder
    target = cache / f"pixels-{digest([embed.id, view.data, hashlib.sha256(ids.tobytes()).hexdigest()])}.u8"
    if not target.exists():
        new = Pack.begin(target, replace(decoder, threads=1))
        pack(new)
        new.finish()
    return Packed(target, ids, view.size)


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
        embedding_loss_weight=d.embedding_loss_weight,
        similarity_spread=d.similarity_spread,
        locality=d.locality,
        hard_fraction=d.hard_fraction,
        decay_to_init=d.decay_to_init,
        l2_to_init=d.l2_to_init,
        layer_decay=d.layer_decay,
        grad_clip=d.grad_clip,
        ema_decay=d.ema,
        frozen_norm=d.batch_norm == "frozen",
        trainable=d.trainable,
        crop=d.crop,
        micro_batch=d.micro_batch,
        bfloat16=d.bfloat16,
        seed=cfg.seed,
    )


def memory(device: str) -> float:
    """GB that this process takes: on its GPU at most so far, or of the machine's memory now."""
    used: int = torch.cuda.max_memory_allocated() if device != "cpu" else psutil.Process().memory_info().rss
    return used / 1e9


class StudentWorker:
    """One training process: builds the student, goes on from the newest checkpoint, and keeps what the loop finds.

    `report` is called with a dictionary, equally often in all processes: first the process id, then metrics (empty
    but in the first process), then the last step.
    """

    def __init__(self, job: StudentJob, device: str, report: Callable[[dict[str, Any]], None]) -> None:
        torch.set_num_threads(job.threads)
        d = job.cfg.distill
        student = make_student(d.model, d.size, d.head, job.cfg.seed, d.squash)
        self.job, self.training = job, Training(student, recipe(job.cfg), device, d.compile)
        self.notes = checkpoints.resume(job.out, self.training)
        self.valid = held_out(job.label, d.valid)
        self.is_first = rank() == 0
        self.report = report
        self.saved, self.logged = 0.0, time.monotonic()

    def train(self) -> None:
        """The loop, then the student's files."""
        self.report({"pid": os.getpid(), "step": self.training.step})
        batches, images, steps = self.job.batches(), self.job.images, self.training.recipe.steps
        if self.job.cfg.distill.overfit_batch:
            batches = repeat(batches(0))
        if self.training.step == 0:
            self.training.calibrate(batches, images)
            self.log({})
        self.training.run(batches, images, self.after)
        if self.is_first:
            checkpoints.save(self.job.out, self.training, self.notes)
            self.write()
        self.report({"step": steps})

    def after(self, training: Training, figures: dict[str, float]) -> None:
        """After each update: a row of metrics every so often, a checkpoint at once and then every so many seconds."""
        self.notes.recent.append(figures)
        d = self.job.cfg.distill
        if training.step == d.steps or not training.step % d.log_every or not training.step % d.valid_every:
            self.log({k: sum(f[k] for f in self.notes.recent) / len(self.notes.recent) for k in figures})
        due = not self.saved or time.monotonic() - self.saved >= self.job.cfg.distill.checkpoint_every
        if self.is_first and due:
            checkpoints.save(self.job.out, training, self.notes)
            self.saved = time.monotonic()

    def log(self, row: dict[str, float]) -> None:
        """Keep a row of metrics, with held-out figures every so often, and report it with its speed."""
        seconds = time.monotonic() - self.logged
        stall, speed = (row.pop(key, 0.0) * len(self.notes.recent) / seconds for key in ("stall", "images"))
        step = self.training.step
        row = {"step": step, **row}
        if step % self.job.cfg.distill.valid_every == 0 or step == self.training.recipe.steps:
            self.training.swap()
            row |= self.training.validate(self.valid, self.job.images)
            if self.job.human_validation:
                row["human_agreement"] = self.job.human_validation.agreement(self.training)
            self.training.swap()
        self.notes.rows.append(row)
        pace = {"images_per_second": speed, "stall": stall, "memory": memory(self.training.device)}
        self.report({**row, **pace} if self.is_first else {})
        self.notes.recent, self.logged = [], time.monotonic()

    def write(self) -> None:
        """The student's folder and the metrics."""
        with tempfile.TemporaryDirectory() as folder:
            save_student(Path(folder), self.training.result(), self.job.provenance)
            for file in sorted(Path(folder).iterdir()):
                self.job.out.write_bytes(file.name, file.read_bytes())
        rows = "".join(json.dumps(row) + "\n" for row in self.notes.rows)
        self.job.out.write_bytes("metrics.jsonl", rows.encode())
