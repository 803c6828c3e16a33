import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

from alignet_ray.core import calibration
from alignet_ray.core.triplet_rows import TIE


@given(st.integers(0, 10_000))
def test_entropy_and_cross_entropy_equal_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, people = rng.normal(0, 300, (20, 3)), rng.dirichlet(np.ones(3), 20)
    assert calibration.entropy(people) == pytest.approx(entropy(people, axis=1), abs=1e-12)
    expected = -(people * log_softmax(logits, axis=1)).sum(1)
    assert calibration.cross_entropy(logits / 100, people) == pytest.approx(
        -(people * log_softmax(logits / 100, axis=1)).sum(1), rel=1e-9
    )
    assert expected.min() >= 0


@pytest.mark.parametrize("temperature", [0.02, 0.5, 1.0, 40.0])
def test_a_known_temperature_is_found(temperature: float) -> None:
    logits = np.random.default_rng(0).normal(0, 2, (3000, 3))
    found = calibration.fit_temperature(logits * temperature, softmax(logits, axis=1))
    assert found == pytest.approx(temperature, rel=1e-3)


def test_the_temperature_is_the_best_one() -> None:
    rng = np.random.default_rng(1)
    s, people = rng.normal(0, 1, (500, 3)), rng.dirichlet(np.ones(3), 500)
    people[:, 0] += s[:, 0].clip(0)
    people /= people.sum(1, keepdims=True)
    oracle = minimize_scalar(
        lambda t: -(people * log_softmax(s / t, axis=1)).sum(1).mean(), bounds=(0.1, 50), method="bounded"
    )
    assert calibration.fit_temperature(s, people) == pytest.approx(oracle.x, rel=1e-2)


def test_calibration_error_worked_by_hand() -> None:
    sure = np.array([0.45, 0.45, 0.85, 0.85])
    hits = np.array([0.0, 1.0, 1.0, 1.0])
    x, y, count = calibration.reliability(sure, hits, bins=5)
    assert x.tolist() == pytest.approx([0.45, 0.85])
    assert y.tolist() == pytest.approx([0.5, 1.0])
    assert count.tolist() == [2, 2]
    assert calibration.calibration_error(sure, hits, bins=5) == pytest.approx(0.5 * 0.05 + 0.5 * 0.15)


def test_a_model_that_knows_how_sure_people_are_has_no_calibration_error() -> None:
    people = np.random.default_rng(2).dirichlet(np.ones(3), 20_000)
    choice = people.argmax(axis=1)
    sure = calibration.confidence(people, choice)
    assert sure == pytest.approx(people.max(axis=1))
    assert calibration.calibration_error(sure, people.max(axis=1)) < 1e-9


def test_a_tie_is_a_guess() -> None:
    assert calibration.confidence(np.array([[0.4, 0.4, 0.2]]), np.array([TIE])).tolist() == [1 / 3]
