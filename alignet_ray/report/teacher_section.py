"""The section of the report about the teacher: its agreement with people before and after, and what that cost."""

from dataclasses import dataclass

from alignet_ray.artifacts.align import AlignReport
from alignet_ray.report import figures
from alignet_ray.report.contents import ReportContents, Row

SPACES = {"base": "the network as it was", "features": "fine-tuned, its features", "aligned": "the teacher"}
HEADING = "agreement with people, validation objects"
METRICS = {"classes": "as its classifier weighs features", "plain": "by the cosine of features"}


@dataclass(frozen=True)
class NetworkTeacher:
    """A fine-tuned network: its update, and how its kernel head compares images."""

    step: float
    metric: str
    temperature: float


@dataclass(frozen=True)
class InterpolationCurve:
    """Agreement against neighbours kept between the pretrained and the fine-tuned weights: figure and table."""

    png: bytes
    rows: list[Row]


@dataclass(frozen=True)
class TeacherSection:
    """What the section shows.

    Attributes:
        form: form of the map on top of the network, quoted.
        network: how a fine-tuned network describes images; None for a map.
        neighbours_kept: share of the ten nearest neighbours that the map (or a network's features) keep.
        aligned_neighbours_kept: the same for the predictions of a network's head.
        rows: agreement with people on validation objects, a row a space.
        interpolation: None where no weights between were evaluated.
    """

    form: str
    network: NetworkTeacher | None
    neighbours_kept: float
    aligned_neighbours_kept: float | None
    rows: list[Row]
    interpolation: InterpolationCurve | None


def teacher(contents: ReportContents) -> TeacherSection | None:
    """Agreement with people before and after; None where the map was taken over, which was not evaluated."""
    report = contents.teacher
    if report is None or not report.splits:
        return None

    # A map is linear, on top of frozen features; a network teacher instead predicts by a kernel over its features.
    network = None
    if report.map == "network":
        assert report.metric is not None, "a network teacher has a metric"
        assert report.temperature is not None, "a network teacher has a temperature"
        network = NetworkTeacher(report.step, METRICS[report.metric], report.temperature)
    return TeacherSection(
        form=repr(report.map),
        network=network,
        neighbours_kept=report.neighbours_kept,
        aligned_neighbours_kept=report.aligned_neighbours_kept,
        rows=_rows(report),
        interpolation=_interpolation(report),
    )


def _rows(report: AlignReport) -> list[Row]:
    # On test objects the teacher is scored beside all other models: a second figure here would only puzzle.
    validation = report.splits["validation"]
    rows = []
    for space, title in SPACES.items():
        # Only a fine-tuned network has features of its own between the base and the teacher.
        if space not in validation.spaces:
            continue

        agreement = validation.spaces[space]
        low = 100 * agreement.accuracy_low
        high = 100 * agreement.accuracy_high
        rows.append({"space": title, HEADING: f"{100 * agreement.accuracy:.1f} % [{low:.1f}, {high:.1f}]"})

    # People do not always agree with each other: no model can be expected to score higher than this.
    return [*rows, {"space": "ceiling", HEADING: f"{100 * validation.ceiling:.1f} %"}]


def _interpolation(report: AlignReport) -> InterpolationCurve | None:
    """Weights between the pretrained and the fine-tuned ones: more agreement, fewer neighbours kept."""
    if not report.curve:
        return None

    rows = []
    kept = []
    teacher_agreement = []
    feature_agreement = []
    for point in report.curve:
        kept.append(100 * point.kept)
        teacher_agreement.append(100 * point.accuracy)
        feature_agreement.append(100 * point.features)
        rows.append(
            {
                "share of the way": f"{point.interpolation:.0%}",
                "teacher agrees": f"{100 * point.accuracy:.1f} %",
                "features agree": f"{100 * point.features:.1f} %",
                "neighbours kept": f"{100 * point.kept:.0f} %",
            }
        )

    # Agreement against what it costs, as in WiSE-FT (Wortsman et al., 2022): a point per interpolation, no time axis.
    lines = [
        figures.Line("teacher", kept, teacher_agreement, figures.COLOURS["student"]),
        figures.Line("features", kept, feature_agreement, figures.COLOURS["base"], marker="s"),
    ]
    png = figures.curves(lines, "agrees with people, %", "neighbours kept, %", bottom=None)
    return InterpolationCurve(png, rows)
