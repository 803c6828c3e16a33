"""The section of the report about sets of human judgements from outside: a table for each set."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

from alignet_ray.artifacts.evaluate import SetFacts
from alignet_ray.core.scores import Score
from alignet_ray.evals.compare import format_interval, format_number
from alignet_ray.report.contents import ReportContents, Row, score_title, select_scores

HEADINGS = {
    "odd_one_out": "answers, %",
    "odd_one_out_participants": "mean of people, %",
    "entropy_time": "doubt and response time",
    "two_afc": "choices, %",
    "rsa_spearman": "mean matrix, rank correlation",
    "rsa_spearman_participants": "single people's, rank correlation",
}
"""Metrics of sets in the order of the columns -> their headings."""

QUESTIONS = {
    "odd_one_out": "answers to which of three images is the odd one out",
    "choices": "choices of which of two images is more like a third",
    "matrix": "ratings of how similar two images are",
}
"""Kind of a set -> what its judgements are."""


@dataclass(frozen=True)
class SetTable:
    """A set, what of it counts, and the scores of all models on it.

    Attributes:
        name: of the set.
        counts: sentences about its judgements, its images, and what was left out.
        source: citation and licence; empty where unknown.
        rows: one for each model and layer, then the ceiling.
    """

    name: str
    counts: list[str]
    source: str
    rows: list[Row]


def sets(contents: ReportContents) -> list[SetTable]:
    """One table for each set."""
    tables = []
    for facts in contents.sets:
        # The name of a set is the data set of its scores.
        own = [score for score in contents.scores if score.dataset == facts.name]
        tables.append(SetTable(facts.name, _counts(facts), _source(facts), _rows(own)))
    return tables


def _counts(facts: SetFacts) -> list[str]:
    counts = [f"{facts.judgements:,} {QUESTIONS[facts.kind]}, about {facts.images:,} images."]
    if facts.people:
        counts[0] = counts[0].replace(", about", f" by {facts.people:,} people, about")
    # Said even where it is none: a reader asks for it.
    counts.append(f"Left out because training saw the image as well: {facts.seen:,} images.")
    if facts.unreadable:
        counts.append(f"Left out because a model could not read them: {facts.unreadable:,} images.")
    if facts.left_out:
        counts.append(f"Judgements about images that were left out: {facts.left_out:,}.")
    return counts


def _source(facts: SetFacts) -> str:
    licence = ""
    if facts.licence:
        licence = f"licence: {facts.licence}"
    return "; ".join(filter(None, [facts.citation, licence]))


def _rows(scores: Sequence[Score]) -> list[Row]:
    """Models as rows, metrics and levels as columns; the number of items beside them."""
    columns = {}
    for metric, heading in HEADINGS.items():
        for level in _levels(scores, metric):
            title = heading
            if level:
                title = f"{level}, %"
            columns[metric, level] = title

    # The first metric of a set says of how many items; the others are of the same judgements.
    rows: dict[tuple[str, str], Row] = {}
    for (metric, level), title in columns.items():
        for score in select_scores(scores, metric, level, scores[0].dataset):
            row = rows.setdefault((score.model, score.layer), {"who": score_title(score)})
            row[title] = _cell(score)
            row.setdefault("n", f"{score.n:,}")
    return _filled(list(rows.values()), list(columns.values()))


def _levels(scores: Sequence[Score], metric: str) -> list[str]:
    """Levels of a metric, all together first; correlations of features are for the table of scores alone."""
    return sorted({score.level for score in scores if score.metric == metric} - {"correlation"})


def _cell(score: Score) -> str:
    """A score with its interval; bounds of a ceiling stand alone."""
    # The true model may be anywhere between both bounds of a ceiling.
    if score.model == "human" and score.metric.startswith("rsa"):
        low = format_number(score.metric, score.low)
        return f"{low} to {format_number(score.metric, score.high)}"
    if isnan(score.low):
        return format_number(score.metric, score.value)
    return format_interval(score.metric, score.value, score.low, score.high).replace(", ", ",\u00a0")


def _filled(rows: Sequence[Row], columns: Sequence[str]) -> list[Row]:
    """Rows with the same columns in the same order, the number of items last; a dash where a model has no score."""
    blank = dict.fromkeys(["who", *columns, "n"], "-")
    return [blank | row for row in rows]
