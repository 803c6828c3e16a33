"""align: fit (or take over) the map that makes the teacher's similarities predict people's choices."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.numpy

from alignet_ray.config import Config
from alignet_ray.core import alignment, scores, vice
from alignet_ray.core.affine import AffineTransform
from alignet_ray.data import embeddings, official
from alignet_ray.errors import UserError
from alignet_ray.stages import Work

VERSION = 1
HELD_OUT = 60_000
"""Largest number of triplets among held-out objects that a score is computed on."""


def inputs(cfg: Config, role: str) -> dict[str, Any]:
    """The section, and the seed of draws."""
    return cfg.align.model_dump(mode="json", exclude={"from_"}) | {"seed": cfg.seed, "draws": cfg.soften.draws}


def sources(cfg: Config, role: str) -> list[str]:
    """A stored transform, where one is used."""
    return [cfg.align.from_] if cfg.align.from_ else []


def run(work: Work) -> None:
    """Fit on training objects, stop by validation objects, and report how far the map carries on each side."""
    if work.cfg.align.map == "network" and not work.cfg.align.from_:
        raise UserError("align.map network is not available: choose affine, low_rank, diagonal or orthogonal")
    world = _World(work)
    settings = settings_of(work.cfg)
    with work.screen.progress(settings.steps, "steps") as bar:

        def report(row: dict[str, float]) -> None:
            bar.add(int(row["step"]) - bar.done, f"held-out cross-entropy {row['cross_entropy']:.4f}")
            work.tracker.log_batch({f"align_{k}": v for k, v in row.items() if k != "step"}, int(row["step"]))

        fitted = alignment.fit(world.x, world.side("train"), world.side("validation"), settings, work.cfg.seed, report)
    report_json = {"map": settings.kind, "step": fitted.step, "history": fitted.history} | _figures(
        world, fitted.transform
    )
    _write(work, fitted.transform, report_json | {"checksum": world.checksum, "width": world.x.shape[1]})


def settings_of(cfg: Config) -> alignment.Settings:
    """The section as the core's settings."""
    a = cfg.align
    assert a.map != "network"
    return alignment.Settings(a.map, a.rank, a.pull, lr=a.lr, batch=a.batch, steps=a.steps, patience=a.patience)


class _World:
    """Features of the judged objects' images, and the human model's probabilities on each side of the split."""

    def __init__(self, work: Work) -> None:
        self.cfg = work.cfg
        ids, x = embeddings.load(work.parents["embed@objects"])
        self.x = _features(x)
        self.checksum = hashlib.sha256(self.x.tobytes()).hexdigest()[:16]
        soften = work.parents["soften"]
        self.human = safetensors.numpy.load(soften.read_bytes("embedding.safetensors"))
        self.objects: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
        self.images: dict[int, np.ndarray] = {}
        row_of = {int(i): row for row, i in enumerate(ids)}
        for row in soften.read_table("objects.parquet").to_pylist():
            if rows := [row_of[i] for i in row["image_ids"] if i in row_of]:
                self.objects[row["split"]].append(row["object"])
                self.images[row["object"]] = np.array(rows)

    def side(self, split: str) -> alignment.Side:
        """The objects of a side with their triplets (all of them, or as many as asked for)."""
        return self.side_of(self.objects[split], self.cfg.align.triplets if split == "train" else HELD_OUT)

    def side_of(self, objects: Sequence[int], limit: int) -> alignment.Side:
        """These objects with at most `limit` triplets among them."""
        if len(objects) < 3:
            raise UserError(f"{len(objects)} objects have readable images on one side of the split; 3 are needed")
        triplets = scores.all_triplets(len(objects), limit, self.cfg.seed)
        q = vice.choice_probabilities(
            self.human["mu"], self.human["sigma"], np.array(objects)[triplets], self.cfg.soften.draws, self.cfg.seed
        )
        return alignment.Side.of([self.images[o] for o in objects], triplets, q)


def _features(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, dtype=np.float32)
    if not np.isfinite(x).all():
        raise UserError(
            f"{(~np.isfinite(x)).any(axis=1).sum()} of the objects' embeddings are not finite (NaN or infinity)"
        )
    if x.std() == 0:
        raise UserError("the objects' embeddings are all the same number: does embed.model have trained weights?")
    return x


def _figures(world: _World, transform: AffineTransform) -> dict[str, Any]:
    """Agreement with people of the base (cosine) and of the map (dot product), on validation and test objects."""
    unit = world.x / np.maximum(np.linalg.norm(world.x, axis=1, keepdims=True), 1e-12)
    spaces = {"base": unit, "aligned": transform(world.x)}
    found: dict[str, Any] = {}
    for split in ("validation", "test"):
        side = world.side(split)
        for name, y in spaces.items():
            score = alignment.score(_tensor(y), side)
            found[f"{split}_{name}_accuracy"] = score.accuracy
            found[f"{split}_{name}_cross_entropy"] = score.cross_entropy
        found[f"{split}_ceiling"] = float(side.targets.max(dim=1).values.mean())
    return found


def _tensor(y: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(y))


def _write(work: Work, transform: AffineTransform, report: dict[str, Any]) -> None:
    provenance = {"model": list(work.cfg.embed.model), "size": work.cfg.embed.size} | {
        k: report[k] for k in ("map", "checksum", "width")
    }
    for name in ("transform.npz", "transform.safetensors"):
        with work.out.atomic(name) as path:
            temporary = path.with_name(path.name + name)  # the writer goes by the ending
            official.save_transform(str(temporary), transform, provenance)
            temporary.rename(path)
    work.out.write_json("report.json", report)
    work.out.write_table("folds.parquet", pa.table({"fold": pa.array([], pa.int64())}))
    work.facts |= {k: v for k, v in report.items() if isinstance(v, int | float | str)}
    work.screen.line(
        f"   validation objects: base {report['validation_base_accuracy']:.1%}, aligned "
        f"{report['validation_aligned_accuracy']:.1%}, ceiling {report['validation_ceiling']:.1%}"
    )
