from collections.abc import Callable

import numpy as np
import pytest

from alignet_ray.evals.annotated_objects import AnnotatedObjects
from alignet_ray.evals.spaces import EmbeddingSpace, each_space


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


def test_every_space_is_evaluated_in_its_place() -> None:
    ids = np.arange(3)
    spaces = [
        EmbeddingSpace(f"model{number}", "pre_logits", ids, np.full((3, 2), float(number))) for number in range(7)
    ]
    assert each_space(lambda space: float(space.embeddings[0, 0]), spaces) == list(range(7))

    def fail(space: EmbeddingSpace) -> float:
        raise ValueError(space.model)

    with pytest.raises(ValueError, match="model0"):
        each_space(fail, spaces)
