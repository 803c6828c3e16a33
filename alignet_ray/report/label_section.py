"""The section of the report about the labels that the students learn from."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Any

from alignet_ray.report import figures
from alignet_ray.report.contents import Illustration, LabelStatistics, ReportContents, Row

TEACHERS = {"aligned": "aligned teacher", "raw": "unaligned teacher"}
COLOURS = {"aligned teacher": figures.COLOURS["student"], "unaligned teacher": figures.COLOURS["control"]}

HISTOGRAMS = ("margin_histogram", "entropy_histogram")

Statistics = Mapping[str, Any]
"""Statistics of one teacher's labels, as `label` writes them; older artifacts lack some."""


@dataclass(frozen=True)
class LabelSection:
    """Number of training triplets, histograms of margin and entropy, and a table with a column for each teacher."""

    triplets: int
    histograms: list[Illustration]
    rows: list[Row]


def labels(contents: ReportContents) -> LabelSection | None:
    """Margins and entropies of both teachers' labels; None without statistics."""
    statistics = contents.labels
    if statistics is None:
        return None
    return LabelSection(
        triplets=statistics.train["aligned"]["triplets"],
        histograms=_histograms(statistics.train),
        rows=_rows(statistics),
    )


def _histograms(train: Mapping[str, Statistics]) -> list[Illustration]:
    """Both histograms; none where a teacher has no counts."""
    for statistics in train.values():
        if not all(name in statistics for name in HISTOGRAMS):
            return []

    margins = figures.histogram(_shares(train, "margin_histogram"), COLOURS, 1.0, "margin")
    entropies = figures.histogram(_shares(train, "entropy_histogram"), COLOURS, log(3), "entropy (nats)")
    return [
        Illustration(margins, "Margin: 0 is a toss-up, 1 is sure."),
        Illustration(entropies, "Entropy of the three probabilities: 0 is sure, 1.10 is blind guessing."),
    ]


def _shares(train: Mapping[str, Statistics], histogram: str) -> dict[str, list[float]]:
    """Share of the triplets in each bin, by teacher."""
    shares = {}
    for role, statistics in train.items():
        triplets = max(statistics["triplets"], 1)
        shares[TEACHERS[role]] = [count / triplets for count in statistics[histogram]]
    return shares


def _rows(statistics: LabelStatistics) -> list[Row]:
    aligned = statistics.train["aligned"]
    raw = statistics.train.get("raw", {})
    rows = [
        _row("mean margin", _mean(aligned, "margin"), _mean(raw, "margin")),
        _row("mean entropy (nats)", _mean(aligned, "entropy"), _mean(raw, "entropy")),
        _row("ties", _ties(aligned), _ties(raw)),
    ]

    # a border triplet has two images of one cluster and one of another, which should be the odd one
    if "odd_is_the_other" in aligned:
        border_triplets = aligned.get("border") or 1.0
        share = aligned["odd_is_the_other"] / border_triplets
        rows.append(_row("odd one is the image of the other cluster", f"{100 * share:.1f} %", "-"))

    if "agreement" in raw:
        rows.append(_row("same odd one as the aligned teacher", "-", f"{100 * raw['agreement']:.1f} %"))

    if "image_uses" in aligned:
        uses = aligned["image_uses"]
        text = f"{uses['median']:,.0f} ({uses['min']:,} to {uses['max']:,})"
        rows.append(_row("triplets an image is in: median (range)", text, "same"))
        used = f"{aligned['images_used']:,}"
        if statistics.images:
            used += f" of {statistics.images:,}"
        rows.append(_row("images used for training", used, "same"))

    if not raw:
        for row in rows:
            del row[TEACHERS["raw"]]
    return rows


def _row(name: str, aligned: str, raw: str) -> Row:
    return {"labels": name, TEACHERS["aligned"]: aligned, TEACHERS["raw"]: raw}


def _mean(statistics: Statistics, quantity: str) -> str:
    return f"{statistics[quantity]:.3f}" if quantity in statistics else "-"


def _ties(statistics: Statistics) -> str:
    ties = statistics.get("ties")
    if ties is None:
        return "-"
    return f"{100 * ties / max(statistics['triplets'], 1):.2f} %"
