"""soften: human answers -> a model of human choices and their uncertainty, and the split of objects."""

from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.numpy
import torch

from alignet_ray.artifacts.schemas import SOFT, check
from alignet_ray.config import Config
from alignet_ray.core import vice
from alignet_ray.core.calibration import calibration_error
from alignet_ray.errors import UserError
from alignet_ray.human import objects
from alignet_ray.human import triplets as human_triplets
from alignet_ray.images.listing import list_images
from alignet_ray.stages import Work

VERSION = 3
ROWS = 1_000_000
"""Answers a Parquet part."""
COLLAPSED = 0.95
"""Cross-entropy (nats; chance 1.099) above which a fit of few dimensions has not learned to tell people's choices."""


def inputs(cfg: Config, role: str) -> dict[str, Any]:
    """The seed, and all that decides how the human files are read and modelled."""
    fit = {} if cfg.human.embedding else cfg.soften.result_fields()
    reading = {"base": cfg.human.base, "columns": list(cfg.human.columns)}
    return {"seed": cfg.seed, "reading": reading, "in_corpus": cfg.objects.path is None, "fit": fit}


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
    return [*filter(None, files), objects.images_folder(cfg.objects.path, cfg.corpus.path)]


def estimate(cfg: Config, role: str, sources: list[Any]) -> str:
    """For the plan."""
    if cfg.human.embedding:
        return "a published embedding"
    return f"{cfg.soften.seeds} fits of at most {cfg.soften.steps:,} steps"


def run(work: Work) -> None:
    """Read and check the answers, model them, soften every one of them, and write down who is on which side."""
    cfg = work.cfg
    concepts = objects.read_concepts(cfg.objects.concepts) if cfg.objects.concepts else []
    folder = objects.images_folder(cfg.objects.path, cfg.corpus.path)
    image_ids = objects.read_object_images(cfg.objects.table, list_images(folder), folder)
    published = human_triplets.read_embedding(cfg.human.embedding) if cfg.human.embedding else None
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
    reference = human_triplets.read_embedding(h.reference) if h.reference else published
    order = human_triplets.read_order(h.order) if h.order else None
    wrong = [pair for pair in h.columns if "=" not in pair]
    if wrong:
        raise UserError(f"human.columns {wrong[0]}: write it as ours=theirs, choice=answer say")
    columns = dict(pair.split("=", 1) for pair in h.columns)
    return human_triplets.read_triplets(path, count, h.base, reference, order, columns)


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
    """Fit the variational model, from one seed here or from several as Ray tasks."""
    s = work.cfg.soften
    schedule = s.settings(vice.Schedule)
    prior = s.settings(vice.Prior)
    if s.seeds > 1:
        fitted = _best_seed(work, triplets, count, schedule, prior)
    else:
        with work.screen.progress(s.steps, "steps") as bar:

            def report(step: int, cross_entropy: float, dims: int) -> None:
                bar.add(step - bar.done, f"cross-entropy {cross_entropy:.4f}, {dims} dimensions")
                work.tracker.log_batch({"soften_cross_entropy": cross_entropy, "soften_dims": dims}, step)

            device = "cuda" if torch.cuda.is_available() else "cpu"
            fitted = vice.fit(triplets, count, schedule, prior, work.cfg.seed, report, device)
    work.facts |= {"history": fitted.history, "stable": fitted.stable}
    if fitted.mu.shape[1] < 4 <= s.dims and fitted.history[-1]["cross_entropy"] > COLLAPSED:
        work.warn(
            f"the fit collapsed to {fitted.mu.shape[1]} dimensions and says little: weaken the prior (--soften.spike, "
            "--soften.kl-anneal), take more steps, or give more answers"
        )
    return fitted.mu, fitted.sigma


def _best_seed(work: Work, triplets: np.ndarray, count: int, schedule: vice.Schedule, prior: vice.Prior) -> vice.Fit:
    """Fits from several seeds; the one of lowest final cross-entropy, and how many of its dimensions others found."""
    import ray

    rows = ray.put(triplets)
    seeds = range(work.cfg.seed, work.cfg.seed + work.cfg.soften.seeds)
    gpus = float(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
    fit = ray.remote(vice.fit).options(num_gpus=min(1.0, gpus / len(seeds)))
    device = "cuda" if gpus else "cpu"
    tasks = [fit.remote(rows, count, schedule, prior, seed, None, device) for seed in seeds]
    with work.screen.progress(len(tasks), "fits") as bar:
        waiting = list(tasks)
        while waiting:
            done, waiting = ray.wait(waiting)
            bar.add(len(done))
    fits: list[vice.Fit] = ray.get(tasks)
    best = min(range(len(fits)), key=lambda n: fits[n].history[-1]["cross_entropy"])
    others = [fit.mu for n, fit in enumerate(fits) if n != best]
    work.facts |= {
        "best_seed": seeds[best],
        "seed_cross_entropies": [fit.history[-1]["cross_entropy"] for fit in fits],
        "seed_dims": [fit.mu.shape[1] for fit in fits],
        "reproducibility": vice.reproducibility(fits[best].mu, others),
    }
    return fits[best]


def _write_soft(work: Work, triplets: np.ndarray, mu: np.ndarray, sigma: np.ndarray) -> None:
    """Choice probabilities of every answer, in parts; a table without rows where there are no answers."""
    for part, start in enumerate(range(0, max(len(triplets), 1), ROWS)):
        rows = triplets[start : start + ROWS]
        p = vice.choice_probabilities(mu, sigma, rows, work.cfg.soften.num_samples, work.cfg.seed)
        table = pa.table([*rows.T.copy(), *p.T.copy()], schema=SOFT)
        work.out.write_table(f"part-{part:05d}.parquet", check(table, SOFT))


def _validate(work: Work, mu: np.ndarray, sigma: np.ndarray) -> None:
    """How well the model predicts answers that it has not seen."""
    rows = _answers(work, work.cfg.human.validation, None, len(mu))
    p = vice.choice_probabilities(mu, sigma, rows, work.cfg.soften.num_samples, work.cfg.seed)
    accuracy = float((p.argmax(axis=1) == 0).mean())
    cross_entropy = float(-np.log(np.maximum(p[:, 0], 1e-12)).mean())
    error = calibration_error(p.max(axis=1).astype(np.float64), (p.argmax(axis=1) == 0).astype(np.float64))
    names = ("validation_accuracy", "validation_cross_entropy", "validation_calibration_error")
    work.facts |= dict(zip(names, (accuracy, cross_entropy, error), strict=True))
    work.screen.line(
        f"   held-out answers: {accuracy:.1%} predicted, cross-entropy {cross_entropy:.3f} nats, "
        f"calibration error {error:.3f}"
    )
