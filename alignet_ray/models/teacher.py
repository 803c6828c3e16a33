"""A teacher beyond affine: the network itself is fine-tuned on people's soft choices. No Ray in it.

Every step looks at one image each of some training objects and at all triplets among them; the model of human choices
says how probable each pair is, whoever was asked. The loop is that of `models.training`: loss on the triplet head and
on normalised `pre_logits`, pull to the pretrained weights. Validation objects choose the update that is kept.

Two things keep local structure: the head starts as the best low-rank map of the network as it is, so that gradients
need not bend the features before the head says anything (Kumar et al., "Fine-tuning can distort pretrained features",
ICLR 2022); and any point on the line between the pretrained and the fine-tuned weights is a teacher, too (Wortsman et
al., "Robust fine-tuning of zero-shot models", CVPR 2022): the report holds what a few of them bring and keep.

Tried on 214 training objects without gain: larger images, batches of 200, stronger crops, renewed BatchNorm
statistics, a mean of several teachers' weights, and a head that starts as the ridge regression of people's own
dimensions (better than the low-rank map at first, 49 % against 48 on test objects, and no different after 30 updates);
batches of images, so that two of one object meet (52.8 against 53.9), and mixtures of two images whose people's
dimensions are mixed alike (50.4 after as many updates); refitting on training and validation objects together (split
0: 51.4 with 277 objects against 53.9 with 214 and 50.5 with 107; split 1: 52.9 with 277, 52.6 with 198), so more
objects of the kind are not what is missing; Lite1 (51.1) and the mean of Lite0 and Lite1 (53.5 against 53.1 at their
best updates). The mean of what it says at 96, 128, 160 and 224 px and of mirrored images is better (54.5 by the head,
49.5 instead of 47.1 by the features), at eight times the cost. The plain recipe (random head, BatchNorm in training
mode, crops to 0.7, 40 updates at a rate of 3e-4 / 1e-3) gives 50.9 / 52.1 on split 0 and 49.6 / 51.0 on split 1, where
this one gives 53.1 and 52.2; with the validation objects to learn from as well 51.2 / 51.9 and 51.5 / 52.9, at 224 px
49.0.
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
from torch import Tensor

from alignet_ray.config import Config
from alignet_ray.core import alignment, fidelity, scores, sides
from alignet_ray.data.batches import Batch
from alignet_ray.data.judged import HELD_OUT, human_model, map_settings, split_images
from alignet_ray.data.pixels import Decoder
from alignet_ray.errors import UserError
from alignet_ray.models.backbone import load_backbone
from alignet_ray.models.people import decoder
from alignet_ray.models.ranks import rank, world
from alignet_ray.models.student import make_student, save_student
from alignet_ray.models.training import Recipe, Training
from alignet_ray.store import Artifact, Draft

METRICS = "metrics.jsonl"
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Points between the pretrained weights and the fine-tuned ones at which the teacher is judged."""


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
    human: sides.HumanModel
    batch: int
    seed: int
    most: int = 16_384

    def __call__(self, step: int) -> Batch:
        """The batch of a step: distinct objects, all of them equally often."""
        rng = np.random.default_rng([self.seed, step])
        drawn = rng.permutation(len(self.images))[: self.batch]
        rows = np.array([rng.choice(self.images[o]) for o in drawn])
        triplets = scores.all_triplets(len(drawn), self.most, int(rng.integers(2**31)))
        few = sides.HumanModel(self.human.mu[drawn], self.human.sigma[drawn], min(self.human.draws, 10), step)
        return Batch(self.ids[rows], torch.from_numpy(triplets), log_choices(few.probabilities(triplets)))


def log_choices(p: Float32[np.ndarray, "t 3"]) -> Float[Tensor, "t 3"]:
    """Probabilities as logits at temperature 1: their softmax is p again."""
    return torch.from_numpy(p).clamp_min(1e-6).log()


@dataclass(frozen=True)
class Job:
    """What every training process gets.

    Attributes:
        out: where the teacher goes.
        split: per side, object -> positions of its images in `images.ids`.
        provenance: what model.json says of its origin.
    """

    cfg: Config
    out: Draft
    human: sides.HumanModel
    split: dict[str, dict[int, Int64[np.ndarray, " _"]]]
    images: Decoder
    threads: int
    provenance: dict[str, Any]

    def batches(self, side: str, batch: int, seed: int) -> HumanBatches:
        """Batches of one side of the split."""
        members = self.split[side]
        objects = np.array(list(members))
        human = sides.HumanModel(self.human.mu[objects], self.human.sigma[objects], self.human.draws, seed)
        return HumanBatches(self.images.ids, tuple(members.values()), human, min(batch, len(objects)), seed)

    def side(self, name: str) -> sides.Side:
        """All triplets of one side of the split, with people's probabilities."""
        return sides.soft_side(list(self.split[name]), self.split[name], self.human, HELD_OUT)


def make_job(cfg: Config, out: Draft, soften: Artifact, workers: int) -> Job:
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
    return Job(cfg, out, human_model(cfg, soften), split, images, threads, provenance)


def recipe(cfg: Config) -> Recipe:
    """The loop's recipe."""
    n = cfg.align.network
    return Recipe(
        steps=n.steps,
        lr=n.lr,
        warmup=round(0.1 * n.steps),
        objective="kld",
        tau=None if n.start == "random" else 1.0,
        features=n.features,
        stretch=n.stretch,
        decay=n.decay_to_init,
        clip=1.0,
        crop=n.crop,
        seed=cfg.seed,
    )


class Process:
    """One training process. All of them see the same held-out figures, so all of them agree on the best update."""

    def __init__(self, job: Job, device: str, report: Callable[[dict[str, Any]], None]) -> None:
        torch.set_num_threads(job.threads)
        self.job, self.report = job, report
        student = make_student(job.cfg.embed.model[0], job.cfg.embed.size, job.cfg.align.network.head, job.cfg.seed)
        self.training = Training(student, recipe(job.cfg), device)
        self.valid = job.side("validation")
        self.every = np.arange(len(job.images.ids))
        self.before = self.features(self.every)[0].numpy()
        if job.cfg.align.network.start == "low_rank":
            self.fit_head()
            self.training = Training(student, recipe(job.cfg), device)  # whose pull is to this head
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] = {}

    def train(self) -> None:
        """The loop; then the first process writes the best teacher and what it brought."""
        batch = self.job.cfg.align.network.batch
        share = world()
        batch = min(batch, len(self.job.split["train"])) // share * share
        if batch < 3:
            raise UserError(f"align.network.batch: {batch} objects a step; at least 3 are needed")
        batches = self.job.batches("train", batch, self.job.cfg.seed)
        self.training.calibrate(batches, self.job.images)
        self.look({})
        self.training.run(batches, self.job.images, self.after)
        self.training.student.load_state_dict(self.best["model"])
        if rank() == 0:
            trade = self.trade()
            self.write(self.features(self.every), trade)
        self.report({"step": self.training.recipe.steps})

    def fit_head(self) -> None:
        """The head becomes the best low-rank map of the network's features, whose dot products are logits."""
        job, network = self.job, self.job.cfg.align.network
        members = job.split["train"]
        train = sides.soft_side(list(members), members, job.human, job.cfg.align.triplets)
        fitted = alignment.fit(self.before, train, self.valid, map_settings(job.cfg, "low_rank"), job.cfg.seed)
        weights, bias = fitted.transform.layer(network.head, job.cfg.seed)
        head = self.training.student.head
        assert head is not None
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(weights.T.copy()))
            head.bias.copy_(torch.from_numpy(bias))

    def trade(self) -> list[dict[str, float]]:
        """What points on the line from the pretrained weights to the best ones bring; the weights are then `blend`."""
        best, rows = [p.detach().clone() for p in self.training.parameters], []
        for share in SHARES:
            self.go(best, share)
            z, head = self.features(self.every)
            found = sides.score(self.scaled(head), self.valid)
            features = sides.score(torch.from_numpy(fidelity.directions(z.numpy())), self.valid)
            kept = fidelity.overlap(self.before, z.numpy())
            rows.append({"share": share, "accuracy": found.accuracy, "features": features.accuracy, "kept": kept})
        self.go(best, self.job.cfg.align.network.blend)
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
        """Judge the teacher on the validation objects."""
        found = sides.score(self.scaled(self.features(self.valid_rows())[1]), self.valid, draws=2)
        row = {"step": float(self.training.step)} | row
        row |= {"accuracy": found.accuracy, "cross_entropy": found.cross_entropy}
        self.history.append(row)
        if not self.best or found.cross_entropy < self.best["row"]["cross_entropy"]:
            self.best = {"row": row, "model": copy.deepcopy(self.training.student.state_dict())}
        if rank() == 0:
            text = "".join(json.dumps(r) + "\n" for r in self.history)
            self.job.out.write_bytes(METRICS, text.encode())
        self.report(row if rank() == 0 else {})

    def valid_rows(self) -> Int64[np.ndarray, " n"]:
        """Positions of the validation objects' images."""
        return np.unique(self.valid.rows.numpy())

    @torch.no_grad()
    def features(self, rows: Int64[np.ndarray, " n"]) -> tuple[Float[Tensor, "a d"], Float[Tensor, "a k"]]:
        """pre_logits and head outputs of images at these positions; zero rows for all others."""
        z, logits = self.training.outputs(Batch(self.job.images.ids[rows], _NONE, _NO_S), self.job.images)
        head = z if logits is None else logits
        return tuple(_spread(x.cpu(), rows, len(self.job.images.ids)) for x in (z, head))  # type: ignore[return-value]

    def scaled(self, head: Float[Tensor, "a k"]) -> Float[Tensor, "a k"]:
        """Head outputs divided by sqrt(tau): their dot products are logits of choices."""
        scaled: Tensor = head / self.training.student.tau**0.5
        return scaled

    def write(self, after: tuple[Tensor, Tensor], trade: list[dict[str, float]]) -> None:
        """The teacher's folder, and how it agrees with people beside the network that it was."""
        base, features, head = self.before, after[0].numpy(), self.scaled(after[1]).numpy()
        report: dict[str, Any] = {"map": "network", "step": self.best["row"]["step"], "history": self.history}
        report["trade"] = trade
        spaces = {"base": fidelity.directions(base), "features": fidelity.directions(features), "aligned": head}
        for split in ("validation", "test"):
            report |= fidelity.report(split, spaces, self.job.side(split), self.job.cfg.seed)
        report["neighbours_kept"] = fidelity.overlap(base, features)
        with tempfile.TemporaryDirectory() as folder:
            save_student(Path(folder), self.training.student, self.job.provenance)
            for file in sorted(Path(folder).iterdir()):
                self.job.out.write_bytes(file.name, file.read_bytes())
        self.job.out.write_json("report.json", report)


_NONE = torch.empty(0, 3, dtype=torch.int64)
_NO_S = torch.empty(0, 3)


def _spread(x: Float[Tensor, "n d"], rows: Int64[np.ndarray, " n"], total: int) -> Float[Tensor, "a d"]:
    whole = torch.zeros(total, x.shape[1])
    whole[torch.from_numpy(rows)] = x
    return whole
