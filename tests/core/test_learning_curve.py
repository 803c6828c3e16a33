"""Learning curves: how answers are divided, and what more of them are said to bring."""

import numpy as np
import pytest

from alignet_ray.core import learning_curve
from alignet_ray.core.learning_curve import divisions, forecast, points, sizes


@pytest.mark.parametrize(("answers", "folds"), [(300, 5), (5000, 4), (30_000, 1)])
def test_every_division_keeps_tested_answers_apart(answers: int, folds: int) -> None:
    found = divisions(answers, seed=0)
    assert len(found) == folds
    tested = np.concatenate([division.tested for division in found])
    assert len(np.unique(tested)) == len(tested) == folds * round(answers / 10)
    for division in found:
        together = np.sort(np.concatenate([division.fitted, division.tested]))
        np.testing.assert_array_equal(together, np.arange(answers))
    if folds > 1:
        # The small fits of two divisions do not see the same answers.
        first, second = (set(division.fitted[: answers // 20].tolist()) for division in found[:2])
        assert len(first & second) < len(first)


def hits_of(accuracies: list[float], tests: int, rng: np.random.Generator) -> np.ndarray:
    """Answers that are predicted from some size on, as they would be with so many tests."""
    return rng.random(tests) < np.array(accuracies)[:, None]


def test_points_are_means_with_their_interval() -> None:
    hits = hits_of([0.4, 0.5, 0.55, 0.6], 4000, np.random.default_rng(0))
    found = points(hits, [100, 200, 400, 800])
    assert [point.answers for point in found] == [100, 200, 400, 800]
    for point, row in zip(found, hits, strict=True):
        assert point.accuracy == pytest.approx(row.mean())
        error = 1.96 * np.sqrt(row.mean() * (1 - row.mean()) / len(row))
        assert point.high - point.accuracy == pytest.approx(error, rel=0.15)
        assert point.accuracy - point.low == pytest.approx(error, rel=0.15)


def law(answers: float, limit: float = 0.62, scale: float = 2.0, exponent: float = 0.4) -> float:
    return limit - scale * answers**-exponent


def test_a_power_law_is_carried_on() -> None:
    answers = sizes(8000)
    assert answers == [1000, 2000, 4000, 8000]
    # Every answer is predicted from the size on at which its rank among the tests is reached: no noise.
    accuracies = np.array([law(count) for count in answers])
    hits = (np.arange(100_000) + 0.5) / 100_000 < accuracies[:, None]
    for more in (1000, 8000):
        expected = law(8000 + more) - law(8000)
        found = forecast(hits, answers, more)
        assert found.gain == pytest.approx(expected, abs=2e-4)
        assert found.low <= found.gain <= found.high


def test_the_interval_holds_the_true_gain() -> None:
    rng = np.random.default_rng(1)
    answers = sizes(8000)
    truth = law(16_000) - law(8000)
    inside = 0
    for _ in range(60):
        found = forecast(hits_of([law(count) for count in answers], 2000, rng), answers, 8000)
        inside += found.low <= truth <= found.high
    assert inside >= 54


def test_a_curve_that_falls_promises_nothing() -> None:
    hits = hits_of([0.6, 0.58, 0.56, 0.5], 5000, np.random.default_rng(0))
    found = forecast(hits, sizes(8000), 1000)
    assert (found.gain, found.low) == (0, 0)
    assert found.high < 0.005


def test_chance_alone_is_no_gain() -> None:
    hits = hits_of([1 / 3] * 4, 3000, np.random.default_rng(2))
    found = forecast(hits, sizes(800), 100)
    assert found.low == 0
    assert found.gain < 0.01
    assert learning_curve.MIN_ANSWERS * learning_curve.HELD_OUT >= 20


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.006, 0.02, "helps"), (0.001, 0.02, "cannot tell"), (0.0, 0.004, "hardly helps")],
)
def test_the_verdict_goes_by_the_interval(low: float, high: float, verdict: str) -> None:
    assert learning_curve.Forecast(1000, (low + high) / 2, low, high).verdict == verdict
