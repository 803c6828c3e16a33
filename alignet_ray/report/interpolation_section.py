"""The section of the report about the student's place between its pretrained weights and its trained ones."""

from dataclasses import dataclass

from alignet_ray.artifacts.distill import InterpolatedStudent, ScoreChange
from alignet_ray.core.scores import METRIC_TITLES
from alignet_ray.report import figures
from alignet_ray.report.contents import ReportContents, Row

THIN_STYLES = ("--", "-.", ":")
"""Dashes of the single scores, below the solid line of their mean."""

X_TITLE = "share of the way from the pretrained weights, %"


@dataclass(frozen=True)
class InterpolationSection:
    """What the section shows.

    Attributes:
        chosen: share of the way from the pretrained weights to the trained ones.
        reason: why this one.
        agreement: figure: agreement with people at every point.
        kept: figure: scores of telling objects apart at every point, as differences to the pretrained network.
        rows: a row for every point.
    """

    chosen: float
    reason: str
    agreement: bytes
    kept: bytes
    rows: list[Row]


def interpolation(contents: ReportContents) -> InterpolationSection | None:
    """Agreement against what is kept, between both weights; None where no points between them were scored."""
    found = contents.interpolation
    if found is None or not found.points:
        return None

    rows = [_row(point, is_chosen=point.interpolation == found.chosen) for point in found.points]
    return InterpolationSection(
        chosen=found.chosen,
        reason=found.reason,
        agreement=_agreement_figure(found.points, found.chosen),
        kept=_kept_figure(found.points, found.chosen),
        rows=rows,
    )


def _row(point: InterpolatedStudent, is_chosen: bool) -> Row:
    share = f"{point.interpolation:.0%}"
    if is_chosen:
        share += " (chosen)"

    row = {"share of the way": share, "embedding agrees": f"{100 * point.agreement:.1f} %"}
    if point.head_agreement is not None:
        row["head agrees"] = f"{100 * point.head_agreement:.1f} %"
    row["neighbours kept"] = f"{100 * point.neighbours_kept:.0f} %"

    # There is a mean where there are scores to take it of.
    if point.mean_change is not None:
        row["mean of the following"] = _change_text(point.mean_change)
    for name, change in point.kept.items():
        row[METRIC_TITLES[name]] = _change_text(change)
    return row


def _change_text(change: ScoreChange) -> str:
    """Value in percent, difference to the pretrained network in points, and its interval."""
    low = 100 * change.low
    high = 100 * change.high
    return f"{100 * change.value:.1f}, {100 * change.change:+.1f} [{low:+.1f}, {high:+.1f}]"


def _agreement_figure(points: list[InterpolatedStudent], chosen: float) -> bytes:
    shares = _shares(points)
    embedding = [100 * point.agreement for point in points]
    lines = [figures.Line("embedding", shares, embedding, figures.COLOURS["student"])]

    # A student without a triplet head has none at any point.
    head = [100 * point.head_agreement for point in points if point.head_agreement is not None]
    if head:
        lines.append(figures.Line("head", shares, head, figures.COLOURS["teacher"], marker="^"))
    return figures.curves(lines, "agrees with people, %", X_TITLE, mark=100 * chosen, bottom=None)


def _shares(points: list[InterpolatedStudent]) -> list[float]:
    """How far along the way each point is, in percent."""
    return [100 * point.interpolation for point in points]


def _kept_figure(points: list[InterpolatedStudent], chosen: float) -> bytes:
    shares = _shares(points)
    lines = []
    for number, name in enumerate(points[0].kept):
        changes = [100 * point.kept[name].change for point in points]
        # Thin lines have no marks: these are told apart by their dashes.
        style = THIN_STYLES[number % len(THIN_STYLES)]
        lines.append(figures.Line(METRIC_TITLES[name], shares, changes, figures.PALETTE[number], style, 1.5))

    means = [100 * point.mean_change.change for point in points if point.mean_change is not None]
    if means:
        lines.append(figures.Line("mean of these", shares, means, figures.COLOURS["student"]))

    # Where objects have one image each, there are no such scores: the figure shows the neighbours instead.
    if not lines:
        neighbours = [100 * point.neighbours_kept for point in points]
        lines = [figures.Line("neighbours kept", shares, neighbours, figures.COLOURS["base"])]
        return figures.curves(lines, "neighbours kept, %", X_TITLE, mark=100 * chosen)
    return figures.curves(lines, "change of the score, points", X_TITLE, mark=100 * chosen, bottom=None)
