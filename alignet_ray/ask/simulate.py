"""Plans a study before paying for it: simulated people answer random and actively chosen questions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Float32, Int64
from scipy.special import softmax

from alignet_ray.ask.active import choose, due
from alignet_ray.ask.information import random_triplets, unseen
from alignet_ray.core import trace_norm
from alignet_ray.core.answer_rows import AnswerRows
from alignet_ray.core.scores import CHANCE
from alignet_ray.core.trace_norm import PeopleModel
from alignet_ray.core.triplets import gram_similarities, odd_last, set_keys
from alignet_ray.errors import UserError
from alignet_ray.screen import TableRow

Sampler: TypeAlias = Literal["random", "active"]

SAMPLERS: tuple[Sampler, Sampler] = ("random", "active")

TEST_TRIPLETS = 10_000
"""Random triplets that the model is tested on, at most; no question is one of them."""

MIN_OBJECTS = 12
"""Objects that a simulation needs, so that there are triplets to ask about and others to test on."""

LEVELS = (0.25, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Levels of agreement at which the samplers are compared: shares of the way from chance to the ceiling."""


@dataclass(frozen=True)
class Plan:
    """What is simulated.

    Attributes:
        people: number of people.
        trials: questions a person is asked.
        lapse: share of answers that are guesses, on average over people (each has a share of their own).
        random_share: share of random questions among actively chosen ones.
    """

    people: int
    trials: int
    lapse: float
    random_share: float


@dataclass(frozen=True)
class Curve:
    """Agreement by answers.

    Attributes:
        answers: numbers of answers, ascending.
        agreement: with people's choices on triplets that nobody was asked, in expectation over endlessly many answers.
        ceiling: agreement of somebody who knows the most likely choice of each triplet.
    """

    answers: list[int]
    agreement: list[float]
    ceiling: float

    def needed(self, level: float) -> float | None:
        """Answers at which the curve first reaches an agreement, between fits linearly; None if it never does."""
        before_answers, before = 0, CHANCE
        for count, value in zip(self.answers, self.agreement, strict=True):
            if value >= level:
                if value == before:
                    return float(count)
                return before_answers + (count - before_answers) * (level - before) / (value - before)
            before_answers, before = count, max(before, value)
        return None

    def at_share(self, share: float) -> float:
        """The agreement at a share of the way from chance to the ceiling."""
        return CHANCE + share * (self.ceiling - CHANCE)


class SimulatedPeople:
    """People who choose as an embedding says, and sometimes guess.

    Attributes:
        embedding: what they think.
    """

    def __init__(self, embedding: Float32[np.ndarray, "m d"], plan: Plan, rng: np.random.Generator) -> None:
        self.embedding = embedding
        self._plan = plan
        self._rng = rng
        # A share of guesses for each person: most are careful, a few are not (a Beta distribution with this mean).
        self._lapses = np.full(plan.people, plan.lapse)
        if 0 < plan.lapse < 1:
            self._lapses = rng.beta(1, 1 / plan.lapse - 1, plan.people)

    def probabilities(self, triplets: Int64[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Probabilities of the three pairs, without guesses."""
        similarities = gram_similarities(self.embedding @ self.embedding.T, triplets)
        return np.asarray(softmax(similarities.astype(np.float64), axis=1))

    def answer(self, triplets: Int64[np.ndarray, "n 3"]) -> Int64[np.ndarray, "n 3"]:
        """Answers by people at random, as rows (pair, pair, odd)."""
        lapses = self._rng.choice(self._lapses, len(triplets))[:, None]
        probabilities = (1 - lapses) * self.probabilities(triplets) + lapses / 3
        # Rounding may leave the last sum just below the draw.
        draws = self._rng.random((len(triplets), 1))
        pair = np.minimum((probabilities.cumsum(axis=1) < draws).sum(axis=1), 2)
        return odd_last(triplets, pair)


def require_plan(plan: Plan, objects: int) -> None:
    """Refuse a plan that cannot be simulated.

    Raises:
        UserError: naming the option.
    """
    if plan.people < 1 or plan.trials < 1:
        raise UserError(f"--people {plan.people} --trials {plan.trials}: give one or more of each")
    if not 0 <= plan.lapse < 1:
        raise UserError(f"--lapse {plan.lapse}: give the share of answers that are guesses, from 0 to below 1")
    if objects < MIN_OBJECTS:
        raise UserError(f"the embedding has {objects} objects: simulate a study of {MIN_OBJECTS} or more")
    # Questions are not asked twice, and some triplets are kept for the test.
    most = comb(objects, 3) // 2
    if plan.people * plan.trials > most:
        raise UserError(
            f"--people {plan.people} --trials {plan.trials}: {objects} objects have questions for {most:,} answers"
        )


def simulate(
    embedding: Float32[np.ndarray, "m d"],
    plan: Plan,
    sampler: Sampler,
    seed: int,
    report: Callable[[int], None] | None = None,
) -> Curve:
    """One study with simulated people.

    Args:
        embedding: what people think, one row an object.
        plan: how many answers there will be, and how good.
        sampler: how questions are chosen.
        seed: of people, questions and fits; both samplers have the same people and the same test.
        report: called with the number of answers after every fit.
    """
    objects = len(embedding)
    tested = min(TEST_TRIPLETS, comb(objects, 3) // 5)
    test = random_triplets(objects, tested, np.random.default_rng([seed, 1]))
    forbidden = set_keys(test)
    rng = np.random.default_rng([seed, 2])
    people = SimulatedPeople(embedding, plan, rng)
    truth = people.probabilities(test)
    total = plan.people * plan.trials

    rows = np.empty((0, 3), dtype=np.int64)
    model = None
    curve = Curve([], [], float(truth.max(axis=1).mean()))
    while len(rows) < total:
        count = min(due(len(rows), objects), total - len(rows))
        chooser = None
        if sampler == "active":
            chooser = model
        asked = _questions(chooser, count, plan.random_share, objects, rng, forbidden)
        rows = np.concatenate([rows, people.answer(asked)])
        forbidden = np.concatenate([forbidden, set_keys(asked)])
        model = trace_norm.fit(AnswerRows(rows), objects, seed, model)
        chosen = model.choices(test)
        curve.answers.append(len(rows))
        curve.agreement.append(float(truth[np.arange(len(test)), chosen].mean()))
        if report:
            report(len(rows))
    return curve


def _questions(
    model: PeopleModel | None,
    count: int,
    random_share: float,
    objects: int,
    rng: np.random.Generator,
    seen: Int64[np.ndarray, " k"],
) -> Int64[np.ndarray, "n 3"]:
    """The next questions: random ones, or mostly those that a model chooses."""
    informative = np.empty((0, 3), dtype=np.int64)
    if model is not None:
        informative = choose(model, count - round(random_share * count), rng, seen)
        seen = np.concatenate([seen, set_keys(informative)])

    # More than are needed, as some were asked before; a last few may be missing, and are drawn in the next round.
    missing = count - len(informative)
    others = unseen(random_triplets(objects, 3 * missing, rng), seen)[:missing]
    return np.concatenate([informative, others])


def compare(curves: Sequence[tuple[Curve, Curve]]) -> list[TableRow]:
    """Answers that random and active questions need for the same agreement: means over seeds, and each seed's ratio.

    Args:
        curves: random and active of every seed.
    """
    rows: list[TableRow] = []
    for share in LEVELS:
        pairs: list[tuple[float, float]] = []
        for random, active in curves:
            first = random.needed(random.at_share(share))
            second = active.needed(active.at_share(share))
            if first is not None and second is not None:
                pairs.append((first, second))
        if len(pairs) < len(curves):
            continue
        ratios = [second / first for first, second in pairs]
        agreement = float(np.mean([random.at_share(share) for random, _ in curves]))
        rows.append(
            {
                "agreement": f"{agreement:.1%}",
                "of the way to the ceiling": f"{share:.0%}",
                "random": round(float(np.mean([first for first, _ in pairs]))),
                "active": round(float(np.mean([second for _, second in pairs]))),
                "active / random": f"{np.mean(ratios):.0%}",
                "by seed": ", ".join(f"{ratio:.0%}" for ratio in ratios),
            }
        )
    return rows


def curve_rows(curves: Sequence[tuple[Curve, Curve]], points: int = 10) -> list[TableRow]:
    """Agreement by number of answers, as means over seeds, at evenly spread fits."""
    length = min(min(len(random.answers), len(active.answers)) for random, active in curves)
    rows: list[TableRow] = []
    for position in np.unique(np.linspace(0, length - 1, min(points, length)).astype(int)).tolist():
        row: TableRow = {"answers": curves[0][0].answers[position]}
        for place, name in enumerate(SAMPLERS):
            values = [pair[place].agreement[position] for pair in curves]
            row[name] = f"{np.mean(values):.1%}"
        row["ceiling"] = f"{np.mean([random.ceiling for random, _ in curves]):.1%}"
        rows.append(row)
    return rows
