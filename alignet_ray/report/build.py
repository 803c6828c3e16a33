"""The sections of the report, in the order in which a person asks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
from jaxtyping import Float
from PIL import Image

from alignet_ray.core.scores import CHANCE, Score
from alignet_ray.evals.spaces import NAMES
from alignet_ray.report import figures, page

LAYERS = {
    "pre_logits": "the backbone's output (pre_logits)",
    "head": "the triplet head",
    "aligned": "the aligned space",
    "": "",
}
LARGEST = 8
"""Single categories that the table of parts shows."""
ODD = (2, 1, 0)
"""The image left over by each pair (01, 02, 12)."""


@dataclass(frozen=True)
class Example:
    """A triplet with its images: probabilities of people's pairs, and the pair that each model chose (-1: a tie)."""

    images: tuple[Image.Image | None, Image.Image | None, Image.Image | None]
    names: tuple[str, str, str]
    probabilities: tuple[float, float, float]
    choices: dict[str, int]


@dataclass(frozen=True)
class Query:
    """An image and its nearest neighbours in each space: model -> [(image, whether of the same group)]."""

    image: Image.Image | None
    name: str
    neighbours: dict[str, list[tuple[Image.Image | None, bool]]]


@dataclass(frozen=True)
class Material:
    """All that the report shows.

    Attributes:
        title: heading.
        facts: what the run was made of, for the end of the page.
        table: rows of the table that the command line prints.
        scores: the scores table.
        losses: training curves, name -> (steps, losses).
        matrices: similarity matrices of the test objects, already in display order; `groups` are their rows' groups.
        maps: two-dimensional maps, name -> (points); `map_groups` and `map_names` belong to the points.
        gains, slips: triplets on which the student agrees with people and the base does not, and the reverse.
        queries: nearest neighbours before and after.
        clusters: contact sheets of clusters, name -> images.
        calibration: reliability curves, model -> (confidence, agreement).
    """

    title: str
    facts: dict[str, str]
    table: list[dict[str, str]]
    scores: list[Score]
    losses: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    matrices: dict[str, Float[np.ndarray, "m m"]] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)
    maps: dict[str, Float[np.ndarray, "n 2"]] = field(default_factory=dict)
    map_groups: list[str] = field(default_factory=list)
    map_names: list[str] = field(default_factory=list)
    gains: list[Example] = field(default_factory=list)
    slips: list[Example] = field(default_factory=list)
    queries: list[Query] = field(default_factory=list)
    clusters: dict[str, list[Image.Image | None]] = field(default_factory=dict)
    calibration: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)


def build(material: Material) -> str:
    """The whole page as HTML text."""
    sections = [
        _head(material),
        _scores(material),
        _levels(material),
        _examples(material),
        _matrices(material),
        _maps(material),
        _queries(material),
        _calibration(material),
        _kept(material),
        _losses(material),
        _clusters(material),
        page.section("What this run was made of", page.facts(material.facts)),
    ]
    return page.page(material.title, sections)


def select(scores: Sequence[Score], metric: str, level: str = "") -> list[Score]:
    """Scores of one metric and level, models in their usual order."""
    order = list(NAMES)
    found = [s for s in scores if s.metric == metric and s.level == level]
    return sorted(found, key=lambda s: (order.index(s.model) if s.model in order else 99, s.layer == "head", s.layer))


def label(score: Score) -> str:
    """What a person reads for a model and layer."""
    name = NAMES.get(score.model, score.model)
    return f"{name}, head" if score.layer == "head" else name


def _value(scores: Sequence[Score], metric: str, model: str, layer: str) -> Score | None:
    return next((s for s in scores if (s.metric, s.model, s.layer, s.level) == (metric, model, layer, "")), None)


def _head(material: Material) -> str:
    found = {m: _value(material.scores, "odd_one_out", m, "pre_logits") for m in ("base", "student")}
    base, student = found["base"], found["student"]
    text = ""
    if base and student:
        points = 100 * (student.value - base.value)
        moved = f"{abs(points):.1f} points {'closer to' if points >= 0 else 'further from'} people"
        text = (
            "On objects that no training saw, the aligned student picks the same odd one out as people in "
            f"{100 * student.value:.1f} % of cases; the network it started from, in {100 * base.value:.1f} %. It is "
            f"{moved}."
        )
    return (
        f"<h1>{escape(material.title)}</h1>"
        + (page.paragraph(text, "lead") if text else "")
        + page.table(_turned(material.table))
    )


def _turned(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Models as rows, layers as columns: narrow enough for a phone."""
    if not rows:
        return []
    names = [name for name in rows[0] if name != "layer"]
    return [{"agreement with people, %": name} | {row["layer"]: row[name] for row in rows} for name in names]


def _scores(material: Material) -> str:
    rows = select(material.scores, "odd_one_out")
    if not rows:
        return ""
    top = max(1.08 * max(max(r.value, r.high if r.high == r.high else 0) for r in rows), 0.5)
    best = max((r.value for r in rows if r.model == "human"), default=float("nan"))
    bars = [
        page.bar(label(r), r.value, r.low, r.high, figures.COLOURS.get(r.model, figures.OTHER), top, (CHANCE, best))
        for r in rows
    ]
    return page.section(
        "Does it see similarity as people do?",
        page.paragraph(
            "Show three images and ask: which is the odd one out? Each bar says how often a model's answer is the "
            f"answer of people, over {rows[0].n:,} triplets of the test objects. The left dashed line is guessing "
            "(33.3 %); the right one is the ceiling: people differ among themselves, so no model can score higher. "
            "Whiskers are 95 % intervals (other objects might have been drawn)."
        ),
        *bars,
        page.paragraph(
            "Base: the network before training. Aligned student: the same network after learning from the teacher "
            "that was fitted to human judgements. Unaligned control: trained in the same way by a teacher that "
            "never saw human judgements. Head: the small output layer that was trained on the triplets; without "
            "that word, the backbone's own output is meant.",
            "note",
        ),
    )


def _levels(material: Material) -> str:
    levels = sorted({s.level for s in material.scores if s.metric == "odd_one_out" and s.level}, key=_level_order)
    found = {level: select(material.scores, "odd_one_out", level) for level in levels}
    single = sorted((lv for lv in levels if lv.startswith("category:")), key=lambda lv: -found[lv][0].n)
    rows = [_level(lv, found[lv]) for lv in levels if lv not in single[LARGEST:]]
    if not rows:
        return ""
    return page.section(
        "Where does it help?",
        page.paragraph(
            "The same score (percent) on parts of the triplets. Clear: people nearly always agree. Unclear: people "
            "are divided, so the ceiling is low. One, two or three categories: whether the three objects come from "
            "the same or from different categories. Gain: student minus base."
        ),
        page.table(rows),
    )


def _level(level: str, found: list[Score]) -> dict[str, str]:
    row = {"triplets": _level_name(level)}
    values = {label(s): s.value for s in found if s.model != "teacher"}
    row |= {name.replace("unaligned ", "").replace("aligned ", ""): f"{100 * v:.1f}" for name, v in values.items()}
    if {"base", "aligned student"} <= set(values):
        row["gain"] = f"{100 * (values['aligned student'] - values['base']):+.1f}"
    return row | {"number": f"{found[0].n:,}"}


def _level_order(level: str) -> tuple[int, str]:
    heads = (
        "margin:high",
        "margin:middle",
        "margin:low",
        "categories:between",
        "categories:border",
        "categories:within",
    )
    return (heads.index(level), "") if level in heads else (len(heads), level)


def _level_name(level: str) -> str:
    known = {
        "margin:high": "clear for people",
        "margin:middle": "less clear",
        "margin:low": "unclear for people",
        "categories:between": "three categories",
        "categories:border": "two categories",
        "categories:within": "one category",
    }
    return known.get(level, level.replace("category:", "two or more: "))


def _examples(material: Material) -> str:
    if not material.gains and not material.slips:
        return ""
    parts = [
        page.paragraph(
            "The framed image is the one that people most often call the odd one out; the percentages are how "
            "often each image is chosen as odd."
        )
    ]
    for heading, examples in (
        ("The student agrees with people, the base does not", material.gains),
        ("The base agrees with people, the student does not", material.slips),
    ):
        if examples:
            parts.append(f"<h3>{heading}</h3>" + page.grid(list(map(_example, examples))))
    return page.section("Who chose what", *parts)


def _example(example: Example) -> str:
    odd = ODD[int(np.argmax(example.probabilities))]
    cells = []
    for place in range(3):
        share = example.probabilities[ODD.index(place)]
        image = f'<img src="{page.thumbnail(example.images[place])}" alt="{escape(example.names[place])}">'
        name = escape(figures.shorten(example.names[place], 22))
        cells.append(f'<div class="{"odd" if place == odd else ""}">{image}{name}<br>{100 * share:.0f} %</div>')
    votes = []
    for model, pair in example.choices.items():
        chosen = "cannot choose" if pair < 0 else figures.shorten(example.names[ODD[pair]], 24)
        kind = "yes" if pair >= 0 and ODD[pair] == odd else "no"
        votes.append(f'<li><span>{NAMES.get(model, model)}</span><span class="{kind}">{escape(chosen)}</span></li>')
    return f'<div class="card"><div class="thumbs">{"".join(cells)}</div><ul class="votes">{"".join(votes)}</ul></div>'


def _matrices(material: Material) -> str:
    if not material.matrices:
        return ""
    pictures = [page.figure(figures.matrix(v, material.groups), name) for name, v in material.matrices.items()]
    return page.section(
        "The whole similarity matrix",
        page.paragraph(
            "Each row and column is a test object, sorted by group; dark means alike. Blocks along the diagonal "
            "are groups whose members are seen as alike. The closer a matrix looks to people's, the better."
        ),
        page.grid(pictures),
    )


def _maps(material: Material) -> str:
    if not material.maps:
        return ""
    colours = figures.group_colours(material.map_groups)
    dots = [colours.get(group, figures.OTHER) for group in material.map_groups]
    names = material.map_names
    pictures = [page.figure(figures.scatter(points, dots, names), name) for name, points in material.maps.items()]
    return page.section(
        "A map of the objects",
        page.paragraph(
            "Test objects on the first two principal components of each space; near means alike. Colours are "
            "groups of meaning: the better a model sees as people do, the more the colours hold together."
        ),
        page.key(colours),
        page.grid(pictures),
    )


def _queries(material: Material) -> str:
    cards = []
    for query in material.queries:
        own = f'<img class="query" src="{page.thumbnail(query.image, 96)}" alt="{escape(query.name)}">'
        rows = [f"<h3>{escape(query.name or 'image')}</h3>"]
        for model, found in query.neighbours.items():
            others = "".join(
                f'<img class="{"same" if same else ""}" src="{page.thumbnail(i, 96)}" alt="">' for i, same in found
            )
            rows.append(f'<div class="note">{NAMES.get(model, model)}</div><div class="strip">{own}{others}</div>')
        cards.append(f'<div class="card">{"".join(rows)}</div>')
    if not cards:
        return ""
    return page.section(
        "Nearest neighbours, before and after",
        page.paragraph(
            "First the image, then what each model finds most alike among the test images. Green frame: same group "
            "as the first."
        ),
        page.grid(cards),
    )


def _calibration(material: Material) -> str:
    if not material.calibration:
        return ""
    colours = {NAMES[m]: figures.COLOURS[m] for m in material.calibration}
    lines = {NAMES[m]: line for m, line in material.calibration.items()}
    return page.section(
        "Does it know when people are unsure?",
        page.paragraph(
            "A model that gives its choice 60 % should agree with people in 60 % of such cases: the dashed "
            "diagonal. One temperature per model was fitted on the validation objects."
        ),
        page.grid([page.figure(figures.reliability(lines, colours), "Confidence against agreement with people.")]),
    )


def _kept(material: Material) -> str:
    kept = select(material.scores, "neighbours_kept")
    cka = {(s.model, s.layer): s for s in select(material.scores, "cka_to_base")}
    rsa = {(s.model, s.layer): s for s in select(material.scores, "rsa_spearman")}
    if not kept:
        return ""
    rows = []
    for score in kept:
        at = (score.model, score.layer)
        rows.append(
            {
                "model": label(score),
                "neighbours kept": f"{100 * score.value:.1f} %",
                "CKA to the base": f"{cka[at].value:.3f}" if at in cka else "",
                "rank correlation with people": f"{rsa[at].value:.3f}" if at in rsa else "",
            }
        )
    return page.section(
        "What did it keep?",
        page.paragraph(
            "Neighbours kept: the share of an image's ten nearest images in the base network that are still among "
            "its ten nearest. CKA: how alike the two spaces are as a whole (1 = the same). Rank correlation: of "
            "all pairwise similarities with people's."
        ),
        page.table(rows),
    )


def _losses(material: Material) -> str:
    if not material.losses:
        return ""
    colours = {NAMES[m]: figures.COLOURS[m] for m in ("student", "control")}
    lines = {NAMES.get(name, name): line for name, line in material.losses.items()}
    return page.section(
        "How training went",
        page.paragraph(
            "The loss: how far the student's choices among three images are from its teacher's. Lower is better; 0 "
            "is the same."
        ),
        page.grid([page.figure(figures.curves(lines, colours, "loss (nats)"), "Loss on the training triplets.")]),
    )


def _clusters(material: Material) -> str:
    cards = []
    for name, images in material.clusters.items():
        strip = "".join(f'<img src="{page.thumbnail(image, 96)}" alt="">' for image in images)
        cards.append(f'<div class="card"><div class="note">{escape(name)}</div><div class="strip">{strip}</div></div>')
    if not cards:
        return ""
    return page.section(
        "What the training triplets are made of",
        page.paragraph(
            "The corpus falls into clusters of images that the teacher sees as alike. A triplet takes two images "
            "of one cluster and one of another."
        ),
        page.grid(cards),
    )
