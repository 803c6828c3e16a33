from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from alignet_ray.errors import UserError
from alignet_ray.evals.annotated_objects import AnnotatedObjects, TripletTrials
from alignet_ray.evals.spaces import EmbeddingSpace


def test_images_that_one_space_lacks_are_left_out_for_all(
    make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace]
) -> None:
    annotated = make_annotated(objects=5, images=2)
    whole = make_space([annotated], 1, 1)
    keep = np.setdiff1d(np.arange(10), [0, 4, 5])
    part = replace(whole, ids=whole.ids[keep], embeddings=whole.embeddings[keep])
    seen = annotated.embedded_in([whole, part])
    assert seen.objects.tolist() == [0, 1, 3, 4]
    assert seen.images[0].tolist() == [1]
    assert seen.mu.shape[0] == 4


def test_draws_take_one_image_of_each_object(make_annotated: Callable[..., AnnotatedObjects]) -> None:
    annotated = make_annotated(objects=6, images=4)
    picks = annotated.draw_images(50, 0)
    assert picks.shape == (50, 6)
    assert (picks // 4 == np.arange(6)).all()
    assert len(np.unique(picks[:, 0])) == 4
    assert make_annotated(objects=6, images=1).draw_images(50, 0).shape == (1, 6)


def test_trials_are_all_triplets_with_peoples_softmax(make_annotated: Callable[..., AnnotatedObjects]) -> None:
    annotated = make_annotated(objects=9)
    trials = TripletTrials.of(annotated, 1000, 1, 0)
    assert len(trials.triplets) == 84
    i, j, k = trials.triplets[17]
    s = annotated.human_similarity()
    expected = np.exp([s[i, j], s[i, k], s[j, k]])
    assert trials.probabilities[17] == pytest.approx(expected / expected.sum(), rel=1e-4)


def test_too_few_objects_with_images_are_a_clear_error(
    make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace]
) -> None:
    annotated = make_annotated(objects=5, images=1)
    whole = make_space([annotated], 1, 1)
    few = replace(whole, ids=whole.ids[:2], embeddings=whole.embeddings[:2])
    assert len(annotated.enough_embedded_in([whole])) == 5
    with pytest.raises(UserError, match="2 test objects have readable images; at least 3"):
        annotated.enough_embedded_in([whole, few])
