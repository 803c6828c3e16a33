"""Is a model unsure where people disagree? Its probabilities come at a temperature fitted on validation objects."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from alignet_ray.core import calibration, scores, similarity
from alignet_ray.core.scores import Score
from alignet_ray.evals.inputs import Space, Trials

NAN = float("nan")


class Uncertainty(NamedTuple):
    """Scores, and for the report each model's reliability curve: (model, layer) -> (confidence, agreement)."""

    scores: list[Score]
    curves: dict[tuple[str, str], tuple[list[float], list[float]]]


def evaluate(
    spaces: list[Space],
    picks: Int[np.ndarray, " m"],
    trials: Trials,
    validation_picks: Int[np.ndarray, " v"],
    validation: Trials,
    seed: int,
) -> Uncertainty:
    """Cross-entropy and KL to people (nats), entropy against people's entropy (Spearman), and calibration error.

    Args:
        spaces: what to judge.
        picks: one image for each test object.
        trials: triplets of test objects.
        validation_picks, validation: the same for the validation objects, where the temperature is fitted.
        seed: of the run.
    """
    rows: list[Score] = []
    curves = {}
    doubt = calibration.entropy(trials.probabilities)
    for space in spaces:
        s = _similarities(space, validation_picks, validation)
        temperature = calibration.fit_temperature(s, validation.probabilities)
        s = _similarities(space, picks, trials) / np.float32(temperature)
        p, choice = calibration.softmax(s), scores.choices(s)
        sure, hits = calibration.confidence(p, choice), scores.agreement(choice, trials.probabilities)
        loss = calibration.cross_entropy(s, trials.probabilities)
        found = {
            "temperature": temperature,
            "cross_entropy": float(loss.mean()),
            "kl_to_people": float((loss - doubt).mean()),
            "entropy_spearman": similarity.correlation(calibration.entropy(p), doubt),
            "calibration_error": calibration.calibration_error(sure, hits),
        }
        one = Score(space.model, space.layer, "objects", "", NAN, n=len(s), seed=seed)
        rows += [replace(one, metric=metric, value=value) for metric, value in found.items()]
        x, y, count = calibration.reliability(sure, hits)
        kept = count >= max(20, 0.002 * len(s))
        curves[space.model, space.layer] = (x[kept].tolist(), y[kept].tolist())
    return Uncertainty(rows, curves)


def _similarities(space: Space, pick: Int[np.ndarray, " m"], trials: Trials) -> Float[np.ndarray, "t 3"]:
    matrix = similarity.similarity_matrix(space.rows(pick), space.kind)
    return scores.pair_similarities(matrix, trials.triplets)
