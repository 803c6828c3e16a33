"""How far more answers would help: accuracy by the number of answers, and a power law that carries it on.

Accuracy on answers that a model was not fitted to grows with the number of answers n as a - b n^(-c): steeply at first,
then ever slower towards a limit (Hestness et al., 2017; Viering and Loog, 2022, on the shape of learning curves).
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int64

SHARES = (1 / 8, 1 / 4, 1 / 2, 1)
"""Sizes at which accuracy is measured: shares of the answers that are not held out."""

HELD_OUT = 0.1
"""Share of the answers that a fit does not see."""

WANTED = 2000
"""Held-out answers that make a curve worth looking at: where a tenth has fewer, other tenths are held out as well."""

MAX_FOLDS = 5
"""Tenths that are held out in turn, at most."""

MIN_ANSWERS = 200
"""Answers below which a curve would say nothing."""

EXPONENTS = np.arange(2, 11) / 10
"""Speeds c that are tried: the best one is kept, as three parameters of so few points cannot all be free."""

MORE = 1000
"""Answers that a forecast is made for, as people think of a study's next day."""

LITTLE = 0.005
"""Gain in accuracy that is not worth asking for."""

Verdict: TypeAlias = Literal["helps", "cannot tell", "hardly helps"]
"""What is to be expected of more answers."""

RESAMPLES = 1000
LEVEL = 0.95
"""Bootstrap over held-out answers, and the share of it that an interval holds."""


class HeldOut(NamedTuple):
    """One division of the answers.

    Attributes:
        fitted: numbers of the answers that a model may see, in random order: a smaller fit sees the first of them.
        tested: numbers of those that it may not see.
    """

    fitted: Int64[np.ndarray, " n"]
    tested: Int64[np.ndarray, " t"]


class Point(NamedTuple):
    """Accuracy at one number of answers, with its interval."""

    answers: int
    accuracy: float
    low: float
    high: float


class Forecast(NamedTuple):
    """What more answers are expected to bring.

    Attributes:
        more: how many more.
        gain: in accuracy, 0.01 for a point.
        low, high: its interval; of the test answers alone, not of which answers were fitted.
    """

    more: int
    gain: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """Whether so many more answers are worth asking for, by the interval."""
        if self.high < LITTLE:
            return "hardly helps"
        if self.low < LITTLE:
            return "cannot tell"
        return "helps"


def divisions(answers: int, seed: int) -> list[HeldOut]:
    """Divide the answers into fitted and held-out ones, once or, where there are few, up to five times.

    Args:
        answers: how many there are.
        seed: of the order.
    """
    order = np.random.default_rng(seed).permutation(answers)
    tested = max(1, round(HELD_OUT * answers))
    folds = min(MAX_FOLDS, max(1, -(-WANTED // tested)))
    found = []
    for fold in range(folds):
        part = order[fold * tested : (fold + 1) * tested]
        # What comes behind is fitted first, so that the small fits of two folds see different answers.
        rest = np.concatenate([order[(fold + 1) * tested :], order[: fold * tested]])
        found.append(HeldOut(rest, part))
    return found


def sizes(fitted: int) -> list[int]:
    """Numbers of answers at which accuracy is measured, of so many that may be fitted."""
    return [round(share * fitted) for share in SHARES]


def points(hits: Bool[np.ndarray, "s t"], answers: Sequence[int]) -> list[Point]:
    """The measured curve.

    Args:
        hits: for each size and each held-out answer, whether it was predicted.
        answers: the sizes.
    """
    resampled = _resampled(hits)
    edges = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return [
        Point(count, float(accuracy), float(low), float(high))
        for count, accuracy, low, high in zip(answers, hits.mean(axis=1), *edges, strict=True)
    ]


def forecast(hits: Bool[np.ndarray, "s t"], answers: Sequence[int], more: int) -> Forecast:
    """What `more` answers beyond the largest size are expected to bring.

    Args:
        hits: for each size and each held-out answer, whether it was predicted.
        answers: the sizes, at least three of them.
        more: how many more answers.
    """
    gain = _gains(hits.mean(axis=1)[None], answers, more)[0]
    low, high = np.quantile(_gains(_resampled(hits), answers, more), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Forecast(more, float(gain), float(low), float(high))


def _resampled(hits: Bool[np.ndarray, "s t"]) -> Float[np.ndarray, "r s"]:
    """Accuracies of every size over bootstrap samples of the held-out answers, which all sizes share."""
    tests = hits.shape[1]
    # How often each answer is drawn, instead of which ones: one product gives all means.
    counts = np.random.default_rng(0).multinomial(tests, np.full(tests, 1 / tests), RESAMPLES)
    return np.asarray(counts @ hits.T / tests)


def _gains(accuracies: Float[np.ndarray, "r s"], answers: Sequence[int], more: int) -> Float[np.ndarray, " r"]:
    """The gain of more answers by the power law that fits each row of accuracies best."""
    n = np.asarray(answers, dtype=np.float64)
    best_error = np.full(len(accuracies), np.inf)
    gains = np.zeros(len(accuracies))
    for exponent in EXPONENTS:
        x = n**-exponent
        centred = x - x.mean()
        means = accuracies.mean(axis=1, keepdims=True)
        # Least squares of a - b x; accuracy does not fall with more answers, so b is not below 0.
        slope = np.maximum(0, -((accuracies - means) @ centred) / (centred @ centred))
        error = np.square(accuracies - means + slope[:, None] * centred).sum(axis=1)

        total = n[-1] + more
        gain = slope * (n[-1] ** -exponent - total**-exponent)
        is_better = error < best_error
        gains[is_better] = gain[is_better]
        best_error = np.minimum(best_error, error)
    return gains
