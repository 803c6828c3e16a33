"""Figures of the report: what is computed before drawing, by hand; the pictures are valid PNGs."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import rankdata

from alignet_ray.report import figures


def size(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return image.size


@pytest.mark.parametrize(("text", "expected"), [("short", "short"), ("x" * 16, "x" * 16), ("x" * 17, "x" * 15 + "…")])
def test_a_label_has_at_most_sixteen_characters(text: str, expected: str) -> None:
    assert figures.shorten(text) == expected


def test_the_most_frequent_groups_have_marks_and_ties_go_by_name() -> None:
    marks = figures.group_marks(["b", "a", "c", "c", figures.NO_GROUP, figures.NO_GROUP, figures.NO_GROUP])
    assert list(marks) == ["c", "a", "b", "other"]
    assert [mark.colour for mark in marks.values()] == [*figures.PALETTE[:3], figures.OTHER]


def test_groups_are_told_apart_by_shape_as_well_as_by_colour() -> None:
    names = [f"g{number:02d}" for number in range(12)]
    marks = figures.group_marks(names)
    assert list(marks) == [*names[:10], "other"]
    assert "other" not in figures.group_marks(names[:10])
    assert len({mark.path for mark in marks.values()}) == len({mark.colour for mark in marks.values()}) == 11


def test_shades_are_the_ranks_of_the_pairs() -> None:
    values = np.array([[9.0, 0.3, 0.1], [0.3, 9.0, 0.2], [0.1, 0.2, 9.0]])
    expected = np.array([[1, 1, 0], [1, 1, 0.5], [0, 0.5, 1]])
    np.testing.assert_array_equal(figures.rank_shades(values), expected)


@given(st.integers(3, 8), st.integers(0, 1000))
def test_shades_are_those_of_scipys_ranks(count: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(count, count))
    values += values.T
    rows, columns = np.triu_indices(count, 1)
    ranks = rankdata(values[rows, columns]) - 1
    shades = figures.rank_shades(values)
    np.testing.assert_allclose(shades[rows, columns], ranks / (len(ranks) - 1))
    np.testing.assert_array_equal(shades, shades.T)


def test_runs_of_two_are_named_beside_a_small_matrix_and_single_rows_are_not() -> None:
    assert figures._long_runs(["a", "a", "b", "c", "c", "c"]).tolist() == [[0, 2], [3, 6]]
    assert figures._long_runs(["a"] * 88 + ["b"] * 3 + ["c"] * 5).tolist() == [[0, 88], [91, 96]]


def test_the_principal_plane_of_points_on_a_line_is_that_line() -> None:
    plane = figures.principal_plane(np.array([[0.0, 0.0, 1.0], [3.0, 4.0, 1.0], [6.0, 8.0, 1.0]]))
    np.testing.assert_allclose(np.abs(plane[:, 0]), [5, 0, 5], atol=1e-12)
    np.testing.assert_allclose(plane[:, 1], 0, atol=1e-12)


def test_the_principal_plane_is_that_of_an_eigendecomposition_with_fixed_signs() -> None:
    x = np.random.default_rng(0).normal(size=(30, 5)) * [5, 3, 1, 1, 1]
    plane = figures.principal_plane(x)
    variances = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    np.testing.assert_allclose(plane.var(axis=0, ddof=1), variances[:2])
    np.testing.assert_allclose(figures.principal_plane(-x), plane, err_msg="the same map for mirrored data")
    assert (plane[np.abs(plane).argmax(axis=0), [0, 1]] > 0).all()


def test_one_dimension_gives_a_plane_all_the_same() -> None:
    plane = figures.principal_plane(np.array([[1.0], [2.0]]))
    np.testing.assert_allclose(np.abs(plane), [[0.5, 0], [0.5, 0]])


def test_every_figure_is_a_png_of_its_size() -> None:
    line = figures.Line("student", [0, 10], [1.0, 0.5], "#000000")
    assert size(figures.curves([line], "loss", mark=5)) == (780, 510)
    assert size(figures.histogram({"raw": [0.5, 0.5]}, {}, 1.1, "entropy")) == (720, 480)
    assert size(figures.matrix(np.eye(4), ["a", "a", "b", "b"])) == (750, 555)
    reliability = figures.model_line("base", "base", [0.4, 0.8], [0.4, 0.7])
    assert size(figures.reliability([reliability])) == (720, 630)


def test_a_figure_is_the_same_each_time_and_shows_its_numbers() -> None:
    def drawn(last: float) -> bytes:
        return figures.curves([figures.Line("a", [0, 1], [1.0, last], "#000000")], "loss")

    assert drawn(0.5) == drawn(0.5)
    assert drawn(0.5) != drawn(0.6)
