"""The section of the report about the labels that the students learn from."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log

from alignet_ray.artifacts.label import LabelStats, SubsetStats
from alignet_ray.report import alternatives, figures
from alignet_ray.report.contents import Illustration, ReportContents, Row

TEACHERS = {"aligned": "aligned teacher", "raw": "unaligned teacher"}
COLOURS = {"aligned teacher": figures.COLOURS["student"], "unaligned teacher": figures.COLOURS["control"]}


@dataclass(frozen=True)
class LabelSection:
    """Number of training triplets, histograms of margin and entropy, and a table with a column for each teacher."""

    triplets: int
    histograms: list[Illustration]
    rows: list[Row]


def labels(contents: ReportContents) -> LabelSection | None:
    """Margins and entropies of both teachers' labels; None without statistics of the aligned one."""
    if "aligned" not in contents.labels:
        return None
    return LabelSection(
        triplets=contents.labels["aligned"].train.triplets,
        histograms=_histograms(contents.labels),
        rows=_rows(contents.labels),
    )


def _histograms(labels: Mapping[str, LabelStats]) -> list[Illustration]:
    # Shares, not counts, so that reports of runs of different sizes can be compared.
    margins = {}
    entropies = {}
    for role, stats in labels.items():
        margins[TEACHERS[role]] = _shares(stats.train.margin_histogram, stats.train.triplets)
        entropies[TEACHERS[role]] = _shares(stats.train.entropy_histogram, stats.train.triplets)

    # Three choices: a margin is at most 1, and an entropy at most ln 3 nats.
    return [
        Illustration(
            figures.histogram(margins, COLOURS, 1.0, "margin"),
            "Margin: 0 is a toss-up, 1 is sure.",
            alternatives.of_shares(margins, 1.0, "margin"),
        ),
        Illustration(
            figures.histogram(entropies, COLOURS, log(3), "entropy (nats)"),
            "Entropy of the three probabilities: 0 is sure, 1.10 is blind guessing.",
            alternatives.of_shares(entropies, log(3), "entropy (nats)"),
        ),
    ]


def _shares(counts: list[int], triplets: int) -> list[float]:
    return [count / max(triplets, 1) for count in counts]


def _summary_cells(stats: SubsetStats | None) -> tuple[str, str, str]:
    """Mean margin, mean entropy and ties of one teacher's labels; dashes where there are none."""
    if stats is None:
        return "-", "-", "-"
    return f"{stats.margin:.3f}", f"{stats.entropy:.3f}", _ties(stats)


def _rows(labels: Mapping[str, LabelStats]) -> list[Row]:
    aligned = labels["aligned"].train
    raw = None
    if "raw" in labels:
        raw = labels["raw"].train

    names = ("mean margin", "mean entropy (nats)", "ties")
    aligned_cells = _summary_cells(aligned)
    raw_cells = _summary_cells(raw)
    rows = [_row(*cells) for cells in zip(names, aligned_cells, raw_cells, strict=True)]

    # A border triplet has two images of one cluster and one of another, which should be the odd one.
    if aligned.odd_is_the_other is not None:
        share = aligned.odd_is_the_other / (aligned.border or 1.0)
        rows.append(_row("odd one is the image of the other cluster", f"{100 * share:.1f} %", "-"))

    # Both teachers label the same triplets, so their choices can be compared one by one.
    if raw and raw.agreement is not None:
        rows.append(_row("same odd one as the aligned teacher", "-", f"{100 * raw.agreement:.1f} %"))

    # "same" for the other teacher, for the same reason.
    uses = aligned.image_uses
    if uses is not None:
        text = f"{uses['median']:,.0f} ({uses['min']:,.0f} to {uses['max']:,.0f})"
        rows.append(_row("triplets an image is in: median (range)", text, "same"))
        used = f"{aligned.images_used:,}"
        available = labels["aligned"].images
        if available:
            used += f" of {available:,}"
        rows.append(_row("images used for training", used, "same"))

    # A run without a control has one teacher, and a column of dashes would raise questions.
    if raw is None:
        for row in rows:
            del row[TEACHERS["raw"]]
    return rows


def _row(name: str, aligned: str, raw: str) -> Row:
    return {"labels": name, TEACHERS["aligned"]: aligned, TEACHERS["raw"]: raw}


def _ties(stats: SubsetStats) -> str:
    return f"{100 * stats.ties / max(stats.triplets, 1):.2f} %"
