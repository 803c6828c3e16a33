"""Sections of the report about numbers: each function picks and formats what one template shows; None if nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan

from alignet_ray.core.scores import CHANCE, METRIC_TITLES, Score
from alignet_ray.evals import gate, ood
from alignet_ray.evals.compare import PERCENT_METRICS
from alignet_ray.evals.gate import Decision
from alignet_ray.evals.representation_drift import NEIGHBOURS
from alignet_ray.evals.spaces import MODEL_TITLES
from alignet_ray.report import figures
from alignet_ray.report.contents import ReportContents, Row, find_score, score_title, select_scores, subject

LARGEST_CATEGORIES = 8
"""Single categories that the table of parts shows."""

LEVEL_TITLES = {
    "margin:high": "clear for people",
    "margin:middle": "less clear",
    "margin:low": "unclear for people",
    "categories:between": "three categories",
    "categories:border": "two categories",
    "categories:within": "one category",
}
"""Parts of the triplets in the order of the table; single categories follow."""

GENERALISATION = (*gate.GENERALISATION, "ood_auroc", "ood_knn", "ood_probe")
"""Generalisation scores in the order of the table."""

EXTERNAL_TITLES = {
    ("answers", "odd_one_out"): "single answers of people, % given, too",
    ("choices", "two_afc"): "which of two is more alike, % of people who choose so",
    ("matrix", "rsa_spearman"): "people's similarity matrix, rank correlation",
    ("matrix", "rsa_spearman_participants"): "single people's matrices, mean rank correlation",
    ("answers", "entropy_time"): "response times, rank correlation with doubt",
}
"""Human judgements that had no part in the run: (dataset, metric) -> title of the row."""


@dataclass(frozen=True)
class Summary:
    """The headline, table and verdict.

    Attributes:
        base, aligned: agreement before and after, as fractions; None where one of them was not scored.
        is_student: whether `aligned` is a student; otherwise it is the teacher's map of stored features.
        points: their difference.
        rows: of the table.
        decision: whether the student may become the champion.
    """

    base: float | None
    aligned: float | None
    is_student: bool
    points: float
    rows: list[Row]
    decision: Decision | None


def summary(contents: ReportContents) -> Summary:
    """The headline, where base and student were scored, and the table of the command line."""
    rows = _models_as_rows(contents.summary)

    # The backbone's embedding, not the head: base and student have it both.
    base = find_score(contents.scores, "odd_one_out", "base", "pre_logits")
    model, layer = subject(contents.scores)
    aligned = find_score(contents.scores, "odd_one_out", model, layer)
    if base is None or aligned is None:
        return Summary(None, None, False, 0.0, rows, contents.decision)
    points = 100 * (aligned.value - base.value)
    return Summary(base.value, aligned.value, model == "student", points, rows, contents.decision)


def _models_as_rows(rows: Sequence[Row]) -> list[Row]:
    """The summary transposed, models as rows and layers as columns: narrow enough for a phone."""
    if not rows:
        return []

    turned = []
    for model in rows[0]:
        # The first column holds the layers, which become the headings.
        if model == "layer":
            continue

        is_scored = False
        model_row = {"agreement with people, %": model}
        for row in rows:
            # A line break inside an interval would be hard to read.
            model_row[row["layer"]] = row[model].replace(", ", ",\u00a0")
            is_scored |= row[model] != "-"
        if is_scored:
            turned.append(model_row)
    return turned


@dataclass(frozen=True)
class Bar:
    """A horizontal bar: a fraction, its 95 % interval, and the colour of the model."""

    name: str
    value: float
    interval: tuple[float, float] | None
    colour: str


@dataclass(frozen=True)
class AgreementBars:
    """A bar chart of every model's agreement with people.

    Attributes:
        bars: one for each model and layer.
        triplets: number of triplets behind each bar.
        scale: fraction at the right end of the bars.
        marks: fractions at which dashed lines stand: chance and the noise ceiling.
    """

    bars: list[Bar]
    triplets: int
    scale: float
    marks: list[float]


def agreement(contents: ReportContents) -> AgreementBars | None:
    """Bars of odd-one-out agreement over all triplets."""
    scores = select_scores(contents.scores, "odd_one_out")
    if not scores:
        return None

    bars = []
    marks = [CHANCE]
    longest = 0.0
    for score in scores:
        longest = max(longest, score.value)
        # A score without an interval has NaN for its bounds.
        interval = None
        if not isnan(score.low) and not isnan(score.high):
            interval = (score.low, score.high)
            longest = max(longest, score.high)
        colour = figures.COLOURS.get(score.model, figures.OTHER)
        bars.append(Bar(score_title(score), score.value, interval, colour))
        if score.model == "human":
            marks.append(score.value)

    # Every model is scored on the same triplets. Some room at the right, and no magnified differences near chance.
    return AgreementBars(bars, scores[0].n, max(1.08 * longest, 0.5), marks)


@dataclass(frozen=True)
class ScoreTable:
    """Rows of a table of scores."""

    rows: list[Row]


def levels(contents: ReportContents) -> ScoreTable | None:
    """Agreement on parts of the triplets; of the single categories, those with the most triplets."""
    by_level = {}
    category_sizes = {}
    # The level "" is all triplets together, which have a figure of their own.
    for level in sorted(_levels_of(contents.scores, "objects", "odd_one_out") - {""}, key=_level_position):
        by_level[level] = select_scores(contents.scores, "odd_one_out", level)
        if level.startswith("category:"):
            category_sizes[level] = by_level[level][0].n

    # There may be dozens of categories; the largest ones have the narrowest intervals.
    largest_first = sorted(category_sizes, key=lambda level: -category_sizes[level])
    for level in largest_first[LARGEST_CATEGORIES:]:
        del by_level[level]
    if not by_level:
        return None
    model, _ = subject(contents.scores)
    rows = [_level_row(level, scores, model) for level, scores in by_level.items()]
    return ScoreTable(rows)


def _levels_of(scores: Sequence[Score], dataset: str, metric: str) -> set[str]:
    """The parts of the data on which a metric was computed; "" is all of it."""
    return {score.level for score in scores if score.dataset == dataset and score.metric == metric}


def _level_position(level: str) -> tuple[int, str]:
    """Sorts levels as `LEVEL_TITLES` lists them, then single categories by name."""
    known = list(LEVEL_TITLES)
    if level in known:
        return known.index(level), ""
    return len(known), level


def _level_row(level: str, scores: Sequence[Score], model: str) -> Row:
    """A part of the triplets: agreement of all models, and the gain of the one that the report is about."""
    row = {"triplets": LEVEL_TITLES.get(level, level.removeprefix("category:"))}
    base_value = None
    for score in scores:
        # Beside a student the teacher has a section of its own.
        if score.model == "teacher" and model != "teacher":
            continue

        title = score_title(score)
        row[_without_alignment(title)] = f"{100 * score.value:.1f}"
        # The base comes first, so that the gain can stand beside the aligned model.
        if title == MODEL_TITLES["base"]:
            base_value = score.value
        if title == MODEL_TITLES[model] and base_value is not None:
            row["gain"] = f"{100 * (score.value - base_value):+.1f}"
    row["number"] = f"{scores[0].n:,}"
    return row


def _without_alignment(title: str) -> str:
    """`aligned student` -> `student`, `unaligned control` -> `control`: short enough for a column."""
    return title.replace("unaligned ", "").replace("aligned ", "")


def external(contents: ReportContents) -> ScoreTable | None:
    """Agreement with judgements that had no part in the run."""
    rows = []
    for (dataset, metric), title in EXTERNAL_TITLES.items():
        # `correlation` is the same figure from Pearson correlations of features, for the table of scores alone.
        for level in sorted(_levels_of(contents.scores, dataset, metric) - {"correlation"}):
            row = {"judgements": title}
            if level:
                row["judgements"] = f"{title}, {level}"

            for score in select_scores(contents.scores, metric, level, dataset):
                if score.model != "teacher":
                    row[score_title(score)] = _external_value(metric, score.value)
            rows.append(row)

    if not rows:
        return None
    return ScoreTable(_same_columns(rows))


def _external_value(metric: str, value: float) -> str:
    if metric.startswith(PERCENT_METRICS):
        return f"{100 * value:.1f}"
    return f"{value:.3f}"


def _same_columns(rows: Sequence[Row]) -> list[Row]:
    """Rows with the same columns in the same order: a dash where one has none."""
    # A dict as an ordered set: columns in order of first appearance.
    columns: dict[str, None] = {}
    for row in rows:
        columns |= dict.fromkeys(row)
    blank = dict.fromkeys(columns, "-")
    return [blank | row for row in rows]


def generalisation(contents: ReportContents) -> ScoreTable | None:
    """What simple classifiers on frozen features reach, percent, and how the student differs from the base."""
    rows = []
    for metric in GENERALISATION:
        row = _generalisation_row(contents.scores, metric, METRIC_TITLES[metric], subject(contents.scores))
        if row:
            rows.append(row)
    if not rows:
        return None
    return ScoreTable(_same_columns(rows))


def _generalisation_row(scores: Sequence[Score], metric: str, title: str, aligned: tuple[str, str]) -> Row | None:
    """One score of all models, and the change of the aligned one; None where the base has none."""
    dataset = "objects"
    if metric.startswith("ood_"):
        dataset = ood.DATASET
    values = {}
    for score in select_scores(scores, metric, "", dataset):
        # One embedding a model: the backbone's, or the teacher's aligned space.
        if score.layer in ("pre_logits", "aligned"):
            values[score.model] = score.value
    if "base" not in values:
        return None

    row = {"score": title}
    for model, value in values.items():
        row[_without_alignment(MODEL_TITLES.get(model, model))] = f"{100 * value:.1f}"
    model, _ = aligned
    if model in values:
        change = f"{100 * (values[model] - values['base']):+.1f}"
        row["change"] = change + _gain_interval(scores, metric, dataset, aligned)
    return row


def _gain_interval(scores: Sequence[Score], metric: str, dataset: str, aligned: tuple[str, str]) -> str:
    """The interval of a model's gain over the base, in points; empty where it was not computed."""
    for gain in select_scores(scores, f"{metric}_gain", "over:base", dataset):
        if (gain.model, gain.layer) == aligned:
            return f" [{100 * gain.low:+.1f},\u00a0{100 * gain.high:+.1f}]"
    return ""


def drift(contents: ReportContents) -> ScoreTable | None:
    """How much of the base's structure each trained model keeps."""
    cka_to_base = _by_space(select_scores(contents.scores, "cka_to_base"))
    rsa_to_people = _by_space(select_scores(contents.scores, "rsa_spearman"))

    kept = select_scores(contents.scores, "neighbours_kept")
    if not kept:
        return None

    # CKA and the correlation are not computed for every space that has neighbours: their cells may stay empty.
    rows = [_base_row(rsa_to_people)]
    for score in kept:
        space = (score.model, score.layer)
        rows.append(
            {
                "model": score_title(score),
                "neighbours kept": f"{100 * score.value:.1f} %",
                "CKA to the base": _three_digits(cka_to_base.get(space)),
                "rank correlation with people": _three_digits(rsa_to_people.get(space)),
            }
        )
    # Of n - 1 other images, any ten are an image's nearest by chance alone.
    by_chance = NEIGHBOURS / (kept[0].n - 1)
    rows.append(
        {
            "model": "by chance",
            "neighbours kept": f"{100 * by_chance:.1f} %",
            "CKA to the base": "-",
            "rank correlation with people": _three_digits(0.0),
        }
    )
    return ScoreTable(rows)


def _base_row(rsa_to_people: Mapping[tuple[str, str], float]) -> Row:
    """The network before training keeps all of itself."""
    return {
        "model": MODEL_TITLES["base"],
        "neighbours kept": "100.0 %",
        "CKA to the base": _three_digits(1.0),
        "rank correlation with people": _three_digits(rsa_to_people.get(("base", "pre_logits"))),
    }


def _by_space(scores: Sequence[Score]) -> Mapping[tuple[str, str], float]:
    return {(score.model, score.layer): score.value for score in scores}


def _three_digits(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}"
