"""Scores of several runs side by side: `alignet-ray compare RUN RUN`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from scipy.special import ndtr, ndtri

from alignet_ray.core.scores import Score, holm
from alignet_ray.screen import TableRow, table

SIGNIFICANCE = 0.05

PERCENT_METRICS = (
    "odd_one_out",
    "comparison",
    "neighbours",
    "knn",
    "probe",
    "few_shot",
    "same_object",
    "shift",
    "anomaly",
    "ood",
    "two_afc",
)
"""Beginnings of the metrics that read best as percentages; the others stay plain numbers."""


HEADLINES = ("odd_one_out", "comparison", "two_afc", "rsa")
"""Beginnings of the metrics that say how far a model agrees with people; they come first."""

LOWER_IS_BETTER = ("calibration_error", "cross_entropy", "kl_to_people", "odd_one_out_ties", "ties")
NEITHER_IS_BETTER = ("temperature",)
"""Of all other metrics more is better."""


class ScoreKey(NamedTuple):
    """What two runs must share for their scores to be compared."""

    model: str
    layer: str
    dataset: str
    metric: str
    level: str
    split: str


RunScores = Mapping[ScoreKey, Score]


@dataclass(frozen=True)
class ComparedRuns:
    """Scores of several runs side by side.

    Attributes:
        keys: what is compared, agreement with people first.
        scores: run name -> its scores.
        differences: second run minus first as text, with its marks; empty where there are not two runs.
    """

    keys: list[ScoreKey]
    scores: Mapping[str, RunScores]
    differences: dict[ScoreKey, str]

    @property
    def datasets(self) -> list[str]:
        """The data sets that are scored on."""
        return sorted({key.dataset for key in self.keys})

    def cells(self, key: ScoreKey) -> TableRow:
        """Every run's score with its interval, and the difference of two runs."""
        cells: TableRow = {name: _cell(scores.get(key)) for name, scores in self.scores.items()}
        if self.differences:
            cells["difference"] = self.differences[key]
        return cells


DIFFERENCE_NOTE = "* differs at 5 %, corrected for all rows; ~ on another number of items"
"""What the marks of a difference mean."""


def compared(tables: Mapping[str, pa.Table], levels: bool = False) -> ComparedRuns:
    """Scores tables of runs side by side.

    With two runs there is a difference as well, second minus first; an asterisk marks those that differ at 5 % after
    Holm's correction for all rows (normal test from both 95 % intervals; where the items are the same it errs on the
    careful side), a tilde those that were scored on different numbers of items.

    Args:
        tables: run name -> scores table (schema SCORES).
        levels: whether to take single levels (kinds of triplets, categories), too.
    """
    runs = {name: _by_key(scores) for name, scores in tables.items()}
    keys = sorted(_all_keys(runs.values(), levels), key=_rank)
    differences = {}
    # More than two runs would need a column for every pair.
    if len(runs) == 2:
        differences = _differences(keys, *runs.values())
    return ComparedRuns(keys, runs, differences)


def text(tables: Mapping[str, pa.Table], levels: bool = False) -> str:
    """Scores tables of runs as one text table: a row for each score, a column for each run; see `compared`."""
    found = compared(tables, levels)
    lines = []
    for key in found.keys:
        line: TableRow = {}
        # Several data sets have metrics of the same name.
        if len(found.datasets) > 1:
            line["data set"] = key.dataset
        line |= {"metric": key.metric, "better": better(key.metric), "model": key.model, "layer": key.layer}
        if levels:
            line["level"] = key.level
        lines.append(line | found.cells(key))

    notes = ""
    if found.differences:
        notes = f"\n{DIFFERENCE_NOTE}"
    about = f"Scores on test data of: {', '.join(found.datasets)}. Shares in %, [95 % intervals]"
    return f"{about}\n{table(lines)}{notes}"


def _rank(key: ScoreKey) -> tuple[str, int, str, str]:
    """Order of the rows: agreement with people first, everything else by name."""
    place = len(HEADLINES)
    for number, beginning in enumerate(HEADLINES):
        if key.metric.startswith(beginning):
            place = number
    return key.dataset, place, key.metric, key.level


def better(metric: str) -> str:
    """Which values of a metric are better; "" where neither are."""
    if metric in NEITHER_IS_BETTER:
        return ""
    if metric in LOWER_IS_BETTER:
        return "lower"
    return "higher"


def _by_key(scores: pa.Table) -> dict[ScoreKey, Score]:
    by_key = {}
    for row in scores.to_pylist():
        score = Score(**row)
        key = ScoreKey(score.model, score.layer, score.dataset, score.metric, score.level, score.split)
        by_key[key] = score
    return by_key


def _all_keys(runs: Iterable[RunScores], levels: bool) -> list[ScoreKey]:
    """Keys of all runs in the order of their first appearance; without single levels unless asked for."""
    # A dict as an ordered set.
    keys: dict[ScoreKey, None] = {}
    for scores in runs:
        keys |= dict.fromkeys(scores)
    return [key for key in keys if levels or not key.level]


def _differences(keys: Sequence[ScoreKey], first: RunScores, second: RunScores) -> dict[ScoreKey, str]:
    """Second minus first with its marks; empty text where a run lacks the score."""
    pairs = {}
    for key in keys:
        if key in first and key in second:
            pairs[key] = (first[key], second[key])

    # The correction counts the rows that are shown, so that it is made here and not for each row.
    significant = _significant(pairs)
    cells = dict.fromkeys(keys, "")
    for key, (before, after) in pairs.items():
        cell = format_number(key.metric, after.value - before.value, sign=True)
        if key in significant:
            cell += " *"
        if before.n != after.n:
            cell += " ~"
        cells[key] = cell
    return cells


def _significant(pairs: Mapping[ScoreKey, tuple[Score, Score]]) -> set[ScoreKey]:
    """Scores that differ by more than chance, after correction for the number of tests."""
    p_values = {}
    for key, (before, after) in pairs.items():
        # As if the runs were independent. Where they share items, their errors partly cancel, so this is too careful.
        deviation = np.hypot(_standard_error(before), _standard_error(after))
        # Without an interval, or with one of no width, there is nothing to test by.
        if deviation > 0:
            p_values[key] = 2 * ndtr(-abs(after.value - before.value) / deviation)

    # Among dozens of rows one in twenty would differ at 5 % by chance alone.
    adjusted = holm(np.array(list(p_values.values())))
    return {key for key, p_value in zip(p_values, adjusted, strict=True) if p_value < SIGNIFICANCE}


def _standard_error(score: Score) -> float:
    """Standard error behind a 95 % interval, as if it came from a normal distribution."""
    return float((score.high - score.low) / (2 * ndtri(0.975)))


def _cell(score: Score | None) -> str:
    if score is None:
        return "-"
    return format_interval(score.metric, score.value, score.low, score.high)


def format_interval(metric: str, value: float, low: float, high: float, sign: bool = False) -> str:
    """A score with its 95 % interval, if it has one (some, such as a temperature, have none)."""
    text = format_number(metric, value, sign)
    if np.isnan(low):
        return text
    return f"{text} [{format_number(metric, low, sign)}, {format_number(metric, high, sign)}]"


def format_number(metric: str, value: float, sign: bool = False) -> str:
    """A value of a metric as text: shares in percent, all others with three decimals."""
    plus = ""
    if sign:
        plus = "+"
    if metric.startswith(PERCENT_METRICS):
        return f"{100 * value:{plus}.1f}"
    return f"{value:{plus}.3f}"
