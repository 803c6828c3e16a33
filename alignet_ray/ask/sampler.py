"""Which question comes next: random triplets of objects, and the places of catch trials and repeats."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import comb
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Int64

Objects: TypeAlias = tuple[int, int, int]
"""Three different objects."""

PlannedKind: TypeAlias = Literal["new", "catch", "repeat"]

TRIES = 200
"""Random triplets that are tried before an object that was shown more often may take part."""

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
    """Random triplets in which every object comes equally often, and no three objects come together twice.

    Attributes:
        shown: how often each object was shown.
    """

    def __init__(self, objects: int, seed: int, before: Iterable[Objects] = ()) -> None:
        """Continue after the triplets that were shown before.

        Args:
            objects: number of objects, three or more.
            seed: of the draws.
            before: triplets that were shown already.
        """
        assert objects >= 3, "three objects make a triplet"
        self.shown: Int64[np.ndarray, " m"] = np.zeros(objects, dtype=np.int64)
        self._rng = np.random.default_rng(seed)
        self._seen: set[frozenset[int]] = set()
        for triplet in before:
            self.count(triplet)

    @property
    def exhausted(self) -> bool:
        """Whether every set of three objects was shown."""
        return len(self._seen) >= comb(len(self.shown), 3)

    def count(self, triplet: Objects) -> None:
        """Take note of a triplet that is shown."""
        self._seen.add(frozenset(triplet))
        self.shown[list(triplet)] += 1

    def is_new(self, triplet: Objects) -> bool:
        """Whether these three were not shown together."""
        return frozenset(triplet) not in self._seen

    def draw(self, own: Iterable[Objects] = ()) -> Objects:
        """The next triplet, in random order.

        Once every set of three was shown, sets are shown again, but none twice to the same person while there is one
        that this person has not seen.

        Args:
            own: what the person has seen, where all sets may have been shown.
        """
        forbidden = self._seen
        if self.exhausted:
            forbidden = {frozenset(triplet) for triplet in own}
            if len(forbidden) >= comb(len(self.shown), 3):
                forbidden = set()

        # The objects shown least come first, those shown equally often in random order.
        order = np.lexsort((self._rng.random(len(self.shown)), self.shown))
        for attempt in range(TRIES):
            # The choice widens slowly, so that balance is given up only as far as it must.
            width = min(len(order), 3 + attempt // 4)
            picked = self._rng.permutation(order[:width])[:3]
            if frozenset(picked.tolist()) not in forbidden:
                return _three(picked)
        return self._search(order, forbidden)

    def _search(self, order: Int64[np.ndarray, " m"], forbidden: set[frozenset[int]]) -> Objects:
        """The first set that is not forbidden, where nearly all are: one object after the other, least shown first."""
        for high in range(2, len(order)):
            for middle in range(1, high):
                for low in range(middle):
                    picked = order[[low, middle, high]]
                    if frozenset(picked.tolist()) not in forbidden:
                        return _three(self._rng.permutation(picked))
        raise AssertionError("not all sets are forbidden")


def _three(picked: Int64[np.ndarray, "3"]) -> Objects:
    first, second, third = picked.tolist()
    return first, second, third
