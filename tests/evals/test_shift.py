from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from alignet_ray.evals import shift
from alignet_ray.evals.annotated_objects import AnnotatedObjects
from alignet_ray.evals.spaces import EmbeddingSpace


def test_categories_carry_over_to_new_objects_where_the_space_knows_them(
    make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace]
) -> None:
    sides = [make_annotated(first=first) for first in (0, 24, 48)]
    spaces = [make_space(sides, m, 0.3, name) for name, m in (("base", 0.0), ("student", 1.0))]
    found = {(s.model, s.metric): s for s in shift.evaluate(spaces, *sides, 0)}
    assert found["student", "shift_target"].value > 0.95
    assert found["student", "shift_source"].value > 0.95
    assert found["student", "anomaly_auroc"].value > 0.95
    assert found["base", "shift_target"].value == pytest.approx(0.25, abs=0.15)
    assert found["base", "anomaly_auroc"].value == pytest.approx(0.5, abs=0.1)
    assert found["student", "shift_target"].n == 24
    assert found["student", "shift_source"].n == 48  # objects, one held image each


def test_anomaly_detection_equals_sklearn(
    make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace]
) -> None:
    sides = [make_annotated(first=first) for first in (0, 24, 48)]
    space = make_space(sides, 0.3, 1)
    row = next(s for s in shift.evaluate([space], *sides, 0) if s.metric == "anomaly_auroc")
    values = []
    source, target = np.arange(48 * 3), np.arange(48 * 3, 72 * 3)
    near, far = space.features(source), space.features(target)
    for category in range(4):
        normal = near[(source // 3) % 4 == category]
        nearest = np.sort(far @ normal.T, axis=1)[:, -5:].mean(1)
        values.append(roc_auc_score((target // 3) % 4 == category, nearest))
    assert row.value == pytest.approx(np.mean(values), abs=1e-6)


def test_one_category_is_nothing_to_tell_apart(
    make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace]
) -> None:
    sides = [make_annotated(first=first, objects=6) for first in (0, 6, 12)]
    for side in sides:
        side.categories[:] = ["animal"] * 6
    assert shift.evaluate([make_space(sides, 1, 1)], *sides, 0) == []
