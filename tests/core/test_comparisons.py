import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from alignet_ray.core import comparisons
from alignet_ray.core.comparisons import Comparisons

VOTES = np.array([[3.0, 1.0], [2.0, 2.0], [0.0, 5.0]])
ROWS = np.array([[0, 1, 2], [4, 2, 3], [1, 0, 2]])
COUNTS = hnp.arrays(np.float64, st.tuples(st.integers(1, 20), st.just(2)), elements=st.integers(1, 6).map(float))


def test_worked_agreement_with_votes_and_majorities() -> None:
    similarities = np.array([[0.9, 0.1], [0.2, 0.3], [0.5, 0.5]])
    np.testing.assert_allclose(comparisons.vote_agreement(similarities, VOTES), [0.75, 0.5, 0])
    np.testing.assert_allclose(comparisons.majority_share(VOTES), [0.75, 0.5, 1])
    assert comparisons.has_majority(VOTES).tolist() == [True, False, True]
    np.testing.assert_allclose(comparisons.majority_agreement(similarities[[0, 2]], VOTES[[0, 2]]), [1, 0])


def test_nan_is_no_choice() -> None:
    similarities = np.array([[np.nan, 0.1], [0.2, np.nan]])
    assert comparisons.vote_agreement(similarities, VOTES[:2]).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        # Three of four are predicted by 2:1 of the others; the fourth sees 3:0 and is missed.
        ([3, 1], 3 / 4),
        # Every vote of an even split is outvoted by the others.
        ([2, 2], 0.0),
        # Of two who agree, each predicts the other; of two who differ, none does.
        ([2, 0], 1.0),
        ([1, 1], 0.0),
        # With 2:1 both of the two see 1:1, which is a guess; the third sees 2:0 against it.
        ([2, 1], 2 * 0.5 / 3),
    ],
)
def test_a_vote_is_predicted_by_the_others_alone(votes: list[int], expected: float) -> None:
    np.testing.assert_allclose(comparisons.predicted_by_others(np.array([votes], dtype=float)), [expected])


@given(COUNTS)
def test_nobody_exceeds_the_majority(votes: np.ndarray) -> None:
    top = comparisons.majority_share(votes)
    assert (comparisons.predicted_by_others(votes) <= top + 1e-12).all()
    for sign in (1, -1):
        similarities = np.tile([sign, -sign], (len(votes), 1)).astype(float)
        assert (comparisons.vote_agreement(similarities, votes) <= top + 1e-12).all()


@given(COUNTS)
def test_a_model_that_follows_the_votes_reaches_the_ceiling(votes: np.ndarray) -> None:
    decided = comparisons.has_majority(votes)
    agreement = comparisons.vote_agreement(votes[decided], votes[decided])
    np.testing.assert_allclose(agreement, comparisons.majority_share(votes[decided]))


def test_equal_questions_are_one_row_whichever_side_came_first() -> None:
    rows = np.array([[0, 1, 2], [0, 2, 1], [1, 0, 2], [0, 1, 2]])
    votes = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    merged = comparisons.merged(Comparisons(rows, votes))
    assert merged.rows.tolist() == [[0, 1, 2], [1, 0, 2]]
    assert merged.votes.tolist() == [[2, 1], [0, 1]]
    assert merged.answers == 4
    assert len(comparisons.merged(comparisons.no_comparisons()).rows) == 0


def test_every_vote_is_one_answer_with_the_chosen_one_first() -> None:
    answers = comparisons.single_answers(Comparisons(ROWS, VOTES))
    assert len(answers) == VOTES.sum()
    for row, (for_a, for_b) in zip(ROWS, VOTES, strict=True):
        reference, a, b = row
        assert (answers == [reference, a, b]).all(axis=1).sum() == for_a
        assert (answers == [reference, b, a]).all(axis=1).sum() == for_b


def test_only_questions_whose_three_objects_are_given_count() -> None:
    inside = Comparisons(ROWS, VOTES).among(np.array([0, 1, 2]))
    assert inside.rows.tolist() == [[0, 1, 2], [1, 0, 2]]
    assert inside.votes.tolist() == [[3, 1], [0, 5]]
