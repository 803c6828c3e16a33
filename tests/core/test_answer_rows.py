"""Answers of both kinds in one table: what competes, and what is drawn."""

import numpy as np
import torch

from alignet_ray.core.answer_rows import AnswerRows, competing


def test_responses_come_first_and_comparisons_are_marked() -> None:
    answers = AnswerRows(np.array([[0, 1, 2], [3, 4, 5]]), np.array([[6, 7, 8]]))
    assert len(answers) == 3
    assert answers.all.rows.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert answers.all.is_comparison is not None
    assert answers.all.is_comparison.tolist() == [False, False, True]


def test_a_draw_keeps_rows_and_marks_together() -> None:
    answers = AnswerRows(np.array([[0, 1, 2]]), np.array([[6, 7, 8]]))
    rows, is_comparison = answers.draw(200, torch.Generator().manual_seed(0), "cpu")
    assert is_comparison is not None
    assert ((rows[:, 0] == 6) == is_comparison).all()
    assert 60 < int(is_comparison.sum()) < 140


def test_without_comparisons_nothing_is_marked() -> None:
    for none in (None, np.empty((0, 3), np.int64)):
        answers = AnswerRows(np.array([[0, 1, 2]]), none)
        assert answers.all.is_comparison is None
        assert answers.draw(4, torch.Generator().manual_seed(0), "cpu").is_comparison is None


def test_the_pair_without_the_reference_cannot_be_chosen() -> None:
    free = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    found = competing(free, torch.tensor([False, True]))
    torch.testing.assert_close(found[0], free[0])
    torch.testing.assert_close(found[1, :2], free[1, :2])
    assert torch.softmax(found, dim=1)[1, 2] == 0
    torch.testing.assert_close(competing(free, None), free)
