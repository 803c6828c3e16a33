"""The report's section about reference comparisons: which of two objects is more like a third."""

from dataclasses import dataclass

from alignet_ray.evals.compare import format_interval
from alignet_ray.evals.reference_comparisons import KNOWN, MAJORITY, OTHERS, OTHERS_TITLE, VOTES
from alignet_ray.report.contents import ReportContents, Row, score_title, select_scores


@dataclass(frozen=True)
class ComparisonTable:
    """Agreement with people's own comparisons.

    Attributes:
        rows: one for each model and layer.
        questions: number of questions behind each figure.
    """

    rows: list[Row]
    questions: int


def comparisons(contents: ReportContents) -> ComparisonTable | None:
    """A row for each model: votes agreed with, the gain over the base, and questions in which most people agree."""
    found = select_scores(contents.scores, VOTES)
    if not found:
        return None

    gains = {}
    for score in select_scores(contents.scores, f"{VOTES}_gain", "over:base"):
        text = format_interval(score.metric, score.value, score.low, score.high, sign=True)
        gains[score.model, score.layer] = text
    majority = _texts(contents, MAJORITY)
    known = _texts(contents, VOTES + KNOWN)

    rows = []
    for score in found:
        name = (score.model, score.layer)
        row = {"model": score_title(score)}
        # How well other people predict a vote, beside the models.
        if name == OTHERS:
            row = {"model": OTHERS_TITLE}

        row["votes"] = format_interval(score.metric, score.value, score.low, score.high)
        row["gain over base"] = gains.get(name, "-")
        row["most people"] = majority.get(name, "-")
        row["votes, a new object among known ones"] = known.get(name, "-")
        rows.append(row)
    return ComparisonTable(rows, found[0].n)


def _texts(contents: ReportContents, metric: str) -> dict[tuple[str, str], str]:
    """A score of every model and layer, as it stands in a table."""
    texts = {}
    for score in select_scores(contents.scores, metric):
        texts[score.model, score.layer] = format_interval(score.metric, score.value, score.low, score.high)
    return texts
