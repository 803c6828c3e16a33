"""The plan says which setting, artifact or file differs from the last time, and how it knows."""

from typing import Any

import pytest

from alignet_ray.stages import plan_reasons
from alignet_ray.store import Recipe

FILE = ["triplets.txt", 100, 5]
FOLDER = {"files": 1200, "bytes": 9, "sha256": "a"}
PATHS = ["/data/triplets.txt", "/data/images"]


def reason(sources: list[Any], before: list[Any], paths: list[str] = PATHS) -> str:
    return plan_reasons.text(Recipe(sources=sources), Recipe(sources=before), paths)


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        ([["triplets.txt", 100, 6], FOLDER], "changed: date of triplets.txt (content is not compared)"),
        ([["triplets.txt", 101, 6], FOLDER], "changed: size of triplets.txt"),
        ([["other.txt", 100, 5], FOLDER], "changed: other.txt is new, triplets.txt is not read any more"),
        ([FILE, FOLDER | {"files": 1201}], "changed: files in images (1,200 before, 1,201 now)"),
        ([FILE, FOLDER | {"bytes": 8}], "changed: sizes of files in images"),
        ([FILE, FOLDER | {"sha256": "b"}], "changed: names or dates of files in images (content is not compared)"),
    ],
)
def test_the_source_that_differs_is_named(sources: list[Any], says: str) -> None:
    assert reason(sources, [FILE, FOLDER]) == says


def test_sources_that_come_or_go_are_named() -> None:
    assert reason([FILE], [FILE, FOLDER], PATHS[:1]) == "changed: a folder is not read any more"
    assert reason([FILE, FOLDER], [FILE]) == "changed: images is new"
    assert reason([FILE], [], PATHS[:1]) == "changed: triplets.txt is new"


def test_settings_and_artifacts_are_named_and_many_are_counted() -> None:
    before = Recipe(inputs={"lr": 1, "steps": 2}, parents={"soften": "a"})
    assert plan_reasons.text(Recipe(inputs={"lr": 3, "steps": 2}, parents={"soften": "b"}), before, []) == (
        "changed: lr, soften"
    )
    many = Recipe(inputs=dict.fromkeys("abcdef", 1))
    assert plan_reasons.text(many, Recipe(), []) == "changed: a, b, c, d and 2 more"
    assert plan_reasons.text(before, before, []) == "changed: nothing known"
