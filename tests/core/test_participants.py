"""Every person's answers against a model of people."""

import math

import numpy as np
import pytest

from alignet_ray.core.participants import ABOVE_CHANCE, FAST_MS, GUESSED, PersonFit, fits

NAN = float("nan")


def test_figures_of_each_person_by_hand() -> None:
    found = fits(["b", "a", "", "b"], np.array([True, False, True, False]), np.array([100.0, NAN, 5.0, 300.0]))
    assert [person.participant for person in found] == ["a", "b"]
    first, second = found
    assert (first.answers, first.agreement) == (1, 0.0)
    # Half of all answers are predicted; guessing brings a third.
    assert first.log_ratio == pytest.approx(math.log(0.5 / (2 / 3)))
    assert first.p_value == 1
    assert math.isnan(first.median_rt)
    assert not first.is_too_fast
    assert (second.answers, second.agreement, second.median_rt) == (2, 0.5, 200.0)
    assert second.log_ratio == pytest.approx(math.log(0.25 / (1 / 3 * 2 / 3)))
    assert second.p_value == pytest.approx(1 - 4 / 9)
    assert second.reason == "median response time 200 ms"
    assert FAST_MS > 200


def test_a_name_that_is_a_number_stays_a_name() -> None:
    found = fits(["10", "9"], np.ones(2, bool), np.full(2, NAN))
    assert [person.participant for person in found] == ["10", "9"]


@pytest.mark.parametrize(
    ("log_ratio", "p_value", "guesses"),
    [
        (-GUESSED - 0.01, ABOVE_CHANCE + 0.001, True),
        (-GUESSED + 0.01, 0.5, False),
        (-GUESSED - 9, ABOVE_CHANCE - 0.001, False),
        (3.0, 0.5, False),
    ],
)
def test_guessing_is_likelier_by_far_and_not_worse_than_chance(log_ratio: float, p_value: float, guesses: bool) -> None:
    person = PersonFit("a", 80, 0.35, log_ratio, p_value, NAN)
    assert person.guesses is guesses
    assert bool(person.reason) is guesses


@pytest.mark.parametrize(("answers", "least"), [(10, 0), (60, 35), (300, 45)])
def test_those_who_guess_are_found_and_honest_people_are_not(answers: int, least: int) -> None:
    """Honest people agree with the model in 45 to 80 % of their answers, as real ones do; one in five guesses."""
    rng = np.random.default_rng(0)
    rates = np.concatenate([rng.uniform(0.45, 0.8, 200), np.full(50, 1 / 3)])
    names = [f"honest{number:03d}" for number in range(200)] + [f"guess{number:03d}" for number in range(50)]
    is_hit = (rng.random((250, answers)) < rates[:, None]).reshape(-1)
    found = fits(np.repeat(names, answers).tolist(), is_hit, np.full(len(is_hit), NAN))
    guessing = [person.participant for person in found if person.guesses]
    honest = sum(name.startswith("honest") for name in guessing)
    assert honest <= 4, "two in a hundred honest people at most"
    # Ten answers tell nobody apart, three hundred nearly everybody.
    assert len(guessing) - honest >= least


def test_a_model_that_predicts_nothing_accuses_nobody() -> None:
    is_hit = np.random.default_rng(0).random(3000) < 0.3
    assert not any(person.guesses for person in fits(["a", "b", "c"] * 1000, is_hit, np.full(3000, NAN)))
