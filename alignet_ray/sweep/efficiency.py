"""The section of a sweep's page that says what every forwarded image brought."""

from collections.abc import Sequence
from math import isinf

from alignet_ray.report import figures
from alignet_ray.report.elements import figure, grid, paragraph, section, table
from alignet_ray.sweep.learning_curves import Course, best_of_groups, within_reach


def courses(every: Sequence[Course], seed: int) -> str:
    """Held-out curves over the images that went through the network, and what each alternative needs to the same end.

    Args:
        every: all finished trainings, whose losses are of one kind.
        seed: of the trials proper.
    """
    groups = best_of_groups([c for c in every if len(c.images) > 1], seed)
    if not groups:
        return ""
    text = (
        "Forward passes are what training costs, so the curves run over the images that went through the network for "
        "training, not over updates. All trainings are judged on the same held-out triplets. Thick: the best setting "
        "of each alternative, a line per seed; thin: the other settings."
    )
    pictures = [
        figure(_picture(every, groups, what, label), f"{caption} over images forwarded")
        for what, label, caption in (
            ("loss", "divergence from the teacher, nats", "Held-out divergence"),
            ("agreement", "same odd one as the teacher, share", "Held-out agreement with the teacher"),
        )
    ]
    return section("What every forwarded image brought", paragraph(text), grid(pictures), _table(groups))


def _picture(every: Sequence[Course], groups: dict[str, list[Course]], what: str, label: str) -> bytes:
    colours = dict(zip(groups, figures.PALETTE, strict=False))
    chosen = {(c.number, c.seed) for own in groups.values() for c in own}
    lines = [
        figures.Line("", c.images, getattr(c, what), colours[c.group], width=0.8)
        for c in every
        if (c.number, c.seed) not in chosen and c.group in colours
    ]
    for group, own in groups.items():
        lines += [
            figures.Line("" if n else group or "the best", c.images, getattr(c, what), colours[group], width=2.4)
            for n, c in enumerate(own)
        ]
    return figures.curves(lines, label, "images forwarded")


def _table(groups: dict[str, list[Course]]) -> str:
    if len(groups) < 2:
        return ""
    goal = within_reach(groups)
    rows = []
    means = {group: [c.needed(goal) for c in own] for group, own in groups.items()}
    most = max(sum(needed) / len(needed) for needed in means.values())
    for group, own in groups.items():
        needed = means[group]
        mean = sum(needed) / len(needed)
        rows.append(
            {
                "alternative": group,
                "best setting": str(own[0].number),
                "images forwarded": f"{own[0].images[-1]:,.0f}",
                "ends at, by seed": ", ".join(f"{c.loss[-1]:.4f}" for c in own),
                f"images to {goal:.4f}, by seed": ", ".join("never" if isinf(n) else f"{n:,.0f}" for n in needed),
                "fewer by": f"{most / mean:.1f} x" if mean else "",
            }
        )
    about = (
        f"{goal:.4f} nats is the divergence that every training below reaches. The last column compares the mean "
        "number of images with the alternative that needs most."
    )
    return paragraph(about) + table(rows, minor=("best setting",))
