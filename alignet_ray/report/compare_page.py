"""The page of `alignet-ray compare --page`: scores of several runs side by side, to send to a colleague."""

from collections.abc import Mapping, Sequence
from math import isnan

import pyarrow as pa
from matplotlib.lines import Line2D

from alignet_ray.core.scores import METRIC_TITLES
from alignet_ray.evals.compare import DIFFERENCE_NOTE, HEADLINES, ComparedRuns, ScoreKey, better, compared
from alignet_ray.report import figures
from alignet_ray.report.contents import score_title
from alignet_ray.report.elements import figure, page, paragraph, section, table

DRAWN = "odd_one_out"
"""The score that the figure shows."""

NEUTRAL = "#5b6675"
"""Colour of models without one of their own."""

MARKERS = "osD^vP"
"""Marks of the runs, one after the other: they are told apart in grey, too."""


def build(tables: Mapping[str, pa.Table], levels: bool = False) -> str:
    """The whole page.

    Args:
        tables: run name -> scores table (schema SCORES).
        levels: whether to show single levels (kinds of triplets, categories), too.
    """
    found = compared(tables, levels)
    parts = [paragraph(_lead(found), "lead")]
    drawn = _drawn(found)
    if drawn:
        caption = "Agreement with people, in %, with 95 % intervals: a row for each model, a mark for each run."
        parts.append(figure(_figure(found, drawn), caption, "Dot plot. The tables below have its figures."))

    # Agreement with people comes first in every data set: it is what these runs train for.
    for dataset in found.datasets:
        of_people: list[ScoreKey] = []
        others: list[ScoreKey] = []
        for key in found.keys:
            if key.dataset != dataset:
                continue
            if _is_headline(key):
                of_people.append(key)
            else:
                others.append(key)

        about = ""
        if len(found.datasets) > 1:
            about = f", {dataset}"
        if of_people:
            parts.append(section(f"As people see it{about}", table(_rows(found, of_people))))
        if others:
            parts.append(section(f"Everything else{about}", table(_rows(found, others))))
    return page(f"alignet_ray: {', '.join(tables)}", parts)


def _lead(found: ComparedRuns) -> str:
    runs = "1 run"
    if len(found.scores) > 1:
        runs = f"{len(found.scores)} runs"
    text = f"{runs} on test data of: {', '.join(found.datasets)}. Shares in %, with 95 % intervals."
    if found.differences:
        text += f" {DIFFERENCE_NOTE}."
    return text


def _is_headline(key: ScoreKey) -> bool:
    return key.metric.startswith(HEADLINES)


def _rows(found: ComparedRuns, keys: Sequence[ScoreKey]) -> list[dict[str, str]]:
    """A row for each score: what it is in words, and every run's value."""
    rows = []
    has_levels = any(key.level for key in keys)
    for key in keys:
        row = {"score": METRIC_TITLES.get(key.metric, key.metric.replace("_", " ")), "model": score_title(key)}
        if has_levels:
            row["level"] = key.level
        row["better"] = better(key.metric)

        for name, cell in found.cells(key).items():
            row[name] = str(cell)
        rows.append(row)
    return rows


def _drawn(found: ComparedRuns) -> list[ScoreKey]:
    """Scores of the figure: agreement with people over all triplets."""
    return [key for key in found.keys if key.metric == DRAWN and not key.level]


def row_titles(keys: Sequence[ScoreKey]) -> list[str]:
    """What stands beside the rows of the figure: the model, and of several data sets, which one."""
    datasets = {key.dataset for key in keys}
    titles = []
    for key in keys:
        title = score_title(key)
        if len(datasets) > 1:
            title += f"\n({key.dataset})"
        titles.append(title)
    return titles


def _figure(found: ComparedRuns, keys: Sequence[ScoreKey]) -> bytes:
    """Values with their intervals: models from top to bottom, the runs of each model close together."""
    runs = list(found.scores)
    canvas, axes = figures.empty(5.6, 1 + 0.28 * len(keys) * max(len(runs), 2))
    for row, key in enumerate(keys):
        colour = figures.COLOURS.get(key.model, NEUTRAL)
        for position, run in enumerate(runs):
            score = found.scores[run].get(key)
            if score is None:
                continue
            # Runs of a model share seven tenths of its row, so that the rows stay apart.
            height = -row - 0.7 * position / len(runs)
            if not isnan(score.low):
                axes.plot([100 * score.low, 100 * score.high], [height, height], color=colour, lw=1.5)
            marker = MARKERS[position % len(MARKERS)]
            axes.plot(100 * score.value, height, marker, color=colour, ms=7, markeredgecolor="white")

    middles = [-row - 0.35 * (len(runs) - 1) / len(runs) for row in range(len(keys))]
    axes.set_yticks(middles, row_titles(keys))
    axes.set_xlabel("agreement with people, %", fontsize=12)
    axes.grid(axis="x", color=figures.GRID)

    # Colours are those of models; runs differ by their marks alone.
    if len(runs) > 1:
        handles = []
        for position in range(len(runs)):
            mark = MARKERS[position % len(MARKERS)]
            handles.append(Line2D([], [], marker=mark, color=NEUTRAL, ls="", ms=7))
        figures.legend(axes, handles, list(runs))
    return figures.png(canvas)
