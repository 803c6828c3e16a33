"""What the report shows, as plain values: the stage fills them in, the sections render them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from alignet_ray.core.scores import Score
from alignet_ray.evals.gate import Decision
from alignet_ray.evals.inputs import NAMES


@dataclass(frozen=True)
class Example:
    """A triplet with its images: probabilities of people's pairs, and the pair that each model chose (-1: a tie)."""

    images: tuple[Image.Image | None, Image.Image | None, Image.Image | None]
    names: tuple[str, str, str]
    probabilities: tuple[float, float, float]
    choices: dict[str, int]


@dataclass(frozen=True)
class Query:
    """An image and its nearest neighbours in each space: model -> [(image, whether of the same group)]."""

    image: Image.Image | None
    name: str
    neighbours: dict[str, list[tuple[Image.Image | None, bool]]]


@dataclass(frozen=True)
class Curve:
    """The loss of one model while it trained, on the training triplets or on those held out."""

    model: str
    held_out: bool
    steps: list[float]
    losses: list[float]


@dataclass(frozen=True)
class Labels:
    """How the training triplets came out.

    Attributes:
        train: teacher ("aligned", "raw") -> statistics of its labels, as `label` writes them.
        images: images that the triplets could have used.
    """

    train: dict[str, dict[str, Any]]
    images: int | None


@dataclass(frozen=True)
class Material:
    """All that the report shows.

    Attributes:
        title: heading.
        facts: what the run was made of, for the end of the page.
        table: rows of the table that the command line prints.
        scores: the scores table.
        losses: training curves.
        matrices: similarity matrices of the test objects, already in display order; `groups` are their rows' groups.
        maps: two-dimensional maps, name -> (points); `map_groups` and `map_names` belong to the points, `map_kind` says
            how they were made (pca, umap).
        gains, slips: triplets on which the student agrees with people and the base does not, and the reverse.
        queries: nearest neighbours before and after.
        clusters: contact sheets of clusters, name -> images.
        candidates: the numbers of clusters that were tried: k, inertia, silhouette.
        labels: how the training triplets came out.
        teacher: the report of `align`; empty where the map was taken over.
        decision: whether the student may become the champion.
        calibration: reliability curves, model -> (confidence, agreement).
    """

    title: str
    facts: dict[str, str]
    table: list[dict[str, str]]
    scores: list[Score]
    losses: list[Curve] = field(default_factory=list)
    matrices: dict[str, Float[np.ndarray, "m m"]] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)
    maps: dict[str, Float[np.ndarray, "n 2"]] = field(default_factory=dict)
    map_groups: list[str] = field(default_factory=list)
    map_names: list[str] = field(default_factory=list)
    map_kind: str = "pca"
    gains: list[Example] = field(default_factory=list)
    slips: list[Example] = field(default_factory=list)
    queries: list[Query] = field(default_factory=list)
    clusters: dict[str, list[Image.Image | None]] = field(default_factory=dict)
    candidates: list[dict[str, float]] = field(default_factory=list)
    labels: Labels | None = None
    teacher: dict[str, Any] = field(default_factory=dict)
    decision: Decision | None = None
    calibration: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)


def select(scores: Sequence[Score], metric: str, level: str = "", dataset: str = "objects") -> list[Score]:
    """Scores of one metric and level, models in their usual order."""
    order = list(NAMES)
    found = [s for s in scores if (s.dataset, s.metric, s.level) == (dataset, metric, level)]
    return sorted(found, key=lambda s: (order.index(s.model) if s.model in order else 99, s.layer == "head", s.layer))


def label(score: Score) -> str:
    """What a person reads for a model and layer."""
    name = NAMES.get(score.model, score.model)
    return f"{name}, head" if score.layer == "head" else name


def value(scores: Sequence[Score], metric: str, model: str, layer: str) -> Score | None:
    """One score, if it was computed."""
    return next((s for s in select(scores, metric) if (s.model, s.layer) == (model, layer)), None)
