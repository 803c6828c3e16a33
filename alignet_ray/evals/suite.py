"""All evaluations of a run in one call: embedding spaces and annotated objects in, scores out."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from threadpoolctl import threadpool_limits

from alignet_ray.core.comparisons import Comparisons
from alignet_ray.core.scores import Score
from alignet_ray.evals import (
    gate,
    odd_one_out,
    probe,
    reference_comparisons,
    representation_drift,
    rsa,
    shift,
    uncertainty,
)
from alignet_ray.evals.annotated_objects import MIN_OBJECTS, AnnotatedObjects, TripletTrials
from alignet_ray.evals.spaces import EmbeddingSpace
from alignet_ray.evals.uncertainty import ImageTrials, ReliabilityCurve

GATE_TRIPLETS = 100_000
"""Triplets of validation objects, at most: intervals are over objects, and more triplets of them add little."""

FEW_SHOT_DRAWS = 10
"""Draws of images in few-shot tasks, at most."""


@dataclass(frozen=True)
class SuiteOptions:
    """How much to sample.

    Attributes:
        image_draws: random images for each object.
        triplets: triplets of test objects, at most.
        bootstrap: resamplings behind an interval.
        posterior_draws: samples of the human model.
        shots: training images of each object in few-shot tasks.
        seed: of everything.
    """

    image_draws: int
    triplets: int
    bootstrap: int
    posterior_draws: int
    shots: tuple[int, ...]
    seed: int


class SplitObjects(NamedTuple):
    """Annotated objects by split; the scores are on the test objects."""

    train: AnnotatedObjects
    validation: AnnotatedObjects
    test: AnnotatedObjects


@dataclass(frozen=True)
class SuiteResults:
    """Scores, and for the report what they were computed from.

    Attributes:
        scores: rows of the scores table.
        trials: odd-one-out trials of the test objects.
        image_draws: image_ids of the test objects in every draw.
        responses: what every space chose in the trials.
        curves: reliability curves, (model, layer) -> (confidence, agreement); empty with too few validation objects.
    """

    scores: list[Score]
    trials: TripletTrials
    image_draws: Int[np.ndarray, "draws m"]
    responses: odd_one_out.HeldOutResponses
    curves: dict[tuple[str, str], ReliabilityCurve]


def evaluate(
    spaces: list[EmbeddingSpace],
    objects: SplitObjects,
    responses: Int[np.ndarray, "n 3"],
    options: SuiteOptions,
    asked: Comparisons | None = None,
) -> SuiteResults:
    """Score every space; the first one is the base.

    Args:
        spaces: to be evaluated.
        objects: objects with images that all spaces hold.
        responses: single human responses, rows (pair, pair, odd) of object numbers.
        options: how much to sample.
        asked: people's reference comparisons of objects, if there are any.
    """
    test = objects.test
    seed = options.seed
    draws = options.bootstrap

    # Drawn once: every space is asked about the same triplets of the same images.
    trials = TripletTrials.of(test, options.triplets, options.posterior_draws, seed)
    image_draws = test.draw_images(options.image_draws, seed)

    chosen = odd_one_out.respond_all(spaces, image_draws, trials)
    scores = odd_one_out.evaluate(chosen, trials, test, draws, seed)
    scores += odd_one_out.evaluate_raw(spaces, image_draws, test, responses, draws, seed)
    scores += odd_one_out.noise_ceilings(responses, seed)
    if asked is not None:
        others = (objects.train, objects.validation)
        scores += reference_comparisons.evaluate(spaces, test, others, asked, options.image_draws, draws, seed)
    scores += rsa.evaluate(spaces, test, draws, seed)
    scores += representation_drift.evaluate(spaces[0], spaces[1:], test, draws, seed)

    # Many small problems: threads of the linear algebra would only wait for each other.
    with threadpool_limits(1, "blas"):
        few_shot_draws = min(options.image_draws, FEW_SHOT_DRAWS)
        scores += probe.evaluate(spaces, test, objects.validation, objects.train, options.shots, few_shot_draws, seed)
        scores += shift.evaluate(spaces, objects.train, objects.validation, test, seed)

    # A temperature that was fitted on the test objects would make every model look calibrated.
    curves = {}
    if len(objects.validation) >= MIN_OBJECTS:
        validation = ImageTrials(
            objects.validation.draw_images(1, seed)[0],
            TripletTrials.of(objects.validation, options.triplets, options.posterior_draws, seed),
        )
        calibrated = uncertainty.evaluate(spaces, ImageTrials(image_draws[0], trials), validation, seed)
        scores += calibrated.scores
        curves = calibrated.curves
    return SuiteResults(scores, trials, image_draws, chosen, curves)


def validate(spaces: list[EmbeddingSpace], objects: SplitObjects, options: SuiteOptions) -> list[Score]:
    """Scores of base and student that the gate decides by, on validation objects; none with fewer than three of them.

    Few-shot classifiers have the default penalty: there is no third kind of objects to choose one on.
    """
    validation = objects.validation
    if len(validation) < MIN_OBJECTS:
        return []
    compared = [space for space in spaces if space.layer == gate.LAYER and space.model in ("base", "student")]
    seed = options.seed

    triplets = min(options.triplets, GATE_TRIPLETS)
    trials = TripletTrials.of(validation, triplets, options.posterior_draws, seed)
    chosen = odd_one_out.respond_all(compared, validation.draw_images(options.image_draws, seed), trials)
    found = odd_one_out.evaluate(chosen, trials, validation, options.bootstrap, seed)

    nobody = validation.take(np.empty(0, np.int64))
    with threadpool_limits(1, "blas"):
        few_shot_draws = min(options.image_draws, FEW_SHOT_DRAWS)
        found += probe.evaluate(compared, validation, nobody, objects.train, options.shots, few_shot_draws, seed)
        found += shift.evaluate(compared, objects.train, nobody, validation, seed)
    return found
