"""The sections of the report that are about numbers."""

from collections.abc import Sequence
from html import escape

from alignet_ray.core.scores import CHANCE, Score
from alignet_ray.evals.inputs import NAMES
from alignet_ray.report import figures, page
from alignet_ray.report.contents import Material, label, select, value

READERS = {
    "knn_category": "category, by the 5 nearest images of other objects",
    "few_shot_1": "object, learned from 1 image",
    "few_shot_5": "object, learned from 5 images",
    "shift_source": "category, new images of known objects",
    "shift_target": "category, objects never seen",
    "anomaly_auroc": "spotting images of another category (AUROC)",
    "ood_auroc": "spotting images from the other folder (AUROC)",
    "ood_knn": "class of the other folder's images, by the 5 nearest known images",
    "ood_probe": "class of the other folder's images, learned from known images",
}
"""Generalisation scores in the order of the table."""
LARGEST = 8
"""Single categories that the table of parts shows."""


def head(material: Material) -> str:
    """The title, one sentence and the table."""
    found = {m: value(material.scores, "odd_one_out", m, "pre_logits") for m in ("base", "student")}
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
    names = [name for name in rows[0] if name != "layer" and any(row[name] != "-" for row in rows)]
    return [
        {"agreement with people, %": name} | {row["layer"]: row[name].replace(", ", ",\u00a0") for row in rows}
        for name in names
    ]


def scores(material: Material) -> str:
    """Bars: agreement with people."""
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


def levels(material: Material) -> str:
    """Agreement on parts of the triplets."""
    own = [s for s in material.scores if s.metric == "odd_one_out" and s.level and s.dataset == "objects"]
    levels = sorted({s.level for s in own}, key=_level_order)
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
            "the same or from different categories. The name of a category: at least two of its objects. Gain: student "
            "minus base."
        ),
        page.table(rows, minor=_minor(rows)),
    )


def _level(level: str, found: list[Score]) -> dict[str, str]:
    row = {"triplets": _level_name(level)}
    values = {label(s): s.value for s in found if s.model != "teacher"}
    for name, share in values.items():
        row[_short(name)] = f"{100 * share:.1f}"
        if name == "aligned student" and "base" in values:
            row["gain"] = f"{100 * (share - values['base']):+.1f}"
    return row | {"number": f"{found[0].n:,}"}


def _minor(rows: Sequence[dict[str, str]]) -> list[str]:
    """Columns that a phone leaves out: heads, other models, numbers of triplets."""
    major = {"base", "student", "gain", "change", "control", "ceiling"}
    return [head for head in rows[0] if head not in major][1:] if rows else []


def _short(name: str) -> str:
    return name.replace("unaligned ", "").replace("aligned ", "")


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
    return known.get(level, level.removeprefix("category:"))


def calibration(material: Material) -> str:
    """Reliability curves."""
    if not material.calibration:
        return ""
    colours = {NAMES.get(m, m): figures.COLOURS.get(m, figures.OTHER) for m in material.calibration}
    lines = {NAMES.get(m, m): line for m, line in material.calibration.items()}
    return page.section(
        "Does it know when people are unsure?",
        page.paragraph(
            "A model that gives its choice 60 % should agree with people in 60 % of such cases: the dashed "
            "diagonal. One temperature per model was fitted on the validation objects."
        ),
        page.grid([page.figure(figures.reliability(lines, colours), "Confidence against agreement with people.")]),
    )


OUTSIDE = (
    ("answers", "odd_one_out", "single answers of people, % given, too"),
    ("choices", "two_afc", "which of two is more alike, % of people who choose so"),
    ("matrix", "rsa_spearman", "people's similarity matrix, rank correlation"),
    ("matrix", "rsa_spearman_participants", "single people's matrices, mean rank correlation"),
    ("answers", "entropy_time", "response times, rank correlation with doubt"),
)
"""Judgements from outside the run: dataset, metric, and what a person reads."""


def outside(material: Material) -> str:
    """Agreement with judgements that had no part in the run."""
    rows = []
    for dataset, metric, name in OUTSIDE:
        levels = {s.level for s in material.scores if (s.dataset, s.metric) == (dataset, metric)}
        for level in sorted(levels - {"correlation"}):
            found = select(material.scores, metric, level, dataset)
            factor = 1 if "correlation" in name else 100
            shown = {label(s): f"{factor * s.value:.{3 if factor == 1 else 1}f}" for s in found if s.model != "teacher"}
            rows.append({"judgements": f"{name}, {level}" if level else name} | shown)
    if not rows:
        return ""
    return page.section(
        "Other judgements of people",
        page.paragraph(
            "Files of judgements that were not used in the run; all their rows count. Ceiling: how well other people "
            "predict a person, or the best that any answer can do."
        ),
        page.table(_even(rows)),
    )


def _even(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Rows with the same columns: a dash where one has none."""
    heads = list(dict.fromkeys(head for row in rows for head in row))
    return [{head: row.get(head, "-") for head in heads} for row in rows]


def generalisation(material: Material) -> str:
    """Scores that have nothing to do with people's judgements, and whether the student may replace its base."""
    rows = [row for metric in READERS if (row := _reader(material.scores, metric))]
    if not rows:
        return ""
    verdict = material.decision
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict.reasons) if verdict else ""
    return page.section(
        "Is it no worse at anything else?",
        page.paragraph(
            "What simple readers make of the backbone's output, percent right. Change: student minus base, with its "
            "95 % interval; where that holds zero, the difference may be chance. Few objects with several images or a "
            "category make wide intervals."
        ),
        page.table(_even(rows), minor=_minor(_even(rows))),
        page.paragraph(f"Fit to replace its base: {'yes' if verdict.champion else 'no'}.") if verdict else "",
        f'<ul class="note">{reasons}</ul>',
    )


def _reader(scores: Sequence[Score], metric: str) -> dict[str, str]:
    """One score of all models; nothing where the base has none."""
    dataset = "elsewhere" if metric.startswith("ood_") else "objects"
    layers = ("pre_logits", "aligned")
    found = {s.model: s.value for s in select(scores, metric, "", dataset) if s.layer in layers}
    if "base" not in found:
        return {}
    row = {"score": READERS[metric]} | {_short(NAMES.get(m, m)): f"{100 * v:.1f}" for m, v in found.items()}
    if "student" in found:
        gains = select(scores, f"{metric}_gain", "over:base", dataset)
        sure = next((s for s in gains if (s.model, s.layer) == ("student", "pre_logits")), None)
        span = f" [{100 * sure.low:+.1f},\u00a0{100 * sure.high:+.1f}]" if sure else ""
        row["change"] = f"{100 * (found['student'] - found['base']):+.1f}{span}"
    return row


def kept(material: Material) -> str:
    """How much of the base's structure is left."""
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


def losses(material: Material) -> str:
    """Training curves."""
    if not material.losses:
        return ""
    lines = [
        figures.Line(
            NAMES[c.model] + (", held out" if c.held_out else ""),
            c.steps,
            c.losses,
            figures.COLOURS[c.model],
            "--" if c.held_out else "-",
        )
        for c in material.losses
    ]
    return page.section(
        "How training went",
        page.paragraph(
            "The loss: how far a model's choices among three images are from its teacher's. Lower is better; 0 is the "
            "same. Dashed: on triplets of images that it did not train on. Student and control have different "
            "teachers, so their losses cannot be compared with each other."
        ),
        page.grid([page.figure(figures.curves(lines, "loss (nats)"), "Loss against training step.")]),
    )
