from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import spearmanr

from alignet_ray.evals import rsa
from alignet_ray.evals.annotated_objects import AnnotatedObjects
from alignet_ray.evals.spaces import EmbeddingSpace


def test_the_similarity_of_objects_is_the_mean_over_their_images(
    make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace]
) -> None:
    annotated = make_annotated(objects=5, images=3)
    space = make_space([annotated], 1, 1)
    found = rsa.object_similarity(space, annotated)
    a, b = space.features(annotated.images[1]), space.features(annotated.images[4])
    assert found[1, 4] == pytest.approx((a @ b.T).mean(), abs=1e-5)


def test_rank_correlation_with_people(
    make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace]
) -> None:
    annotated = make_annotated(objects=20)
    spaces = [make_space([annotated], 1, 0, "teacher", kind="dot"), make_space([annotated], 1, 2)]
    found = {(s.model, s.metric): s for s in rsa.evaluate(spaces, annotated, 50, 0) if not s.level}
    assert found["teacher", "rsa_spearman"].value == pytest.approx(1)
    row = found["base", "rsa_spearman"]
    matrix, pairs = rsa.object_similarity(spaces[1], annotated), np.triu_indices(20, 1)
    assert row.value == pytest.approx(spearmanr(matrix[pairs], annotated.human_similarity()[pairs])[0])
    assert row.low < row.value < row.high
    assert row.n == 190
