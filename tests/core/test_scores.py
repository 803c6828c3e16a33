from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignet_ray.core import scores, triplets


def brute_force(similarity: np.ndarray, probabilities: np.ndarray, triplets: np.ndarray) -> float:
    total = 0.0
    for (i, j, k), p in zip(triplets, probabilities, strict=True):
        pairs = [similarity[i, j], similarity[i, k], similarity[j, k]]
        best = [a for a in range(3) if pairs[a] == max(pairs)]
        total += p[best[0]] if len(best) == 1 else 0.0
    return total / len(triplets)


@given(st.integers(3, 12))
def test_all_triplets_are_the_combinations_in_order(m: int) -> None:
    assert scores.all_triplets(m).tolist() == [list(t) for t in combinations(range(m), 3)]


def test_a_limit_draws_distinct_triplets_and_the_same_ones_again() -> None:
    drawn = scores.all_triplets(60, 500, seed=3)
    assert drawn.shape == (500, 3)
    assert (drawn[:, 0] < drawn[:, 1]).all()
    assert (drawn[:, 1] < drawn[:, 2]).all()
    assert drawn[:, 2].max() < 60
    assert len({tuple(t) for t in drawn.tolist()}) == 500
    assert np.array_equal(drawn, scores.all_triplets(60, 500, seed=3))
    assert len(scores.all_triplets(10, 10_000)) == comb(10, 3)


def test_expected_agreement_worked_by_hand() -> None:
    similarity = np.array([[9, 3, 1, 2], [3, 9, 1, 2], [1, 1, 9, 2], [2, 2, 2, 9]], np.float32)
    rows = np.array([[0, 1, 2], [0, 2, 3], [0, 1, 3], [1, 2, 3]])
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.5, 0.25, 0.25], [0.2, 0.5, 0.3]], np.float32)
    s = triplets.gram_similarities(similarity, rows)
    assert s.tolist() == [[3, 1, 1], [1, 2, 2], [3, 2, 2], [1, 2, 2]]
    choice = triplets.choices(s)
    assert choice.tolist() == [0, triplets.TIE, 0, triplets.TIE]
    assert triplets.expected_agreement(choice, p) == pytest.approx([0.7, 0, 0.5, 0])


@given(st.integers(0, 10_000))
def test_expected_agreement_equals_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, (7, 3)).astype(np.float32)  # small whole numbers: exact products, many ties
    rows = scores.all_triplets(7)
    p = rng.dirichlet(np.ones(3), len(rows)).astype(np.float32)
    similarity = x @ x.T
    value = triplets.expected_agreement(triplets.choices(triplets.gram_similarities(similarity, rows)), p).mean()
    assert value == pytest.approx(brute_force(similarity, p, rows), abs=1e-6)
    assert value <= scores.ceiling(p).mean() + 1e-6


def test_a_collapsed_model_scores_nothing_and_nan_is_no_choice() -> None:
    assert (triplets.choices(np.ones((5, 3), np.float32)) == triplets.TIE).all()
    assert (triplets.choices(np.full((5, 3), np.nan, np.float32)) == triplets.TIE).all()


def test_chance_and_ceiling() -> None:
    assert scores.chance_corrected(1 / 3) == pytest.approx(0)
    assert scores.chance_corrected(1.0) == pytest.approx(1)
    assert scores.ceiling_normalised(0.5, 2 / 3) == pytest.approx(0.5)
    assert scores.ceiling_normalised(0.617, 0.667) == pytest.approx((0.617 - 1 / 3) / (0.667 - 1 / 3))
    assert np.isnan(scores.ceiling_normalised(0.3, 1 / 3))


def test_bootstrap_counts_triplets_as_often_as_their_objects_were_drawn() -> None:
    m, rng = 9, np.random.default_rng(0)
    triplets = scores.all_triplets(m)
    values = rng.random((len(triplets), 2))
    drawn = scores.object_bootstrap(values, triplets, m, draws=4, seed=5)
    counts = np.random.default_rng(5).multinomial(m, np.full(m, 1 / m), size=4)
    for row, c in zip(drawn, counts, strict=True):
        weight = c[triplets].prod(axis=1)
        assert row == pytest.approx((weight[:, None] * values).sum(0) / weight.sum(), rel=1e-5)


def test_bootstrap_interval_covers_the_mean_of_a_population() -> None:
    rng = np.random.default_rng(0)
    population = rng.normal(size=200)
    covered = 0
    for seed in range(60):
        some = rng.choice(population, 25)
        triplets = scores.all_triplets(25)
        values = some[triplets].mean(axis=1, keepdims=True)
        low, high = scores.interval(scores.object_bootstrap(values, triplets, 25, 200, seed)[:, 0])
        covered += low <= population.mean() <= high
    assert covered >= 50


def test_intervals_of_independent_items() -> None:
    values = np.random.default_rng(0).normal(3, 1, 400)
    low, high = scores.mean_interval(values, 2000)
    standard_error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * standard_error, abs=0.02)
    assert high == pytest.approx(values.mean() + 1.96 * standard_error, abs=0.02)


def test_holm_against_worked_numbers() -> None:
    assert scores.holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    assert scores.holm(np.array([0.5, 0.9])) == pytest.approx([1.0, 1.0])


def test_paired_p_values() -> None:
    assert scores.paired_p_value(np.full(999, 0.2)) == pytest.approx(0.002)
    assert scores.paired_p_value(np.array([-1.0, 1.0] * 50)) == 1.0
