"""align: fit (or take over) the map that makes the teacher's similarities predict people's choices."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from alignet_ray.config import Config
from alignet_ray.core import alignment, fidelity
from alignet_ray.core.affine import AffineTransform
from alignet_ray.core.splits import folds
from alignet_ray.data import embeddings, official
from alignet_ray.data.judged import Judged
from alignet_ray.errors import UserError
from alignet_ray.stages import Work

VERSION = 2
FOLDS = pa.schema(
    [("fold", pa.int64()), ("objects", pa.list_(pa.int64())), ("step", pa.int64())]
    + [(c, pa.float64()) for c in ("base", "accuracy", "cross_entropy", "ceiling")]
)
"""folds.parquet: one row a fold; figures on its held-out objects."""


def inputs(cfg: Config, role: str) -> dict[str, Any]:
    """The section, and the seed of draws."""
    return cfg.align.model_dump(mode="json", exclude={"from_"}) | {"seed": cfg.seed, "draws": cfg.soften.draws}


def sources(cfg: Config, role: str) -> list[str]:
    """A stored transform, where one is used."""
    return [_stored(cfg)] if cfg.align.from_ else []


def estimate(cfg: Config, role: str) -> str:
    """For the plan."""
    if cfg.align.from_:
        return "a stored transform"
    return f"at most {cfg.align.steps:,} steps" + (f", {cfg.align.folds} folds" if cfg.align.folds else "")


def run(work: Work) -> None:
    """Fit on training objects, stop by validation objects, and report how far the map carries on each side."""
    if work.cfg.align.from_:
        _take_over(work)
        return
    if work.cfg.align.map == "network":
        raise UserError("align.map network is not available: choose affine, low_rank, diagonal or orthogonal")
    judged = Judged(work.cfg, work.parents["soften"], work.parents["embed@objects"])
    settings = settings_of(work.cfg)
    rows = _cross_validate(work, judged, settings)
    with work.screen.progress(settings.steps, "steps") as bar:

        def report(row: dict[str, float]) -> None:
            bar.add(int(row["step"]) - bar.done, f"held-out cross-entropy {row['cross_entropy']:.4f}")
            work.tracker.log_batch({f"align_{k}": v for k, v in row.items() if k != "step"}, int(row["step"]))

        train, valid = judged.train_side(judged.objects["train"]), judged.side(judged.objects["validation"])
        fitted = alignment.fit(judged.x, train, valid, settings, work.cfg.seed, report)
    facts = {"map": settings.kind, "step": fitted.step, "history": fitted.history, "folds": rows}
    _write(work, judged, fitted.transform, facts)


def settings_of(cfg: Config) -> alignment.Settings:
    """The section as the core's settings."""
    names = ("rank", "pull", "alpha", "tau", "lr", "batch", "steps", "patience")
    assert cfg.align.map != "network"
    return alignment.Settings(cfg.align.map, **{name: getattr(cfg.align, name) for name in names})


def _cross_validate(work: Work, judged: Judged, settings: alignment.Settings) -> list[dict[str, Any]]:
    """Every fold of the training objects, as Ray tasks that share one copy of the features."""
    k, objects = work.cfg.align.folds, judged.objects["train"]
    if k == 0:
        return []
    if len(objects) < 3 * max(k, 2) or k == 1:
        raise UserError(
            f"align.folds {k}: {len(objects)} training objects do not make {k} folds of at least 3; "
            f"give align.folds {len(objects) // 3 if len(objects) >= 6 else 0}"
        )
    parts = folds(objects, k, work.cfg.seed)
    rows = []
    with work.screen.progress(k, "folds") as bar:
        for fold, fitted in _fit_folds(judged, parts, settings, work.cfg.seed):
            held = judged.side(parts[fold])
            base, _ = fidelity.agreement(fidelity.directions(judged.x), held)
            rows.append(
                {
                    "fold": fold,
                    "objects": parts[fold],
                    "step": fitted.step,
                    "base": float(base.mean()),
                    "accuracy": fitted.score.accuracy,
                    "cross_entropy": fitted.score.cross_entropy,
                    "ceiling": float(held.targets.max(dim=1).values.mean()),
                }
            )
            bar.add(1, f"{fitted.score.accuracy:.1%} (base {rows[-1]['base']:.1%})")
    return sorted(rows, key=lambda row: int(row["fold"]))


def _fit_folds(
    judged: Judged, parts: list[list[int]], settings: alignment.Settings, seed: int
) -> Iterator[tuple[int, alignment.Fitted]]:
    """(fold, its fit) in the order in which they finish."""
    import ray

    fit, x = ray.remote(alignment.fit), ray.put(judged.x)
    tasks = {}
    for fold, part in enumerate(parts):
        rest = [o for other in parts if other is not part for o in other]
        tasks[fit.remote(x, judged.train_side(rest), judged.side(part), settings, seed)] = fold
    waiting = list(tasks)
    while waiting:
        done, waiting = ray.wait(waiting)
        yield tasks[done[0]], ray.get(done[0])


def _write(work: Work, judged: Judged, transform: AffineTransform, facts: dict[str, Any]) -> None:
    """The map in both formats with its provenance, and how well it agrees with people."""
    report = facts | {"width": judged.x.shape[1], "neighbours_kept": fidelity.neighbours_kept(judged.x, transform)}
    for split in ("validation", "test"):
        side = judged.side(judged.objects[split])
        for name, y in {"base": fidelity.directions(judged.x), "aligned": transform(judged.x)}.items():
            report |= {f"{split}_{name}_{k}": v for k, v in fidelity.figures(y, side, work.cfg.seed).items()}
        report[f"{split}_ceiling"] = float(side.targets.max(dim=1).values.mean())
    provenance = _teacher(judged) | {
        "map": report["map"],
        "width": report["width"],
        "features": fidelity.checksum(judged.x),
        "objects": judged.objects["train"],
    }
    _save(work, transform, provenance, report)
    folds_table = pa.Table.from_pylist(facts["folds"], schema=FOLDS)
    work.out.write_table("folds.parquet", folds_table)
    work.screen.line(
        f"   validation objects: base {report['validation_base_accuracy']:.1%}, aligned "
        f"{report['validation_aligned_accuracy']:.1%}, ceiling {report['validation_ceiling']:.1%}; "
        f"{report['neighbours_kept']:.0%} of the ten nearest neighbours kept"
    )


def _save(work: Work, transform: AffineTransform, provenance: dict[str, Any], report: dict[str, Any]) -> None:
    for name in ("transform.npz", "transform.safetensors"):
        work.out.write_bytes(name, official.dump_transform(Path(name).suffix, transform, provenance))
    work.out.write_json("report.json", report)
    work.facts |= {k: v for k, v in report.items() if isinstance(v, int | float | str)}


def _teacher(judged: Judged) -> dict[str, Any]:
    """What the embed artifact says about the model."""
    stored = json.loads(judged.embed.read_bytes("model.json")) if judged.embed.has("model.json") else {}
    return {"teacher": stored}


def _stored(cfg: Config) -> str:
    """The file that align.from means: a transform, or the one in an align artifact's folder (or id)."""
    assert cfg.align.from_
    for folder in (Path(cfg.align.from_).expanduser(), Path(cfg.store.root).expanduser() / "align" / cfg.align.from_):
        if folder.is_dir():
            if (folder / "transform.npz").is_file():
                return str(folder / "transform.npz")
            raise UserError(
                f"align.from {cfg.align.from_}: no transform.npz in that folder"
                + ("; it holds a network: use it as --embed.model" if (folder / "model.json").is_file() else "")
            )
    return cfg.align.from_


def _take_over(work: Work) -> None:
    """Use a stored transform: refused where its width is another, warned where it belongs to another model."""
    path = _stored(work.cfg)
    stored = official.read_transform(path)
    parent = next(a for name, a in work.parents.items() if name.startswith("embed@"))  # the corpus, without judgements
    _, x = embeddings.load(parent)
    if x.shape[1] != stored.transform.width:
        raise UserError(
            f"{path} maps features of width {stored.transform.width}, embed.model gives {x.shape[1]}: "
            "it was fitted for another model"
        )
    mine = json.loads(parent.read_bytes("model.json")) if parent.has("model.json") else {}
    theirs = stored.provenance.get("teacher", {})
    if not theirs:
        work.warn(f"{path} does not say which model it was fitted for; its width fits")
    elif theirs.get("checksum") != mine.get("checksum"):
        work.warn(f"{path} was fitted for other weights ({theirs.get('model')}) than embed.model's")
    _save(work, stored.transform, stored.provenance, {"map": "stored", "width": stored.transform.width, "folds": []})
    work.out.write_table("folds.parquet", FOLDS.empty_table())
