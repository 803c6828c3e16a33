"""The section of the report about the labels that the students learn from."""

from math import log
from typing import Any

from alignet_ray.report import figures, page
from alignet_ray.report.contents import Labels, Material

TEACHERS = {"aligned": "aligned teacher", "raw": "unaligned teacher"}
COLOURS = {"aligned teacher": figures.COLOURS["student"], "unaligned teacher": figures.COLOURS["control"]}


def labels(material: Material) -> str:
    """Margins and entropies of both teachers' labels, and what they say in numbers."""
    found = material.labels
    if found is None:
        return ""
    pictures = [
        page.figure(_histogram(found, "margin_histogram", 1.0, "margin"), "Margin: 0 is a toss-up, 1 is sure."),
        page.figure(
            _histogram(found, "entropy_histogram", log(3), "entropy (nats)"),
            "Entropy of the three probabilities: 0 is sure, 1.10 is blind guessing.",
        ),
    ]
    return page.section(
        "What the students learn from",
        page.paragraph(
            f"The teacher looked at {found.train['aligned']['triplets']:,} training triplets and said how likely each "
            "image is the odd one out. Margin: the probability of its first choice minus that of its second. Labels "
            "that are all sure, or all toss-ups, teach little; a mixture is healthy. The unaligned teacher labels "
            "the same triplets for the control; its similarities are scaled so that it is as sure on average."
        ),
        page.grid(pictures if _drawable(found) else []),
        page.table(_rows(found)),
    )


def _drawable(found: Labels) -> bool:
    return all("margin_histogram" in stats and "entropy_histogram" in stats for stats in found.train.values())


def _histogram(found: Labels, key: str, top: float, xlabel: str) -> bytes:
    shares = {
        TEACHERS[role]: [count / max(stats["triplets"], 1) for count in stats.get(key, [])]
        for role, stats in found.train.items()
    }
    return figures.histogram(shares, COLOURS, top, xlabel)


def _rows(found: Labels) -> list[dict[str, str]]:
    """One line a figure, one column a teacher."""
    aligned, raw = found.train["aligned"], found.train.get("raw", {})
    lines = [
        ("mean margin", _number(aligned, "margin"), _number(raw, "margin")),
        ("mean entropy (nats)", _number(aligned, "entropy"), _number(raw, "entropy")),
        ("ties", _share(aligned.get("ties"), aligned), _share(raw.get("ties"), raw)),
    ]
    if "odd_is_the_other" in aligned:
        share = aligned["odd_is_the_other"] / (aligned.get("border") or 1.0)
        lines.append(("odd one is the image of the other cluster", f"{100 * share:.1f} %", "-"))
    if "agreement" in raw:
        lines.append(("same odd one as the aligned teacher", "-", f"{100 * raw['agreement']:.1f} %"))
    if "image_uses" in aligned:
        uses = aligned["image_uses"]
        used = f"{uses['median']:,.0f} ({uses['min']:,} to {uses['max']:,})"
        lines += [("triplets an image is in: median (range)", used, "same"), _images(found, aligned)]
    return [
        {"labels": name} | {TEACHERS["aligned"]: one} | ({TEACHERS["raw"]: two} if raw else {})
        for name, one, two in lines
    ]


def _images(found: Labels, aligned: dict[str, Any]) -> tuple[str, str, str]:
    of = f" of {found.images:,}" if found.images else ""
    return ("images used for training", f"{aligned['images_used']:,}{of}", "same")


def _number(stats: dict[str, Any], key: str) -> str:
    return f"{stats[key]:.3f}" if key in stats else "-"


def _share(count: int | None, stats: dict[str, Any]) -> str:
    return "-" if count is None else f"{100 * count / max(stats['triplets'], 1):.2f} %"
