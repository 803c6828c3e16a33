"""The two forms of questions: when questions are the same, and how many there are."""

from itertools import permutations

import pytest

from alignet_ray.ask.forms import FORMS, count_questions, question_key
from alignet_ray.ask.study_file import Mode


@pytest.mark.parametrize("mode", ["odd", "reference"])
def test_questions_are_counted_as_their_keys_say(mode: Mode) -> None:
    keys = {question_key((first, second, third), mode) for first, second, third in permutations(range(6), 3)}
    assert len(keys) == count_questions(6, mode) == {"odd": 20, "reference": 60}[mode]


def test_the_reference_is_part_of_a_question_and_the_order_of_the_candidates_is_not() -> None:
    assert question_key((4, 1, 2), "reference") == question_key((4, 2, 1), "reference")
    assert question_key((4, 1, 2), "reference") != question_key((1, 4, 2), "reference")
    assert question_key((4, 1, 2), "odd") == question_key((1, 4, 2), "odd")


def test_labels_are_what_people_see() -> None:
    assert [FORMS["odd"].label(position) for position in (0, 1, 2)] == [1, 2, 3]
    assert [FORMS["reference"].label(position) for position in (1, 2)] == [1, 2]
