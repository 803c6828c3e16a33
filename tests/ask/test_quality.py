"""Quality of answers: figures worked out by hand, and whom the rule leaves out."""

from dataclasses import replace

import numpy as np
import pytest

from alignet_ray.ask.quality import PersonQuality, counted, measure, reasons, review
from alignet_ray.ask.study_file import Answer, Decision, Person


def answer(number: int, choice: int, kind: str = "random", person: int = 1, **others: object) -> Answer:
    values = {
        "number": number,
        "person": person,
        "trial": number,
        "place": number,
        "mode": "odd",
        "kind": kind,
        "images": (number, number + 100, number + 200),
        "expected": None,
        "repeats": None,
        "choice": choice,
        "rt": 900.0,
        "at": 0.0,
    }
    return Answer(**(values | others))  # type: ignore[arg-type]


def person(number: int, decision: Decision = "") -> Person:
    return Person(number, f"p{number}", {}, 0.0, decision)


def test_figures_by_hand() -> None:
    answers = [
        answer(1, 0, rt=500.0, images=(7, 8, 9)),
        answer(2, 0, rt=700.0, images=(4, 5, 6)),
        answer(3, 2, "catch", rt=None, expected=2),
        answer(4, 1, "catch", rt=3000.0, expected=0),
        answer(5, 1, "repeat", repeats=1, images=(9, 7, 8)),  # image 7 both times
        answer(6, 0, "repeat", repeats=2, images=(5, 4, 6)),  # image 4 before, image 5 now
    ]
    found = measure(answers)
    assert found == PersonQuality(
        mode="odd",
        answers=6,
        median_rt=900.0,
        side=0,
        side_share=0.75,
        repeats=2,
        consistent=1,
        catch=2,
        catch_failed=1,
    )
    assert found.consistency == 0.5


def test_somebody_without_answers_is_no_division_by_zero() -> None:
    found = measure([])
    assert found.answers == 0
    assert found.median_rt is None
    assert found.consistency is None
    assert reasons(found) == []


def test_careful_people_stay_and_careless_ones_go() -> None:
    rng = np.random.default_rng(0)
    careful = [answer(n, int(rng.integers(3))) for n in range(200)]
    assert reasons(measure(careful)) == []

    cases = {
        "picture 2": [answer(n, 1) for n in range(20)],
        "median response time 200 ms": [answer(n, n % 3, rt=200.0) for n in range(20)],
        "2 of 3 obvious": [answer(n, n % 3) for n in range(9)]
        + [answer(n, int(n == 10), "catch", expected=1) for n in (10, 11, 12)],
        "1 of 12 repeated": [answer(n, n % 3) for n in range(12)]
        + [answer(50 + n, (n + bool(n)) % 3, "repeat", repeats=n, images=(n, n + 100, n + 200)) for n in range(12)],
    }
    for reason, answers in cases.items():
        found = reasons(measure(answers))
        assert len(found) == 1, (reason, found)
        assert reason in found[0]


@pytest.mark.parametrize(("decision", "counts"), [("", False), ("keep", True), ("leave out", False)])
def test_the_researcher_has_the_last_word(decision: Decision, counts: bool) -> None:
    answers = [answer(n, 1) for n in range(20)]
    (entry,) = review([person(1, decision)], answers)
    assert entry.reasons
    assert entry.counts is counts
    assert bool(counted([person(1, decision)], answers)) is counts


def test_what_counts_is_neither_a_test_nor_said_twice() -> None:
    answers = [
        answer(1, 0),
        answer(2, 1, "active"),
        answer(3, 2, "catch", expected=2),
        answer(4, 0, "repeat", repeats=1),
        answer(5, 0, person=2),
    ]
    kept = counted([person(1), person(2, "leave out")], answers)
    assert [entry.number for entry in kept] == [1, 2]


def compare(number: int, choice: int, kind: str = "random", **others: object) -> Answer:
    """An answer to a reference comparison."""
    return answer(number, choice, kind, mode="reference", **others)


def test_figures_of_reference_comparisons_by_hand() -> None:
    answers = [
        compare(1, 2, images=(7, 8, 9)),
        compare(2, 2, images=(4, 5, 6)),
        compare(3, 1, "catch", expected=1, images=(3, 3, 2)),
        compare(4, 1, "catch", expected=2, images=(3, 2, 3)),
        compare(5, 1, "repeat", repeats=1, images=(7, 9, 8)),  # image 9 both times
        compare(6, 2, "repeat", repeats=2, images=(4, 6, 5)),  # image 6 before, image 5 now
    ]
    found = measure(answers)
    assert found == PersonQuality(
        mode="reference",
        answers=6,
        median_rt=900.0,
        side=2,
        side_share=0.75,
        repeats=2,
        consistent=1,
        catch=2,
        catch_failed=1,
    )
    assert found.side_label == 2


def test_careless_comparisons_are_told_from_careful_ones() -> None:
    rng = np.random.default_rng(0)
    careful = [compare(n, int(rng.integers(1, 3))) for n in range(200)]
    assert reasons(measure(careful)) == []
    # Always the same of two is likelier by luck than always the same of three.
    assert reasons(measure([compare(n, 1) for n in range(20)])) == []

    alternating = [compare(n, 1 + n % 2, images=(n, n + 100, n + 200)) for n in range(12)]
    cases = {
        "100% of answers are picture 1": [compare(n, 1) for n in range(25)],
        "2 of 3 obvious": [*alternating, *(compare(50 + n, 1 + (n > 0), "catch", expected=1) for n in range(3))],
        # The same side with the candidates swapped: the other image.
        "2 of 12 repeated": [
            *alternating,
            *(compare(50 + n, 1 + n % 2, "repeat", repeats=n, images=(n, n + 200, n + 100)) for n in range(10)),
            *(compare(50 + n, 1 + n % 2, "repeat", repeats=n, images=(n, n + 100, n + 200)) for n in (10, 11)),
        ],
    }
    for reason, answers in cases.items():
        found = reasons(measure(answers))
        assert len(found) == 1, (reason, found)
        assert reason in found[0]


def test_what_an_honest_person_repeats_depends_on_what_guessing_gives() -> None:
    # 4 of 16 is rare where people repeat 62.5 %, and not so rare where they repeat a half.
    figures = PersonQuality("odd", 32, 900.0, 0, 0.35, repeats=16, consistent=4, catch=0, catch_failed=0)
    assert reasons(figures) == []
    assert reasons(replace(figures, mode="reference", side=1)) == ["4 of 16 repeated questions answered alike"]
