import numpy as np
import torch
from support.mixed_features import world

from alignet_ray.core import triplet_set


def test_ties_are_wrong_and_a_collapsed_map_scores_nothing() -> None:
    _, human, rows = world()
    examples = triplet_set.soft_targets(range(10), rows, human, 200)
    assert triplet_set.score(torch.ones(80, 3), examples).accuracy == 0


def test_hard_targets_hold_the_responses_about_their_objects_alone() -> None:
    _, _, rows = world()
    responses = np.array([[3, 5, 9], [3, 5, 30], [9, 3, 5]])
    examples = triplet_set.hard_targets([3, 5, 9], rows, responses)
    np.testing.assert_array_equal(examples.triplets.numpy(), [[0, 1, 2], [2, 0, 1]])
    np.testing.assert_array_equal(examples.targets.numpy(), [[1, 0, 0]] * 2)
    assert len(triplet_set.hard_targets([1, 2, 4], rows, responses).triplets) == 0


def test_an_object_shows_each_of_its_images() -> None:
    examples = triplet_set.TripletSet.of(
        [np.array([7]), np.array([1, 2, 3])], np.empty((0, 3), np.int64), np.empty((0, 3), np.float32)
    )
    rng = torch.Generator().manual_seed(0)
    drawn = np.array([examples.draw(rng).numpy() for _ in range(200)])
    assert set(drawn[:, 0]) == {7}
    assert set(drawn[:, 1]) == {1, 2, 3}
    used, compact = examples.compact()
    np.testing.assert_array_equal(used, [1, 2, 3, 7])
    np.testing.assert_array_equal(used[compact.rows], examples.rows)
