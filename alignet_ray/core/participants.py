"""Every person's answers against a model of people: who answers as if at random, and who is too fast to have looked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from alignet_ray.core.scores import CHANCE

GUESSED = math.log(100)
"""Somebody guesses of whose answers so few are predicted that this is a hundred times likelier by guessing than by
answering as people do on average."""

ABOVE_CHANCE = 0.01
"""Nobody guesses of whose answers more are predicted than guessing would bring with this probability: whoever sees
things otherwise than most people do agrees less with them, and yet more than by chance."""

FAST_MS = 350
"""Median response time below which nobody has looked at three pictures."""


@dataclass(frozen=True)
class PersonFit:
    """How well one person's answers fit the model of all.

    Attributes:
        participant: the name, as the file states it.
        answers: how many this person gave.
        agreement: share of them that the model predicts.
        log_ratio: log likelihood of this share for people on average, less that for guessing.
        p_value: probability that guessing brings so many or more.
        median_rt: median response time in milliseconds; NaN where unknown.
    """

    participant: str
    answers: int
    agreement: float
    log_ratio: float
    p_value: float
    median_rt: float

    @property
    def guesses(self) -> bool:
        """Whether the answers are those of somebody who guesses."""
        return self.log_ratio < -GUESSED and self.p_value > ABOVE_CHANCE

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
    participants: Sequence[str], is_hit: Bool[np.ndarray, " n"], times: Float[np.ndarray, " n"]
) -> list[PersonFit]:
    """Every person's fit, by name; answers of nobody in particular ("") are left out.

    Only what the model predicts counts, not how sure it is: a model that is too sure would find that many guess.

    Args:
        participants: who gave each odd-one-out answer.
        is_hit: whether the model predicts it.
        times: response times in milliseconds; NaN where unknown.
    """
    # Late: scipy.stats takes half a second to import, and few of those who import this module call it.
    from scipy.stats import binom

    names, person_of = np.unique(np.asarray(participants, dtype=object).astype(str), return_inverse=True)
    # A model that predicts nobody's answers tells nobody apart.
    usual = min(max(float(is_hit.mean()), CHANCE), 1 - 1e-6)

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

        # Likelihood ratio of answering as people usually do to guessing; and how probable so many hits are by guessing.
        answers = len(rows)
        hits = int(is_hit[rows].sum())
        log_ratio = float(binom.logpmf(hits, answers, usual) - binom.logpmf(hits, answers, CHANCE))
        p_value = float(binom.sf(hits - 1, answers, CHANCE))
        found.append(PersonFit(name, answers, hits / answers, log_ratio, p_value, median_rt))
    return found
