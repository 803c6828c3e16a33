"""Figures in words: the text alternatives that people hear who cannot see a diagram."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from alignet_ray.report.figures import Line


def of_lines(lines: Sequence[Line], y_title: str, x_title: str) -> str:
    """Where each named line begins and ends, and its highest or lowest point in between."""
    # Lines without a name are the background of others.
    named = [line for line in lines if line.name and len(line.x)]
    courses = [f"{line.name}: {_course(line)}." for line in named]
    return " ".join([f"Line chart of {y_title} by {x_title}.", *courses])


def _course(line: Line) -> str:
    values = np.asarray(line.y, dtype=float)
    text = f"from {_point(line, 0)} to {_point(line, len(values) - 1)}"

    if values.max() > max(values[0], values[-1]):
        text += f", highest with {_point(line, int(values.argmax()))}"
    if values.min() < min(values[0], values[-1]):
        text += f", lowest with {_point(line, int(values.argmin()))}"
    return text


def _point(line: Line, place: int) -> str:
    return f"{line.y[place]:.3g} at {line.x[place]:,.4g}"


def of_shares(shares: Mapping[str, Sequence[float]], top: float, x_title: str) -> str:
    """The fullest bin of each histogram, and where the lower half of it ends."""
    parts = [f"Histogram of {x_title}."]
    for name, values in shares.items():
        edges = np.linspace(0, top, len(values) + 1)
        fullest = int(np.argmax(values))
        middle = int(np.searchsorted(np.cumsum(values), sum(values) / 2))
        parts.append(
            f"{name}: most, {100 * values[fullest]:.0f} %, between {edges[fullest]:.2f} and {edges[fullest + 1]:.2f}; "
            f"half of all below about {edges[middle + 1]:.2f}."
        )
    return " ".join(parts)


def of_matrix(name: str, shades: Float[np.ndarray, "m m"], groups: Sequence[str]) -> str:
    """How much more alike the members of a group are than objects of different groups.

    Args:
        name: whose similarities these are.
        shades: ranks of the similarities, 0 to 1.
        groups: of the rows.
    """
    text = f"Similarity matrix of {len(shades)} objects, {name}."
    rows, columns = np.triu_indices(len(shades), 1)
    names = np.array(groups)
    is_within = names[rows] == names[columns]
    if is_within.all() or not is_within.any():
        return text

    ranks = 100 * shades[rows, columns]
    within = ranks[is_within].mean()
    between = ranks[~is_within].mean()
    return (
        f"{text} Mean rank of a similarity, from 0 (least alike) to 100 (most alike): {within:.0f} within groups, "
        f"{between:.0f} between groups."
    )


def of_folds(folds: Sequence[Mapping[str, float]]) -> str:
    """Agreement of each model in every fold.

    Args:
        folds: model's title -> agreement (a fraction), of every fold.
    """
    parts = ["Agreement with people in %, fold by fold."]
    for title in folds[0]:
        values = [f"{100 * fold[title]:.1f}" for fold in folds if title in fold]
        parts.append(f"{title}: {', '.join(values)}.")
    return " ".join(parts)
