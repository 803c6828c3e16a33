"""Figures as PNG bytes, drawn by matplotlib without its global state."""

import importlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

Points = Float[np.ndarray, "n 2"]

PALETTE = ("#3b6fb6", "#d9702b", "#3f9b5f", "#b3476b", "#8064a8", "#8c6d46", "#b98a10", "#3793a3", "#d16ba5", "#7f8c3b")
"""Colours of groups and of alternatives, the most frequent first."""

SHAPES = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",  # disc
    "M-3.6,-3.6h7.2v7.2h-7.2z",  # square
    "M0,-4.8L4.6,3.4H-4.6z",  # triangle
    "M0,-5L5,0L0,5L-5,0z",  # diamond
    "M0,4.8L4.6,-3.4H-4.6z",  # triangle on its tip
    "M-1.5,-4.6h3v3.1h3.1v3h-3.1v3.1h-3v-3.1h-3.1v-3h3.1z",  # plus
    "M-4.8,0L-2.4,-4.2H2.4L4.8,0L2.4,4.2H-2.4z",  # hexagon
    "M-4.4,-2.2h8.8v4.4h-8.8z",  # bar
    "M-2.2,-4.4h4.4v8.8h-4.4z",  # upright bar
    "M-4.2,-2.6L-2.6,-4.2L0,-1.6L2.6,-4.2L4.2,-2.6L1.6,0L4.2,2.6L2.6,4.2L0,1.6L-2.6,4.2L-4.2,2.6L-1.6,0z",  # cross
)
"""Outlines of marks as SVG paths, one for each colour of the palette: groups are told apart without colours, too."""

MARKERS = "os^DvPhX<>"
"""Marks of alternatives in diagrams, one for each colour of the palette."""

OTHER = "#70757c"
"""Colour of models and groups that have none of their own."""

NO_GROUP = "no category"
"""Group of the objects without a category."""

COLOURS = {"base": "#838fa8", "teacher": "#ad8a0a", "student": "#1f6be0", "control": "#e05a78", "human": "#0a7f55"}
"""Colour of each model, everywhere in the report. Colour-blind people tell them apart, and all stand out from a white
ground as well as from a dark one: tests compute both."""

MODEL_MARKERS = {"base": "s", "teacher": "^", "student": "o", "control": "D", "human": "P"}
"""Mark of each model in diagrams."""

OTHER_MARKER = "X"
"""Mark of models that have none of their own."""

MARKS_PER_LINE = 10
"""Marks on a line of many points."""

LEGEND_COLUMNS = 2
"""Columns of names above curves."""

REFERENCE = "#8a94a3"
"""Colour of dashed reference lines."""

GRID = "#e6e9ee"


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG."""
    # Without pyplot: its global state is not safe in threads and keeps every figure in memory.
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


def legend(axes: Axes, handles: Sequence[Line2D] = (), names: Sequence[str] = ()) -> None:
    """What the lines are called, on a pale ground, so that it is read where one of them passes beneath it.

    Args:
        axes: the diagram.
        handles, names: marks and what they stand for. Default: the lines that have names.
    """
    if handles:
        axes.legend(handles, names, fontsize=10, framealpha=0.85, edgecolor="none")
    else:
        axes.legend(fontsize=11, framealpha=0.85, edgecolor="none")


class Line(NamedTuple):
    """One line of a diagram; without a name it is left out of the legend."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    style: str = "-"
    width: float = 2
    marker: str = "o"


def curves(
    lines: Sequence[Line],
    ylabel: str,
    xlabel: str = "training step",
    mark: float | None = None,
    bottom: float | None = 0,
) -> bytes:
    """Curves with marks on them, from `bottom` up; a dashed vertical line at `mark`."""
    figure, axes = empty(5.2, 3.4)
    for line in lines:
        # Marks tell curves apart without colours. A thin curve is background and has none.
        marker = None
        if line.width >= 2:
            marker = line.marker
        # Of few points every one is marked.
        every = max(1, len(line.x) // MARKS_PER_LINE)
        axes.plot(
            line.x,
            line.y,
            label=line.name or None,
            color=line.colour,
            ls=line.style,
            lw=line.width,
            marker=marker,
            markevery=every,
            ms=5,
        )

    if mark is not None:
        axes.axvline(mark, color=REFERENCE, ls="--", lw=1.5)
    axes.set_xlabel(xlabel, fontsize=12)
    axes.set_ylabel(ylabel, fontsize=12)
    axes.set_ylim(bottom=bottom)
    axes.grid(axis="y", color=GRID)
    # Above the diagram: curves that rise and fall leave no corner free.
    if any(line.name for line in lines):
        figure.legend(
            loc="outside upper left",
            ncols=LEGEND_COLUMNS,
            fontsize=9,
            frameon=False,
            handlelength=2.4,
            columnspacing=1,
        )
    return png(figure)


def histogram(shares: Mapping[str, Sequence[float]], colours: Mapping[str, str], top: float, xlabel: str) -> bytes:
    """Shares of triplets (percent) in equally wide bins between 0 and `top`, one outline for each name."""
    figure, axes = empty(4.8, 3.2)
    for (name, values), style in zip(shares.items(), cycle(("-", "--"))):
        percent = 100 * np.asarray(values)
        edges = np.linspace(0, top, len(values) + 1)
        # Outlines, with pale areas: solid bars would hide the other teacher's.
        axes.stairs(percent, edges, label=name, color=colours.get(name), lw=2, ls=style)
        axes.stairs(percent, edges, fill=True, alpha=0.12, color=colours.get(name))

    axes.set_xlim(0, top)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(xlabel, fontsize=11)
    axes.set_ylabel("% of triplets", fontsize=11)
    legend(axes)
    return png(figure)


def matrix(values: Float[np.ndarray, "m m"], groups: Sequence[str]) -> bytes:
    """A similarity matrix: ranks of its entries as shades (dark = alike), with lines between groups and their names."""
    figure = Figure(figsize=(5.0, 3.7))
    # Fixed margins: matrices stand side by side, and their cells should line up whatever the length of the names.
    axes = figure.add_axes((1.35 / 5.0, 0.02, 3.6 / 5.0, 0.96))
    axes.imshow(rank_shades(values), cmap="GnBu", vmin=0, vmax=1, interpolation="nearest")

    # Pixel i reaches from i - 1/2 to i + 1/2, so that a line between two groups stands at a half.
    runs = _long_runs(groups)
    for edge in np.setdiff1d(runs, (0, len(values))):
        axes.axhline(edge - 0.5, color="white", lw=1.2)
        axes.axvline(edge - 0.5, color="white", lw=1.2)

    centres = (runs.sum(axis=1) - 1) / 2
    names = [shorten(groups[start]) for start in runs[:, 0]]
    axes.set_yticks(centres, names, fontsize=10)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return png(figure)


def rank_shades(values: Float[np.ndarray, "m m"]) -> Float[np.ndarray, "m m"]:
    """Ranks of the entries above the diagonal, scaled to 0-1, on both sides of it; 1 on the diagonal."""
    size = len(values)
    rows, columns = np.triu_indices(size, 1)
    # Ranks, since models differ in the range of their cosines. Sorting twice makes them; equal values keep their order.
    rank = np.argsort(np.argsort(values[rows, columns], kind="stable"), kind="stable")

    shades = np.zeros((size, size))
    shades[rows, columns] = rank / max(len(rows) - 1, 1)
    shades += shades.T
    np.fill_diagonal(shades, 1)
    return shades


def _long_runs(groups: Sequence[str]) -> Int[np.ndarray, "r 2"]:
    """Runs of equal groups, [start, end), that are long enough for a name beside the matrix."""
    size = len(groups)
    names = np.array(groups)
    changes = 1 + np.flatnonzero(names[1:] != names[:-1])
    starts = np.concatenate(([0], changes))
    ends = np.concatenate((changes, [size]))

    # About 22 names in the font of the figure fit beside a matrix of its height.
    runs = np.stack((starts, ends), axis=1)
    return runs[ends - starts >= max(2, size / 22)]


def reliability(lines: Sequence[Line]) -> bytes:
    """Reliability curves: how sure a model is (x) against how often people agree (y); the diagonal is perfect."""
    figure, axes = empty(4.8, 4.2)
    # From a third up: the most probable of three choices cannot be less probable.
    axes.plot([1 / 3, 1], [1 / 3, 1], color=REFERENCE, ls="--", lw=1.5)
    for line in lines:
        axes.plot(line.x, line.y, label=line.name, color=line.colour, lw=line.width, marker=line.marker, ms=6)

    axes.set_xlabel("probability that the model gives its choice", fontsize=11)
    axes.set_ylabel("how often people agree", fontsize=11)
    axes.set_xlim(0.3, 1)
    axes.set_ylim(0.2, 1)
    axes.grid(color="#eef1f4")
    legend(axes)
    return png(figure)


def model_line(model: str, name: str, x: Sequence[float], y: Sequence[float], style: str = "-") -> Line:
    """A line in the colour of a model, and with its mark."""
    colour = COLOURS.get(model, OTHER)
    return Line(name, x, y, colour, style, marker=MODEL_MARKERS.get(model, OTHER_MARKER))


def shorten(text: str, length: int = 16) -> str:
    """A label of at most `length` characters."""
    if len(text) <= length:
        return text
    return text[: length - 1] + "…"


class Mark(NamedTuple):
    """Colour of a group, and the outline of its mark as an SVG path."""

    colour: str
    path: str


OTHER_MARK = Mark(OTHER, "M-2.5,0a2.5,2.5 0 1,0 5,0a2.5,2.5 0 1,0 -5,0z")
"""A small disc for objects without a group of their own."""


def group_marks(groups: Sequence[str]) -> dict[str, Mark]:
    """A mark for each of the most frequent groups; all others share one, under the name "other"."""
    sizes = Counter(groups)
    del sizes[NO_GROUP]
    most_frequent = sorted(sizes, key=lambda group: (-sizes[group], group))[: len(PALETTE)]

    marks = {}
    for group, colour, path in zip(most_frequent, PALETTE, SHAPES, strict=False):
        marks[group] = Mark(colour, path)
    if set(groups) - set(marks):
        marks["other"] = OTHER_MARK
    return marks


def principal_plane(embeddings: Float[np.ndarray, "n d"]) -> Points:
    """Coordinates on the first two principal components; signs are fixed by the largest entry, so that maps repeat."""
    # Principal components by the singular value decomposition of the centred data, in double precision.
    centred = (embeddings - embeddings.mean(axis=0)).astype(np.float64)
    left, singular_values, _ = np.linalg.svd(centred, full_matrices=False)
    plane = np.zeros((len(embeddings), 2))
    plane[:, : min(2, len(singular_values))] = (left * singular_values)[:, :2]

    largest = np.take_along_axis(plane, np.abs(plane).argmax(axis=0)[None], axis=0)[0]
    return plane * np.where(largest < 0, -1, 1)


def umap_plane(embeddings: Float[np.ndarray, "n d"], seed: int) -> Points:
    """Coordinates by UMAP of cosine distances (McInnes et al. 2018); one thread and a seed, so that maps repeat."""
    # A spectral start needs more points than it has dimensions to solve for.
    start = "spectral"
    if len(embeddings) < 10:
        start = "random"
    reducer = importlib.import_module("umap").UMAP(
        n_neighbors=min(15, len(embeddings) - 1),
        metric="cosine",
        random_state=seed,
        n_jobs=1,
        init=start,
    )
    return np.asarray(reducer.fit_transform(embeddings.astype(np.float32)), dtype=np.float64)
