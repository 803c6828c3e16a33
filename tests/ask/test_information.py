"""Which triplets would tell most: information worked out by hand."""

import numpy as np
import pytest

from alignet_ray.ask.information import expected_information, most_informative, question_keys, random_questions


def test_random_candidates_are_different_sets() -> None:
    drawn = random_questions(9, 300, np.random.default_rng(1), "odd")
    sets = set(map(frozenset, drawn.tolist()))
    assert len(sets) == len(drawn)
    assert all(len(members) == 3 for members in sets)


def test_information_is_what_samples_disagree_on() -> None:
    # Sample 1 is sure of pair (0, 1), sample 2 of pair (0, 2): one answer tells which is right, which is log 2.
    sure = np.zeros((2, 6, 2), np.float32)
    sure[0, [0, 1]] = [9, 0]
    sure[1, [0, 2]] = [9, 0]
    triplets = np.array([[0, 1, 2], [3, 4, 5], [2, 1, 0]])
    information = expected_information(sure, triplets, "odd")
    assert information[0] == pytest.approx(np.log(2), abs=1e-6)
    assert information[2] == pytest.approx(information[0])
    # People guess about 3, 4, 5 in both: nothing is to be learned, though the answer is as open as can be.
    assert information[1] == pytest.approx(0, abs=1e-9)


def test_in_a_comparison_the_pair_without_the_reference_tells_nothing() -> None:
    # Samples disagree on whether 0 is more like 1 or like 2; that 1 and 2 are alike in both does not matter.
    sure = np.zeros((2, 3, 3), np.float32)
    sure[:, [1, 2], 2] = 9
    sure[0, [0, 1], 0] = 9
    sure[1, [0, 2], 0] = 9
    questions = np.array([[0, 1, 2]])
    assert expected_information(sure, questions, "reference")[0] == pytest.approx(np.log(2), abs=1e-6)
    # With 1 as the reference, the first sample finds 0 and 2 equally near, and the second is sure of 2.
    half = np.log(2)
    mean = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert expected_information(sure, questions[:, [1, 0, 2]], "reference")[0] == pytest.approx(mean - half / 2)


def test_keys_of_comparisons_tell_references_apart() -> None:
    rows = np.array([[5, 1, 2], [5, 2, 1], [1, 5, 2], [2, 1, 5]])
    keys = question_keys(rows, "reference")
    assert keys[0] == keys[1]
    assert len(set(keys.tolist())) == 3
    assert len(set(question_keys(rows, "odd").tolist())) == 1
    drawn = random_questions(5, 2000, np.random.default_rng(1), "reference")
    assert len(drawn) == 30  # all that there are


def test_the_best_are_taken_but_no_object_too_often() -> None:
    candidates = np.array([[0, 1, 2], [0, 1, 3], [0, 4, 5], [3, 4, 5]])
    information = np.array([0.4, 0.3, 0.2, 0.1])
    chosen = most_informative(candidates, information, 3, per_object=1)
    assert chosen.questions.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert chosen.information.tolist() == [0.4, 0.1]
    assert len(most_informative(candidates, information, 2, per_object=9).questions) == 2
