"""A teacher beyond affine: the network itself is fine-tuned on people's soft choices. No Ray in it.

What it says of an image is what people said of the judged images nearest to it (models/kernel_head.py). Every step
looks at one image each of some training objects, lets each be described by the *others*, as a new object will be, and
compares all triplets among them with the model of human choices, which says how probable each pair is, whoever was
asked. The loop is that of `models.training`: this loss and the same on normalised `pre_logits`, pull to the pretrained
weights. Validation objects choose the update that is kept.

Local structure is kept because such a head needs no training: the first gradients bend features that agree with people
already (compare Kumar et al., "Fine-tuning can distort pretrained features", ICLR 2022). And any point on the line
between the pretrained and the fine-tuned weights is a teacher, too (Wortsman et al., "Robust fine-tuning of zero-shot
models", CVPR 2022): the report holds what a few of them bring and keep.

Tried on some 210 training objects without gain (test objects; splits 0 and 1 by plain cosines, at a temperature of .08
and a rate of 2e-4, 55.1 and 55.2 with a linear head trained beside this one, 55.3 and 54.3 without): 160 objects in a
batch (54.6, 53.6), crops to 0.6 (54.2, 55.5), a temperature of .12 (52.6, 54.6) or .03 (53.5, 54.3). As classes weigh
features, twice the learning rate is as good (54.3 against 54.5, three splits) but keeps less of the network's
neighbours (.51 against .59), and validation objects among those that images are compared with change nothing (54.3).
A linear head instead, started as the low-rank map of the features, gave 51.8 (three splits); from a random start, as
plain fine-tuning would be (rates 3e-4 and 1e-3), 50.9 and 52.1 on split 0, 49.6 and 51.0 on split 1. With it nothing
was gained by a running mean of the weights, larger images (at 224 px 49.0), batches of images (52.8 against 53.9),
mixtures of images (50.4), renewed BatchNorm statistics, training and validation objects together (split 0: 51.4 with
277 objects, 53.9 with 214, 50.5 with 107; split 1: 52.9 with 277, 52.6 with 198), Lite1 (51.1) or the mean of Lite0 and
Lite1 (53.5 against 53.1). The mean over four sizes and mirrored images was better (54.5), at eight times the cost.
"""

import copy
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from alignet_ray.config import Config
from alignet_ray.core import scores, similarity, teacher_metrics, triplet_set
from alignet_ray.errors import UserError
from alignet_ray.human.dataset import HELD_OUT_TRIPLETS, human_model, split_images
from alignet_ray.images.cache import Decoder
from alignet_ray.models.backbone import classifier, load_backbone
from alignet_ray.models.kernel_head import KernelHead, class_metric, positions
from alignet_ray.models.student import Output, Student, save_student
from alignet_ray.store import Artifact, Draft
from alignet_ray.training.batches import Batch
from alignet_ray.training.distributed import rank, world
from alignet_ray.training.loop import Recipe, Training
from alignet_ray.training.validation import decoder

METRICS = "metrics.jsonl"
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Points between the pretrained weights and the fine-tuned ones at which the teacher is judged."""

KEYS = 2000
"""Judged images that a look at the validation objects compares with; the finished teacher compares with all."""


@dataclass(frozen=True)
class AnnotatedBatch(Batch):
    """A batch of which people's dimensions are known.

    Attributes:
        dimensions: of the object that each image shows.
    """

    dimensions: Float[Tensor, "n k"]


@dataclass(frozen=True)
class HumanBatches:
    """Batches whose teacher is the model of human choices: its log probabilities are the similarities.

    Attributes:
        ids: image ids that may be drawn.
        images: positions in `ids` of every object's images.
        human: the model of human choices, for these objects in this order.
        batch: objects a step, one random image each.
        most: triplets a step, drawn at random if there are more.
    """

    ids: Int64[np.ndarray, " n"]
    images: tuple[Int64[np.ndarray, " _"], ...]
    human: triplet_set.HumanModel
    batch: int
    seed: int
    most: int = 16_384

    def __call__(self, step: int) -> AnnotatedBatch:
        """The batch of a step: distinct objects, all of them equally often."""
        rng = np.random.default_rng([self.seed, step])
        drawn = rng.permutation(len(self.images))[: self.batch]
        rows = np.array([rng.choice(self.images[o]) for o in drawn])
        triplets = scores.all_triplets(len(drawn), self.most, int(rng.integers(2**31)))
        few = triplet_set.HumanModel(self.human.mu[drawn], self.human.sigma[drawn], min(self.human.draws, 10), step)
        dimensions = torch.from_numpy(few.dimensions())
        return AnnotatedBatch(
            self.ids[rows], torch.from_numpy(triplets), log_choices(few.probabilities(triplets)), dimensions
        )


def log_choices(p: Float32[np.ndarray, "t 3"]) -> Float[Tensor, "t 3"]:
    """Probabilities as logits at temperature 1: their softmax is p again."""
    return torch.from_numpy(p).clamp_min(1e-6).log()


@dataclass(frozen=True)
class TeacherJob:
    """What every training process gets.

    Attributes:
        out: where the teacher goes.
        split: per side, object -> positions of its images in `images.ids`.
        provenance: what model.json says of its origin.
    """

    cfg: Config
    out: Draft
    human: triplet_set.HumanModel
    split: dict[str, dict[int, Int64[np.ndarray, " _"]]]
    images: Decoder
    threads: int
    provenance: dict[str, Any]

    def batches(self, side: str, batch: int, seed: int) -> HumanBatches:
        """Batches of one side of the split."""
        members = self.split[side]
        objects = np.array(list(members))
        human = triplet_set.HumanModel(self.human.mu[objects], self.human.sigma[objects], self.human.draws, seed)
        return HumanBatches(self.images.ids, tuple(members.values()), human, min(batch, len(objects)), seed)

    def side(self, name: str) -> triplet_set.TripletSet:
        """All triplets of one side of the split, with people's probabilities."""
        return triplet_set.soft_targets(list(self.split[name]), self.split[name], self.human, HELD_OUT_TRIPLETS)


def make_teacher_job(cfg: Config, out: Draft, soften: Artifact, workers: int) -> TeacherJob:
    """The inputs of a run's processes.

    Args:
        cfg: names one teacher network (embed.model).
        out: where the teacher goes.
        soften: the model of human choices, and the split.
        workers: number of processes on this machine; the batch is split evenly among them.

    Raises:
        UserError: several teachers, too few objects, or as `load_backbone`.
    """
    if len(cfg.embed.model) != 1:
        raise UserError("align.map network fine-tunes one network: give one embed.model, not several")
    images = decoder(cfg, soften, load_backbone(cfg.embed.model[0], cfg.embed.size).view)
    split = split_images(soften, images.ids)
    provenance = {"role": "teacher", "artifact": out.id, "parents": {"soften": soften.id}}
    threads = max(1, (os.cpu_count() or 1) // workers)
    human = human_model(soften, cfg.soften.num_samples, cfg.seed)
    return TeacherJob(cfg, out, human, split, images, threads, provenance)


def recipe(cfg: Config) -> Recipe:
    """The loop's recipe."""
    n = cfg.align.network
    return Recipe(
        steps=n.steps,
        lr=n.lr,
        warmup=round(0.1 * n.steps),
        objective="kld",
        tau=1.0,  # people's dimensions have their own scale
        embedding_loss_weight=n.embedding_loss_weight,
        similarity_spread=n.similarity_spread,
        locality=n.locality,
        decay_to_init=n.decay_to_init,
        grad_clip=1.0,
        crop=n.crop,
        seed=cfg.seed,
    )


class TeacherTraining(Training):
    """The loop, in which every image of a batch is described by what people said of the others.

    Attributes:
        neighbours: how (its own images do not matter here); set before training.
    """

    neighbours: KernelHead

    def judged(self, output: Output, batch: Batch) -> tuple[Tensor, Tensor]:
        """People's dimensions of the images, and embeddings of length 1."""
        assert isinstance(batch, AnnotatedBatch)
        described = self.neighbours.among(output.embedding, batch.dimensions.to(self.device))
        return described, nn.functional.normalize(output.embedding, dim=-1)


class TeacherWorker:
    """One training process. All of them see the same held-out figures, so all of them agree on the best update."""

    def __init__(self, job: TeacherJob, device: str, report: Callable[[dict[str, Any]], None]) -> None:
        torch.set_num_threads(job.threads)
        self.job, self.report = job, report
        backbone = load_backbone(job.cfg.embed.model[0], job.cfg.embed.size, job.cfg.seed).requires_grad_(True)
        self.training = TeacherTraining(Student(backbone, None), recipe(job.cfg), device)
        self.valid = job.side("validation")
        self.every = np.arange(len(job.images.ids))
        self.before = self.features(self.every)
        self.rows = np.concatenate(list(job.split["train"].values()))
        self.head = self.make_head()
        self.training.neighbours = copy.deepcopy(self.head).to(device)
        self.some = np.sort(np.random.default_rng(job.cfg.seed).permutation(len(self.rows))[:KEYS])
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] = {}

    def make_head(self) -> KernelHead:
        """What describes images by the training objects' images as the network sees them before training."""
        job, network = self.job, self.job.cfg.align.network
        members = job.split["train"]
        objects = np.repeat(list(members), [len(rows) for rows in members.values()])
        z, values = self.before[self.rows], torch.from_numpy(job.human.dimensions()[objects])
        weights = classifier(job.cfg.embed.model[0], z.shape[1]) if network.metric == "classes" else None
        head = KernelHead.of(z, objects, values, None if weights is None else class_metric(weights))
        if network.temperature is None:
            own = dict(zip(members, positions(list(members.values())), strict=True))
            side = triplet_set.soft_targets(list(own), own, job.human, HELD_OUT_TRIPLETS)
            head.choose_temperature(objects, lambda y: triplet_set.score(y, side, draws=2).cross_entropy)
        else:
            head.temperature = torch.tensor(network.temperature)
        return head

    def train(self) -> None:
        """The loop; then the first process writes the best teacher and what it brought."""
        batch = self.job.cfg.align.network.batch_size
        share = world()
        batch = min(batch, len(self.job.split["train"])) // share * share
        if batch < 3:
            raise UserError(f"align.network.batch_size: {batch} objects a step; at least 3 are needed")
        batches = self.job.batches("train", batch, self.job.cfg.seed)
        self.training.calibrate(batches, self.job.images)
        self.look({})
        self.training.run(batches, self.job.images, self.after)
        self.training.student.load_state_dict(self.best["model"])
        if rank() == 0:
            trade = self.trade() if self.best["row"]["step"] else []
            self.write(self.features(self.every), trade)
        self.report({"step": self.training.recipe.steps})

    def trade(self) -> list[dict[str, float]]:
        """What points on the line from the pretrained weights to the best ones bring; the weights are then `blend`."""
        best, rows = [p.detach().clone() for p in self.training.parameters], []
        for share in SHARES:
            self.go(best, share)
            z = self.features(self.every)
            found = triplet_set.score(self.head.renew(z[self.rows])(z), self.valid)
            features = triplet_set.score(torch.from_numpy(similarity.unit_rows(z.numpy())), self.valid)
            kept = teacher_metrics.overlap(self.before.numpy(), z.numpy())
            rows.append({"share": share, "accuracy": found.accuracy, "features": features.accuracy, "kept": kept})
        self.go(best, self.job.cfg.align.network.interpolation)
        return rows

    @torch.no_grad()
    def go(self, best: list[Tensor], share: float) -> None:
        """Put the weights on the line from the pretrained ones (0) to the best (1)."""
        for p, first, last in zip(self.training.parameters, self.training.initial, best, strict=True):
            p.copy_(torch.lerp(first, last, share))

    def after(self, training: Training, figures: dict[str, float]) -> None:
        """Every few updates: look at the validation objects, and keep the best weights."""
        if training.step % self.job.cfg.align.network.every == 0 or training.step == training.recipe.steps:
            self.look({k: figures[k] for k in ("loss", "agreement", "lr")})

    def look(self, row: dict[str, float]) -> None:
        """Judge the teacher on the validation objects, described by some of the training objects' images."""
        shown = self.rows[self.some]
        z = self.features(np.union1d(shown, self.valid.rows.numpy()))
        head = self.head.pick(self.some).renew(z[shown])
        found = triplet_set.score(head(z), self.valid, draws=2)
        row = {"step": float(self.training.step)} | row
        row |= {"accuracy": found.accuracy, "cross_entropy": found.cross_entropy}
        self.history.append(row)
        if not self.best or found.cross_entropy < self.best["row"]["cross_entropy"]:
            self.best = {"row": row, "model": copy.deepcopy(self.training.student.state_dict())}
        if rank() == 0:
            text = "".join(json.dumps(r) + "\n" for r in self.history)
            self.job.out.write_bytes(METRICS, text.encode())
        self.report(row if rank() == 0 else {})

    @torch.no_grad()
    def features(self, rows: Int64[np.ndarray, " n"]) -> Float[Tensor, "a d"]:
        """pre_logits of images at these positions; zero rows for all others."""
        ids = self.job.images.ids
        z = self.training.outputs(Batch(ids[rows], _NONE, _NO_S), self.job.images).embedding.cpu()
        whole = torch.zeros(len(ids), z.shape[1])
        whole[torch.from_numpy(rows)] = z
        return whole

    def write(self, z: Float[Tensor, "a d"], trade: list[dict[str, float]]) -> None:
        """The teacher's folder, and how it agrees with people beside the network that it was."""
        student, head = self.training.student, self.head.renew(z[self.rows])
        base, features = self.before.numpy(), z.numpy()
        report: dict[str, Any] = {"map": "network", "step": self.best["row"]["step"], "history": self.history}
        report["trade"] = trade
        report |= {"temperature": float(head.temperature), "metric": "plain" if head.metric is None else "classes"}
        aligned = head(z).numpy()
        spaces = {
            "base": similarity.unit_rows(base),
            "features": similarity.unit_rows(features),
            "aligned": aligned,
        }
        for split in ("validation", "test"):
            report |= teacher_metrics.report(split, spaces, self.job.side(split), self.job.cfg.seed)
        report["neighbours_kept"] = teacher_metrics.overlap(base, features)
        report["aligned_neighbours_kept"] = teacher_metrics.overlap(base, aligned)
        with tempfile.TemporaryDirectory() as folder:
            save_student(Path(folder), Student(student.backbone, head, student.tau), self.job.provenance)
            for file in sorted(Path(folder).iterdir()):
                self.job.out.write_bytes(file.name, file.read_bytes())
        self.job.out.write_json("report.json", report)


_NONE = torch.empty(0, 3, dtype=torch.int64)
_NO_S = torch.empty(0, 3)
