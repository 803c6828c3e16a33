"""All evaluations of a run, in one call: spaces and judged objects in, scores out."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from threadpoolctl import threadpool_limits

from alignet_ray.core.scores import Score
from alignet_ray.evals import odd_one_out, probe, representation_drift, rsa, shift, uncertainty
from alignet_ray.evals.inputs import AnnotatedObjects, Space, Trials


class Options(NamedTuple):
    """How much to draw.

    Attributes:
        draws: random images per object.
        triplets: largest number of triplets of test objects.
        bootstrap: resamplings behind an interval.
        posterior: draws of the human model.
        shots: images per object for few-shot classifiers.
        seed: of everything.
    """

    draws: int
    triplets: int
    bootstrap: int
    posterior: int
    shots: tuple[int, ...]
    seed: int


class SplitObjects(NamedTuple):
    """Judged objects by split; the scores are on the test objects."""

    train: AnnotatedObjects
    validation: AnnotatedObjects
    test: AnnotatedObjects


class Results(NamedTuple):
    """Scores, and what they were computed from (for the report)."""

    scores: list[Score]
    trials: Trials
    picks: Int[np.ndarray, "draws m"]
    answers: odd_one_out.HeldOutResponses
    curves: dict[tuple[str, str], tuple[list[float], list[float]]]


def evaluate(spaces: list[Space], sides: SplitObjects, raw: Int[np.ndarray, "n 3"], options: Options) -> Results:
    """Score every space; the first one is the base.

    Args:
        spaces: what to judge.
        sides: objects with images that all spaces hold.
        raw: single answers of people, rows (pair, pair, odd) of object numbers.
        options: how much to draw.
    """
    test, seed, bootstrap = sides.test, options.seed, options.bootstrap
    trials = Trials.of(test, options.triplets, options.posterior, seed)
    picks = test.picks(options.draws, seed)
    answers = odd_one_out.answers(spaces, picks, trials)
    scores = odd_one_out.evaluate(answers, trials, test, bootstrap, seed)
    scores += odd_one_out.evaluate_raw(spaces, picks, test, raw, bootstrap, seed)
    scores += odd_one_out.noise_ceilings(raw, seed)
    scores += rsa.evaluate(spaces, test, bootstrap, seed)
    scores += representation_drift.evaluate(spaces[0], spaces[1:], test, bootstrap, seed)
    with threadpool_limits(1, "blas"):  # many small problems: threads would only wait for each other
        scores += probe.evaluate(spaces, test, sides.validation, options.shots, min(options.draws, 10), seed)
        scores += shift.evaluate(spaces, *sides, seed)
    curves = {}
    if len(sides.validation) >= 3:
        validation = Trials.of(sides.validation, options.triplets, options.posterior, seed)
        found = uncertainty.evaluate(spaces, picks[0], trials, sides.validation.picks(1, seed)[0], validation, seed)
        scores, curves = scores + found.scores, found.curves
    return Results(scores, trials, picks, answers, curves)
