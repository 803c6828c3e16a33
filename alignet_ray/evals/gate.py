"""Whether a student may become the champion: nearer to people by a margin, and no worse at anything else."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

GENERALISATION = ("knn_category", "few_shot_1", "few_shot_5", "shift_source", "shift_target", "anomaly_auroc")
"""Scores (fractions) in which a student must not fall behind its base."""


class Decision(NamedTuple):
    """Whether the gate is open, and why: one sentence a criterion."""

    champion: bool
    reasons: list[str]


def decide(
    rows: Iterable[Mapping[str, Any]], margin: float = 0.02, tolerance: float = 0.01, layer: str = "pre_logits"
) -> Decision:
    """Judge a scores table.

    Args:
        rows: rows of the scores table (`table.to_pylist()`).
        margin: least gain of the student over the base in odd-one-out agreement (fraction).
        tolerance: largest loss against the base in any generalisation score (fraction).
        layer: the layer that users take.
    """
    found = {(r["model"], r["metric"]): r["value"] for r in rows if r["layer"] == layer and not r["level"]}
    checks = [_check(found, "odd_one_out", margin, "human agreement")]
    checks += [_check(found, metric, -tolerance, metric) for metric in GENERALISATION if ("base", metric) in found]
    reasons = [reason for _, reason in checks]
    if len(checks) == 1:
        reasons.append("generalisation was not scored: the objects have no categories, or too few images")
    return Decision(all(good for good, _ in checks), reasons)


def _check(found: Mapping[tuple[str, str], float], metric: str, least: float, name: str) -> tuple[bool, str]:
    base, student = found.get(("base", metric)), found.get(("student", metric))
    if base is None or student is None:
        return False, f"{name}: not scored for {'the base' if base is None else 'the student'}"
    change = student - base
    good = change >= least
    wanted = f"at least {100 * least:+.1f} points" if least else "no loss"
    verdict = "passed" if good else "failed"
    return good, f"{name}: {verdict}, {100 * base:.1f} -> {100 * student:.1f} % ({100 * change:+.1f}; {wanted} asked)"
