"""Pictures of a sweep as PNG bytes: slices, parallel coordinates, the front of agreement against neighbours kept."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignet_ray.report.figures import PALETTE, empty, png
from alignet_ray.sweep.search_space import Domain, Space

WINNER, GIVEN, PLAIN = PALETTE[1], PALETTE[4], PALETTE[0]


def short(value: Any) -> str:
    """A value in few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def slice_of(
    values: Sequence[Any], scores: Sequence[float], numbers: Sequence[int], best: int, name: str, domain: Domain
) -> bytes:
    """Score against one setting, a point a trial."""
    figure, axes = empty(4.2, 3.2)
    names = _names(values, domain)
    at = [names.index(short(v)) for v in values] if names else list(values)
    for n, x, y in zip(numbers, at, scores, strict=True):
        axes.scatter(x, y, s=70 if n else 80, color=PLAIN, marker="o" if n else "D", zorder=3, edgecolors="white")
        if n == best:
            axes.scatter(x, y, s=240, facecolors="none", edgecolors=WINNER, linewidths=2.2, zorder=4)
    if names:
        axes.set_xticks(range(len(names)), names)
        axes.margins(x=0.15)
    elif domain.is_log:
        axes.set_xscale("log")
        axes.minorticks_off()
        ticks = np.geomspace(min(at), max(at), 4).tolist() if min(at) > 0 else []
        axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
    axes.set_xlabel(name, fontsize=12)
    axes.set_ylabel("score", fontsize=12)
    axes.grid(color="#eef1f4")
    return png(figure)


def _names(values: Sequence[Any], domain: Domain) -> list[str]:
    """Labels of a setting without an order of its own, and of one that has few values; none for a range."""
    if domain.is_range:
        return []
    every = [*domain.values, *(v for v in values if v not in domain.values)]
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in every)
    return [short(v) for v in (sorted(every) if numeric else every)]


def parallel(
    names: Sequence[str],
    lines: Sequence[Sequence[Any]],
    space: Space,
    scores: Sequence[float],
    mode: str,
    wins: Sequence[bool],
) -> bytes:
    """Parallel coordinates: an axis a setting and one for the score, which also gives the colour."""
    figure = Figure(figsize=(6.6, 3.8), layout="constrained")
    axes = figure.subplots()
    columns = [_column([line[i] for line in lines], space[name]) for i, name in enumerate(names)]
    columns.append(_scaled(np.array(scores, dtype=float), ("{:.4g}",)))
    sign = -1 if mode == "min" else 1
    rank = np.argsort(np.argsort(sign * np.array(scores))) / max(len(scores) - 1, 1)
    for row in sorted(range(len(lines)), key=lambda r: rank[r]):
        y = [column[0][row] for column in columns]
        colour = WINNER if wins[row] else (0.76 - 0.6 * rank[row], 0.82 - 0.45 * rank[row], 0.9 - 0.2 * rank[row])
        axes.plot(range(len(columns)), y, color=colour, lw=3.2 if wins[row] else 1.8, zorder=2 + wins[row])
    for x, (_, ticks) in enumerate(columns):
        _axis(axes, x, ticks)
    axes.set_xticks(range(len(columns)), [*(n.partition(".")[2] for n in names), "score"], fontsize=12)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=8)
    axes.set_xlim(-0.15, len(columns) - 0.55)
    return png(figure)


def _axis(axes: Axes, x: int, ticks: Sequence[tuple[float, str]]) -> None:
    axes.plot([x, x], [0, 1], color="#8a94a3", lw=1, zorder=1)
    for y, label in ticks:
        axes.text(
            x + 0.04,
            y,
            label,
            fontsize=10,
            va="center",
            zorder=5,
            bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1},
        )


def _column(values: Sequence[Any], domain: Domain) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Heights 0..1 of the values of one setting, and its ticks."""
    names = _names(values, domain)
    if names:
        top = max(len(names) - 1, 1)
        return np.array([names.index(short(v)) / top for v in values]), [(i / top, n) for i, n in enumerate(names)]
    numbers = np.array(values, dtype=float)
    if not domain.is_log or numbers.min() <= 0:
        return _scaled(numbers, ("{:.3g}",))
    heights, ticks = _scaled(np.log(numbers), ("{:.3g}",))
    return heights, [(y, short(float(f"{np.exp(float(t)):.3g}"))) for y, t in ticks]


def _scaled(numbers: np.ndarray, form: tuple[str]) -> tuple[np.ndarray, list[tuple[float, str]]]:
    low, high = float(numbers.min()), float(numbers.max())
    span = (high - low) or 1.0
    return (numbers - low) / span, [(0.0, form[0].format(low)), (1.0, form[0].format(high))]


def front(points: Sequence[tuple[float, float]], numbers: Sequence[int], best: Sequence[int]) -> bytes:
    """Agreement with people (percent, to the right) against neighbours kept (percent, up), with the Pareto front."""
    figure, axes = empty(5.2, 3.8)
    x, y = (100 * np.array(column) for column in zip(*points, strict=True))
    axes.plot(x[list(best)], y[list(best)], color=WINNER, lw=1.8, zorder=2)
    axes.scatter(
        x, y, s=60, color=[WINNER if i in best else PLAIN for i in range(len(x))], zorder=3, edgecolors="white"
    )
    for i, number in enumerate(numbers):
        axes.annotate(str(number), (x[i], y[i]), xytext=(5, 4), textcoords="offset points", fontsize=10)
    axes.set_xlabel("agrees with people, % of triplets", fontsize=12)
    axes.set_ylabel("neighbours kept, %", fontsize=12)
    axes.grid(color="#eef1f4")
    axes.margins(0.1)
    return png(figure)
