"""Plots of a study as PNG bytes."""

from collections.abc import Mapping, Sequence

from alignet_ray.report.figures import GRID, empty, png


def agreement_by_fold(folds: Sequence[Mapping[str, float]], colours: Mapping[str, str]) -> bytes:
    """Agreement with people: a column for each model, a point for each fold, and thin lines that join a fold's points.

    Args:
        folds: model's title -> agreement (a fraction), of every fold; models in the order of the columns.
        colours: of the models, by title.
    """
    figure, axes = empty(5.6, 3.6)
    titles = list(folds[0])
    for fold in folds:
        # A model that one fold lacks leaves a gap in its line.
        percent = [100 * fold.get(title, float("nan")) for title in titles]
        axes.plot(range(len(titles)), percent, color=GRID, lw=1.5, zorder=1)
        for position, title in enumerate(titles):
            axes.scatter(position, percent[position], s=55, color=colours[title], edgecolors="white", zorder=2)

    # Words stand below each other: side by side they would overlap.
    axes.set_xticks(range(len(titles)), [title.replace(" ", "\n") for title in titles], fontsize=10)
    axes.set_ylabel("agreement with people, %", fontsize=12)
    axes.grid(axis="y", color=GRID)
    axes.margins(x=0.08)
    return png(figure)
