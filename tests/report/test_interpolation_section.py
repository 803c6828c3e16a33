import re

from alignet_ray.artifacts.distill import InterpolatedStudent, Interpolation, ScoreChange
from alignet_ray.report import interpolation_section
from alignet_ray.report.contents import ReportContents
from alignet_ray.report.rendering import render


def point(share: float, head: float | None = 0.5) -> InterpolatedStudent:
    kept = {"few_shot_1": ScoreChange(0.5 - share / 10, -share / 10, -share / 10 - 0.01, 0.01)}
    return InterpolatedStudent(share, 0.4 + share / 10, head, 1 - share / 2, kept, kept["few_shot_1"])


def section(found: Interpolation | None) -> str | None:
    shown = interpolation_section.interpolation(ReportContents("run", {}, [], [], interpolation=found))
    if shown is None:
        return None
    return " ".join(render("sections/interpolation.html", interpolation=shown).split())


def test_every_point_has_a_row_and_the_chosen_one_is_named() -> None:
    page = section(Interpolation(0.5, "nearest to people", [point(0), point(0.5), point(1)]))
    assert page is not None
    assert "50% of the way</b>: nearest to people." in page
    page = re.sub(r"<t(d|h|r) [^>]*>", r"<t\1>", page)
    assert "<th>50% (chosen)</th><td>45.0 %</td><td>50.0 %</td><td>75 %</td><td>45.0, -5.0 [-6.0, +1.0]</td>" in page
    assert page.count("45.0, -5.0 [-6.0, +1.0]") == 2, "of the mean and of its only score"
    assert page.count("(chosen)") == 1
    assert page.count("<tr>") == 4
    assert page.count("<img") == 2


def test_a_student_without_head_or_scores() -> None:
    bare = [InterpolatedStudent(share, 0.4, None, 1 - share / 2, {}, None) for share in (0, 0.5, 1)]
    page = section(Interpolation(0.5, "cannot tell", bare))
    assert page is not None
    assert "head agrees" not in page
    assert "neighbours kept" in page


def test_without_points_there_is_no_section() -> None:
    assert section(None) is None
    assert section(Interpolation(1.0, "as the settings say", [])) is None
