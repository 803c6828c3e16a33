"""Selection among trials: by the mean over seeds, among the finished, with the probability of being the best."""

from math import isnan

import pytest

from alignet_ray.sweep.selection import (
    FAILED,
    FINISHED,
    STOPPED,
    Trial,
    ValidationFigures,
    compare_finalists,
    finalists,
    pareto_front,
    ranked,
)


def trial(number: int, score: float, seed: int = 0, status: str = FINISHED) -> Trial:
    figures = figures_of(score) if status == FINISHED else None
    return Trial(number, {"align.identity_penalty": float(number)}, seed, status, figures)


def figures_of(score: float) -> ValidationFigures:
    return ValidationFigures(score, 0.5, 0.4, 0.6, 1.0, 0.5)


def test_only_finished_trials_of_the_seed_are_ranked() -> None:
    trials = [
        trial(0, 3.0),
        trial(1, 1.0, status=STOPPED),
        trial(2, 2.0),
        trial(3, 0.1, status=FAILED),
        trial(2, 0.5, 1),
    ]
    assert [t.number for t in ranked(trials, "min", 0)] == [2, 0]
    assert [t.number for t in ranked(trials, "max", 0)] == [0, 2]
    assert compare_finalists([trial(1, 1.0, status=FAILED)], "min", 0) == []


def test_the_given_setting_is_always_among_the_finalists() -> None:
    trials = [trial(0, 9.0), *(trial(n, float(n)) for n in range(1, 6))]
    assert [t.number for t in finalists(trials, "min", 0)] == [1, 2, 3, 0]


def test_the_best_of_every_alternative_is_among_the_finalists() -> None:
    trials = [Trial(n, {"a": "xyxyz"[n - 1]}, 0, FINISHED, figures_of(n)) for n in range(1, 6)]
    assert [t.number for t in finalists(trials, "min", 0)] == [1, 2, 3]
    assert [t.number for t in finalists(trials, "min", 0, ["a"])] == [1, 2, 3, 5]
    assert [t.number for t in finalists(trials, "max", 0, ["a"])] == [5, 4, 3]


def test_repeats_overturn_a_lucky_score() -> None:
    trials = [trial(0, 2.0), trial(1, 1.0), trial(2, 1.1)]
    assert compare_finalists(trials, "min", 0)[0].number == 1
    assert all(isnan(c.probability_best) for c in compare_finalists(trials, "min", 0))
    repeats = [trial(1, 1.5, 1), trial(1, 1.4, 2), trial(2, 1.1, 1), trial(2, 1.12, 2)]
    compared = compare_finalists([*trials, *repeats], "min", 0)
    assert [c.number for c in compared] == [2, 1, 0]
    assert compared[0].scores == (1.1, 1.1, 1.12)
    assert compared[0].probability_best > 0.8
    assert sum(c.probability_best for c in compared) == pytest.approx(1)


def test_a_clear_winner_is_sure_and_a_tie_is_not() -> None:
    def several(gap: float) -> float:
        made = [trial(n, n * gap + 0.01 * s, s) for n in (0, 1) for s in range(4)]
        return compare_finalists(made, "min", 0)[0].probability_best

    assert several(1.0) == pytest.approx(1)
    assert several(0.0) == pytest.approx(0.5, abs=0.02)


def test_a_failed_repeat_does_not_count() -> None:
    trials = [trial(0, 1.0), trial(0, 5.0, 1, FAILED)]
    assert compare_finalists(trials, "min", 0)[0].scores == (1.0,)


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    points = [(0.5, 0.2), (0.4, 0.6), (0.4, 0.5), (0.3, 0.9), (0.2, 0.9), (0.5, 0.1)]
    assert pareto_front(points) == [0, 1, 3]
    assert pareto_front([]) == []
