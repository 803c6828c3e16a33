"""Plans a study before paying for it: simulated people answer random and actively chosen questions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Float32, Int64

from alignet_ray.ask.active import by_kind, choose, due
from alignet_ray.ask.forms import FORMS, count_questions
from alignet_ray.ask.information import choice_probabilities, question_keys, random_questions, unseen
from alignet_ray.ask.study_file import Mode
from alignet_ray.core import trace_norm
from alignet_ray.core.answer_rows import AnswerRows
from alignet_ray.core.trace_norm import PeopleModel
from alignet_ray.core.triplet_rows import odd_last
from alignet_ray.errors import UserError
from alignet_ray.screen import TableRow

Sampler: TypeAlias = Literal["random", "active"]

SAMPLERS: tuple[Sampler, Sampler] = ("random", "active")

TEST_QUESTIONS = 10_000
"""Random questions that the model is tested on, at most; nobody is asked one of them."""

MIN_OBJECTS = 12
"""Objects that a simulation needs, so that there are questions to ask and others to test on."""

LEVELS = (0.25, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Levels of agreement at which the samplers are compared: shares of the way from chance to the ceiling."""


@dataclass(frozen=True)
class Plan:
    """Settings of a simulation.

    Attributes:
        people: number of people.
        trials: questions a person is asked.
        lapse: share of answers that are guesses, on average over people (each has a share of their own).
        random_share: share of random questions among actively chosen ones.
        mode: the form of the questions.
    """

    people: int
    trials: int
    lapse: float
    random_share: float
    mode: Mode


@dataclass(frozen=True)
class Curve:
    """Agreement by answers.

    Attributes:
        answers: numbers of answers, ascending.
        agreement: with people's choices in questions that nobody was asked, in expectation over endlessly many answers.
        ceiling: agreement of somebody who knows the most likely choice in each question.
        chance: agreement of somebody who guesses.
    """

    answers: list[int]
    agreement: list[float]
    ceiling: float
    chance: float

    def needed(self, level: float) -> float | None:
        """Answers at which the curve first reaches an agreement, between fits linearly; None if it never does."""
        before_answers, before = 0, self.chance
        for count, value in zip(self.answers, self.agreement, strict=True):
            if value >= level:
                if value == before:
                    return float(count)
                return before_answers + (count - before_answers) * (level - before) / (value - before)
            before_answers, before = count, max(before, value)
        return None

    def at_share(self, share: float) -> float:
        """The agreement at a share of the way from chance to the ceiling."""
        return self.chance + share * (self.ceiling - self.chance)


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

    def probabilities(self, questions: Int64[np.ndarray, "n 3"]) -> Float[np.ndarray, "n c"]:
        """Probabilities of the pairs that compete, without guesses."""
        return choice_probabilities(self.embedding @ self.embedding.T, questions, self._plan.mode)

    def answer(self, questions: Int64[np.ndarray, "n 3"]) -> Int64[np.ndarray, "n 3"]:
        """Answers by people at random, as rows (pair, pair, odd), or (reference, chosen, other)."""
        form = FORMS[self._plan.mode]
        lapses = self._rng.choice(self._lapses, len(questions))[:, None]
        probabilities = (1 - lapses) * self.probabilities(questions) + lapses * form.chance
        # Rounding may leave the last sum just below the draw.
        draws = self._rng.random((len(questions), 1))
        pair = np.minimum((probabilities.cumsum(axis=1) < draws).sum(axis=1), form.pairs - 1)
        return odd_last(questions, pair)


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
    # Questions are not asked twice, and some are kept for the test.
    most = count_questions(objects, plan.mode) // 2
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
    form = FORMS[plan.mode]
    total = plan.people * plan.trials

    # The questions that test the model are never asked.
    tested = min(TEST_QUESTIONS, count_questions(objects, plan.mode) // 5)
    test = random_questions(objects, tested, np.random.default_rng([seed, 1]), plan.mode)
    forbidden = question_keys(test, plan.mode)
    rng = np.random.default_rng([seed, 2])
    people = SimulatedPeople(embedding, plan, rng)
    truth = people.probabilities(test)

    rows = np.empty((0, 3), dtype=np.int64)
    model = None
    curve = Curve([], [], float(truth.max(axis=1).mean()), form.chance)
    while len(rows) < total:
        # As in a study: so many answers, then the next fit.
        count = min(due(len(rows), objects), total - len(rows))
        chooser = None
        if sampler == "active":
            chooser = model
        asked = _questions(chooser, count, plan, objects, rng, forbidden)
        rows = np.concatenate([rows, people.answer(asked)])
        forbidden = np.concatenate([forbidden, question_keys(asked, plan.mode)])

        # From the last fit on, which takes fewer steps than to begin anew.
        model = trace_norm.fit(AnswerRows(*by_kind(rows, plan.mode)), objects, seed, model)
        chosen = model.choices(test, form.pairs)
        curve.answers.append(len(rows))
        curve.agreement.append(float(truth[np.arange(len(test)), chosen].mean()))
        if report:
            report(len(rows))
    return curve


def _questions(
    model: PeopleModel | None,
    count: int,
    plan: Plan,
    objects: int,
    rng: np.random.Generator,
    seen: Int64[np.ndarray, " k"],
) -> Int64[np.ndarray, "n 3"]:
    """The next questions: random ones, or mostly those that a model chooses."""
    informative = np.empty((0, 3), dtype=np.int64)
    if model is not None:
        informative = choose(model, count - round(plan.random_share * count), rng, seen, plan.mode)
        seen = np.concatenate([seen, question_keys(informative, plan.mode)])

    # More than are needed, as some were asked before; a last few may be missing, and are drawn in the next round.
    missing = count - len(informative)
    others = unseen(random_questions(objects, 3 * missing, rng, plan.mode), seen, plan.mode)[:missing]
    return np.concatenate([informative, others])


def compare(curves: Sequence[tuple[Curve, Curve]]) -> list[TableRow]:
    """Answers that random and active questions need for the same agreement: means over seeds, and each seed's ratio.

    Args:
        curves: random and active of every seed.
    """
    rows: list[TableRow] = []
    for share in LEVELS:
        agreements: list[float] = []
        of_random: list[float] = []
        of_active: list[float] = []
        for random, active in curves:
            agreements.append(random.at_share(share))
            first = random.needed(random.at_share(share))
            second = active.needed(active.at_share(share))
            if first is not None and second is not None:
                of_random.append(first)
                of_active.append(second)

        # A level that some study never reached has no mean.
        if len(of_random) < len(curves):
            continue

        ratios = np.array(of_active) / np.array(of_random)
        rows.append(
            {
                "agreement": f"{float(np.mean(agreements)):.1%}",
                "of the way to the ceiling": f"{share:.0%}",
                "random": round(float(np.mean(of_random))),
                "active": round(float(np.mean(of_active))),
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
