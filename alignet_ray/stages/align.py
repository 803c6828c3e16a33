"""align: fit (or take over) the map that makes the teacher's similarities predict human choices."""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from alignet_ray import runtime
from alignet_ray.artifacts import transforms
from alignet_ray.artifacts.align import AlignArtifact, AlignReport, FoldResult, SplitAgreement, split_agreement
from alignet_ray.config import Config
from alignet_ray.core import alignment, gpu, similarity, teacher_metrics
from alignet_ray.core.splits import folds
from alignet_ray.core.triplet_set import TripletSet
from alignet_ray.data.embeddings import SharedFeatures
from alignet_ray.errors import UserError
from alignet_ray.human.dataset import AlignmentDataset, features_model, human_model
from alignet_ray.human.objects import images_folder
from alignet_ray.models.model_spec import ModelSpec
from alignet_ray.stages import Work, finetune_teacher, hparam_search
from alignet_ray.stages.embed_jobs import tunes_network
from alignet_ray.stages.hparam_search import Fold
from alignet_ray.store import JsonObject

VERSION = 8

MIN_FOLD_OBJECTS = 3
"""Objects that a fold needs at least: fewer make no triplet."""


@dataclass
class AlignFacts:
    """What artifact.json says of the map: its form, the width of the features, and the report's figures by name."""

    map: str
    width: int | None
    figures: dict[str, float]


class FoldFit(NamedTuple):
    """A fit on one fold, with the figures of its held-out objects."""

    step: int
    base: float
    score: alignment.ChoiceScore
    ceiling: float


def inputs(cfg: Config, role: str) -> JsonObject:
    """What the chosen form of map depends on, and the seeds of random draws."""
    if cfg.align.from_:
        return {}

    # Settings of the form of map that is not chosen must not change the id.
    fields = cfg.align.result_fields()
    network = fields.pop("network")
    if tunes_network(cfg):
        models = [ModelSpec.parse(model).identity for model in cfg.embed.model]
        fields = {"map": "network", "network": network, "model": models, "size": cfg.embed.size}
    return fields | {"seed": cfg.seed, "draws": cfg.soften.num_samples}


def sources(cfg: Config, role: str) -> list[str]:
    """A stored transform, where one is used; the images and weights of a network that is fine-tuned."""
    if cfg.align.from_:
        return [transforms.locate(cfg.align.from_, cfg.store.root)]
    if not tunes_network(cfg):
        return []

    files = [images_folder(cfg.objects.path, cfg.corpus.path)]
    for model in cfg.embed.model:
        files += ModelSpec.parse(model).local_files
    return files


def refuse(cfg: Config, role: str) -> None:
    """Refuse a stored map that cannot be read, and recorded responses where people were asked another question too."""
    if cfg.align.from_:
        transforms.read_transform(transforms.locate(cfg.align.from_, cfg.store.root))
    if cfg.align.objective == "hard" and cfg.human.comparisons and not cfg.align.from_:
        raise UserError(
            "align.objective hard learns from odd-one-out responses and would ignore --human.comparisons: use soft"
        )


def estimate(cfg: Config, role: str, sources: list[Any]) -> str:
    """Length of the fit."""
    if cfg.align.from_:
        return "a stored transform"
    if tunes_network(cfg):
        return f"{cfg.align.network.steps * cfg.align.network.batch_size:,} image passes"
    size = f"at most {cfg.align.steps:,} steps"
    if cfg.align.folds:
        size += f", {cfg.align.folds} folds"
    return size


def run(work: Work) -> None:
    """Fit on training objects, stop by validation objects, report human agreement on validation and test objects."""
    if work.cfg.align.from_:
        _take_over(work)
    elif tunes_network(work.cfg):
        finetune_teacher.fine_tune(work)
        _conclude(work, AlignArtifact(work.out).report())
    else:
        _fit_map(work)


def _fit_map(work: Work) -> None:
    """Fit a map on the embeddings of the objects' images."""
    cfg = work.cfg
    cache = runtime.cache_dir(cfg)
    soften = work.parents["soften"]
    human = human_model(soften, cfg.soften.num_samples, cfg.seed)
    dataset = AlignmentDataset(soften, work.parents["embed@objects"], cache, human)
    settings = cfg.align.settings(alignment.FitSettings, kind=cfg.align.map)
    # Folds are of training objects alone: validation objects stop the fit, and test objects decide nothing.
    held_out = _held_out_folds(work, dataset)
    fold_data = _fold_data(work, dataset, held_out)

    trials: list[dict[str, float]] = []
    if fold_data and cfg.align.search:
        settings, trials = hparam_search.search(work, dataset.features, fold_data, settings)

    # Settings are chosen by the folds alone, so the validation objects' scores stay those of objects unseen till here.
    fitted = _fit(work, dataset, settings)
    # Cross-validation comes last, so that a sweep can stop a poor trial before it.
    results = _cross_validate(work, dataset, held_out, fold_data, settings)

    report = AlignReport(
        map=settings.kind,
        step=fitted.step,
        history=fitted.history,
        splits=_agreement(work, dataset, fitted.transform),
        neighbours_kept=teacher_metrics.neighbours_kept(dataset.features, fitted.transform),
        width=dataset.features.shape[1],
        settings=asdict(settings),
        folds=results,
        search=trials,
    )
    # A transform is used with other runs too, so the file says which features it belongs to.
    provenance = {
        "teacher": dataset.teacher,
        "map": report.map,
        "width": report.width,
        "features": teacher_metrics.checksum(dataset.features),
        "objects": dataset.objects["train"],
    }
    artifact = AlignArtifact(work.out)
    artifact.write_transform(fitted.transform, provenance)
    artifact.write_report(report)
    _conclude(work, report)


def _fit(work: Work, dataset: AlignmentDataset, settings: alignment.FitSettings) -> alignment.FittedTransform:
    """The fit on all training objects, with a progress bar."""
    train = _training_triplets(work, dataset, dataset.objects["train"])
    validation = dataset.soft_triplets(dataset.objects["validation"])
    with work.screen.progress(settings.steps, "steps") as bar:

        def report(row: dict[str, float]) -> None:
            step = int(row["step"])
            bar.add(step - bar.done, f"held-out cross-entropy {row['cross_entropy']:.4f}")
            metrics = {name: value for name, value in row.items() if name != "step"}
            work.tracker.log_curve(metrics, step)

        device = "cpu"
        if alignment.worth_a_gpu(settings, len(dataset.objects["train"]), dataset.features.shape[1]):
            device = gpu.best_device()
        return alignment.fit(dataset.features, train, validation, settings, work.cfg.seed, report, device)


def _training_triplets(work: Work, dataset: AlignmentDataset, objects: list[int]) -> TripletSet:
    return dataset.training_triplets(objects, work.cfg.align.objective, work.cfg.align.triplets)


def _agreement(
    work: Work, dataset: AlignmentDataset, transform: alignment.AffineTransform
) -> dict[str, SplitAgreement]:
    """Human agreement before and after the map, on validation and test objects."""
    # Cosines without a map, dot products behind it: the similarities that each is used with.
    spaces = {"base": similarity.unit_rows(dataset.features), "aligned": transform(dataset.features)}
    splits = {}
    for split in ("validation", "test"):
        triplets = dataset.soft_triplets(dataset.objects[split])
        figures = {}
        for name, space in spaces.items():
            figures[name] = teacher_metrics.figures(space, triplets, work.cfg.seed)
        splits[split] = split_agreement(figures, _ceiling(triplets))
    return splits


def _ceiling(triplets: TripletSet) -> float:
    """Agreement of the best possible prediction: always the most probable choice."""
    return float(triplets.targets.max(dim=1).values.mean())


# Cross-validation


def _held_out_folds(work: Work, dataset: AlignmentDataset) -> list[list[int]]:
    """Folds of the training objects; none if there are too few objects for two."""
    objects = dataset.objects["train"]
    wanted = work.cfg.align.folds
    count = min(wanted, len(objects) // MIN_FOLD_OBJECTS)
    if count < wanted:
        work.warn(
            f"align.folds {wanted}: {len(objects)} training objects make {count} folds of {MIN_FOLD_OBJECTS} or more"
        )
    if count < 2:
        return []
    return folds(objects, count, work.cfg.seed)


def _fold_data(work: Work, dataset: AlignmentDataset, held_out: list[list[int]]) -> list[Fold]:
    """For each fold the triplets to learn from and the triplets of its held-out objects."""
    fold_data = []
    # Triplets lie within the fold or outside of it; one that crosses its border would show held-out objects to the fit.
    for objects in held_out:
        others: list[int] = []
        for other in held_out:
            if other is not objects:
                others += other
        fold_data.append((_training_triplets(work, dataset, others), dataset.soft_triplets(objects)))
    return fold_data


def _cross_validate(
    work: Work,
    dataset: AlignmentDataset,
    held_out: list[list[int]],
    fold_data: list[Fold],
    settings: alignment.FitSettings,
) -> list[FoldResult]:
    """Fit on every fold, as Ray tasks that share one copy of the features."""
    if not fold_data:
        return []
    import ray

    # SPREAD lets the tasks leave the CPU that a sweep's trial has reserved.
    fit = ray.remote(scheduling_strategy="SPREAD")(fit_fold)
    tasks = {}
    for number, fold in enumerate(fold_data):
        named = fit.options(name=f"{work.node.name}: fit fold {number}")
        tasks[named.remote(dataset.shared, fold, settings, work.cfg.seed)] = number

    # Results are shown as they come, and sorted afterwards: the report does not depend on which fold was faster.
    results = []
    waiting = list(tasks)
    with work.screen.progress(len(fold_data), "folds") as bar:
        while waiting:
            done, waiting = ray.wait(waiting)
            number = tasks[done[0]]
            fitted: FoldFit = ray.get(done[0])

            result = FoldResult(
                fold=number,
                objects=held_out[number],
                step=fitted.step,
                base=fitted.base,
                accuracy=fitted.score.accuracy,
                cross_entropy=fitted.score.cross_entropy,
                ceiling=fitted.ceiling,
            )
            results.append(result)
            bar.add(1, f"{result.accuracy:.1%} (base {result.base:.1%})")
    return sorted(results, key=lambda result: result.fold)


def fit_fold(features: SharedFeatures, fold: Fold, settings: alignment.FitSettings, seed: int) -> FoldFit:
    """Ray task: fit on one fold."""
    vectors = features.open().features
    train, held_out = fold
    fitted = alignment.fit(vectors, train, held_out, settings, seed)
    agreed, _ = teacher_metrics.agreement(similarity.unit_rows(vectors), held_out)
    return FoldFit(fitted.step, float(np.mean(agreed)), fitted.score, _ceiling(held_out))


# Endings


def _conclude(work: Work, report: AlignReport) -> None:
    """The figures, for artifact.json and on the screen."""
    work.facts = AlignFacts(report.map, report.width, report.figures())
    validation = report.splits["validation"]
    work.screen.line(
        f"   validation objects: base {validation.spaces['base'].accuracy:.1%}, aligned "
        f"{validation.spaces['aligned'].accuracy:.1%}, ceiling {validation.ceiling:.1%}; "
        f"{report.neighbours_kept:.0%} of the ten nearest neighbours kept"
    )


def _take_over(work: Work) -> None:
    """Use a stored transform: refused if its width differs from the features', with a warning if its model differs."""
    path = transforms.locate(str(work.cfg.align.from_), work.cfg.store.root)
    stored = transforms.read_transform(path)
    # Without human data there is no embed@objects, and embed@corpus is the parent.
    embed = work.parent("embed")
    if warning := transforms.mismatch_warning(stored, path, features_model(embed)):
        work.warn(warning)

    # Nothing was fitted here, so there are no figures: only the file's form is known.
    width = stored.transform.width
    report = AlignReport(map="stored", width=width)
    artifact = AlignArtifact(work.out)
    artifact.write_transform(stored.transform, stored.provenance)
    artifact.write_report(report)
    work.facts = AlignFacts(report.map, width, {})
