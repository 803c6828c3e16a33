"""Whether a student may become the champion: closer to people by a margin, and no worse at anything else.

Decided on validation objects, by 95 % intervals of differences to the base on the same items. An interval that does not
settle a question is no verdict: with few objects it is often wider than what is asked.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from math import hypot, isnan

from alignet_ray.core.scores import METRIC_TITLES, Score

GENERALISATION = (
    "knn_category",
    "few_shot_1",
    "few_shot_5",
    "same_object",
    "shift_source",
    "shift_target",
    "anomaly_auroc",
)
"""Scores (fractions) in which a student must not fall behind its base."""

LAYER = "pre_logits"
"""The layer that users take; base and student have it both."""


class Verdict(StrEnum):
    """Answer to a question about the student."""

    YES = "yes"
    NO = "no"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Decision:
    """Whether the student passed, and why.

    Attributes:
        verdict: whether it may become the champion.
        nearer: whether it is nearer to people.
        kept: whether it is no worse at anything else.
        reasons: one sentence for each criterion.
    """

    verdict: Verdict
    nearer: Verdict
    kept: Verdict
    reasons: list[str]


def decide(scores: Iterable[Score], margin: float = 0.02, tolerance: float = 0.01) -> Decision:
    """Compare student and base on annotated objects.

    Args:
        scores: of the validation objects.
        margin: least gain of the student over the base in odd-one-out agreement (fraction).
        tolerance: largest loss against the base in any generalisation score (fraction).
    """
    # Without a level: parts of the data are for the report, the decision is about all of it.
    found = {}
    for score in scores:
        if score.dataset == "objects" and score.layer == LAYER and score.level in ("", "over:base"):
            found[score.model, score.metric] = score

    nearer = Verdict.CANNOT_TELL
    reasons = [f"{METRIC_TITLES['odd_one_out']}: not scored"]
    change = _change(found, "odd_one_out")
    if change is not None:
        nearer = _at_least(change, margin)
        reasons = [_reason("odd_one_out", nearer, change, f"at least {100 * margin:+.1f}")]

    # What the base was not scored on is missing for all models.
    verdicts = []
    for metric in GENERALISATION:
        change = _change(found, metric)
        if change is not None:
            verdicts.append(_at_least(change, -tolerance))
            reasons.append(_reason(metric, verdicts[-1], change, f"at least {-100 * tolerance:+.1f}"))
    if not verdicts:
        reasons.append("generalisation was not scored: the objects have no categories, or too few images")

    kept = _all(verdicts)
    return Decision(_all([nearer, kept]), nearer, kept, reasons)


def _change(found: Mapping[tuple[str, str], Score], metric: str) -> Score | None:
    """The student's difference to its base with its interval; None where one of them was not scored."""
    if ("base", metric) not in found or ("student", metric) not in found:
        return None

    # A paired difference is much narrower than that of two scores by themselves, which some metrics only have.
    gain = found.get(("student", f"{metric}_gain"))
    if gain is not None:
        return gain
    base = found["base", metric]
    student = found["student", metric]
    value = student.value - base.value
    half_width = hypot((base.high - base.low) / 2, (student.high - student.low) / 2)
    return replace(student, metric=f"{metric}_gain", value=value, low=value - half_width, high=value + half_width)


def _at_least(change: Score, least: float) -> Verdict:
    # Scores of very few items have no interval.
    if isnan(change.low) or isnan(change.high):
        return Verdict.CANNOT_TELL
    if change.low >= least:
        return Verdict.YES
    if change.high < least:
        return Verdict.NO
    return Verdict.CANNOT_TELL


def _all(verdicts: list[Verdict]) -> Verdict:
    """Yes if all are; no if one is; nothing asked is nothing known."""
    if Verdict.NO in verdicts:
        return Verdict.NO
    if verdicts and all(verdict is Verdict.YES for verdict in verdicts):
        return Verdict.YES
    return Verdict.CANNOT_TELL


def _reason(metric: str, verdict: Verdict, change: Score, asked: str) -> str:
    interval = f"[{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
    return f"{METRIC_TITLES[metric]}: {verdict}, {100 * change.value:+.1f} {interval} points ({asked} asked)"
