from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from alignet_ray.evals.inputs import AnnotatedObjects, Space, Trials


def test_rows_are_found_by_image_id(
    make_judged: Callable[..., AnnotatedObjects], make_space: Callable[..., Space]
) -> None:
    judged = make_judged(objects=3)
    space = make_space([judged], 1, 1)
    picked = np.array([[4, 0], [8, 4]])
    assert np.array_equal(space.rows(picked), space.x[picked])
    with pytest.raises(AssertionError, match="lacks images"):
        space.rows(np.array([99]))
    assert np.linalg.norm(space.features(np.array([1, 5])), axis=1) == pytest.approx([1, 1])


def test_images_that_one_space_lacks_are_left_out_for_all(
    make_judged: Callable[..., AnnotatedObjects], make_space: Callable[..., Space]
) -> None:
    judged = make_judged(objects=5, images=2)
    whole = make_space([judged], 1, 1)
    keep = np.setdiff1d(np.arange(10), [0, 4, 5])
    part = replace(whole, ids=whole.ids[keep], x=whole.x[keep])
    seen = judged.seen_by([whole, part])
    assert seen.objects.tolist() == [0, 1, 3, 4]
    assert seen.images[0].tolist() == [1]
    assert seen.mu.shape[0] == 4


def test_picks_take_one_image_of_each_object(make_judged: Callable[..., AnnotatedObjects]) -> None:
    judged = make_judged(objects=6, images=4)
    picks = judged.picks(50, 0)
    assert picks.shape == (50, 6)
    assert (picks // 4 == np.arange(6)).all()
    assert len(np.unique(picks[:, 0])) == 4
    assert make_judged(objects=6, images=1).picks(50, 0).shape == (1, 6)


def test_trials_are_all_triplets_with_peoples_softmax(make_judged: Callable[..., AnnotatedObjects]) -> None:
    judged = make_judged(objects=9)
    trials = Trials.of(judged, 1000, 1, 0)
    assert len(trials.triplets) == 84
    i, j, k = trials.triplets[17]
    s = judged.human_similarity()
    expected = np.exp([s[i, j], s[i, k], s[j, k]])
    assert trials.probabilities[17] == pytest.approx(expected / expected.sum(), rel=1e-4)
