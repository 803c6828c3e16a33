"""Pages with something in every section, made of invented results: to look at, and to check how they are built."""

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from alignet_ray import report
from alignet_ray.artifacts.align import Agreement, AlignReport, InterpolationPoint, SplitAgreement
from alignet_ray.artifacts.cluster import CurvePoint
from alignet_ray.artifacts.distill import InterpolatedStudent, Interpolation, ScoreChange
from alignet_ray.artifacts.evaluate import SetFacts
from alignet_ray.artifacts.label import LabelStats, SubsetStats
from alignet_ray.artifacts.schemas import SCORES
from alignet_ray.artifacts.soften import LearningCurve
from alignet_ray.core.learning_curve import Forecast, Point
from alignet_ray.core.scores import Score
from alignet_ray.evals.gate import Decision, Verdict
from alignet_ray.report import compare_page
from alignet_ray.report.about import About, use
from alignet_ray.report.contents import (
    Disagreements,
    LossCurve,
    Neighbour,
    NeighbourQuery,
    ReportContents,
    TripletExample,
)
from alignet_ray.study import report as study_report
from alignet_ray.study.pooling import FoldScores, pool

GROUPS = ("animal", "tool", "food", "vehicle", "plant", "toy", "dress", "house", "body", "sport", "sound")
"""One more than there are marks."""

SPACES = (
    ("base", "pre_logits"),
    ("teacher", "aligned"),
    ("student", "pre_logits"),
    ("student", "head"),
    ("control", "pre_logits"),
    ("my-model", "pre_logits"),
)
LEVELS = ("", "margin:high", "margin:low", "categories:border", "categories:within", "category:animal")
KEPT = ("knn_category", "few_shot_1", "few_shot_5", "same_object")


def picture(seed: int) -> Image.Image:
    """A coloured shape on a coloured ground."""
    ground, shape = np.random.default_rng(seed).integers(0, 256, (2, 3)).tolist()
    image = Image.new("RGB", (60, 60), tuple(ground))
    ImageDraw.Draw(image).regular_polygon((30, 30, 20), 3 + seed % 5, fill=tuple(shape))
    return image


def scores(shift: float = 0.0) -> list[Score]:
    """Scores of all models, of every kind that a page shows."""
    found = []

    def add(model: str, layer: str, metric: str, value: float, level: str = "", dataset: str = "objects") -> None:
        found.append(Score(model, layer, dataset, metric, value, value - 0.031, value + 0.029, 1330, level))

    for place, (model, layer) in enumerate(SPACES):
        value = 0.4 + 0.05 * place + shift
        for level in LEVELS:
            add(model, layer, "odd_one_out", value, level)
        for metric in (*KEPT, "odd_one_out_raw", "comparison_votes", "comparison_majority", "comparison_votes_known"):
            add(model, layer, metric, value)
            if model != "base":
                add(model, layer, f"{metric}_gain", 0.04, "over:base")
        add(model, layer, "odd_one_out_gain", 0.04, "over:base")
        add(model, layer, "neighbours_kept", 0.6)
        add(model, layer, "cka_to_base", 0.4)
        add(model, layer, "rsa_spearman", value)
        add(model, layer, "odd_one_out", value, dataset="levels")
        add(model, layer, "odd_one_out", value, "class_border", "levels")
        add(model, layer, "two_afc", value, dataset="choices")
    for level in LEVELS:
        add("human", "", "odd_one_out", 0.76, level)
    add("human", "", "odd_one_out", 0.7, dataset="levels")
    return found


def _triplet(seed: int) -> TripletExample:
    choices = {"base": seed % 3, "teacher": 1, "student": 1, "control": -1}
    images = (picture(seed), picture(seed + 1), None)
    return TripletExample(images, (f"cat {seed}", f"hammer {seed}", f"a long name {seed}"), (0.1, 0.85, 0.05), choices)


def _queries() -> list[NeighbourQuery]:
    queries = []
    for seed in range(3):
        near = [Neighbour(picture(seed + number), f"thing {number}", number % 2 == 0) for number in range(5)]
        queries.append(NeighbourQuery(picture(seed), f"cat {seed}", {"base": near, "student": near[::-1]}))
    return queries


def _teacher() -> AlignReport:
    agreement = Agreement(0.5, 0.45, 0.55, 1.0, 0.9, 1.1)
    curve = [InterpolationPoint(share, 0.4 + share / 10, 0.38 + share / 10, 1 - share / 2) for share in (0, 0.5, 1)]
    splits = {"validation": SplitAgreement({"base": agreement, "aligned": agreement}, 0.66)}
    return AlignReport("network", 20, splits=splits, curve=curve, metric="classes", temperature=0.05)


def _interpolation() -> Interpolation:
    points = []
    for share in np.linspace(0, 1, 11).tolist():
        kept = {name: ScoreChange(0.5 - share / 10, -share / 10, -share / 10 - 0.01, 0.01) for name in KEPT[1:]}
        points.append(InterpolatedStudent(share, 0.4 + share / 10, 0.5, 1 - share / 2, kept, kept["few_shot_1"]))
    return Interpolation(0.5, "nearest to people", points)


def _labels() -> dict[str, LabelStats]:
    values = np.random.default_rng(0).multinomial(1000, [0.02] * 50).tolist()
    train = SubsetStats(1000, 5, 0.9, 0.3, values, values[::-1], 0.5, odd_is_the_other=0.4)
    stats = LabelStats(scale=1.0, held_out_images=2, train=train, valid=train, images=18)
    return {"aligned": stats, "raw": stats}


def full_contents(objects: int = 44) -> ReportContents:
    """Contents of a report with all sections."""
    random = np.random.default_rng(0)
    groups = sorted(GROUPS[number % len(GROUPS)] for number in range(objects))
    similarity = random.random((objects, objects))
    similarity += similarity.T
    titles = ("base", "aligned student", "teacher")
    models = ("base", "teacher", "student", "control", "my-model")
    confidence = np.linspace(0.36, 0.97, 8)
    steps = np.linspace(0, 1000, 40).tolist()

    losses = []
    for model, scale in (("student", 0.7), ("control", 0.5)):
        for held_out in (False, True):
            fall = [scale / (1 + step / 100) + 0.05 * held_out for step in steps]
            losses.append(LossCurve(model, held_out, steps, fall))

    return ReportContents(
        "alignet_ray: invented",
        {"teacher": "a network", "clusters": "20", "seed": "0"},
        [{"layer": "features", "base": "40.6 [37.9, 43.3]", "student": "68.5 [62.4, 75.1]"}],
        scores(),
        about=About("today", {"commit": "0" * 40}),
        use=use("alignet-student", "champion"),
        sets=[SetFacts("levels", "odd_one_out", 12, 3, 0, 1200, 40, 31, "Somebody 2025", "CC-BY 4.0")],
        losses=losses,
        matrices={"people": similarity, "base": similarity.T},
        groups=groups,
        maps={title: random.normal(size=(objects, 2)) for title in titles},
        map_groups=groups,
        map_names=[f"{group} {number}" for number, group in enumerate(groups)],
        map_pictures=[picture(number) for number in range(objects)],
        disagreements=Disagreements(566, 73, 1330, [_triplet(1), _triplet(2)], [_triplet(3)]),
        queries=_queries(),
        clusters={f"cluster {number}: 9 images": [picture(number + seed) for seed in range(9)] for number in range(3)},
        cluster_candidates=[CurvePoint(10, 9.0, 0.2), CurvePoint(20, 6.0, 0.4), CurvePoint(30, 5.0, 0.3)],
        labels=_labels(),
        teacher=_teacher(),
        interpolation=_interpolation(),
        decision=Decision(Verdict.CANNOT_TELL, Verdict.YES, Verdict.CANNOT_TELL, ["because"]),
        calibration={
            model: (confidence.tolist(), (confidence - 0.02 * number).tolist()) for number, model in enumerate(models)
        },
        learning_curve=LearningCurve(
            "vice", 1234, [Point(100, 0.4, 0.35, 0.45), Point(200, 0.45, 0.4, 0.5)], [Forecast(400, 0.01, 0.006, 0.02)]
        ),
    )


def full_report() -> str:
    """A report with all sections."""
    return report.build(full_contents())


def full_study() -> str:
    """The page of a study."""
    runs = []
    for fold in range(3):
        result = FoldScores(0, fold, scores(0.01 * fold))
        runs.append(study_report.FoldRun(result, f"invented-fold{fold}", 20, 0.65, {"align": 60.0}))
    study = study_report.Study(
        title="invented: 5 folds",
        people="people",
        frozen="2026-01-02 03:04",
        chosen="",
        folds=5,
        seeds=1,
        runs=runs,
        scores=pool([run.result for run in runs]),
        settings="seed: 0\nembed:\n  model: a-network-with-a-very-long-name-that-does-not-fit-on-a-phone",
    )
    return study_report.build(study)


def full_comparison() -> str:
    """The page of two runs side by side."""
    tables = {}
    for run, shift in (("first", 0.0), ("second", 0.02)):
        rows = [{name: getattr(score, name, 0) for name in SCORES.names} for score in scores(shift)]
        tables[run] = pa.Table.from_pylist(rows, schema=SCORES)
    return compare_page.build(tables)
