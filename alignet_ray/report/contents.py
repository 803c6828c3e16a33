"""What the report shows, as plain values: the stage `evaluate` fills them in, the sections render them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from alignet_ray.artifacts.align import AlignReport
from alignet_ray.artifacts.cluster import CurvePoint
from alignet_ray.artifacts.distill import Interpolation
from alignet_ray.artifacts.evaluate import SetFacts
from alignet_ray.artifacts.label import LabelStats
from alignet_ray.artifacts.soften import LearningCurve
from alignet_ray.core.scores import Score
from alignet_ray.evals.compare import ScoreKey
from alignet_ray.evals.gate import Decision
from alignet_ray.evals.spaces import MODEL_TITLES
from alignet_ray.report.about import About, Use

Row = dict[str, str]
"""A table row: column heading -> text."""


@dataclass(frozen=True)
class TripletExample:
    """A triplet with its images.

    Attributes:
        images: None where an image could not be read.
        names: of the three objects.
        probabilities: how likely people choose each pair (01, 02, 12) as the most similar one.
        choices: model -> the pair (0, 1, 2) that it chose; -1 for a tie.
    """

    images: tuple[Image.Image | None, Image.Image | None, Image.Image | None]
    names: tuple[str, str, str]
    probabilities: tuple[float, float, float]
    choices: dict[str, int]


@dataclass(frozen=True)
class Neighbour:
    """An image among the nearest of another one, and whether both are of one group."""

    image: Image.Image | None
    name: str
    is_same_group: bool


@dataclass(frozen=True)
class NeighbourQuery:
    """An image, and by model its nearest neighbours, the nearest first."""

    image: Image.Image | None
    name: str
    neighbours: dict[str, list[Neighbour]]


@dataclass(frozen=True)
class Disagreements:
    """Triplets on which exactly one of student and base agrees with people.

    Attributes:
        gained, lost: how many there are on which the student agrees, and on which the base does.
        triplets: all that both were asked.
        gains, regressions: the clearest ones of both kinds.
    """

    gained: int
    lost: int
    triplets: int
    gains: list[TripletExample]
    regressions: list[TripletExample]


@dataclass(frozen=True)
class LossCurve:
    """The loss of one model during training, on the training triplets or on the held-out ones."""

    model: str
    held_out: bool
    steps: list[float]
    losses: list[float]


class Illustration(NamedTuple):
    """A figure as PNG bytes, its caption, and what it shows in words, for those who cannot see it.

    Without words (""), the caption stands for them.
    """

    png: bytes
    caption: str
    alt: str = ""


@dataclass(frozen=True)
class ReportContents:
    """All that the report shows.

    Attributes:
        title: heading of the page.
        people: whose choices "people" are, as they stand in a sentence.
        about: date, machine and versions.
        use: how to go on with the student; None where it is not registered.
        provenance: what the run was made of, for the end of the page.
        summary: rows of the table that the command line prints.
        scores: the scores table.
        sets: sets of human judgements from outside.
        losses: training curves of student and control.
        matrices: similarity matrices of the test objects, already in display order.
        groups: group of every row of `matrices`.
        maps: two-dimensional maps of the test objects, space -> points.
        map_groups, map_names, map_pictures: group, name and picture of every point of `maps`.
        map_method: how the maps were made (pca, umap).
        disagreements: triplets on which student and base differ; None where one of them was not scored.
        queries: nearest neighbours in base and student.
        clusters: contact sheets of clusters, name -> images.
        cluster_candidates: numbers of clusters that were tried.
        labels: statistics of the labels by teacher (aligned, raw).
        teacher: the report of `align`; None without one.
        interpolation: where the student is between its pretrained weights and its trained ones; None if unknown.
        decision: whether the student may become the champion.
        calibration: reliability curves, model -> (confidence, agreement).
        learning_curve: how far more answers would help; None where it was not measured.
    """

    title: str
    provenance: dict[str, str]
    summary: list[Row]
    scores: list[Score]
    people: str = "people"
    about: About = field(default_factory=lambda: About("", {}))
    use: Use | None = None
    sets: Sequence[SetFacts] = ()
    losses: list[LossCurve] = field(default_factory=list)
    matrices: dict[str, Float[np.ndarray, "m m"]] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)
    maps: dict[str, Float[np.ndarray, "n 2"]] = field(default_factory=dict)
    map_groups: list[str] = field(default_factory=list)
    map_names: list[str] = field(default_factory=list)
    map_pictures: list[Image.Image | None] = field(default_factory=list)
    map_method: str = "pca"
    disagreements: Disagreements | None = None
    queries: list[NeighbourQuery] = field(default_factory=list)
    clusters: dict[str, list[Image.Image | None]] = field(default_factory=dict)
    cluster_candidates: Sequence[CurvePoint] = field(default_factory=list)
    labels: Mapping[str, LabelStats] = field(default_factory=dict)
    teacher: AlignReport | None = None
    interpolation: Interpolation | None = None
    decision: Decision | None = None
    calibration: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    learning_curve: LearningCurve | None = None


def select_scores(scores: Sequence[Score], metric: str, level: str = "", dataset: str = "objects") -> list[Score]:
    """Scores of one metric and level: models in their usual order, others last; the backbone before the head."""
    order = list(MODEL_TITLES)

    def position(score: Score) -> tuple[int, bool, str]:
        # Models without a title, such as a reference that the user named, come last.
        place = len(order)
        if score.model in order:
            place = order.index(score.model)
        return place, score.layer == "head", score.layer

    wanted = (dataset, metric, level)
    selected = [score for score in scores if (score.dataset, score.metric, score.level) == wanted]
    return sorted(selected, key=position)


def find_score(scores: Sequence[Score], metric: str, model: str, layer: str) -> Score | None:
    """The score of one model and layer over all levels; None where it was not computed."""
    for score in select_scores(scores, metric):
        if (score.model, score.layer) == (model, layer):
            return score
    return None


def subject(scores: Sequence[Score]) -> tuple[str, str]:
    """(model, layer) that the report is about: the student, or, on stored features, which have none, the teacher."""
    if any(score.model == "student" for score in scores):
        return "student", "pre_logits"
    return "teacher", "aligned"


def score_title(score: Score | ScoreKey) -> str:
    """The model and layer of a score, as the report calls them."""
    title = MODEL_TITLES.get(score.model, score.model)
    if score.layer == "head":
        return f"{title}, head"
    return title
