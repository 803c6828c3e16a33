import re
from typing import Any

from alignet_ray.report import teacher_section
from alignet_ray.report.contents import ReportContents
from alignet_ray.report.rendering import render


def found(**more: Any) -> dict[str, Any]:
    """A report of `align`."""
    figures = {
        f"{split}_{space}_accuracy{end}": value + shift
        for split in ("validation", "test")
        for space, value in (("base", 0.38), ("aligned", 0.53))
        for end, shift in (("", 0.0), ("_low", -0.05), ("_high", 0.05))
    }
    return {
        "map": "low_rank",
        "neighbours_kept": 0.4,
        **figures,
        "validation_ceiling": 0.66,
        "test_ceiling": 0.67,
    } | more


def section(report: dict[str, Any]) -> str:
    contents = teacher_section.teacher(ReportContents("run", {}, [], [], teacher=report))
    return " ".join(render("sections/teacher.html", teacher=contents).split())


def test_the_teacher_stands_beside_its_base_and_the_ceiling() -> None:
    page = section(found())
    assert page.count("<tr>") == 4
    assert "53.0 % [48.0, 58.0]" in page
    assert "67.0 %" in page
    assert "low_rank" in page
    assert "<img" not in page


def test_a_fine_tuned_network_shows_what_it_trades() -> None:
    points = [{"share": s, "accuracy": 0.4 + s / 10, "features": 0.38 + s / 10, "kept": 1 - s / 2} for s in (0, 0.5, 1)]
    how = {"map": "network", "metric": "classes", "temperature": 0.055, "aligned_neighbours_kept": 0.2}
    page = section(found(**how, step=20.0, trade=points))
    assert "The network itself after 20 updates" in page
    assert "The network as it was" in section(found(**how, step=0.0, trade=[]))
    assert "40% of every" in page
    assert "by its features, 20% by what it says of them" in page
    assert "as its classifier weighs features (temperature 0.055)" in page
    assert re.search(r"50%</td><td>45\.0 %</td><td>43\.0 %</td><td>75 %", page)
    assert page.count("<img") == 1


def test_a_map_that_was_taken_over_has_no_section() -> None:
    for report in ({"map": "stored", "width": 4, "folds": []}, {}):
        assert teacher_section.teacher(ReportContents("run", {}, [], [], teacher=report)) is None
