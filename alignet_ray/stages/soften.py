"""soften: human answers -> a model of human choices and their uncertainty, and the split of objects."""

from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.numpy

from alignet_ray.config import Config
from alignet_ray.core import vice
from alignet_ray.data import human, objects
from alignet_ray.data.images import list_images
from alignet_ray.data.schemas import SOFT, check
from alignet_ray.errors import UserError
from alignet_ray.stages import Work

VERSION = 1
ROWS = 1_000_000
"""Answers a Parquet part."""


def inputs(cfg: Config, role: str) -> dict[str, Any]:
    """The seed, and all that decides how the human files are read and modelled."""
    fit = {} if cfg.human.embedding else cfg.soften.model_dump(mode="json")
    return {"seed": cfg.seed, "base": cfg.human.base, "in_corpus": objects.objects_in_corpus(cfg), "fit": fit}


def sources(cfg: Config, role: str) -> list[str]:
    """The human files, the objects' table and names, and the folder of the objects' images."""
    h = cfg.human
    if not h.triplets and not h.embedding:
        raise UserError(
            "nothing says what people judged: give --human.triplets (odd-one-out answers) or --human.embedding"
        )
    if not cfg.objects.table:
        raise UserError(
            "which images show the judged objects? Give --objects.table, a CSV with columns label (or path) and object"
        )
    files = (h.triplets, h.validation, h.embedding, h.reference, h.order, cfg.objects.table, cfg.objects.concepts)
    return [*filter(None, files), objects.images_uri(cfg)]


def run(work: Work) -> None:
    """Read and check the answers, model them, soften every one of them, and write down who is on which side."""
    cfg = work.cfg
    concepts = objects.read_concepts(cfg.objects.concepts) if cfg.objects.concepts else []
    image_ids = objects.read_table(cfg, list_images(objects.images_uri(cfg)))
    published = human.read_embedding(cfg.human.embedding) if cfg.human.embedding else None
    triplets = _answers(work, cfg.human.triplets, published, len(concepts) or None)
    count = len(published) if published is not None else max(len(concepts), int(triplets.max()) + 1)
    table = objects.objects_table(cfg.seed, count, concepts, image_ids)
    _require_sides(table)
    mu, sigma = (published, np.zeros_like(published)) if published is not None else _fit(work, triplets, count)
    work.out.write_bytes("embedding.safetensors", _tensors(mu=mu, sigma=sigma))
    _write_soft(work, triplets, mu, sigma)
    if cfg.human.validation:
        _validate(work, mu, sigma)
    work.out.write_table("objects.parquet", table)
    with_images = [s for s, ids in zip(table["split"].to_pylist(), table["image_ids"].to_pylist(), strict=True) if ids]
    sides = {f"{side}_objects": with_images.count(side) for side in ("train", "validation", "test")}
    work.facts |= {
        "rows": len(triplets),
        "objects": count,
        "dims": mu.shape[1],
        "published": published is not None,
    } | sides
    work.screen.line(
        f"   {count:,} objects, {len(triplets):,} answers, {mu.shape[1]} dimensions; with images: "
        + ", ".join(f"{n} {side.removesuffix('_objects')}" for side, n in sides.items())
    )


def _tensors(**arrays: np.ndarray) -> bytes:
    """Safetensors bytes; it writes memory as it lies, so rows must come first."""
    return safetensors.numpy.save({name: np.ascontiguousarray(x) for name, x in arrays.items()})


def _answers(work: Work, path: str | None, published: np.ndarray | None, count: int | None) -> np.ndarray:
    """A file's rows in our counting, checked against the published (or reference) embedding."""
    if path is None:
        return np.empty((0, 3), np.int64)
    h = work.cfg.human
    reference = human.read_embedding(h.reference) if h.reference else published
    order = human.read_order(h.order) if h.order else None
    return human.read_triplets(path, count, h.base, reference, order)


def _require_sides(table: pa.Table) -> None:
    """Every side needs three objects with images, or there is nothing to fit, stop by or test on."""
    rows = list(zip(table["split"].to_pylist(), table["image_ids"].to_pylist(), strict=True))
    for side in ("train", "validation", "test"):
        n = sum(split == side and bool(ids) for split, ids in rows)
        if n < 3:
            raise UserError(
                f"only {n} {side} objects have images, at least 3 are needed: judged objects with images "
                f"({sum(bool(ids) for _, ids in rows)} now) are split 60/20/20; give more of them"
            )


def _fit(work: Work, triplets: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit the variational model."""
    s = work.cfg.soften
    schedule = vice.Schedule(dims=s.dims, steps=s.steps, batch=s.batch, lr=s.lr)
    with work.screen.progress(s.steps, "steps") as bar:

        def report(step: int, cross_entropy: float, dims: int) -> None:
            bar.add(step - bar.done, f"cross-entropy {cross_entropy:.4f}, {dims} dimensions")
            work.tracker.log_batch({"soften_cross_entropy": cross_entropy, "soften_dims": dims}, step)

        fitted = vice.fit(triplets, count, schedule, vice.Prior(s.spike, s.slab, s.pi), work.cfg.seed, report)
    work.facts |= {"history": fitted.history, "stable": fitted.stable}
    return fitted.mu, fitted.sigma


def _write_soft(work: Work, triplets: np.ndarray, mu: np.ndarray, sigma: np.ndarray) -> None:
    """Choice probabilities of every answer, in parts; a table without rows where there are no answers."""
    for part, start in enumerate(range(0, max(len(triplets), 1), ROWS)):
        rows = triplets[start : start + ROWS]
        p = vice.choice_probabilities(mu, sigma, rows, work.cfg.soften.draws, work.cfg.seed)
        table = pa.table([*rows.T.copy(), *p.T.copy()], schema=SOFT)
        work.out.write_table(f"part-{part:05d}.parquet", check(table, SOFT))


def _validate(work: Work, mu: np.ndarray, sigma: np.ndarray) -> None:
    """How well the model predicts answers that it has not seen."""
    rows = _answers(work, work.cfg.human.validation, None, len(mu))
    p = vice.choice_probabilities(mu, sigma, rows, work.cfg.soften.draws, work.cfg.seed)
    accuracy = float((p.argmax(axis=1) == 0).mean())
    cross_entropy = float(-np.log(np.maximum(p[:, 0], 1e-12)).mean())
    work.facts |= {"validation_accuracy": accuracy, "validation_cross_entropy": cross_entropy}
    work.screen.line(f"   held-out answers: {accuracy:.1%} predicted, cross-entropy {cross_entropy:.3f} nats")
