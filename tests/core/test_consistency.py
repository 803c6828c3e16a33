import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignet_ray.core import consistency
from alignet_ray.core.triplet_rows import set_keys


def responses(n: int, m: int = 60, seed: int = 0) -> np.ndarray:
    """Simulated responses of people who tell four kinds of objects apart."""
    rng = np.random.default_rng(seed)
    x = np.eye(4)[np.arange(m) % 4] * 2
    rows = np.stack([rng.permutation(m)[:3] for _ in range(n)])
    s = np.stack([(x[rows[:, a]] * x[rows[:, b]]).sum(1) for a, b in ((0, 1), (0, 2), (1, 2))], axis=1)
    choice = (s + rng.gumbel(size=s.shape)).argmax(axis=1)
    return np.take_along_axis(rows, np.array([[0, 1, 2], [0, 2, 1], [1, 2, 0]])[choice], axis=1)


@pytest.mark.parametrize(
    ("columns", "place"), [([0, 1, 2], "last"), ([1, 0, 2], "last"), ([0, 2, 1], "middle"), ([2, 0, 1], "first")]
)
def test_the_odd_column_is_found_by_the_responses_alone(columns: list[int], place: str) -> None:
    reading = consistency.odd_position(responses(6000)[:, columns])
    assert reading.sure
    assert reading.best == place


def test_noise_says_nothing_about_the_odd_column() -> None:
    rng = np.random.default_rng(0)
    rows = np.stack([rng.permutation(40)[:3] for _ in range(3000)])
    assert not consistency.odd_position(rows).sure
    assert consistency.odd_position(rows[:20]).best == "last"


def test_duplicates_are_compared_with_chance() -> None:
    rng = np.random.default_rng(0)
    rows = np.sort(np.stack([rng.permutation(50)[:3] for _ in range(5000)]), axis=1)
    plain = consistency.duplicates(rows)
    assert plain.found == 5000 - len(np.unique(rows, axis=0))
    assert plain.found == pytest.approx(plain.expected, rel=0.1)
    assert not plain.suspicious
    copied = np.concatenate([rows, rows[:250, [2, 0, 1]]])
    assert consistency.duplicates(copied).found == plain.found + 250
    assert consistency.duplicates(copied).suspicious


@given(st.lists(st.integers(0, 2**21 - 1), min_size=3, max_size=3, unique=True), st.permutations(range(3)))
def test_a_key_belongs_to_one_set_of_three(items: list[int], order: list[int]) -> None:
    row = np.array([items])
    key = set_keys(row)
    assert key == set_keys(row[:, order])
    sorted_items = sorted(items)
    assert [int(key[0]) >> 42, int(key[0]) >> 21 & 0x1FFFFF, int(key[0]) & 0x1FFFFF] == sorted_items


def test_chance_overlap_of_two_files() -> None:
    a, b = responses(3000, seed=1), responses(3000, seed=2)
    shared = np.isin(set_keys(a), set_keys(b)).sum()
    assert shared == pytest.approx(consistency.expected_shared(a, b), rel=0.2)
