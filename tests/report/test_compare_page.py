"""The page of several runs side by side."""

import re

import pyarrow as pa
import pytest

from alignet_ray.artifacts.schemas import SCORES
from alignet_ray.evals.compare import ScoreKey
from alignet_ray.report import compare_page

NAN = float("nan")


def scores(student: float, *, dataset: str = "objects", n: int = 10) -> pa.Table:
    rows = [
        ("base", "pre_logits", "odd_one_out", 0.37, 0.35, 0.39, ""),
        ("student", "head", "odd_one_out", student, student - 0.02, student + 0.02, ""),
        ("student", "head", "odd_one_out", 0.66, 0.6, 0.7, "margin:high"),
        ("student", "pre_logits", "few_shot_1", 0.31, 0.3, 0.32, ""),
        ("student", "pre_logits", "temperature", 0.5, NAN, NAN, ""),
        ("mine <b>", "pre_logits", "odd_one_out", 0.4, NAN, NAN, ""),
    ]
    names = ("model", "layer", "metric", "value", "low", "high", "level")
    fixed = {"dataset": dataset, "n": n, "split": "test", "seed": 0}
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) | fixed for row in rows], schema=SCORES)


def plain(page: str) -> str:
    """The page in one line, its cells without what is for phones and screen readers alone."""
    return " ".join(re.sub(r"<t(d|h) [^>]*>", r"<t\1>", page).split())


def test_two_runs_stand_side_by_side_with_their_difference() -> None:
    page = plain(compare_page.build({"one": scores(0.46), "two": scores(0.56)}))
    assert "<h1>alignet_ray: one, two</h1>" in page
    assert (
        "<th>agreement with people</th><td>aligned student, head</td><td>higher</td><td>46.0 [44.0, 48.0]</td>" in page
    )
    assert "<td>56.0 [54.0, 58.0]</td><td>+10.0 *</td>" in page
    assert page.index("<h2>As people see it</h2>") < page.index("<h2>Everything else</h2>")
    assert page.index("object, learned from 1 image") > page.index("<h2>Everything else</h2>")
    assert "margin:high" not in page
    assert page.count("<img") == 1
    # Names come from the user's data.
    assert "mine &lt;b&gt;" in page
    assert "* differs at 5 %" in page


@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_runs_without_differences(count: int) -> None:
    page = plain(compare_page.build({f"run{number}": scores(0.5) for number in range(count)}, levels=True))
    assert "difference" not in page
    assert "margin:high" in page
    number = "1 run" if count == 1 else f"{count} runs"
    assert f"{number} on test data of: objects" in page


def test_rows_of_the_figure_say_their_data_set_where_there_are_several() -> None:
    base = ScoreKey("base", "pre_logits", "objects", "odd_one_out", "", "test")
    student = base._replace(model="student", layer="head")
    assert compare_page.row_titles([base, student]) == ["base", "aligned student, head"]
    assert compare_page.row_titles([base, base._replace(dataset="levels")]) == ["base\n(objects)", "base\n(levels)"]


def test_data_sets_have_tables_of_their_own() -> None:
    page = plain(compare_page.build({"one": scores(0.5), "two": scores(0.5, dataset="rsa92")}))
    assert "<h2>As people see it, objects</h2>" in page
    assert "<h2>As people see it, rsa92</h2>" in page
