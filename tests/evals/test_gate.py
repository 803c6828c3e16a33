from alignet_ray.core.scores import Score
from alignet_ray.evals import gate


def rows(**values: tuple[float, float]) -> list[Score]:
    """metric=(base, student)"""
    return [
        Score(model, "pre_logits", "objects", metric, value)
        for metric, pair in values.items()
        for model, value in zip(("base", "student"), pair, strict=True)
    ]


def test_open_when_nearer_to_people_and_no_worse() -> None:
    found = gate.decide(rows(odd_one_out=(0.37, 0.46), shift_target=(0.5, 0.495)))
    assert found.champion
    assert found.reasons[0] == "human agreement: passed, 37.0 -> 46.0 % (+9.0; at least +2.0 points asked)"
    assert found.reasons[1].startswith("shift_target: passed")


def test_shut_when_the_gain_is_small() -> None:
    assert not gate.decide(rows(odd_one_out=(0.37, 0.385))).champion


def test_shut_when_anything_falls_by_more_than_a_point() -> None:
    found = gate.decide(rows(odd_one_out=(0.37, 0.6), knn_category=(0.5, 0.52), few_shot_1=(0.6, 0.58)))
    assert not found.champion
    assert [r.split(":")[0] for r in found.reasons if "failed" in r] == ["few_shot_1"]


def test_says_when_something_was_not_scored() -> None:
    found = gate.decide(rows(odd_one_out=(0.37, 0.6)))
    assert found.champion
    assert "not scored" in found.reasons[-1]
    assert not gate.decide([r for r in rows(odd_one_out=(0.37, 0.6)) if r.model == "base"]).champion
