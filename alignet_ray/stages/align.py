"""align: fit (or take over) the map that makes the teacher's similarities predict people's choices."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from alignet_ray import runtime
from alignet_ray.artifacts import transforms
from alignet_ray.config import Config
from alignet_ray.core import alignment, similarity, teacher_metrics, triplet_set
from alignet_ray.core.affine import AffineTransform
from alignet_ray.core.splits import folds
from alignet_ray.data.embeddings import SharedFeatures
from alignet_ray.human.dataset import AlignmentDataset, features_model, human_model
from alignet_ray.human.objects import images_folder
from alignet_ray.stages import Work, finetune_teacher, hparam_search

VERSION = 6
FOLDS = pa.schema(
    [("fold", pa.int64()), ("objects", pa.list_(pa.int64())), ("step", pa.int64())]
    + [(c, pa.float64()) for c in ("base", "accuracy", "cross_entropy", "ceiling")]
)
"""folds.parquet: one row a fold; figures on its held-out objects."""


def inputs(cfg: Config, role: str) -> dict[str, Any]:
    """What the chosen kind of map depends on, and the seed of draws."""
    if cfg.align.from_:
        return {}
    fields = cfg.align.result_fields()
    if cfg.align.map == "network":
        name, _, file = cfg.embed.model[0].partition("@")
        model = [f"{name}@{Path(file).name}" if file else name, *cfg.embed.model[1:]]
        fields = {"map": "network", "network": fields["network"], "model": model, "size": cfg.embed.size}
    else:
        fields.pop("network")
    return fields | {"seed": cfg.seed, "draws": cfg.soften.num_samples}


def sources(cfg: Config, role: str) -> list[str]:
    """A stored transform, where one is used; the images and weights of a network that is fine-tuned."""
    if cfg.align.from_:
        return [transforms.locate(cfg.align.from_, cfg.store.root)]
    if cfg.align.map != "network":
        return []
    files = [file for _, _, file in (name.partition("@") for name in cfg.embed.model) if file]
    return [images_folder(cfg.objects.path, cfg.corpus.path), *files]


def estimate(cfg: Config, role: str, sources: list[Any]) -> str:
    """For the plan."""
    if cfg.align.from_:
        return "a stored transform"
    if cfg.align.map == "network":
        return f"{cfg.align.network.steps * cfg.align.network.batch_size:,} image passes"
    return f"at most {cfg.align.steps:,} steps" + (f", {cfg.align.folds} folds" if cfg.align.folds else "")


def run(work: Work) -> None:
    """Fit on training objects, stop by validation objects, and report how far the map carries on each side."""
    if work.cfg.align.from_:
        _take_over(work)
        return
    if work.cfg.align.map == "network":
        found = finetune_teacher.fine_tune(work)
        work.out.write_table("folds.parquet", FOLDS.empty_table())
        _conclude(work, found)
        return
    cache = runtime.state_dir(work.cfg) / "cache"
    soften = work.parents["soften"]
    human = human_model(soften, work.cfg.soften.num_samples, work.cfg.seed)
    judged = AlignmentDataset(soften, work.parents["embed@objects"], cache, human)
    settings = work.cfg.align.settings(alignment.FitSettings, kind=work.cfg.align.map)
    tried: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    parts, pairs = _parts(work, judged), []
    if parts:
        rest = [[o for other in parts if other is not part for o in other] for part in parts]
        pairs = [
            (_training_triplets(work, judged, a), judged.soft_triplets(b)) for a, b in zip(rest, parts, strict=True)
        ]
        if work.cfg.align.search:
            settings, tried = hparam_search.search(work, judged.features, pairs, settings)
    with work.screen.progress(settings.steps, "steps") as bar:

        def report(row: dict[str, float]) -> None:
            bar.add(int(row["step"]) - bar.done, f"held-out cross-entropy {row['cross_entropy']:.4f}")
            work.tracker.log_batch({f"align_{k}": v for k, v in row.items() if k != "step"}, int(row["step"]))

        train = _training_triplets(work, judged, judged.objects["train"])
        valid = judged.soft_triplets(judged.objects["validation"])
        fitted = alignment.fit(judged.features, train, valid, settings, work.cfg.seed, report)
    if parts:  # last, so that a sweep can stop a hopeless fit before it
        rows = _cross_validate(work, judged, parts, pairs, settings)
    facts: dict[str, Any] = {"map": settings.kind, "step": fitted.step, "history": fitted.history}
    facts |= {"folds": rows, "search": tried, "settings": asdict(settings)}
    _write(work, judged, fitted.transform, facts)


def _training_triplets(work: Work, judged: AlignmentDataset, objects: list[int]) -> triplet_set.TripletSet:
    return judged.training_triplets(objects, work.cfg.align.objective, work.cfg.align.triplets)


def _parts(work: Work, judged: AlignmentDataset) -> list[list[int]]:
    """The folds of the training objects; none where there are too few objects for two."""
    objects = judged.objects["train"]
    k = min(work.cfg.align.folds, len(objects) // 3)
    if k < work.cfg.align.folds:
        work.warn(f"align.folds {work.cfg.align.folds}: {len(objects)} training objects make {k} folds of 3 or more")
    return folds(objects, k, work.cfg.seed) if k >= 2 else []


def _cross_validate(
    work: Work,
    judged: AlignmentDataset,
    parts: list[list[int]],
    pairs: list[hparam_search.Fold],
    settings: alignment.FitSettings,
) -> list[dict[str, Any]]:
    """Every fold, as Ray tasks that share one copy of the features."""
    import ray

    fit = ray.remote(scheduling_strategy="SPREAD")(_fit)  # not inside a trial's own CPU
    tasks = {fit.remote(judged.shared, pair, settings, work.cfg.seed): n for n, pair in enumerate(pairs)}
    rows, waiting = [], list(tasks)
    with work.screen.progress(len(pairs), "folds") as bar:
        while waiting:
            done, waiting = ray.wait(waiting)
            fold, fitted = tasks[done[0]], ray.get(done[0])
            held = pairs[fold][1]
            base = float(teacher_metrics.agreement(similarity.unit_rows(judged.features), held)[0].mean())
            row = {"fold": fold, "objects": parts[fold], "step": fitted.step, "base": base}
            rows.append(row | asdict(fitted.score) | {"ceiling": float(held.targets.max(dim=1).values.mean())})
            bar.add(1, f"{fitted.score.accuracy:.1%} (base {base:.1%})")
    return sorted(rows, key=lambda row: int(row["fold"]))


def _fit(
    features: SharedFeatures, pair: hparam_search.Fold, settings: alignment.FitSettings, seed: int
) -> alignment.FittedTransform:
    return alignment.fit(features.open().features, *pair, settings, seed)


def _write(work: Work, judged: AlignmentDataset, transform: AffineTransform, facts: dict[str, Any]) -> None:
    """The map in both formats with its provenance, and how well it agrees with people."""
    report = facts | {
        "width": judged.features.shape[1],
        "neighbours_kept": teacher_metrics.neighbours_kept(judged.features, transform),
    }
    spaces = {"base": similarity.unit_rows(judged.features), "aligned": transform(judged.features)}
    for split in ("validation", "test"):
        report |= teacher_metrics.report(split, spaces, judged.soft_triplets(judged.objects[split]), work.cfg.seed)
    provenance = {
        "teacher": judged.teacher,
        "map": report["map"],
        "width": report["width"],
        "features": teacher_metrics.checksum(judged.features),
        "objects": judged.objects["train"],
    }
    _save(work, transform, provenance, report)
    work.out.write_table("folds.parquet", pa.Table.from_pylist(facts["folds"], schema=FOLDS))
    _conclude(work, report)


def _conclude(work: Work, report: dict[str, Any]) -> None:
    """The figures, for artifact.json and for the person."""
    work.facts |= {k: v for k, v in report.items() if isinstance(v, int | float | str)}
    work.screen.line(
        f"   validation objects: base {report['validation_base_accuracy']:.1%}, aligned "
        f"{report['validation_aligned_accuracy']:.1%}, ceiling {report['validation_ceiling']:.1%}; "
        f"{report['neighbours_kept']:.0%} of the ten nearest neighbours kept"
    )


def _save(work: Work, transform: AffineTransform, provenance: dict[str, Any], report: dict[str, Any]) -> None:
    for name in ("transform.npz", "transform.safetensors"):
        work.out.write_bytes(name, transforms.dump_transform(Path(name).suffix, transform, provenance))
    work.out.write_json("report.json", report)
    work.facts |= {k: v for k, v in report.items() if isinstance(v, int | float | str)}


def _take_over(work: Work) -> None:
    """Use a stored transform: refused where its width is another, warned where it belongs to another model."""
    path = transforms.locate(str(work.cfg.align.from_), work.cfg.store.root)
    stored = transforms.read_transform(path)
    parent = next(a for name, a in work.parents.items() if name.startswith("embed@"))  # the corpus, without judgements
    if warning := transforms.mismatch_warning(stored, path, features_model(parent)):
        work.warn(warning)
    _save(work, stored.transform, stored.provenance, {"map": "stored", "width": stored.transform.width, "folds": []})
    work.out.write_table("folds.parquet", FOLDS.empty_table())
