"""Pictures as PNG bytes. Matplotlib without its global state: every figure is an object that is drawn once."""

import importlib.util
import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from alignet_ray.errors import UserError

Points = Float[np.ndarray, "n 2"]
PALETTE = ("#3b6fb6", "#e07b39", "#3f9b5f", "#b3476b", "#8064a8", "#8c6d46", "#d9a520", "#4aa6b5", "#d16ba5", "#7f8c3b")
OTHER = "#c3c9d1"
NO_GROUP = "no category"
COLOURS = {"base": "#8a97a8", "teacher": "#d9a520", "student": "#2563b0", "control": "#c58f8f", "human": "#5f9e78"}
"""Colour of each model, everywhere in the report."""


def png(figure: Figure) -> bytes:
    """Draw a figure."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, facecolor="white")
    return buffer.getvalue()


def empty(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one plain pair of axes (inches)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=11)
    return figure, axes


class Line(NamedTuple):
    """One line of a diagram."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    style: str = "-"
    width: float = 2


def curves(
    lines: Sequence[Line],
    ylabel: str,
    xlabel: str = "training step",
    mark: float | None = None,
    bottom: float | None = 0,
) -> bytes:
    """Curves, from `bottom` up; short ones show their points; a vertical line at `mark`."""
    figure, axes = empty(6.4, 3.5)
    for line in lines:
        marker = "o" if len(line.x) < 15 and line.width > 1 else None
        name = line.name or None
        axes.plot(line.x, line.y, label=name, color=line.colour, ls=line.style, lw=line.width, marker=marker, ms=4)
    if mark is not None:
        axes.axvline(mark, color="#8a94a3", ls="--", lw=1.5)
    axes.set_xlabel(xlabel, fontsize=12)
    axes.set_ylabel(ylabel, fontsize=12)
    axes.set_ylim(bottom=bottom)
    axes.grid(axis="y", color="#e6e9ee")
    axes.legend(frameon=False, fontsize=11)
    return png(figure)


def histogram(shares: Mapping[str, Sequence[float]], colours: Mapping[str, str], top: float, xlabel: str) -> bytes:
    """Shares of triplets (percent) per equally wide bin between 0 and `top`, one outline a name."""
    figure, axes = empty(4.8, 3.2)
    for name, values in shares.items():
        edges = np.linspace(0, top, len(values) + 1)
        axes.stairs(100 * np.asarray(values), edges, label=name, color=colours.get(name), lw=2)
        axes.stairs(100 * np.asarray(values), edges, fill=True, alpha=0.12, color=colours.get(name))
    axes.set_xlim(0, top)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(xlabel, fontsize=11)
    axes.set_ylabel("% of triplets", fontsize=11)
    axes.legend(frameon=False, fontsize=11)
    return png(figure)


def matrix(values: Float[np.ndarray, "m m"], groups: Sequence[str]) -> bytes:
    """A similarity matrix: ranks of its entries as shades (dark = alike), with lines between groups and their names."""
    m = len(values)
    shade = np.zeros((m, m))
    rows, columns = np.triu_indices(m, 1)
    rank = np.argsort(np.argsort(values[rows, columns], kind="stable"), kind="stable") / max(len(rows) - 1, 1)
    shade[rows, columns] = rank
    shade += shade.T
    np.fill_diagonal(shade, 1)
    figure = Figure(figsize=(5.0, 3.7))
    axes = figure.add_axes((1.35 / 5.0, 0.02, 3.6 / 5.0, 0.96))
    axes.imshow(shade, cmap="GnBu", vmin=0, vmax=1, interpolation="nearest")
    starts = [0] + [row for row in range(1, m) if groups[row] != groups[row - 1]] + [m]
    wide = [(a, b) for a, b in pairwise(starts) if b - a >= max(2, m / 22)]
    for edge in {e for pair in wide for e in pair} - {0, m}:
        axes.axhline(edge - 0.5, color="white", lw=1.2)
        axes.axvline(edge - 0.5, color="white", lw=1.2)
    axes.set_yticks([(a + b - 1) / 2 for a, b in wide], [shorten(groups[a]) for a, _ in wide], fontsize=10)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return png(figure)


def scatter(points: Float[np.ndarray, "n 2"], colours: Sequence[str], labels: Sequence[str]) -> bytes:
    """A two-dimensional map of objects, with as many of their `labels` as fit without overlap."""
    figure, axes = empty(4.8, 4.6)
    axes.scatter(points[:, 0], points[:, 1], c=list(colours), s=46, alpha=0.9, edgecolors="white", linewidths=0.6)
    for row in _apart(points):
        text, at = shorten(labels[row]), (points[row, 0], points[row, 1])
        axes.annotate(text, at, xytext=(4, 4), textcoords="offset points", fontsize=9, color="#444c58")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#dde2e8")
    axes.margins(0.08)
    return png(figure)


def _apart(points: Float[np.ndarray, "n 2"], width: float = 0.26, height: float = 0.06) -> list[int]:
    """Rows whose labels, `width` x `height` of the map each, do not cover each other or go over the right edge."""
    span = np.maximum(np.ptp(points, axis=0), 1e-12)
    place = (points - points.min(axis=0)) / span
    kept: list[int] = []
    for row in range(len(place)):
        gaps = np.abs(place[kept] - place[row])
        if place[row, 0] < 1 - width / 2 and not ((gaps[:, 0] < width) & (gaps[:, 1] < height)).any():
            kept.append(row)
    return kept


def reliability(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], colours: Mapping[str, str]) -> bytes:
    """Reliability curves: how sure a model is (x) against how often people agree (y); the diagonal is perfect."""
    figure, axes = empty(4.8, 4.2)
    axes.plot([1 / 3, 1], [1 / 3, 1], color="#8a94a3", ls="--", lw=1.5)
    for name, (x, y) in lines.items():
        axes.plot(x, y, label=name, color=colours.get(name), lw=2, marker="o", ms=5)
    axes.set_xlabel("probability that the model gives its choice", fontsize=11)
    axes.set_ylabel("how often people agree", fontsize=11)
    axes.set_xlim(0.3, 1)
    axes.set_ylim(0.2, 1)
    axes.grid(color="#eef1f4")
    axes.legend(frameon=False, fontsize=11)
    return png(figure)


def shorten(text: str, length: int = 16) -> str:
    """A label that fits."""
    return text if len(text) <= length else text[: length - 1] + "…"


def group_colours(groups: Sequence[str]) -> dict[str, str]:
    """A colour for each of the most frequent groups; the rest is "other"."""
    names = sorted(set(groups) - {NO_GROUP}, key=lambda g: (-list(groups).count(g), g))
    chosen = {name: PALETTE[i] for i, name in enumerate(names[: len(PALETTE)])}
    return chosen | ({"other": OTHER} if set(groups) - set(chosen) else {})


def principal_plane(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 2"]:
    """Coordinates on the first two principal components; signs are fixed by the largest entry, so that maps repeat."""
    centred = (x - x.mean(axis=0)).astype(np.float64)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    plane = np.zeros((len(x), 2))
    plane[:, : min(2, len(s))] = (u * s)[:, :2]
    largest = np.take_along_axis(plane, np.abs(plane).argmax(axis=0)[None], axis=0)[0]
    return plane * np.where(largest < 0, -1, 1)


def check_maps(kind: str) -> None:
    """Refuse maps whose package is not there.

    Raises:
        UserError: saying how to install it.
    """
    if kind == "umap" and importlib.util.find_spec("umap") is None:
        raise UserError("evaluate.maps umap needs its package: pip install umap-learn, or take pca")


def umap_plane(x: Float[np.ndarray, "n d"], seed: int) -> Float[np.ndarray, "n 2"]:
    """Coordinates by UMAP of cosine distances (McInnes et al. 2018); one thread and a seed, so that maps repeat."""
    check_maps("umap")
    reducer = importlib.import_module("umap").UMAP(
        n_neighbors=min(15, len(x) - 1),
        metric="cosine",
        random_state=seed,
        n_jobs=1,
        init="random" if len(x) < 10 else "spectral",
    )
    return np.asarray(reducer.fit_transform(x.astype(np.float32)), dtype=np.float64)
