"""Calibration: is a model unsure where people disagree? Its temperature is fitted on validation objects."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import softmax

from alignet_ray.core import calibration, similarity
from alignet_ray.core.scores import Score
from alignet_ray.core.triplets import choices, expected_agreement, gram_similarities
from alignet_ray.evals.annotated_objects import TripletTrials
from alignet_ray.evals.spaces import EmbeddingSpace

ReliabilityCurve = tuple[list[float], list[float]]
"""Mean confidence and mean agreement with people of every bin."""


class Uncertainty(NamedTuple):
    """Scores, and the reliability curve of every (model, layer) for the report."""

    scores: list[Score]
    curves: dict[tuple[str, str], ReliabilityCurve]


class ImageTrials(NamedTuple):
    """Trials on objects, and the image (image_id) that stands for each object."""

    image_ids: Int[np.ndarray, " m"]
    trials: TripletTrials


def evaluate(spaces: Sequence[EmbeddingSpace], test: ImageTrials, validation: ImageTrials, seed: int) -> Uncertainty:
    """Cross-entropy and KL to people (nats), rank correlation of entropy with that of people, and calibration error.

    Args:
        spaces: to be evaluated.
        test: trials of the test objects.
        validation: trials of the validation objects, on which the temperature is fitted.
        seed: of the run.
    """
    human = test.trials.probabilities
    human_entropy = calibration.entropy(human)
    count = len(human)
    rows: list[Score] = []
    curves = {}
    for space in spaces:
        temperature = calibration.fit_temperature(
            _pair_similarities(space, validation), validation.trials.probabilities
        )
        # With the temperature fitted, similarities are logits of choices.
        logits = _pair_similarities(space, test) / np.float32(temperature)
        probabilities = softmax(logits, axis=1)
        choice = choices(logits)
        confidence = calibration.confidence(probabilities, choice)
        agreement = expected_agreement(choice, human)
        cross_entropy = calibration.cross_entropy(logits, human)

        # Cross-entropy includes how much people disagree; less their entropy it is the distance to people alone.
        values = {
            "temperature": temperature,
            "cross_entropy": float(cross_entropy.mean()),
            "kl_to_people": float((cross_entropy - human_entropy).mean()),
            "entropy_spearman": similarity.correlation(calibration.entropy(probabilities), human_entropy),
            "calibration_error": calibration.calibration_error(confidence, agreement),
        }
        for metric, value in values.items():
            rows.append(Score(space.model, space.layer, "objects", metric, value, n=count, seed=seed))
        curves[space.name] = _reliability_curve(confidence, agreement)
    return Uncertainty(rows, curves)


def _pair_similarities(space: EmbeddingSpace, images: ImageTrials) -> Float[np.ndarray, "t 3"]:
    matrix = similarity.similarity_matrix(space.rows(images.image_ids), space.kind)
    return gram_similarities(matrix, images.trials.triplets)


def _reliability_curve(confidence: Float[np.ndarray, " t"], agreement: Float[np.ndarray, " t"]) -> ReliabilityCurve:
    """Bins with too few trials for a mean are left out."""
    # A bin of a handful of trials would be a spike in the figure.
    mean_confidence, mean_agreement, trials = calibration.reliability(confidence, agreement)
    kept = trials >= max(20, 0.002 * len(confidence))
    return mean_confidence[kept].tolist(), mean_agreement[kept].tolist()
