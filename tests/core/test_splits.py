import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignet_ray.core import splits


def test_splits_depend_on_seed_and_number_alone() -> None:
    split_names = [splits.split_of(0, n) for n in range(3000)]
    assert split_names.count("train") / 3000 == pytest.approx(0.6, abs=0.03)
    assert split_names.count("test") / 3000 == pytest.approx(0.2, abs=0.03)
    assert split_names[:5] == [splits.split_of(0, n) for n in range(5)]
    assert split_names != [splits.split_of(1, n) for n in range(3000)]


@given(st.integers(3, 7), st.integers(0, 99))
def test_over_all_folds_every_object_is_a_test_object_once(count: int, seed: int) -> None:
    items = range(60)
    by_fold = [[splits.split_of(seed, item, splits.Fold(number, count)) for item in items] for number in range(count)]
    for item in items:
        parts = [by_fold[number][item] for number in range(count)]
        assert (parts.count("test"), parts.count("validation")) == (1, 1)
        # Validation objects of a fold are the next fold's test objects.
        assert parts.index("test") == (parts.index("validation") + 1) % count


@given(st.integers(2, 6), st.integers(0, 99))
def test_folds_are_a_partition(k: int, seed: int) -> None:
    parts = splits.folds(range(20), k, seed)
    assert sorted(item for part in parts for item in part) == list(range(20))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
