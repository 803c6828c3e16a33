"""Sections of the report about pictures: each function prepares what one template shows; None if nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from alignet_ray.artifacts.cluster import CurvePoint
from alignet_ray.evals.spaces import MODEL_TITLES
from alignet_ray.report import alternatives, figures
from alignet_ray.report.contents import Illustration, ReportContents, TripletExample

ODD = (2, 1, 0)
"""The odd image of each pair (01, 02, 12): choosing the pair (0, 1) leaves image 2."""


@dataclass(frozen=True)
class TripletImage:
    """One image of a triplet; `odd_share` is how often people choose it as the odd one."""

    picture: Image.Image | None
    name: str
    short_name: str
    odd_share: float
    is_odd: bool


@dataclass(frozen=True)
class Vote:
    """The image that a model calls the odd one, and whether most people do so, too."""

    model: str
    choice: str
    is_human_choice: bool


@dataclass(frozen=True)
class ExampleCard:
    """A triplet, and what each model chose."""

    images: list[TripletImage]
    votes: list[Vote]


@dataclass(frozen=True)
class Examples:
    """Triplets on which the student agrees with people and the base does not, and the reverse.

    Attributes:
        gained, lost, triplets: how many there are of both kinds, out of how many.
        gains, regressions: the clearest ones.
    """

    gained: int
    lost: int
    triplets: int
    gains: list[ExampleCard]
    regressions: list[ExampleCard]


def examples(contents: ReportContents) -> Examples | None:
    """Triplets: who chose what."""
    found = contents.disagreements
    if found is None or not (found.gains or found.regressions):
        return None
    return Examples(
        gained=found.gained,
        lost=found.lost,
        triplets=found.triplets,
        gains=[_example_card(example) for example in found.gains],
        regressions=[_example_card(example) for example in found.regressions],
    )


def _example_card(example: TripletExample) -> ExampleCard:
    human_odd = ODD[int(np.argmax(example.probabilities))]

    images = []
    for place, name in enumerate(example.names):
        # People who choose the other two as the pair call this one the odd one.
        share = example.probabilities[ODD.index(place)]
        short_name = figures.shorten(name, 22)
        images.append(TripletImage(example.images[place], name, short_name, share, place == human_odd))

    votes = []
    for model, pair in example.choices.items():
        title = MODEL_TITLES.get(model, model)
        if pair < 0:
            votes.append(Vote(title, "cannot choose", False))
        else:
            odd = ODD[pair]
            votes.append(Vote(title, figures.shorten(example.names[odd], 24), odd == human_odd))
    return ExampleCard(images, votes)


def matrices(contents: ReportContents) -> list[Illustration]:
    """Similarity matrices side by side."""
    illustrations = []
    for name, values in contents.matrices.items():
        alt = alternatives.of_matrix(name, figures.rank_shades(values), contents.groups)
        illustrations.append(Illustration(figures.matrix(values, contents.groups), name, alt))
    return illustrations


def calibration(contents: ReportContents) -> Illustration | None:
    """Reliability curves of all models in one figure."""
    if not contents.calibration:
        return None

    lines = []
    for model, (confidence, agreement) in contents.calibration.items():
        lines.append(figures.model_line(model, MODEL_TITLES.get(model, model), confidence, agreement))
    alt = alternatives.of_lines(lines, "how often people agree", "the probability that the model gives its choice")
    return Illustration(figures.reliability(lines), "Confidence against agreement with people.", alt)


def training(contents: ReportContents) -> Illustration | None:
    """Loss curves of student and control: solid on training triplets, dashed on held-out ones."""
    if not contents.losses:
        return None

    # Solid against dashed shows overfitting at a glance: they part where a model learns its triplets by heart.
    lines = []
    for curve in contents.losses:
        title = MODEL_TITLES[curve.model]
        style = "-"
        if curve.held_out:
            title += ", held out"
            style = "--"
        lines.append(figures.model_line(curve.model, title, curve.steps, curve.losses, style))
    alt = alternatives.of_lines(lines, "loss (nats)", "training step")
    return Illustration(figures.curves(lines, "loss (nats)"), "Loss against training step.", alt)


@dataclass(frozen=True)
class Clusters:
    """Contact sheets of clusters, and the curves over candidates for their number (none where none were tried)."""

    sheets: dict[str, list[Image.Image | None]]
    curves: list[Illustration]


def clusters(contents: ReportContents) -> Clusters | None:
    """Contact sheets of clusters, and how the number of clusters was chosen."""
    if not contents.clusters:
        return None
    return Clusters(contents.clusters, _candidate_curves(contents.cluster_candidates, contents.provenance))


def _candidate_curves(candidates: Sequence[CurvePoint], provenance: dict[str, str]) -> list[Illustration]:
    """Inertia and silhouette against the number of clusters; the number that was taken is marked."""
    if not candidates:
        return []

    # The provenance is a table of texts.
    mark = None
    chosen = provenance.get("clusters")
    if chosen:
        mark = float(chosen)
    numbers = [candidate.k for candidate in candidates]

    captions = {
        "inertia": "Inertia: how far images lie from their cluster's centre. It always falls; look for the bend.",
        "silhouette": "Silhouette: how much nearer images lie to their own cluster than to the next one.",
    }
    illustrations = []
    for quantity, caption in captions.items():
        values = [getattr(candidate, quantity) for candidate in candidates]
        line = figures.Line(quantity, numbers, values, figures.COLOURS["student"])
        alt = alternatives.of_lines([line], quantity, "number of clusters k")
        png = figures.curves([line], quantity, "number of clusters k", mark)
        illustrations.append(Illustration(png, caption, alt))
    return illustrations
