import re
from dataclasses import replace

from alignet_ray.artifacts.align import Agreement, AlignReport, InterpolationPoint, SplitAgreement
from alignet_ray.report import teacher_section
from alignet_ray.report.contents import ReportContents
from alignet_ray.report.rendering import render


def agreement(accuracy: float) -> Agreement:
    return Agreement(accuracy, accuracy - 0.05, accuracy + 0.05, 1.0, 0.9, 1.1)


SPACES = {"base": agreement(0.38), "aligned": agreement(0.53)}
REPORT = AlignReport(
    map="low_rank",
    neighbours_kept=0.4,
    splits={"validation": SplitAgreement(SPACES, 0.66), "test": SplitAgreement(SPACES, 0.67)},
)


def section(report: AlignReport) -> str:
    contents = teacher_section.teacher(ReportContents("run", {}, [], [], teacher=report))
    return " ".join(render("sections/teacher.html", teacher=contents).split())


def test_the_teacher_stands_beside_its_base_and_the_ceiling() -> None:
    page = section(REPORT)
    assert page.count("<tr>") == 4
    assert "53.0 % [48.0, 58.0]" in page
    assert "66.0 %" in page
    assert "67.0 %" not in page, "test objects have one figure, in the table of all models"
    assert "low_rank" in page
    assert "<img" not in page


def test_a_fine_tuned_network_shows_its_interpolation_curve() -> None:
    curve = [InterpolationPoint(share, 0.4 + share / 10, 0.38 + share / 10, 1 - share / 2) for share in (0, 0.5, 1)]
    network = replace(
        REPORT, map="network", metric="classes", temperature=0.055, aligned_neighbours_kept=0.2, step=20.0
    )
    page = section(replace(network, curve=curve))
    assert "The network itself after 20 updates" in page
    assert "The network as it was" in section(replace(network, step=0.0))
    assert "40% of every" in page
    assert "by its features, 20% by what it says of them" in page
    assert "as its classifier weighs features (temperature 0.055)" in page
    assert re.search(r"50%</th><td>45\.0 %</td><td>43\.0 %</td><td>75 %", page)
    assert page.count("<img") == 1


def test_a_map_that_was_taken_over_has_no_section() -> None:
    for report in (AlignReport(map="stored", width=4), None):
        assert teacher_section.teacher(ReportContents("run", {}, [], [], teacher=report)) is None
