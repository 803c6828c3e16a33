"""The page of a study, and its tables as Markdown and LaTeX."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import NamedTuple

from alignet_ray.core.scores import METRIC_TITLES
from alignet_ray.evals import gate
from alignet_ray.evals.compare import format_interval
from alignet_ray.evals.reference_comparisons import KNOWN, MAJORITY, OTHERS, OTHERS_TITLE, VOTES
from alignet_ray.evals.representation_drift import NEIGHBOURS
from alignet_ray.evals.spaces import MODEL_TITLES
from alignet_ray.report import alternatives
from alignet_ray.report.elements import figure, folded, page, paragraph, preformatted, section, table
from alignet_ray.report.figures import COLOURS, OTHER
from alignet_ray.screen import clock
from alignet_ray.study import plots
from alignet_ray.study.pooling import FoldScores, PooledScore

LAYERS = {"pre_logits": "features", "head": "head", "aligned": "", "": ""}
"""Layers of the scores table -> what people read behind the model's name."""

Row = dict[str, str]


@dataclass(frozen=True)
class FoldRun:
    """One finished run of a study.

    Attributes:
        result: its scores.
        name: of the run.
        test_objects: objects that its scores are about.
        interpolation: the student's place between its pretrained weights (0) and its trained ones (1); None without a
            student.
        seconds: of computing by stage, with what other folds share counted in the fold that made it.
    """

    result: FoldScores
    name: str
    test_objects: int
    interpolation: float | None
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Study:
    """What the page shows.

    Attributes:
        title: of the page.
        people: whose choices "people" are, as it stands in a sentence.
        frozen: when the settings were written down.
        chosen: how they were chosen, in the words of who ran the study; may be empty.
        folds, seeds: planned.
        runs: the finished ones.
        scores: pooled over them.
        settings: as YAML.
    """

    title: str
    people: str
    frozen: str
    chosen: str
    folds: int
    seeds: int
    runs: Sequence[FoldRun]
    scores: Sequence[PooledScore]
    settings: str


class _Lookup:
    """Pooled scores of the annotated objects by (model, layer, metric, level)."""

    def __init__(self, scores: Sequence[PooledScore]) -> None:
        self.by_key = {}
        for score in scores:
            if score.dataset == "objects":
                self.by_key[score.key] = score

    def find(self, model: str, layer: str, metric: str, level: str = "") -> PooledScore | None:
        """A score, if any fold has it."""
        return self.by_key.get((model, layer, metric, level))

    def models(self) -> list[tuple[str, str]]:
        """(model, layer) of all that agreement was measured of, in the order of the scores table."""
        return [(model, layer) for model, layer, metric, level in self.by_key if (metric, level) == ("odd_one_out", "")]


class Table(NamedTuple):
    """A table of the page, under its heading and a sentence that says what its figures are."""

    heading: str
    note: str
    rows: list[Row]


def build(study: Study) -> str:
    """The whole page."""
    agreement, *others = [section(heading, paragraph(note), table(rows)) for heading, note, rows in tables(study)]
    runs = section("Runs", table(run_rows(study.runs)))
    return page(study.title, [_lead(study), agreement, _by_fold(study), *others, runs, _protocol(study)])


def markdown(study: Study) -> str:
    """The tables of the page in Markdown."""
    parts = [f"# {study.title}"]
    for _, note, rows in tables(study):
        parts += [note, _markdown_table(rows)]
    return "\n\n".join(parts) + "\n"


def latex(study: Study) -> str:
    """The tables of the page in LaTeX, for \\input; they need the package booktabs."""
    parts = []
    for _, note, rows in tables(study):
        parts += [f"% {note}", _latex_table(rows)]
    return "\n".join(parts) + "\n"


def tables(study: Study) -> list[Table]:
    """All tables of scores: agreement first, reference comparisons where people were asked any, and what was kept."""
    found = [Table("Agreement with people", _agreement_note(study), agreement_rows(study.scores))]
    compared = comparison_rows(study.scores)
    if compared:
        found.append(Table("Which of two is more alike", _comparisons_note(study), compared))
    return [*found, Table("What it kept", _kept_note(), kept_rows(study.scores))]


def agreement_rows(scores: Sequence[PooledScore]) -> list[Row]:
    """A row for each model: its agreement, the gain over the base with its p value, and the kinds of triplets."""
    lookup = _Lookup(scores)
    rows = []
    for model, layer in lookup.models():
        gain = lookup.find(model, layer, "odd_one_out_gain", "over:base")
        row = {"model": title_of(model, layer), "all triplets": _format_score(lookup.find(model, layer, "odd_one_out"))}
        row |= {"gain over base": _format_gain(gain), "p": _format_p(gain)}

        # Triplets within one category are the harder ones: all three objects are alike in it.
        row["two categories"] = _format_score(lookup.find(model, layer, "odd_one_out", "categories:border"))
        row["one category"] = _format_score(lookup.find(model, layer, "odd_one_out", "categories:within"))
        row["single answers"] = _format_score(lookup.find(model, layer, "odd_one_out_raw"))
        rows.append(row)
    return rows


def comparison_rows(scores: Sequence[PooledScore]) -> list[Row]:
    """A row for each model: its agreement with people's own reference comparisons; none where there are too few."""
    lookup = _Lookup(scores)
    rows = []
    for model, layer in [*lookup.models(), OTHERS]:
        votes = lookup.find(model, layer, VOTES)
        if votes is None:
            continue

        gain = lookup.find(model, layer, f"{VOTES}_gain", "over:base")
        row = {"model": title_of(model, layer), "votes": _format_score(votes)}
        row |= {"gain over base": _format_gain(gain), "p": _format_p(gain)}
        row["most people"] = _format_score(lookup.find(model, layer, MAJORITY))

        # A new object among known ones: the reference alone is a test object.
        row["votes, new among known"] = _format_score(lookup.find(model, layer, VOTES + KNOWN))
        row["its gain"] = _format_gain(lookup.find(model, layer, f"{VOTES}{KNOWN}_gain", "over:base"))
        rows.append(row)
    return rows


def kept_rows(scores: Sequence[PooledScore]) -> list[Row]:
    """A row for each score of what a network knew before: the base's, and the change of student and control."""
    lookup = _Lookup(scores)
    compared = [("student", "pre_logits"), ("control", "pre_logits"), ("teacher", "aligned")]
    compared = [name for name in compared if name in lookup.models()]

    rows = []
    for metric in gate.GENERALISATION:
        base = lookup.find("base", "pre_logits", metric)
        if base is None:
            continue
        row = {"score": METRIC_TITLES[metric], "base": _format_score(base)}
        for model, layer in compared:
            row[title_of(model, layer)] = _format_gain(lookup.find(model, layer, f"{metric}_gain", "over:base"))
        rows.append(row)

    # Kept neighbours are those of the base, so that it has no row of its own.
    row = {"score": f"{NEIGHBOURS} nearest neighbours kept", "base": "-"}
    for model, layer in compared:
        row[title_of(model, layer)] = _format_score(lookup.find(model, layer, "neighbours_kept"))
    rows.append(row)
    return rows


def run_rows(runs: Sequence[FoldRun]) -> list[Row]:
    """A row for each finished run."""
    rows = []
    for run in runs:
        row = {"run": run.name, "fold": str(run.result.fold), "seed": str(run.result.seed)}
        row["test objects"] = str(run.test_objects)
        if run.interpolation is not None:
            row["student at"] = f"{run.interpolation:.2f}"
        row["time"] = clock(sum(run.seconds.values()))
        rows.append(row)
    return rows


def title_of(model: str, layer: str) -> str:
    """What people read of a model and its layer; short, since it stands above columns."""
    if (model, layer) == OTHERS:
        return OTHERS_TITLE
    if model == "human":
        return MODEL_TITLES[model]
    return f"{model} {LAYERS.get(layer, layer)}".strip()


def _lead(study: Study) -> str:
    lookup = _Lookup(study.scores)
    base = lookup.find("base", "pre_logits", "odd_one_out")
    # Stored features have no student: then the study is about the teacher.
    aligned = ("teacher", "aligned")
    if ("student", "pre_logits") in lookup.models():
        aligned = ("student", "pre_logits")
    score = lookup.find(*aligned, "odd_one_out")
    gain = lookup.find(*aligned, "odd_one_out_gain", "over:base")
    if base is None or score is None or gain is None:
        return paragraph("Nothing was scored.", "lead")

    text = (
        f"On objects that no training saw, the {MODEL_TITLES[aligned[0]]} agrees with people in {_format_score(score)} "
        f"% of the triplets, the base in {_format_score(base)} %: a gain of {_format_gain(gain)} points."
    )
    whose = f"Whose choices these are: {study.people.rstrip(',')}."
    return paragraph(text, "lead") + paragraph(whose) + _unfinished(study)


def _unfinished(study: Study) -> str:
    planned = study.folds * study.seeds
    if len(study.runs) == planned:
        return ""
    return paragraph(f"{len(study.runs)} of {planned} runs are finished: these figures are of those alone.", "note")


def _agreement_note(study: Study) -> str:
    objects = sum(run.test_objects for run in study.runs if run.result.seed == study.runs[0].result.seed)
    return (
        f"Odd-one-out agreement in %: means over folds{_seeds_note(study)}, in which {objects} objects were test "
        "objects once each, with 95 % intervals over objects. p: corrected for all gains (Holm)."
    )


def _seeds_note(study: Study) -> str:
    if study.seeds == 1:
        return ""
    return f" and {study.seeds} seeds"


def _comparisons_note(study: Study) -> str:
    questions = next(score.n for score in study.scores if score.metric == VOTES)
    return (
        f"People's own answers, which of two objects is more like a third, to {questions:,} questions about test "
        "objects alone: share of the votes that agree, and of the questions in which most people do, in % (guessing: "
        "50 %). Ceiling: the best possible answer; other people: what the majority of the other votes predicts. "
        "New among known: only the reference is a test object; its two candidates may have been trained on."
    )


def _kept_note() -> str:
    return "Scores in %, and changes from the base in points, with 95 % intervals; AUROC and neighbours times 100."


def _by_fold(study: Study) -> str:
    folds = []
    colours = {}
    for run in study.runs:
        agreement = {}
        for score in run.result.scores:
            if (score.dataset, score.metric, score.level) == ("objects", "odd_one_out", ""):
                title = title_of(score.model, score.layer)
                agreement[title] = score.value
                colours[title] = COLOURS.get(score.model, OTHER)
        folds.append(agreement)

    picture = plots.agreement_by_fold(folds, colours)
    caption = "A point for each fold; lines join the points of one fold, whose test objects are the same"
    return section("Fold by fold", figure(picture, caption, alternatives.of_folds(folds)))


def _protocol(study: Study) -> str:
    chosen = study.chosen or "not stated"
    texts = [
        f"The settings were written down on {study.frozen}, before the first fold. How they were chosen: {chosen}.",
        "In every run the objects of one fold are tested; those of the next fold choose what training leaves open: "
        "when to stop, and the student's place between old and new weights. Images of neither are trained on.",
        "The interval of a mean adds up the folds' own variances over objects, as their test objects are different "
        "ones; with several seeds the spread of the seeds' means comes on top. It leaves out that the folds' training "
        "sets overlap.",
    ]
    parts = [paragraph(text) for text in texts]
    return section("How it was measured", *parts, folded("All settings", preformatted(study.settings)))


def _format_score(score: PooledScore | None) -> str:
    if score is None:
        return "-"
    return format_interval(score.metric, score.value, score.low, score.high)


def _format_gain(gain: PooledScore | None) -> str:
    if gain is None:
        return "-"
    # The metric of a gain begins like that of its score, which decides between shares and plain numbers.
    return format_interval(gain.metric, gain.value, gain.low, gain.high, sign=True)


def _format_p(gain: PooledScore | None) -> str:
    if gain is None or isnan(gain.p_value):
        return "-"
    if gain.p_value < 0.001:
        return "< .001"
    return f"{gain.p_value:.3f}".removeprefix("0")


def _markdown_table(rows: Sequence[Row]) -> str:
    headings = list(rows[0])
    cells = [headings, ["---"] * len(headings), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _latex_table(rows: Sequence[Row]) -> str:
    headings = list(rows[0])
    lines = [f"\\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}", "\\toprule"]
    lines += [_latex_line(headings), "\\midrule"]
    lines += [_latex_line(list(row.values())) for row in rows]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"])


def _latex_line(cells: Sequence[str]) -> str:
    escaped = []
    for cell in cells:
        for character in "&%$#_{}":
            cell = cell.replace(character, f"\\{character}")
        escaped.append(cell.replace("<", "$<$"))
    return " & ".join(escaped) + r" \\"
