"""Plots of a sweep: where points, ticks and axes stand; the pictures are valid PNGs of any trials."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alignet_ray.sweep import plots
from alignet_ray.sweep.search_space import Domain, format_value, parse

RANGE = Domain("uniform", (0.0, 10.0))
LOG = Domain("loguniform", (1e-4, 1e-1))
NUMBERS = Domain("choice", (20, 50))
NAMES = Domain("choice", ("b", "a"))


def size(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return image.size


def test_a_range_has_no_tick_labels_of_its_own() -> None:
    assert plots._labels([1.0, 2.0], RANGE) == []


def test_listed_numbers_are_in_order_and_a_given_value_outside_the_list_joins_them() -> None:
    assert plots._labels([50, 30, 20], NUMBERS) == ["20", "30", "50"]


def test_names_keep_the_order_of_the_list() -> None:
    assert plots._labels(["a", "c"], NAMES) == ["b", "a", "c"]
    assert plots._labels([True], Domain("choice", (True, False))) == ["True", "False"]


def test_values_take_few_characters() -> None:
    assert [format_value(v) for v in (0.000123456, 3, "affine", None)] == ["0.0001235", "3", "affine", "None"]


def test_a_column_runs_from_the_lowest_to_the_highest_number() -> None:
    column = plots._setting_column([2.0, 6.0, 4.0], RANGE)
    assert column.heights.tolist() == [0.0, 1.0, 0.5]
    assert column.ticks == [(0.0, "2"), (1.0, "6")]


def test_a_logarithmic_column_puts_equal_factors_at_equal_distances() -> None:
    column = plots._setting_column([1e-3, 1e-1, 1e-2], LOG)
    np.testing.assert_allclose(column.heights, [0, 1, 0.5], atol=1e-12)
    assert [float(label) for _, label in column.ticks] == pytest.approx([1e-3, 1e-1], rel=0.005)


def test_zero_on_a_logarithmic_column_falls_back_to_a_linear_one() -> None:
    column = plots._setting_column([0.0, 0.1], LOG)
    assert column.heights.tolist() == [0.0, 1.0]


def test_a_list_has_its_values_at_equal_distances() -> None:
    column = plots._setting_column([50, 20, 30], NUMBERS)
    assert column.heights.tolist() == [1.0, 0.0, 0.5]
    assert column.ticks == [(0.0, "20"), (0.5, "30"), (1.0, "50")]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9))
def test_heights_lie_between_nought_and_one_for_any_numbers(numbers: list[float]) -> None:
    heights = plots._scaled_column(np.array(numbers)).heights
    assert heights.min() == 0
    assert heights.max() in (0, pytest.approx(1))
    assert np.array_equal(np.array(numbers).argmin(), heights.argmin())


def test_better_trials_are_darker() -> None:
    worst, best = (plots._shade(quality) for quality in (0.0, 1.0))
    assert all(dark < light for dark, light in zip(best, worst, strict=True))
    assert all(0 <= channel <= 1 for channel in (*best, *worst))


@settings(max_examples=5)
@given(st.integers(1, 6), st.randoms(use_true_random=False))
def test_pictures_have_one_size_for_any_number_of_trials(count: int, random: object) -> None:
    space = parse(["align.lr=loguniform(1e-4,1e-1)", "align.rank=choice(20,50)", "align.map=choice(affine,low_rank)"])
    rng = np.random.default_rng(count)
    settings = [[float(10 ** -rng.uniform(1, 4)), 30, "affine"] for _ in range(count)]
    scores = rng.normal(size=count).tolist()
    wins = [number == 0 for number in range(count)]
    assert size(plots.parallel_coordinates(space, settings, scores, "min", wins)) == (990, 570)
    points = [(float(a), float(b)) for a, b in rng.random((count, 2))]
    assert size(plots.pareto_plot(points, range(count), [0])) == (780, 570)
    for column, (field, domain) in enumerate(space.items()):
        values = [setting[column] for setting in settings]
        assert size(plots.score_by_setting(values, scores, range(count), 0, field, domain)) == (630, 480)


def test_the_ring_moves_with_the_winner() -> None:
    first, second = (plots.score_by_setting([1.0, 2.0], [0.1, 0.2], [0, 1], n, "align.lr", RANGE) for n in (0, 1))
    assert first != second


def test_the_front_is_drawn() -> None:
    points = [(0.4, 0.9), (0.6, 0.5), (0.3, 0.3)]
    assert plots.pareto_plot(points, [0, 1, 2], [0, 1]) != plots.pareto_plot(points, [0, 1, 2], [0])


def test_less_or_more_changes_who_is_dark() -> None:
    space = parse(["align.lr=uniform(0,1)"])
    pictures = [
        plots.parallel_coordinates(space, [[0.1], [0.9]], [1.0, 2.0], mode, [False, False]) for mode in ("min", "max")
    ]
    assert pictures[0] != pictures[1]


@pytest.mark.parametrize(
    ("numbers", "labels"),
    [
        ([0.00191, 0.00193], ["0.00191", "0.00193"]),
        ([1e-5, 1e-2], ["1e-05", "0.01"]),
        ([0.5, 0.5], ["0.5", "0.5"]),
        ([1.0000001, 1.0000002], ["1.0000001", "1.0000002"]),
    ],
)
def test_labels_have_as_many_digits_as_it_takes(numbers: list[float], labels: list[str]) -> None:
    assert plots.distinct_labels(numbers, 2) == labels
