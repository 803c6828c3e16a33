"""The table at the end of a run: `base | teacher | aligned student | unaligned control | ceiling`."""

from collections.abc import Sequence

from alignet_ray.core.scores import CHANCE, Score
from alignet_ray.evals.reference_comparisons import OTHERS, OTHERS_TITLE, VOTES
from alignet_ray.evals.spaces import MODEL_TITLES
from alignet_ray.screen import table


def rows(scores: Sequence[Score], other_models: Sequence[str] = ()) -> list[dict[str, str]]:
    """Agreement with people in percent, with its interval: a row for each layer, a column for each model.

    Base, teacher, ceiling and other models have one layer each, and stand in both rows.
    """
    agreement = {}
    for score in scores:
        if (score.dataset, score.metric, score.level) == ("objects", "odd_one_out", ""):
            agreement[score.model, score.layer] = score

    # Student and control are not listed: they have both layers, and a row for each.
    only_layer = {"base": "pre_logits", "teacher": "aligned", "human": ""} | dict.fromkeys(other_models, "pre_logits")
    titles = MODEL_TITLES | dict(zip(other_models, other_models, strict=True))
    layers = ["pre_logits", "head"]
    if not any(model == "student" for model, _ in agreement):
        # A run on stored features has no student: its table is one row, without columns of dashes.
        titles = {model: title for model, title in titles.items() if model not in ("student", "control")}
        layers = ["pre_logits"]
    result = []
    for layer in layers:
        row = {"layer": layer}
        for model, title in titles.items():
            scored_layer = only_layer.get(model, layer)
            row[title] = _cell(agreement.get((model, scored_layer)))
        result.append(row)
    return result


def comparison_line(scores: Sequence[Score]) -> str:
    """Agreement with people's own reference comparisons in one line; empty where they were asked too few."""
    parts = []
    questions = 0
    for score in scores:
        if (score.metric, score.level) == (VOTES, ""):
            title = MODEL_TITLES.get(score.model, score.model)
            if score.layer == "head":
                title = f"{title} head"
            if (score.model, score.layer) == OTHERS:
                title = OTHERS_TITLE

            # All models answer the same questions, so any score has their number.
            parts.append(f"{title} {_cell(score)}")
            questions = score.n

    if not parts:
        return ""
    return f"which of two is more like a third, % of people's votes, {questions:,} questions: {'; '.join(parts)}"


def _cell(score: Score | None) -> str:
    if score is None:
        return "-"
    return f"{100 * score.value:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def lines(rows: list[dict[str, str]], triplets: int, objects: int, compared: str = "") -> list[str]:
    """The table as lines of text, under a line that says what it is about, and what `comparison_line` gives."""
    about = (
        f"odd-one-out agreement with people, %, on {triplets:,} triplets of {objects} test objects "
        f"(chance {100 * CHANCE:.1f}; 95 % intervals over objects)"
    )
    found = [about, *table(rows).splitlines()]
    if compared:
        found.append(compared)
    return found
