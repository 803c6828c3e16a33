"""Model selection among trials: ranking, repeats with other seeds, and the probability that a setting is the best."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypedDict

import numpy as np

FINISHED = "finished"
STOPPED = "stopped"
FAILED = "failed"
RUNNING = "running"
"""Status of a trial; `stopped` by the scheduler before its end."""

FINALISTS = 3
"""Best settings that are repeated with other seeds."""

DRAWS = 20_000
"""Draws behind the probability that a setting is the best."""

Mode = Literal["min", "max"]
"""Whether less or more of a score is better."""

COST_SIGN: dict[Mode, int] = {"min": 1, "max": -1}
"""Factor that turns a score into a cost, of which less is better."""


@dataclass(frozen=True)
class ValidationFigures:
    """What a trial achieved on validation objects.

    Attributes:
        score: what trials are ranked by.
        agreement: share of triplets in which it agrees with people, with its 95 % interval.
        cross_entropy: of people's choices, nats.
        neighbours_kept: share of each image's ten nearest neighbours in the base that are still among them.
    """

    score: float
    agreement: float
    agreement_low: float
    agreement_high: float
    cross_entropy: float
    neighbours_kept: float


@dataclass(frozen=True)
class Trial:
    """One training of one setting.

    Attributes:
        number: of the setting; 0 is the given one.
        params: dotted field name -> value.
        seed: of this training.
        status: finished, stopped (by the scheduler), failed or running.
        figures: on validation objects, once it is finished.
        seconds: duration.
        curve: (step, live metric) while it trained.
        problem: why it failed.
    """

    number: int
    params: Mapping[str, Any]
    seed: int
    status: str = RUNNING
    figures: ValidationFigures | None = None
    seconds: float = 0.0
    curve: Sequence[Sequence[float]] = ()
    problem: str = ""

    @classmethod
    def from_json(cls, stored: Any) -> "Trial":
        """The trial that `dataclasses.asdict` turned into plain values.

        Raises:
            ValueError: they are not what a trial is made of.
        """
        try:
            figures = stored["figures"]
            # A trial that did not finish has none.
            if figures is not None:
                figures = ValidationFigures(**figures)
            trial = cls(**{**stored, "figures": figures})
        except (TypeError, KeyError) as error:
            raise ValueError("it describes no trial") from error

        if trial.status not in (FINISHED, STOPPED, FAILED, RUNNING):
            raise ValueError(f"{trial.status!r} is no status of a trial")
        if (trial.status == FINISHED) != (figures is not None):
            raise ValueError("a trial has figures if it is finished, and else none")
        if figures is not None and not all(isinstance(value, int | float) for value in asdict(figures).values()):
            raise ValueError("its figures are no numbers")
        if not isinstance(trial.params, dict):
            raise ValueError("its parameters are no names with values")
        return trial

    @property
    def score(self) -> float:
        """The score of a finished trial."""
        assert self.figures is not None, "only finished trials have a score"
        return self.figures.score


class TrialJob(TypedDict):
    """What a process is told of its trial: the first fields of a `Trial`."""

    number: int
    params: Mapping[str, Any]
    seed: int


class TrialConfig(TypedDict):
    """A trial's config in Ray Tune."""

    job: TrialJob


def ranked(trials: Sequence[Trial], mode: Mode, seed: int) -> list[Trial]:
    """The finished trials of one seed, best first."""
    finished = [trial for trial in trials if trial.status == FINISHED and trial.seed == seed]

    # Ties go to the earlier setting, so that the order does not depend on which trial ended first.
    return sorted(finished, key=lambda trial: (COST_SIGN[mode] * trial.score, trial.number))


def finalists(trials: Sequence[Trial], mode: Mode, seed: int, alternatives: Sequence[str] = ()) -> list[Trial]:
    """Settings to repeat with other seeds: the best few, the given setting, and the best of each alternative.

    Args:
        trials: all of them.
        mode: whether less or more of the score is better.
        seed: of the trials (other seeds are repeats).
        alternatives: fields whose values are names (`distill.batching`).
    """
    ranking = ranked(trials, mode, seed)

    # The given setting (0) is always repeated: the report says what the sweep gained over it.
    chosen = {0}
    for trial in ranking[:FINALISTS]:
        chosen.add(trial.number)

    # An alternative that lost by chance with one seed gets another try, with its own best setting.
    for field in alternatives:
        seen: set[Any] = set()
        for trial in ranking:
            if trial.params[field] not in seen:
                seen.add(trial.params[field])
                chosen.add(trial.number)

    # In the order of the ranking; without the given setting if its own trial did not finish.
    return [trial for trial in ranking if trial.number in chosen]


@dataclass(frozen=True)
class Finalist:
    """A setting and its scores over seeds, the first seed's first.

    Attributes:
        number: of the setting.
        params: dotted field name -> value.
        scores: one per seed.
        probability_best: that it is the best of those compared; NaN without repeats.
    """

    number: int
    params: Mapping[str, Any]
    scores: tuple[float, ...]
    probability_best: float

    @property
    def mean(self) -> float:
        """Mean score over seeds."""
        return float(np.mean(self.scores))


def compare_finalists(
    trials: Sequence[Trial], mode: Mode, seed: int, alternatives: Sequence[str] = ()
) -> list[Finalist]:
    """Finalists by their mean score over seeds, best first; without repeats, by their one score.

    A setting whose repeats did not all finish is compared by those that did. `probability_best` is the share of draws
    from normal distributions (means of the scores, the pooled standard deviation over seeds) in which a setting comes
    out first: it covers the randomness of training, not the choice of validation objects.
    """
    chosen = finalists(trials, mode, seed, alternatives)
    scores = [_scores_over_seeds(trial, trials) for trial in chosen]
    probabilities = _probabilities_best(scores, mode, seed)

    compared = []
    for trial, own_scores, probability in zip(chosen, scores, probabilities, strict=True):
        compared.append(Finalist(trial.number, trial.params, own_scores, probability))

    # Python's sort is stable: equal means keep the order of the first seed's ranking.
    return sorted(compared, key=lambda finalist: COST_SIGN[mode] * finalist.mean)


def _scores_over_seeds(trial: Trial, trials: Sequence[Trial]) -> tuple[float, ...]:
    """The trial's score, then those of its finished repeats with other seeds."""
    scores = [trial.score]
    for other in trials:
        is_repeat = other.number == trial.number and other.seed != trial.seed
        if is_repeat and other.status == FINISHED:
            scores.append(other.score)
    return tuple(scores)


def _probabilities_best(scores: Sequence[tuple[float, ...]], mode: Mode, seed: int) -> list[float]:
    """For each setting the probability that its expected score is the best; NaN where nothing was repeated.

    Args:
        scores: per setting, one for each seed.
        mode: whether less or more of the score is better.
        seed: of the draws.
    """
    means = np.zeros(len(scores))
    seeds = np.zeros(len(scores))
    squares = 0.0
    for position, own_scores in enumerate(scores):
        means[position] = np.mean(own_scores)
        seeds[position] = len(own_scores)
        # The variance divides by the count, so this is the sum of squared deviations from the setting's own mean.
        squares += float(np.var(own_scores)) * len(own_scores)

    # Every setting spends one degree of freedom on its mean; with one seed each none is left for the spread.
    degrees_of_freedom = seeds.sum() - len(scores)
    if not degrees_of_freedom:
        return [float("nan")] * len(scores)

    # Each setting has few repeats: one deviation for all is estimated more reliably than one for each.
    pooled_deviation = np.sqrt(squares / degrees_of_freedom)
    errors = pooled_deviation / np.sqrt(seeds)

    # A setting's probability is how often its drawn mean is the best; a floor keeps equal scores from a deviation of 0.
    rng = np.random.default_rng(seed)
    drawn = rng.normal(means, np.maximum(errors, 1e-12), (DRAWS, len(scores)))
    best = (COST_SIGN[mode] * drawn).argmin(axis=1)
    wins = np.bincount(best, minlength=len(scores))
    return [float(share) for share in wins / DRAWS]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Positions of the points that no other one beats in both coordinates (higher is better), by the first one."""
    # Ties in the first coordinate are ordered by the second one, or a beaten point would be taken first.
    order = sorted(range(len(points)), key=lambda position: (-points[position][0], -points[position][1]))

    # From the best first coordinate down, a point is on the front if its second one beats all before it.
    front: list[int] = []
    for position in order:
        if not front or points[position][1] > points[front[-1]][1]:
            front.append(position)
    return front
