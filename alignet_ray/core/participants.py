"""Every person's answers against a model of people: who answers as if at random, and who is too fast to have looked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from alignet_ray.core.scores import CHANCE

GUESSED = math.log(100)
"""A person guesses whose answers are a hundred times likelier under guessing than under the model of people."""

FAST_MS = 350
"""Median response time below which nobody has looked at three pictures."""


@dataclass(frozen=True)
class PersonFit:
    """How well one person's answers fit the model of all.

    Attributes:
        participant: the name, as the file states it.
        answers: how many this person gave.
        agreement: share of them that the model predicts.
        log_ratio: log likelihood under the model less that under guessing; below -GUESSED the person guesses.
        median_rt: median response time in milliseconds; NaN where unknown.
    """

    participant: str
    answers: int
    agreement: float
    log_ratio: float
    median_rt: float

    @property
    def guesses(self) -> bool:
        """Whether the answers are those of somebody who guesses."""
        return self.log_ratio < -GUESSED

    @property
    def is_too_fast(self) -> bool:
        """Whether nobody can have looked at the pictures in that time."""
        # The comparison is false for NaN.
        return self.median_rt < FAST_MS

    @property
    def reason(self) -> str:
        """Why the answers should not count, in words; "" if they should."""
        if self.guesses:
            return f"answers as if at random, {self.agreement:.0%} of {self.answers} predicted"
        if self.is_too_fast:
            return f"median response time {self.median_rt:.0f} ms"
        return ""


def fits(
    participants: Sequence[str],
    chosen: Float[np.ndarray, " n"],
    is_hit: Bool[np.ndarray, " n"],
    times: Float[np.ndarray, " n"],
) -> list[PersonFit]:
    """Every person's fit, by name; answers of nobody in particular ("") are left out.

    Args:
        participants: who gave each odd-one-out answer.
        chosen: the model's probability of the pair that was chosen.
        is_hit: whether the model predicts it.
        times: response times in milliseconds; NaN where unknown.
    """
    names, person_of = np.unique(np.asarray(participants, dtype=object).astype(str), return_inverse=True)
    log_ratios = np.log(np.maximum(chosen, 1e-12)) - math.log(CHANCE)
    # Rows of one person lie together after sorting.
    order = np.argsort(person_of, kind="stable")
    ends = np.cumsum(np.bincount(person_of, minlength=len(names)))
    found = []
    for name, rows in zip(names.tolist(), np.split(order, ends[:-1]), strict=True):
        if not name:
            continue
        known = times[rows][~np.isnan(times[rows])]
        median_rt = float("nan")
        if len(known):
            median_rt = float(np.median(known))
        found.append(PersonFit(name, len(rows), float(is_hit[rows].mean()), float(log_ratios[rows].sum()), median_rt))
    return found
