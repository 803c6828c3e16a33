"""Scores of a study: means over folds and seeds, with intervals over objects and seeds, and corrected tests."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from alignet_ray.core.scores import Score, holm

NAN = float("nan")


@dataclass(frozen=True)
class FoldScores:
    """The scores of one fold with one seed.

    Attributes:
        seed, fold: which run this is.
        scores: rows of its scores table.
    """

    seed: int
    fold: int
    scores: Sequence[Score]


@dataclass(frozen=True)
class PooledScore:
    """One row of a study's table.

    Attributes:
        model, layer, dataset, metric, level: as in the scores table of a run.
        value, low, high: mean over seeds of the means over folds, and its 95 % interval (NaN: none).
        p_value: of "no difference", corrected for all gains of the study; NaN for a score that is no gain.
        runs: folds (times seeds) that have the score.
        n: items of all folds together, in one seed; where all folds share them, those of one fold.
        lowest, highest: of the single folds.
    """

    model: str
    layer: str
    dataset: str
    metric: str
    level: str
    value: float
    low: float
    high: float
    p_value: float
    runs: int
    n: int
    lowest: float
    highest: float

    @property
    def key(self) -> tuple[str, str, str, str]:
        """(model, layer, metric, level): the key by which tables find a score."""
        return self.model, self.layer, self.metric, self.level


def pool(results: Sequence[FoldScores]) -> list[PooledScore]:
    """Pool the scores of all folds and seeds, in the order of their first appearance.

    The test objects of different folds are different ones, so the errors of their scores are independent given the
    models, and the squared standard errors of the folds (from their 95 % intervals over objects) add up. Seeds test the
    same objects again: they do not make the objects more, but their spread shows how much training varies. The variance
    is therefore

        mean over seeds of (sum over folds of se^2 / folds^2)  +  variance of the seeds' means / seeds,

    without the second term where there is one seed. Training sets of folds overlap, which this leaves out. Items that
    belong to no split, such as judgements from outside, are the same in every fold: there the mean of the folds' se^2
    takes the place of the first term.

    Args:
        results: of the finished runs; every (seed, fold) once.
    """
    found: dict[tuple[str, ...], list[tuple[int, Score]]] = defaultdict(list)
    for result in results:
        for score in result.scores:
            # p values of single folds cannot be averaged; tests are made anew below.
            if not score.metric.endswith("_gain_p"):
                key = (score.model, score.layer, score.dataset, score.metric, score.level)
                found[key].append((result.seed, score))

    pooled = [_pooled(key, scores) for key, scores in found.items()]
    return _with_p_values(pooled)


def standard_error(score: Score | PooledScore) -> float:
    """Standard error behind a 95 % interval, as if it came from a normal distribution; NaN without an interval."""
    return float((score.high - score.low) / (2 * ndtri(0.975)))


def _pooled(key: tuple[str, ...], scores: Sequence[tuple[int, Score]]) -> PooledScore:
    by_seed: dict[int, list[Score]] = defaultdict(list)
    for seed, score in scores:
        by_seed[seed].append(score)
    is_shared = not any(score.split for _, score in scores)

    means = []
    variances = []
    for of_seed in by_seed.values():
        errors = np.array([standard_error(score) for score in of_seed])
        means.append(float(np.mean([score.value for score in of_seed])))
        # More folds are more objects, but never more of the items that all folds share.
        independent = len(of_seed)
        if is_shared:
            independent = 1
        variances.append(float((errors**2).mean()) / independent)

    variance = float(np.mean(variances))
    if len(means) > 1:
        variance += float(np.var(means, ddof=1)) / len(means)
    value = float(np.mean(means))
    margin = float(ndtri(0.975) * np.sqrt(variance))

    single = [score.value for _, score in scores]
    counts = [score.n for _, score in scores]
    items = sum(counts) // len(by_seed)
    if is_shared:
        items = max(counts)
    model, layer, dataset, metric, level = key
    return PooledScore(
        model,
        layer,
        dataset,
        metric,
        level,
        value,
        low=value - margin,
        high=value + margin,
        p_value=NAN,
        runs=len(scores),
        n=items,
        lowest=min(single),
        highest=max(single),
    )


def _with_p_values(pooled: Sequence[PooledScore]) -> list[PooledScore]:
    """Two-sided normal tests of all gains, which are one family for Holm's correction."""
    p_values = {}
    for position, score in enumerate(pooled):
        error = standard_error(score)
        # Without an interval, or with one of no width, there is nothing to test by.
        if score.metric.endswith("_gain") and error > 0:
            p_values[position] = 2 * ndtr(-abs(score.value) / error)

    adjusted = holm(np.array(list(p_values.values())))
    corrected = dict(zip(p_values, adjusted, strict=True))
    result = []
    for position, score in enumerate(pooled):
        values = vars(score) | {"p_value": float(corrected.get(position, NAN))}
        result.append(PooledScore(**values))
    return result
