"""The report's section about more answers."""

import pytest

from alignet_ray.artifacts.soften import LearningCurve
from alignet_ray.core.learning_curve import Forecast, Point
from alignet_ray.report import answers_section
from alignet_ray.report.contents import ReportContents
from alignet_ray.report.rendering import render

POINTS = [Point(100, 0.4, 0.35, 0.45), Point(200, 0.45, 0.4, 0.5), Point(400, 0.48, 0.43, 0.53)]


def section(curve: LearningCurve | None) -> str | None:
    shown = answers_section.answers(ReportContents("run", {}, [], [], learning_curve=curve))
    if shown is None:
        return None
    return " ".join(render("sections/answers.html", answers=shown).split())


def test_figures_and_forecasts_are_shown() -> None:
    forecasts = [Forecast(1000, 0.021, 0.012, 0.03), Forecast(400, 0.013, 0.006, 0.02)]
    page = section(LearningCurve("vice", 1234, POINTS, forecasts))
    assert page is not None
    assert "<b>400 more answers would help.</b>" in page
    assert "1,234 others" in page
    assert '<th scope="row">200</th><td>45.0 [40.0, 50.0] %</td>' in page
    assert '<th scope="row">1,000</th><td>+2.1 [+1.2, +3.0]</td>' in page
    assert page.count("<img") == 1


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.006, 0.02, "9,000 more answers would help"),
        (0.001, 0.02, "cannot tell whether 9,000 more answers would help"),
        (0.0, 0.004, "9,000 more answers would hardly help: ask about more objects instead"),
    ],
)
def test_the_verdict_goes_by_the_interval(low: float, high: float, words: str) -> None:
    assert answers_section.verdict(Forecast(9000, (low + high) / 2, low, high)) == words


def test_without_a_curve_there_is_no_section() -> None:
    assert section(None) is None
