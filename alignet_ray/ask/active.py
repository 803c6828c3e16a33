"""Chooses informative questions while people answer: the model of people is fitted again in the background."""

import threading
from collections import deque
from collections.abc import Sequence
from math import ceil

import numpy as np
from jaxtyping import Int64

from alignet_ray.ask.dealer import Dealer
from alignet_ray.ask.forms import FORMS
from alignet_ray.ask.information import (
    expected_information,
    most_informative,
    question_keys,
    random_questions,
    unseen,
)
from alignet_ray.ask.quality import counted
from alignet_ray.ask.sampler import Objects
from alignet_ray.ask.study_file import Answer, Mode, StudyFile
from alignet_ray.core import trace_norm
from alignet_ray.core.answer_rows import AnswerRows
from alignet_ray.core.scores import mean_interval
from alignet_ray.core.trace_norm import PeopleModel
from alignet_ray.core.triplet_rows import odd_last

FIRST = 100
"""Answers before the first fit, at least; until then all questions are random."""

FIRST_PER_OBJECT = 2
"""Answers for every object before the first fit: a model of fewer knows nothing, and nor does what it would ask."""

GROWTH = 10
"""The model is fitted again after a tenth more answers, and `FIRST` at least."""

SAMPLES = 32
CANDIDATES = 20_000
"""Samples of the posterior, and random questions that are weighed against each other, for each choice."""

SPREAD = 3
"""How many times more often than on average an object may take part in the questions of one choice."""

TESTED = 500
"""Newest random answers that the model's agreement is measured on."""

CHECK_SECONDS = 1.0
"""Seconds between two checks for new answers."""


def due(answers: int, objects: int) -> int:
    """How many new answers about so many objects call for another fit, after a fit to `answers`."""
    if not answers:
        return max(FIRST, FIRST_PER_OBJECT * objects)
    return max(FIRST, answers // GROWTH)


def choose(
    model: PeopleModel, count: int, rng: np.random.Generator, seen: Int64[np.ndarray, " k"], mode: Mode
) -> Int64[np.ndarray, "n 3"]:
    """Questions whose answers the model expects to learn most from, the best first.

    Args:
        model: what is known so far.
        count: how many are wanted.
        rng: draws candidates and samples.
        seen: keys (`question_keys`) of the questions that were asked before.
        mode: the form of the questions.
    """
    objects = len(model.mean)
    candidates = unseen(random_questions(objects, CANDIDATES, rng, mode), seen, mode)
    information = expected_information(model.samples(SAMPLES, rng), candidates, mode)
    return most_informative(candidates, information, count, ceil(SPREAD * 3 * count / objects)).questions


def chosen_first(answers: Sequence[Answer], object_of: Sequence[int], mode: Mode) -> Int64[np.ndarray, "n 3"]:
    """Answers as rows of object numbers: (pair, pair, odd), or (reference, chosen, other)."""
    images = np.array([answer.images for answer in answers], dtype=np.int64).reshape(-1, 3)
    shown = np.asarray(object_of, dtype=np.int64)[images]
    choice = np.array([answer.choice for answer in answers], dtype=np.int64)
    if mode == "reference":
        # The candidate at place 1 makes the first of PAIRS with the reference, that at place 2 the second.
        return odd_last(shown, choice - 1)
    # With the image at place 0 odd, the pair is (1, 2), the last of PAIRS; with that at place 2, the first.
    return odd_last(shown, 2 - choice)


def by_kind(rows: Int64[np.ndarray, "n 3"], mode: Mode) -> tuple[Int64[np.ndarray, "t 3"], Int64[np.ndarray, "c 3"]]:
    """Responses and comparisons, as models of people take them; one of the two is empty.

    Args:
        rows: as `chosen_first` gives them.
        mode: the form of all of them.
    """
    none = rows[:0]
    if mode == "odd":
        return rows, none
    return none, rows


class ActiveChoice:
    """Fits the model of people again when enough answers have come, and offers the dealer what to ask next.

    Attributes:
        model: the newest fit; None before the first.
    """

    def __init__(self, study: StudyFile, dealer: Dealer, seed: int = 0) -> None:
        self.model: PeopleModel | None = None
        self._study = study
        self._dealer = dealer
        self._seed = seed
        self._mode = study.settings.mode
        self._rng = np.random.default_rng(seed)
        self._object_of = [image.object for image in study.images()]
        self._objects = len(study.objects())
        self._last = 0
        self._hits: deque[bool] = deque(maxlen=TESTED)

    def step(self) -> bool:
        """Fit and choose if there are enough new answers; returns whether there were."""
        fitted = 0
        if self.model is not None:
            fitted = self.model.answers
        answers = counted(self._study.people(), self._study.answers())
        if len(answers) < fitted + due(fitted, self._objects):
            return False

        self._test([answer for answer in answers if answer.number > self._last and answer.kind == "random"])
        rows = chosen_first(answers, self._object_of, self._mode)
        self.model = trace_norm.fit(AnswerRows(*by_kind(rows, self._mode)), self._objects, self._seed, self.model)
        self._last = answers[-1].number
        # Twice as many as are asked before the next fit, since some will be left over or were shown before.
        count = 2 * due(len(answers), self._objects)
        chosen = choose(self.model, count, self._rng, question_keys(rows, self._mode), self._mode)
        questions: list[Objects] = [(first, second, third) for first, second, third in chosen.tolist()]
        self._dealer.offer(questions)
        return True

    def _test(self, new: Sequence[Answer]) -> None:
        """Count how many answers to random questions the model predicts that it was not fitted to yet."""
        if self.model is None or not new:
            return
        rows = chosen_first(new, self._object_of, self._mode)
        self._hits.extend((self.model.choices(rows, FORMS[self._mode].pairs) == 0).tolist())

    def agreement(self) -> tuple[float, float, float, int] | None:
        """Share of random answers that the model predicted before it saw them, its 95 % interval, and their number."""
        hits = list(self._hits)
        if not hits:
            return None
        low, high = mean_interval(np.array(hits, dtype=np.float64))
        return sum(hits) / len(hits), low, high, len(hits)

    def run(self, stop: threading.Event) -> None:
        """Work until the study stops."""
        import torch

        # One thread: the other cores answer people.
        torch.set_num_threads(1)
        while not stop.wait(CHECK_SECONDS):
            self.step()
