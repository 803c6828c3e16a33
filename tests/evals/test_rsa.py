from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import spearmanr

from alignet_ray.evals import rsa
from alignet_ray.evals.inputs import AnnotatedObjects, Space


def test_the_similarity_of_objects_is_the_mean_over_their_images(
    make_judged: Callable[..., AnnotatedObjects], make_space: Callable[..., Space]
) -> None:
    judged = make_judged(objects=5, images=3)
    space = make_space([judged], 1, 1)
    found = rsa.object_similarity(space, judged)
    a, b = space.features(judged.images[1]), space.features(judged.images[4])
    assert found[1, 4] == pytest.approx((a @ b.T).mean(), abs=1e-5)


def test_rank_correlation_with_people(
    make_judged: Callable[..., AnnotatedObjects], make_space: Callable[..., Space]
) -> None:
    judged = make_judged(objects=20)
    spaces = [make_space([judged], 1, 0, "teacher", kind="dot"), make_space([judged], 1, 2)]
    found = {(s.model, s.metric): s for s in rsa.evaluate(spaces, judged, 50, 0) if not s.level}
    assert found["teacher", "rsa_spearman"].value == pytest.approx(1)
    row = found["base", "rsa_spearman"]
    matrix, pairs = rsa.object_similarity(spaces[1], judged), np.triu_indices(20, 1)
    assert row.value == pytest.approx(spearmanr(matrix[pairs], judged.human_similarity()[pairs])[0])
    assert row.low < row.value < row.high
    assert row.n == 190
