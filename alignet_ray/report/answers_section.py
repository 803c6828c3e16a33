"""The section of the report about answers: how well they are predicted by their number, and what more would bring."""

from dataclasses import dataclass

from alignet_ray.artifacts.soften import LearningCurve
from alignet_ray.core.learning_curve import Forecast, Verdict
from alignet_ray.report import figures
from alignet_ray.report.contents import ReportContents, Row

VERDICTS: dict[Verdict, str] = {
    "helps": "{more:,} more answers would help",
    "cannot tell": "cannot tell whether {more:,} more answers would help",
    "hardly helps": "{more:,} more answers would hardly help: ask about more objects instead",
}
"""What is to be expected of more answers, as a sentence."""


@dataclass(frozen=True)
class AnswersSection:
    """What the section shows.

    Attributes:
        verdict: whether more answers would help, in a sentence.
        tested: held-out answers behind each figure.
        curve: figure: accuracy by the number of answers.
        rows: a row for every number of answers that was measured.
        forecasts: a row for every forecast.
    """

    verdict: str
    tested: int
    curve: bytes
    rows: list[Row]
    forecasts: list[Row]


def answers(contents: ReportContents) -> AnswersSection | None:
    """How far more answers would help; None where it was not measured."""
    found = contents.learning_curve
    if found is None:
        return None

    rows = []
    for point in found.points:
        accuracy = f"{100 * point.accuracy:.1f} [{100 * point.low:.1f}, {100 * point.high:.1f}] %"
        rows.append({"answers that the model saw": f"{point.answers:,}", "held-out answers predicted": accuracy})
    forecasts = [
        {"more answers": f"{forecast.more:,}", "expected gain, points": gain_text(forecast)}
        for forecast in found.forecasts
    ]
    return AnswersSection(verdict(found.forecasts[-1]), found.tested, _figure(found), rows, forecasts)


def gain_text(forecast: Forecast) -> str:
    """The gain in points with its interval."""
    return f"{100 * forecast.gain:+.1f} [{100 * forecast.low:+.1f}, {100 * forecast.high:+.1f}]"


def verdict(forecast: Forecast) -> str:
    """Whether more answers would help."""
    return VERDICTS[forecast.verdict].format(more=forecast.more)


def _figure(found: LearningCurve) -> bytes:
    counts: list[float] = []
    low: list[float] = []
    middle: list[float] = []
    high: list[float] = []
    for point in found.points:
        counts.append(float(point.answers))
        low.append(100 * point.low)
        middle.append(100 * point.accuracy)
        high.append(100 * point.high)

    colour = figures.COLOURS["teacher"]
    lines = [
        figures.Line("", counts, low, colour, ":", 1.5),
        figures.Line("", counts, high, colour, ":", 1.5),
        figures.Line("held-out answers, with 95 % interval", counts, middle, colour),
    ]
    return figures.curves(lines, "answers predicted, %", "answers that the model saw", bottom=None)
