"""Triplets as rows of numbers: worked values of the odd item and of keys, and their promise by property."""

from itertools import permutations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from alignet_ray.core.triplet_rows import EXACT_KEYS, ODD_LAST, PAIRS, odd_last, scramble, set_keys


def test_the_pair_comes_first_and_the_odd_item_last() -> None:
    rows = np.array([[7, 8, 9], [7, 8, 9], [7, 8, 9]])
    assert odd_last(rows, np.array([0, 1, 2])).tolist() == [[7, 8, 9], [7, 9, 8], [8, 9, 7]]
    for pair, columns in zip(PAIRS, ODD_LAST, strict=True):
        assert columns[:2] == pair


@settings(max_examples=30)
@given(st.lists(st.integers(0, 10**7), min_size=3, max_size=3, unique=True), st.sampled_from([EXACT_KEYS, 10**8]))
def test_equal_sets_have_equal_keys_in_any_order(items: list[int], size: int) -> None:
    if size == EXACT_KEYS:
        items = [item % EXACT_KEYS for item in items]
    keys = set_keys(np.array(list(permutations(items))), size)
    assert len(set(keys.tolist())) == 1


def test_different_sets_have_different_keys() -> None:
    rows = np.random.default_rng(0).integers(0, 60, (4000, 3))
    sets = {tuple(sorted(row)) for row in rows.tolist()}
    for size in (60, 10**9):
        assert len(set(set_keys(rows, size).tolist())) == len(sets)


def test_mixing_loses_nothing() -> None:
    """The published finaliser of SplitMix64 is a bijection; its first value after the seed 0 is known."""
    assert int(scramble(np.array([0], dtype=np.uint64))[0]) == 0xE220A8397B1DCDAF
    values = scramble(np.arange(100_000, dtype=np.uint64))
    assert len(np.unique(values)) == len(values)
