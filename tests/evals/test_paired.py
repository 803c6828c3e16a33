import numpy as np
import pytest
from scipy.stats import bootstrap, ttest_rel

from alignet_ray.core import scores
from alignet_ray.evals import paired

RNG = np.random.default_rng(0)
BASE = (RNG.random(200) < 0.5).astype(np.float64)
BETTER = np.where(RNG.random(200) < 0.3, 1.0, BASE)
SAME = np.roll(BASE, 1)
FOUND = {("base", "pre_logits"): BASE, ("student", "pre_logits"): BETTER, ("control", "pre_logits"): SAME}


def test_means_and_intervals_equal_scipys_bootstrap() -> None:
    row = paired.rows(FOUND, "objects", "knn", 0)[0]
    oracle = bootstrap((BASE,), np.mean, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    assert (row.metric, row.value, row.n) == ("knn", BASE.mean(), 200)
    assert (row.low, row.high) == pytest.approx((oracle.low, oracle.high), abs=0.01)


def test_gains_are_on_the_same_items_and_corrected_for_the_number_of_models() -> None:
    found = {(s.model, s.metric): s for s in paired.rows(FOUND, "objects", "knn", 0)}
    gain = found["student", "knn_gain"]
    exact = ttest_rel(BETTER, BASE)
    assert gain.value == pytest.approx((BETTER - BASE).mean())
    assert (gain.low, gain.high) == pytest.approx(exact.confidence_interval(), abs=0.01)
    assert found["student", "knn_gain_p"].value == pytest.approx(2 * 2 / 1001)  # the smallest there is, times two
    assert found["control", "knn_gain_p"].value > 0.5
    assert ("base", "knn_gain") not in found
    assert gain.level == "over:base"


def test_levels_and_lone_models_have_no_gains() -> None:
    assert len(paired.rows(FOUND, "answers", "odd_one_out", 0, level="coarse")) == 3
    assert len(paired.rows({("student", "pre_logits"): BETTER}, "objects", "knn", 0)) == 1


def test_p_values_are_those_of_a_t_test_where_there_are_many_items() -> None:
    rng = np.random.default_rng(3)
    difference = rng.normal(0.02, 0.5, 2500)
    drawn = scores.mean_draws(difference, draws=20_000)
    assert scores.paired_p_value(drawn) == pytest.approx(ttest_rel(difference, 0 * difference).pvalue, abs=0.01)


def test_many_items_are_drawn_from_the_normal_limit() -> None:
    values = np.random.default_rng(7).random(scores.NORMAL_LIMIT + 1)
    few = scores.mean_draws(values[:-1])
    many = scores.mean_draws(values)
    assert many.std() == pytest.approx(few.std(), rel=0.1)
    assert many.mean() == pytest.approx(values.mean(), abs=3e-4)


def test_shares_by_object() -> None:
    assert paired.mean_by_object(np.array([True, False, True, True]), np.array([7, 7, 9, 9])).tolist() == [0.5, 1.0]
