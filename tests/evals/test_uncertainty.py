from collections.abc import Callable

import numpy as np
import pytest

from alignet_ray.evals import uncertainty
from alignet_ray.evals.annotated_objects import AnnotatedObjects, TripletTrials
from alignet_ray.evals.spaces import EmbeddingSpace
from alignet_ray.evals.uncertainty import ImageTrials


def test_people_as_a_model_are_calibrated_and_noise_says_a_third(
    make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace]
) -> None:
    test, valid = make_annotated(), make_annotated(first=24)
    spaces = [make_space([test, valid], 1, 0, "teacher", kind="dot"), make_space([test, valid], 0, 1)]
    trials, tuning = (
        ImageTrials(objects.draw_images(1, 0)[0], TripletTrials.of(objects, 10_000, 1, 0)) for objects in (test, valid)
    )
    found = uncertainty.evaluate(spaces, trials, tuning, 0)
    value = {(s.model, s.metric): s.value for s in found.scores}
    assert value["teacher", "temperature"] == pytest.approx(1, abs=1e-3)
    assert value["teacher", "kl_to_people"] == pytest.approx(0, abs=1e-6)
    assert value["teacher", "entropy_spearman"] == pytest.approx(1, abs=1e-4)
    assert value["teacher", "calibration_error"] < 1e-3
    assert value["base", "cross_entropy"] == pytest.approx(np.log(3), abs=0.02)
    assert value["base", "temperature"] > 1
    sure, agrees = found.curves["teacher", "pre_logits"]
    assert sure == pytest.approx(agrees, abs=1e-3)
