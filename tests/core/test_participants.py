"""Every person's answers against a model of people."""

import math

import numpy as np
import pytest

from alignet_ray.core.participants import FAST_MS, GUESSED, PersonFit, fits

NAN = float("nan")


def test_figures_of_each_person_by_hand() -> None:
    found = fits(
        ["b", "a", "", "b"],
        np.array([0.5, 0.2, 0.9, 0.25]),
        np.array([True, False, True, False]),
        np.array([100.0, NAN, 5.0, 300.0]),
    )
    assert [person.participant for person in found] == ["a", "b"]
    first, second = found
    assert (first.answers, first.agreement) == (1, 0.0)
    assert first.log_ratio == pytest.approx(math.log(0.6))
    assert math.isnan(first.median_rt)
    assert not first.is_too_fast
    assert (second.answers, second.agreement, second.median_rt) == (2, 0.5, 200.0)
    assert second.log_ratio == pytest.approx(math.log(1.5 * 0.75))
    assert second.reason == "median response time 200 ms"
    assert FAST_MS > 200


def test_a_name_that_is_a_number_stays_a_name() -> None:
    assert [person.participant for person in fits(["10", "9"], np.ones(2), np.ones(2, bool), np.full(2, NAN))] == [
        "10",
        "9",
    ]


@pytest.mark.parametrize(("ratio", "guesses"), [(-GUESSED - 0.01, True), (-GUESSED + 0.01, False), (3.0, False)])
def test_guessing_is_a_hundred_times_likelier_from_the_limit_on(ratio: float, guesses: bool) -> None:
    person = PersonFit("a", 80, 0.35, ratio, NAN)
    assert person.guesses is guesses
    assert bool(person.reason) is guesses


def test_those_who_guess_are_found_and_honest_people_are_not() -> None:
    """A model that is right about honest people, and three kinds of answers."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([0.6, 0.6, 0.6], 20_000)
    honest = np.array([rng.choice(3, p=row) for row in probabilities[:10_000]])
    guessed = rng.integers(0, 3, 10_000)
    choice = np.concatenate([honest, guessed])
    chosen = probabilities[np.arange(20_000), choice]
    names = [f"{kind}{number // 50:03d}" for kind in ("honest", "guess") for number in range(10_000)]
    found = fits(names, chosen, choice == probabilities.argmax(axis=1), np.full(20_000, NAN))
    guessing = {person.participant for person in found if person.guesses}
    # Fifty answers tell nearly everybody who guesses; the limit keeps honest people.
    assert sum(name.startswith("guess") for name in guessing) > 190
    assert not any(name.startswith("honest") for name in guessing)
