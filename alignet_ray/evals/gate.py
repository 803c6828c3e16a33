"""Whether a student may become the champion: closer to people by a margin, and no worse at anything else."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from alignet_ray.core.scores import Score

GENERALISATION = ("knn_category", "few_shot_1", "few_shot_5", "shift_source", "shift_target", "anomaly_auroc")
"""Scores (fractions) in which a student must not fall behind its base."""


class Decision(NamedTuple):
    """Whether the student passed, and why: one sentence for each criterion."""

    champion: bool
    reasons: list[str]


class Check(NamedTuple):
    """Whether one criterion is met, and the sentence about it."""

    passed: bool
    reason: str


def decide(
    scores: Iterable[Score], margin: float = 0.02, tolerance: float = 0.01, layer: str = "pre_logits"
) -> Decision:
    """Compare student and base on the annotated objects.

    Args:
        scores: the scores table.
        margin: minimum gain of the student over the base in odd-one-out agreement (fraction).
        tolerance: maximum loss against the base in any generalisation score (fraction).
        layer: the layer that users take.
    """
    # Without a level: parts of the data are for the report, the decision is about all of it.
    values = {}
    for score in scores:
        if score.dataset == "objects" and score.layer == layer and not score.level:
            values[score.model, score.metric] = score.value

    champion, reason = _check(values, "odd_one_out", margin, "human agreement")
    reasons = [reason]
    for metric in GENERALISATION:
        # What the base was not scored on is missing for all models; a student without its score does fail.
        if ("base", metric) in values:
            passed, reason = _check(values, metric, -tolerance, metric)
            champion &= passed
            reasons.append(reason)

    if len(reasons) == 1:
        reasons.append("generalisation was not scored: the objects have no categories, or too few images")
    return Decision(champion, reasons)


def _check(values: Mapping[tuple[str, str], float], metric: str, min_change: float, title: str) -> Check:
    for model in ("base", "student"):
        if (model, metric) not in values:
            return Check(False, f"{title}: not scored for the {model}")

    base = values["base", metric]
    student = values["student", metric]
    change = student - base
    passed = change >= min_change
    verdict = "failed"
    if passed:
        verdict = "passed"
    required = "no loss"
    if min_change:
        required = f"at least {100 * min_change:+.1f} points"
    scored = f"{100 * base:.1f} -> {100 * student:.1f} %"
    return Check(passed, f"{title}: {verdict}, {scored} ({100 * change:+.1f}; {required} asked)")
