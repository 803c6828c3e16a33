from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from alignet_ray.evals import representation_drift
from alignet_ray.evals.annotated_objects import AnnotatedObjects
from alignet_ray.evals.spaces import EmbeddingSpace


def test_a_turned_base_keeps_everything_and_noise_keeps_chance(
    make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace]
) -> None:
    annotated = make_annotated(objects=60, images=2)
    base = make_space([annotated], 0.2, 1)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0].astype(np.float32)
    turned = replace(base, model="student", embeddings=base.embeddings @ turn)
    noise = make_space([annotated], 0, 3, "control")
    found = {
        (s.model, s.metric): s.value for s in representation_drift.evaluate(base, [turned, noise], annotated, 100, 0)
    }
    assert found["student", "neighbours_kept"] > 0.999
    assert found["student", "cka_to_base"] == pytest.approx(1, abs=1e-4)
    assert found["control", "neighbours_kept"] == pytest.approx(10 / 119, abs=0.03)
    assert abs(found["control", "cka_to_base_unbiased"]) < 0.1
