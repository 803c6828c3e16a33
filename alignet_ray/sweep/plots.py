"""Plots of a sweep as PNG bytes: score by setting, parallel coordinates, and the Pareto front."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignet_ray.report.figures import PALETTE, empty, png
from alignet_ray.sweep.search_space import Domain, Space, format_value, short_name
from alignet_ray.sweep.selection import COST_SIGN, Mode

WINNER = PALETTE[1]
TRIAL = PALETTE[0]
GRID = "#eef1f4"

MOST_DIGITS = 8
"""Digits that labels may get beyond the wanted ones."""


def score_by_setting(
    values: Sequence[Any], scores: Sequence[float], numbers: Sequence[int], winner: int, field: str, domain: Domain
) -> bytes:
    """Score against one setting, a point per trial; the winner is ringed, the given setting is a diamond.

    Args:
        values: of the setting.
        scores: of the trials.
        numbers: of the trials.
        winner: number of the winner.
        field: name of the setting.
        domain: its values.
    """
    figure, axes = empty(4.2, 3.2)
    labels = _labels(values, domain)
    positions = list(values)
    if labels:
        positions = _label_positions(values, labels)

    for number, position, score in zip(numbers, positions, scores, strict=True):
        # Trial 0 has the given setting, the one that all others are compared with.
        marker = "o"
        size = 70
        if number == 0:
            marker = "D"
            size = 80
        axes.scatter(position, score, s=size, color=TRIAL, marker=marker, zorder=3, edgecolors="white")
        if number == winner:
            axes.scatter(position, score, s=240, facecolors="none", edgecolors=WINNER, linewidths=2.2, zorder=4)

    if labels:
        axes.set_xticks(range(len(labels)), labels)
        axes.margins(x=0.15)
    elif domain.is_log:
        _log_ticks(axes, positions)
    axes.set_xlabel(field, fontsize=12)
    axes.set_ylabel("score", fontsize=12)
    axes.grid(color=GRID)
    return png(figure)


def _log_ticks(axes: Axes, positions: Sequence[float]) -> None:
    """A logarithmic x axis with four readable ticks."""
    axes.set_xscale("log")
    axes.minorticks_off()
    # A given setting of 0 cannot stand on a logarithmic axis: then it has no ticks, but the sweep has its report.
    ticks: list[float] = []
    if min(positions) > 0:
        ticks = np.geomspace(min(positions), max(positions), 4).tolist()
    axes.set_xticks(ticks, distinct_labels(ticks, 2))


def distinct_labels(numbers: Sequence[float], digits: int) -> list[str]:
    """Numbers with this many digits, or as many more as it takes to tell them apart."""
    labels: list[str] = []
    for more in range(MOST_DIGITS):
        labels = [f"{number:.{digits + more}g}" for number in numbers]
        if len(set(labels)) == len(set(numbers)):
            break
    return labels


def _labels(values: Sequence[Any], domain: Domain) -> list[str]:
    """Tick labels of a setting with a list of values, numbers in order; none for a range."""
    if domain.is_range:
        return []
    # The given setting may have a value that the list lacks.
    others = [value for value in values if value not in domain.values]
    all_values = [*domain.values, *others]

    # Words keep the order of the space; true and false are words here, though Python counts them as integers.
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in all_values):
        all_values.sort()
    return [format_value(value) for value in all_values]


def _label_positions(values: Sequence[Any], labels: Sequence[str]) -> list[int]:
    """Where each value stands among the labels."""
    return [labels.index(format_value(value)) for value in values]


class _Column(NamedTuple):
    """One axis of the parallel coordinates.

    Attributes:
        heights: of the trials, 0 to 1.
        ticks: height and label of each.
    """

    heights: Float[np.ndarray, " n"]
    ticks: list[tuple[float, str]]


def parallel_coordinates(
    space: Space, settings: Sequence[Sequence[Any]], scores: Sequence[float], mode: Mode, is_winner: Sequence[bool]
) -> bytes:
    """Parallel coordinates: an axis per setting and one for the score, which also gives the colour.

    Args:
        space: the settings and their values.
        settings: per trial, the values in the order of `space`.
        scores: per trial.
        mode: whether less or more of the score is better.
        is_winner: per trial.
    """
    columns = []
    for position, domain in enumerate(space.values()):
        columns.append(_setting_column([values[position] for values in settings], domain))
    columns.append(_scaled_column(np.array(scores, dtype=float)))

    # Colours by rank: one very bad score would leave all others in the same shade.
    ranks = np.argsort(np.argsort(-COST_SIGN[mode] * np.array(scores)))
    quality = ranks / max(len(scores) - 1, 1)

    figure = Figure(figsize=(6.6, 3.8), layout="constrained")
    axes = figure.subplots()
    for trial in np.argsort(quality, kind="stable"):  # the best ones are drawn last, on top
        heights = [column.heights[trial] for column in columns]
        if is_winner[trial]:
            axes.plot(range(len(columns)), heights, color=WINNER, lw=3.2, zorder=3)
        else:
            axes.plot(range(len(columns)), heights, color=_shade(quality[trial]), lw=1.8, zorder=2)
    for position, column in enumerate(columns):
        _draw_axis(axes, position, column.ticks)

    names = [short_name(field) for field in space]
    axes.set_xticks(range(len(columns)), [*names, "score"], fontsize=12)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=8)
    axes.set_xlim(-0.15, len(columns) - 0.55)
    return png(figure)


def _shade(quality: float) -> tuple[float, float, float]:
    """Light grey for the worst trial (0), dark blue for the best (1)."""
    return 0.76 - 0.6 * quality, 0.82 - 0.45 * quality, 0.9 - 0.2 * quality


def _draw_axis(axes: Axes, position: int, ticks: Sequence[tuple[float, str]]) -> None:
    axes.plot([position, position], [0, 1], color="#8a94a3", lw=1, zorder=1)
    # Lines cross the labels: a pale box behind each keeps it readable.
    box = {"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1}
    for height, label in ticks:
        axes.text(position + 0.04, height, label, fontsize=10, va="center", zorder=5, bbox=box)


def _setting_column(values: Sequence[Any], domain: Domain) -> _Column:
    labels = _labels(values, domain)
    if labels:
        # One label alone stands at the bottom.
        top = max(len(labels) - 1, 1)
        heights = np.array(_label_positions(values, labels)) / top
        return _Column(heights, [(position / top, label) for position, label in enumerate(labels)])

    numbers = np.array(values, dtype=float)
    if not domain.is_log or numbers.min() <= 0:
        return _scaled_column(numbers)

    # Heights follow the logarithm, but a reader wants the value itself at the ends of the axis.
    logarithms = _scaled_column(np.log(numbers))
    low, high = distinct_labels([float(numbers.min()), float(numbers.max())], 3)
    return _Column(logarithms.heights, [(0.0, low), (1.0, high)])


def _scaled_column(numbers: Float[np.ndarray, " n"]) -> _Column:
    """Numbers from their minimum (0) to their maximum (1)."""
    low = float(numbers.min())
    high = float(numbers.max())
    # Equal numbers all stand at the bottom.
    span = (high - low) or 1.0
    bottom, top = distinct_labels([low, high], 3)
    return _Column((numbers - low) / span, [(0.0, bottom), (1.0, top)])


def pareto_plot(points: Sequence[tuple[float, float]], numbers: Sequence[int], front: Sequence[int]) -> bytes:
    """Agreement with people against neighbours kept, with the Pareto front.

    Args:
        points: per trial, both as fractions.
        numbers: of the trials.
        front: positions of the points on the front.
    """
    figure, axes = empty(5.2, 3.8)
    percent = 100 * np.array(points)
    agreement = percent[:, 0]
    kept = percent[:, 1]
    on_front = list(front)
    colours = np.full(len(points), TRIAL, dtype=object)
    colours[on_front] = WINNER

    # The line joins the front in its own order, from the highest agreement down.
    axes.plot(agreement[on_front], kept[on_front], color=WINNER, lw=1.8, zorder=2)
    axes.scatter(agreement, kept, s=60, color=colours.tolist(), zorder=3, edgecolors="white")
    for x, y, number in zip(agreement, kept, numbers, strict=True):
        axes.annotate(str(number), (x, y), xytext=(5, 4), textcoords="offset points", fontsize=10)
    axes.set_xlabel("agrees with people, % of triplets", fontsize=12)
    axes.set_ylabel("neighbours kept, %", fontsize=12)
    axes.grid(color=GRID)
    axes.margins(0.1)
    return png(figure)
