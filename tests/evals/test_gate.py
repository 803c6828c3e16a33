import pytest

from alignet_ray.core.scores import Score
from alignet_ray.evals import gate
from alignet_ray.evals.gate import Verdict

NAN = float("nan")


def rows(**gains: tuple[float, float, float]) -> list[Score]:
    """metric=(gain, low, high), over a base of 0.4."""
    found = []
    for metric, (gain, low, high) in gains.items():
        found.append(Score("base", "pre_logits", "objects", metric, 0.4))
        found.append(Score("student", "pre_logits", "objects", metric, 0.4 + gain))
        found.append(Score("student", "pre_logits", "objects", f"{metric}_gain", gain, low, high, level="over:base"))
    return found


def test_nearer_to_people_and_no_worse() -> None:
    found = gate.decide(rows(odd_one_out=(0.09, 0.07, 0.11), shift_target=(0.02, -0.005, 0.05)))
    assert (found.verdict, found.nearer, found.kept) == (Verdict.YES, Verdict.YES, Verdict.YES)
    assert found.reasons == [
        "agreement with people: yes, +9.0 [+7.0, +11.0] points (at least +2.0 asked)",
        "category, objects never seen: yes, +2.0 [-0.5, +5.0] points (at least -1.0 asked)",
    ]


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [
        ((0.015, 0.012, 0.018), Verdict.NO),
        ((0.03, 0.01, 0.05), Verdict.CANNOT_TELL),
        ((0.03, 0.02, 0.04), Verdict.YES),
        ((0.03, NAN, NAN), Verdict.CANNOT_TELL),
    ],
)
def test_the_gain_is_judged_by_its_interval(gain: tuple[float, float, float], verdict: Verdict) -> None:
    assert gate.decide(rows(odd_one_out=gain, knn_category=(0.1, 0.05, 0.15))).nearer is verdict


def test_noise_is_no_verdict() -> None:
    """-1.3 [-2.9, 0.0] is no loss, and +2.0 [-9, +15] is no proof that nothing was lost."""
    for change in ((-0.013, -0.029, 0.0), (0.02, -0.09, 0.15)):
        found = gate.decide(rows(odd_one_out=(0.09, 0.07, 0.11), few_shot_1=change))
        assert (found.verdict, found.kept) == (Verdict.CANNOT_TELL, Verdict.CANNOT_TELL)


def test_one_loss_decides() -> None:
    found = gate.decide(
        rows(odd_one_out=(0.2, 0.1, 0.3), knn_category=(0.02, 0.01, 0.03), few_shot_1=(-0.05, -0.08, -0.02))
    )
    assert found.verdict is Verdict.NO
    assert [reason.split(":")[0] for reason in found.reasons if ": no," in reason] == ["object, learned from 1 image"]


def test_without_paired_differences_both_intervals_count() -> None:
    """Worked: half widths 0.03 and 0.04 make 0.05."""
    scores = rows(odd_one_out=(0.09, 0.07, 0.11))
    scores.append(Score("base", "pre_logits", "objects", "anomaly_auroc", 0.7, 0.67, 0.73))
    scores.append(Score("student", "pre_logits", "objects", "anomaly_auroc", 0.8, 0.76, 0.84))
    assert gate.decide(scores).reasons[-1] == (
        "spotting images of another category (AUROC): yes, +10.0 [+5.0, +15.0] points (at least -1.0 asked)"
    )


def test_what_was_not_scored_is_not_known() -> None:
    found = gate.decide(rows(odd_one_out=(0.2, 0.1, 0.3)))
    assert (found.nearer, found.kept, found.verdict) == (Verdict.YES, Verdict.CANNOT_TELL, Verdict.CANNOT_TELL)
    assert "not scored" in found.reasons[-1]
    assert gate.decide([]).verdict is Verdict.CANNOT_TELL
