"""The section of a sweep's report on sample efficiency: held-out curves over the images processed in training."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from math import isinf

import numpy as np

from alignet_ray.report import alternatives, figures
from alignet_ray.report.elements import figure, grid, paragraph, section, table
from alignet_ray.sweep.learning_curves import LearningCurve, best_of_groups, commonly_reached_loss

Groups = Mapping[str, Sequence[LearningCurve]]
"""Alternative -> the curves of its best setting, one per seed."""


def sample_efficiency(curves: Sequence[LearningCurve], seed: int) -> str:
    """The section; empty where no training has a curve.

    Args:
        curves: of all finished trainings, whose losses are of one kind.
        seed: of the trials (other seeds are repeats).
    """
    # One validation is a point, not a curve.
    curves = [curve for curve in curves if len(curve.images) > 1]
    groups = best_of_groups(curves, seed)
    if not groups:
        return ""

    text = (
        "Forward passes are what training costs, so the curves run over the images that went through the network for "
        "training, not over updates. All trainings are validated on the same held-out triplets. Thick: the best "
        "setting of each alternative, a line per seed; thin: the other settings."
    )
    loss = _lines(curves, groups, "loss")
    agreement = _lines(curves, groups, "agreement")
    pictures = [
        _picture(loss, "divergence from the teacher, nats", "Held-out divergence over images processed"),
        _picture(
            agreement,
            "same odd one as the teacher, share",
            "Held-out agreement with the teacher over images processed",
        ),
    ]

    return section("Sample efficiency", paragraph(text), grid(pictures), _comparison(groups))


def _picture(lines: Sequence[figures.Line], label: str, caption: str) -> str:
    images = "images processed"
    return figure(figures.curves(lines, label, images), caption, alternatives.of_lines(lines, label, images))


def _lines(curves: Sequence[LearningCurve], groups: Groups, metric: str) -> list[figures.Line]:
    """All curves of one metric, those of `groups` thick and on top."""
    # A sweep over several alternatives may have more groups than there are colours, which then come again.
    colours = dict(zip(groups, cycle(figures.PALETTE), strict=False))
    markers = dict(zip(groups, cycle(figures.MARKERS), strict=False))
    chosen: set[tuple[int, int]] = set()
    for best in groups.values():
        for curve in best:
            chosen.add((curve.number, curve.seed))

    # Thin curves come first, so that the thick ones are drawn over them.
    lines = []
    for curve in curves:
        # A group without a curve of the first seed has no best setting and no colour.
        if (curve.number, curve.seed) not in chosen and curve.group in colours:
            values = getattr(curve, metric)
            lines.append(figures.Line("", curve.images, values, colours[curve.group], width=0.8))

    for group, best in groups.items():
        name = group or "best setting"
        for curve in best:
            values = getattr(curve, metric)
            line = figures.Line(name, curve.images, values, colours[group], width=2.4, marker=markers[group])
            lines.append(line)
            name = ""  # one entry per group in the legend
    return lines


def _comparison(groups: Groups) -> str:
    """How many images each alternative needs to reach the loss that all of them reach."""
    if len(groups) < 2:
        return ""

    # The same target for all, or an alternative that stopped at a higher loss would look cheaper.
    target = commonly_reached_loss(groups)
    needed: dict[str, list[float]] = {}
    means: dict[str, float] = {}
    for group, curves in groups.items():
        needed[group] = [curve.images_to_reach(target) for curve in curves]
        means[group] = float(np.mean(needed[group]))
    slowest = max(means.values())

    rows = []
    for group, curves in groups.items():
        images = ", ".join(_image_count(count) for count in needed[group])
        # An alternative that had the loss before its first update needed no images: no factor can say that.
        factor = ""
        if means[group]:
            factor = f"{slowest / means[group]:.1f} x"
        rows.append(
            {
                "alternative": group,
                "best setting": str(curves[0].number),
                "images processed": f"{curves[0].images[-1]:,.0f}",
                "final loss, by seed": ", ".join(f"{curve.loss[-1]:.4f}" for curve in curves),
                f"images to {target:.4f}, by seed": images,
                "fewer by": factor,
            }
        )
    about = (
        f"Every training in the table reaches a divergence of {target:.4f} nats. The last column compares the mean "
        "number of images with that of the alternative that needs most."
    )
    return paragraph(about) + table(rows)


def _image_count(images: float) -> str:
    if isinf(images):
        return "never"
    return f"{images:,.0f}"
