"""Which of several trained settings to take, and how sure one can be of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

FINISHED, STOPPED, FAILED, RUNNING = "finished", "stopped", "failed", "running"
FINALISTS = 3


@dataclass(frozen=True)
class Trial:
    """One training of one setting.

    Attributes:
        number: of the setting; 0 is the given one.
        params: dotted field name -> value.
        seed: what the draws of this training came from.
        status: finished, stopped (by the scheduler), failed or running.
        figures: on validation objects: `score`, `agreement` with its interval, `kept`.
        seconds: what it took.
        artifact: id of what it made.
        curve: (step, live metric) while it trained.
        problem: why it failed.
    """

    number: int
    params: Mapping[str, Any]
    seed: int
    status: str = RUNNING
    figures: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    artifact: str = ""
    curve: Sequence[Sequence[float]] = ()
    problem: str = ""


def ranked(trials: Sequence[Trial], mode: str, seed: int) -> list[Trial]:
    """The finished trials of one seed, best first."""
    done = [t for t in trials if t.status == FINISHED and t.seed == seed]
    sign = 1 if mode == "min" else -1
    return sorted(done, key=lambda t: (sign * t.figures["score"], t.number))


def finalists(trials: Sequence[Trial], mode: str, seed: int, alternatives: Sequence[str] = ()) -> list[Trial]:
    """What is worth training again with other seeds: the best few, the given setting, the best of each alternative.

    Args:
        trials: all of them.
        mode: whether less of the score is better (min) or more (max).
        seed: of the trials proper.
        alternatives: fields whose values are names (`distill.batching`).
    """
    order = ranked(trials, mode, seed)
    firsts = {(name, t.params[name]): t.number for name in alternatives for t in reversed(order)}
    return [t for place, t in enumerate(order) if place < FINALISTS or t.number in {0, *firsts.values()}]


@dataclass(frozen=True)
class Contender:
    """A setting and its scores over seeds, the first seed's first.

    Attributes:
        chance: probability that it is the best of those compared; NaN without repeats.
    """

    number: int
    params: Mapping[str, Any]
    scores: tuple[float, ...]
    chance: float

    @property
    def mean(self) -> float:
        """Mean score over seeds."""
        return float(np.mean(self.scores))


def contenders(trials: Sequence[Trial], mode: str, seed: int, alternatives: Sequence[str] = ()) -> list[Contender]:
    """Finalists by their mean score over seeds, best first; without repeats, by their one score.

    A setting whose repeats did not all finish is compared by those that did. `chance` is the share of draws from normal
    distributions (means of the scores, the pooled spread over seeds) in which a setting comes out first: it speaks of
    the luck of training, not of the choice of validation objects.
    """
    final = finalists(trials, mode, seed, alternatives)
    scores = {t.number: (t.figures["score"], *(r.figures["score"] for r in trials if _repeats(r, t))) for t in final}
    chances = _chances(list(scores.values()), mode, seed)
    found = [Contender(t.number, t.params, scores[t.number], c) for t, c in zip(final, chances, strict=True)]
    return sorted(found, key=lambda c: c.mean if mode == "min" else -c.mean)


def _repeats(other: Trial, trial: Trial) -> bool:
    return other.number == trial.number and other.seed != trial.seed and other.status == FINISHED


def _chances(scores: Sequence[tuple[float, ...]], mode: str, seed: int, draws: int = 20_000) -> list[float]:
    freedom = sum(len(s) - 1 for s in scores)
    if not freedom:
        return [float("nan")] * len(scores)
    spread = np.sqrt(sum(np.var(s) * len(s) for s in scores) / freedom)
    rng = np.random.default_rng(seed)
    means, errors = np.array([np.mean(s) for s in scores]), np.array([spread / np.sqrt(len(s)) for s in scores])
    drawn = rng.normal(means, np.maximum(errors, 1e-12), (draws, len(scores)))
    best = drawn.argmin(axis=1) if mode == "min" else drawn.argmax(axis=1)
    return [float((best == i).mean()) for i in range(len(scores))]


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Positions of the points that no other one beats in both coordinates (higher is better), by the first one."""
    order = sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1]))
    front: list[int] = []
    for i in order:
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front
