"""Which question comes next: balance, and no repetition."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from alignet_ray.ask.sampler import FIRST_CATCH, RandomSampler, plan_places, repeat_of


@pytest.mark.parametrize("objects", [3, 7, 40])
def test_every_object_comes_equally_often(objects: int) -> None:
    sampler = RandomSampler(objects, seed=1, mode="odd")
    total = min(200, objects * (objects - 1) * (objects - 2) // 6)
    for _ in range(total):
        sampler.count(sampler.draw())
    assert sampler.shown.sum() == 3 * total
    assert sampler.shown.max() - sampler.shown.min() <= 1


def test_no_three_objects_come_together_twice_until_all_have() -> None:
    sampler = RandomSampler(6, seed=2, mode="odd")
    drawn = []
    for _ in range(20):
        drawn.append(sampler.draw())
        assert sampler.is_new(drawn[-1])
        sampler.count(drawn[-1])
    assert {frozenset(triplet) for triplet in drawn} == set(map(frozenset, combinations(range(6), 3)))
    assert sampler.exhausted

    # From now on only the person's own triplets are avoided.
    own = drawn[:19]
    assert set(sampler.draw(own)) == set(drawn[19])
    assert len(set(sampler.draw(drawn))) == 3


def test_a_sampler_continues_after_what_was_shown_before() -> None:
    before = [(0, 1, 2), (0, 3, 4), (0, 1, 4)]
    sampler = RandomSampler(5, seed=3, before=before, mode="odd")
    assert sampler.shown.tolist() == [3, 2, 1, 1, 2]
    for _ in range(7):
        triplet = sampler.draw()
        assert frozenset(triplet) not in set(map(frozenset, before))
        before.append(triplet)
        sampler.count(triplet)


def test_positions_are_fair() -> None:
    sampler = RandomSampler(30, seed=4, mode="odd")
    first = Counter()
    for _ in range(900):
        triplet = sampler.draw()
        sampler.count(triplet)
        first[int(np.argmin(triplet))] += 1
    assert min(first.values()) > 230


def test_places_of_catch_trials_and_repeats() -> None:
    plan = plan_places(100, catch=0.05, repeats=0.1, seed=7)
    assert len(plan) == 100
    assert plan.count("catch") == 5
    assert 8 <= plan.count("repeat") <= 10
    assert "catch" not in plan[:FIRST_CATCH]
    assert "repeat" not in plan[:50]
    assert plan == plan_places(100, 0.05, 0.1, 7)
    assert plan != plan_places(100, 0.05, 0.1, 8)
    assert plan_places(2, 0.5, 0.5, 0).count("catch") == 0


def test_a_question_is_repeated_only_after_a_while() -> None:
    rng = np.random.default_rng(0)
    assert repeat_of([], 30, rng) is None
    assert repeat_of([25, 28], 30, rng) is None
    assert repeat_of([20, 25, 28], 30, rng) == 20
    assert repeat_of([2, 3], 4, rng) == 2  # a short study has a short gap


def test_reference_comparisons_do_not_come_twice_until_all_have() -> None:
    sampler = RandomSampler(5, seed=2, mode="reference")
    drawn = []
    for _ in range(30):  # five references, and six pairs of the others for each
        drawn.append(sampler.draw())
        assert sampler.is_new(drawn[-1])
        sampler.count(drawn[-1])
    assert len({(first, frozenset(others)) for first, *others in drawn}) == 30
    assert Counter(first for first, *_ in drawn) == dict.fromkeys(range(5), 6)
    assert sampler.exhausted

    # From now on only the person's own questions are avoided, and a swap of the candidates is no new question.
    own = [(first, third, second) for first, second, third in drawn[:29]]
    last = sampler.draw(own)
    assert last[0] == drawn[29][0]
    assert set(last) == set(drawn[29])
    assert len(set(sampler.draw(drawn))) == 3


def test_every_object_is_the_reference_about_equally_often() -> None:
    sampler = RandomSampler(30, seed=4, mode="reference")
    references = Counter()
    for _ in range(900):
        question = sampler.draw()
        sampler.count(question)
        references[question[0]] += 1
    assert sampler.shown.max() - sampler.shown.min() <= 1
    assert min(references.values()) > 12
