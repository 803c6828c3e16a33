"""Which question comes next: random ones about three objects, and the places of catch trials and repeats."""

from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Int64

from alignet_ray.ask.forms import FORMS, count_questions, question_key
from alignet_ray.ask.study_file import Mode

Objects: TypeAlias = tuple[int, int, int]
"""Three different objects; in a reference comparison the reference is the first."""

PlannedKind: TypeAlias = Literal["new", "catch", "repeat"]

TRIES = 200
"""Random questions that are tried before an object that was shown more often may take part."""

MIN_GAP = 10
"""Questions between a question and its repetition, if there are that many."""

FIRST_CATCH = 3
"""Questions before the first one with an obvious answer: people have to find their way first."""


def plan_places(trials: int, catch: float, repeats: float, seed: int) -> list[PlannedKind]:
    """What each of a person's questions is: catch trials are spread evenly, repeats over the second half.

    Args:
        trials: number of questions.
        catch: share of catch trials.
        repeats: share of repeats.
        seed: of the places within their stretch.
    """
    rng = np.random.default_rng(seed)
    plan: list[PlannedKind] = ["new"] * trials
    for place in _spread(FIRST_CATCH, trials, round(catch * trials), rng):
        plan[place] = "catch"
    for place in _spread((trials + 1) // 2, trials, round(repeats * trials), rng):
        # A stretch may be full of catch trials; then there is one repeat less.
        if plan[place] == "new":
            plan[place] = "repeat"
    return plan


def _spread(start: int, stop: int, count: int, rng: np.random.Generator) -> list[int]:
    """One random place in each of `count` stretches of equal length."""
    if count <= 0 or start >= stop:
        return []
    edges = np.linspace(start, stop, count + 1)
    places = {int(low + rng.random() * (high - low)) for low, high in pairwise(edges.tolist())}
    return sorted(places)


def repeat_of(places: Sequence[int], place: int, rng: np.random.Generator) -> int | None:
    """Which earlier question to ask again: one far enough back that was not repeated yet; None if there is none.

    Args:
        places: places of this person's questions that may be repeated.
        place: where the repetition stands.
        rng: decides among them.
    """
    gap = min(MIN_GAP, place // 2)
    allowed = [earlier for earlier in places if earlier <= place - gap]
    if not allowed:
        return None
    return int(rng.choice(allowed))


class RandomSampler:
    """Random questions in which every object comes equally often, and no question comes twice.

    Attributes:
        shown: how often each object was shown.
    """

    def __init__(self, objects: int, seed: int, before: Iterable[Objects] = (), *, mode: Mode) -> None:
        """Continue after the questions that were asked before.

        Args:
            objects: number of objects, three or more.
            seed: of the draws.
            before: questions that were asked already.
            mode: the form of the questions, which says when two are the same.
        """
        assert objects >= 3, "a question is about three objects"
        self.shown: Int64[np.ndarray, " m"] = np.zeros(objects, dtype=np.int64)
        self._mode = mode
        self._all = count_questions(objects, mode)
        self._rng = np.random.default_rng(seed)
        self._seen: set[Hashable] = set()
        for question in before:
            self.count(question)

    @property
    def exhausted(self) -> bool:
        """Whether every question was asked."""
        return len(self._seen) >= self._all

    def count(self, question: Objects) -> None:
        """Take note of a question that is asked."""
        self._seen.add(question_key(question, self._mode))
        self.shown[list(question)] += 1

    def is_new(self, question: Objects) -> bool:
        """Whether this was not asked before."""
        return question_key(question, self._mode) not in self._seen

    def draw(self, own: Iterable[Objects] = ()) -> Objects:
        """The next question; which of its objects is the first, and so the reference, is random.

        Once every question was asked, questions are asked again, but none twice of the same person while there is one
        that this person has not seen.

        Args:
            own: what the person has seen, where all questions may have been asked.
        """
        forbidden = self._seen
        if self.exhausted:
            forbidden = {question_key(question, self._mode) for question in own}
            if len(forbidden) >= self._all:
                forbidden = set()

        # The objects shown least come first, those shown equally often in random order.
        order = np.lexsort((self._rng.random(len(self.shown)), self.shown))
        for attempt in range(TRIES):
            # The choice widens slowly, so that balance is given up only as far as it must.
            width = min(len(order), 3 + attempt // 4)
            picked = _three(self._rng.permutation(order[:width])[:3])
            if question_key(picked, self._mode) not in forbidden:
                return picked
        return self._search(order, forbidden)

    def _search(self, order: Int64[np.ndarray, " m"], forbidden: set[Hashable]) -> Objects:
        """The first question that is not forbidden, where nearly all are: objects shown least come first."""
        for high in range(2, len(order)):
            for middle in range(1, high):
                for low in range(middle):
                    picked = _three(order[[low, middle, high]])
                    for question in _turned(picked)[: FORMS[self._mode].per_set]:
                        if question_key(question, self._mode) not in forbidden:
                            return question
        raise AssertionError("not all questions are forbidden")


def _turned(objects: Objects) -> list[Objects]:
    """The same three objects, with each of them as the first once."""
    first, second, third = objects
    return [(first, second, third), (second, third, first), (third, first, second)]


def _three(picked: Int64[np.ndarray, "3"]) -> Objects:
    first, second, third = picked.tolist()
    return first, second, third
