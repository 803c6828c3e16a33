"""The section of the report about the teacher: what its map brought on the judged objects, and what it cost."""

from collections.abc import Mapping
from typing import Any

from alignet_ray.report import figures, page
from alignet_ray.report.contents import Material

SPACES = {"base": "the network as it was", "features": "fine-tuned, its features", "aligned": "the teacher"}


def teacher(material: Material) -> str:
    """Agreement with people before and after, and for a fine-tuned network the trade against local structure."""
    found = material.teacher
    if "validation_aligned_accuracy" not in found:
        return ""
    return page.section(
        "The teacher",
        page.paragraph(
            f"{_form(found)} It was fitted on training objects and stopped by validation objects. Its similarities are "
            "the labels that the student learns from. "
            f"{found['neighbours_kept']:.0%} of every judged image's ten nearest neighbours stay among its ten nearest"
            f"{_own(found)}."
        ),
        page.table(_rows(found)),
        _trade(found),
    )


def _form(found: Mapping[str, Any]) -> str:
    """What kind of teacher it is."""
    if found["map"] != "network":
        return f"A map of the form {found['map']!r} on top of the network."
    how = {"classes": "as its classifier weighs features", "plain": "by the cosine of features"}
    which = f"The network itself after {found['step']:.0f} updates" if found["step"] else "The network as it was"
    return (
        f"{which}: it describes an image by what people said of the judged images nearest to it, compared "
        f"{how[found['metric']]} (temperature {found['temperature']:.3f})."
    )


def _own(found: Mapping[str, Any]) -> str:
    """A network's features keep more than what it says of images."""
    own = found.get("aligned_neighbours_kept")
    return "" if own is None else f" by its features, {own:.0%} by what it says of them"


def _rows(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """One line a space, one column a side of the split."""
    rows = []
    for space, name in SPACES.items():
        if f"test_{space}_accuracy" not in found:
            continue
        row = {"space": name}
        for split in ("validation", "test"):
            value, low, high = (100 * found[f"{split}_{space}_accuracy{end}"] for end in ("", "_low", "_high"))
            row[f"{split} objects"] = f"{value:.1f} % [{low:.1f}, {high:.1f}]"
        rows.append(row)
    best = {f"{split} objects": f"{100 * found[f'{split}_ceiling']:.1f} %" for split in ("validation", "test")}
    return [*rows, {"space": "ceiling", **best}]


def _trade(found: Mapping[str, Any]) -> str:
    """Points on the way from the pretrained weights to the fine-tuned ones."""
    points = found.get("trade", [])
    if not points:
        return ""
    kept = [100 * p["kept"] for p in points]
    lines = [
        figures.Line(name, kept, [100 * p[key] for p in points], colour)
        for key, name, colour in (
            ("accuracy", "teacher", figures.COLOURS["student"]),
            ("features", "features", figures.COLOURS["base"]),
        )
    ]
    rows = [
        {
            "share of the way": f"{p['share']:.0%}",
            "teacher agrees": f"{100 * p['accuracy']:.1f} %",
            "features agree": f"{100 * p['features']:.1f} %",
            "neighbours kept": f"{100 * p['kept']:.0f} %",
        }
        for p in points
    ]
    picture = figures.curves(lines, "agrees with people, %", "neighbours kept, %", bottom=None)
    return page.paragraph(
        "Agreement is bought with local structure. Every point on the line from the pretrained weights to the "
        "fine-tuned ones is a teacher, too: --align.network.interpolation 0.5 takes the one half way. Figures are of "
        "the validation objects."
    ) + page.grid(
        [page.figure(picture, "Agreement against neighbours kept, from 100 % of the way to none."), page.table(rows)]
    )
