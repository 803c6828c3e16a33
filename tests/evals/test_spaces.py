from collections.abc import Callable

import numpy as np
import pytest

from alignet_ray.evals.annotated_objects import AnnotatedObjects
from alignet_ray.evals.spaces import EmbeddingSpace


def test_rows_are_found_by_image_id(
    make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace]
) -> None:
    annotated = make_annotated(objects=3)
    space = make_space([annotated], 1, 1)
    picked = np.array([[4, 0], [8, 4]])
    assert np.array_equal(space.rows(picked), space.embeddings[picked])
    with pytest.raises(AssertionError, match="not embedded"):
        space.rows(np.array([99]))
    assert np.linalg.norm(space.features(np.array([1, 5])), axis=1) == pytest.approx([1, 1])
