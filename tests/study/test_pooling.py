from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from alignet_ray.core.scores import Score
from alignet_ray.study.pooling import FoldScores, pool, standard_error

Z = norm.ppf(0.975)


def score(value: float, error: float, metric: str = "odd_one_out", model: str = "student", n: int = 10) -> Score:
    return Score(model, "pre_logits", "objects", metric, value, value - Z * error, value + Z * error, n)


def test_folds_of_one_seed_are_independent_and_their_mean_counts_each_alike() -> None:
    pooled = pool([FoldScores(0, 0, [score(0.4, 0.03, n=10)]), FoldScores(0, 1, [score(0.6, 0.04, n=30)])])
    assert len(pooled) == 1
    (mean,) = pooled
    assert mean.value == pytest.approx(0.5)
    assert standard_error(mean) == pytest.approx(0.025)  # sqrt(0.03^2 + 0.04^2) / 2
    assert (mean.runs, mean.n, mean.lowest, mean.highest) == (2, 40, 0.4, 0.6)
    assert np.isnan(mean.p_value)


def test_more_seeds_show_how_training_varies_and_do_not_add_objects() -> None:
    results = [FoldScores(seed, 0, [score(value, 0.03)]) for seed, value in enumerate((0.4, 0.5, 0.6))]
    (mean,) = pool(results)
    assert mean.value == pytest.approx(0.5)
    assert standard_error(mean) == pytest.approx(np.sqrt(0.03**2 + 0.1**2 / 3))
    assert (mean.runs, mean.n) == (3, 10)

    # Equal seeds: the same objects three times are no more than once.
    same = [FoldScores(seed, 0, [score(0.5, 0.03)]) for seed in range(3)]
    assert standard_error(pool(same)[0]) == pytest.approx(0.03)


def test_items_that_all_folds_share_do_not_become_more_with_the_folds() -> None:
    folds = [replace(score(value, 0.03), dataset="levels", split="") for value in (0.4, 0.6)]
    (mean,) = pool([FoldScores(0, fold, [row]) for fold, row in enumerate(folds)])
    assert mean.value == pytest.approx(0.5)
    assert standard_error(mean) == pytest.approx(0.03)
    assert (mean.runs, mean.n) == (2, 10)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Five folds of items with a known mean: nineteen of twenty intervals hold it."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(600):
        folds = []
        for fold in range(5):
            items = rng.normal(0.3, 0.2, 60)
            folds.append(FoldScores(0, fold, [score(float(items.mean()), float(items.std() / np.sqrt(60)))]))
        (mean,) = pool(folds)
        covered += mean.low <= 0.3 <= mean.high
    assert covered / 600 == pytest.approx(0.945, abs=0.025)


def test_gains_are_tested_together() -> None:
    rows = [
        score(0.10, 0.02, "odd_one_out_gain"),
        score(0.03, 0.02, "odd_one_out_gain", "control"),
        score(0.01, 0.00, "few_shot_1_gain"),
        score(0.04, 0.00, "odd_one_out_gain_p"),
    ]
    pooled = {(row.metric, row.model): row for row in pool([FoldScores(0, 0, rows)])}
    # Two tests: the smaller p value is doubled, the larger one stays. Without a width there is no test.
    assert pooled["odd_one_out_gain", "student"].p_value == pytest.approx(2 * 2 * norm.sf(5))
    assert pooled["odd_one_out_gain", "control"].p_value == pytest.approx(2 * norm.sf(1.5))
    assert np.isnan(pooled["few_shot_1_gain", "student"].p_value)
    assert ("odd_one_out_gain_p", "student") not in pooled


def test_a_score_that_a_fold_lacks_is_the_mean_of_the_others() -> None:
    rare = replace(score(0.2, 0.02), level="category:bird")
    pooled = {
        row.level: row
        for row in pool([FoldScores(0, 0, [score(0.4, 0.03), rare]), FoldScores(0, 1, [score(0.6, 0.03)])])
    }
    assert (pooled["category:bird"].value, pooled["category:bird"].runs) == (0.2, 1)
    assert pooled[""].runs == 2


def test_without_an_interval_there_is_none() -> None:
    bare = Score("student", "pre_logits", "objects", "temperature", 2.0)
    (mean,) = pool([FoldScores(0, 0, [bare])])
    assert mean.value == 2.0
    assert np.isnan([mean.low, mean.high]).all()
