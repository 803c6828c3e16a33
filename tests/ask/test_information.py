"""Which triplets would tell most: information worked out by hand."""

import numpy as np
import pytest

from alignet_ray.ask.information import expected_information, most_informative, random_triplets


def test_random_candidates_are_different_sets() -> None:
    drawn = random_triplets(9, 300, np.random.default_rng(1))
    sets = set(map(frozenset, drawn.tolist()))
    assert len(sets) == len(drawn)
    assert all(len(members) == 3 for members in sets)


def test_information_is_what_samples_disagree_on() -> None:
    # Sample 1 is sure of pair (0, 1), sample 2 of pair (0, 2): one answer tells which is right, which is log 2.
    sure = np.zeros((2, 6, 2), np.float32)
    sure[0, [0, 1]] = [9, 0]
    sure[1, [0, 2]] = [9, 0]
    triplets = np.array([[0, 1, 2], [3, 4, 5], [2, 1, 0]])
    information = expected_information(sure, triplets)
    assert information[0] == pytest.approx(np.log(2), abs=1e-6)
    assert information[2] == pytest.approx(information[0])
    # People guess about 3, 4, 5 in both: nothing is to be learned, though the answer is as open as can be.
    assert information[1] == pytest.approx(0, abs=1e-9)


def test_the_best_are_taken_but_no_object_too_often() -> None:
    candidates = np.array([[0, 1, 2], [0, 1, 3], [0, 4, 5], [3, 4, 5]])
    information = np.array([0.4, 0.3, 0.2, 0.1])
    chosen = most_informative(candidates, information, 3, per_object=1)
    assert chosen.triplets.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert chosen.information.tolist() == [0.4, 0.1]
    assert len(most_informative(candidates, information, 2, per_object=9).triplets) == 2
