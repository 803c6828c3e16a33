"""The table at the end of a run: one row a layer, one column a model, intervals in percent."""

from alignet_ray.core.scores import Score
from alignet_ray.evals import summary


def score(model: str, layer: str, value: float, **changes: str) -> Score:
    """Of all test objects; the interval is two points to each side."""
    tags = {"dataset": "objects", "metric": "odd_one_out", "level": ""} | changes
    return Score(
        model=model, layer=layer, value=value, low=value - 0.02, high=value + 0.02, n=10, split="test", seed=0, **tags
    )


SCORES = [
    score("base", "pre_logits", 0.4),
    score("teacher", "aligned", 0.6),
    score("student", "pre_logits", 0.5),
    score("student", "head", 0.55),
    score("control", "pre_logits", 0.45),
    score("human", "", 0.7),
    score("clip", "pre_logits", 0.42),
]


def test_models_of_one_layer_stand_in_both_rows() -> None:
    backbone, head = summary.rows(SCORES, ["clip"])
    assert list(backbone) == ["layer", "base", "teacher", "aligned student", "unaligned control", "ceiling", "clip"]
    for model in ("base", "teacher", "ceiling", "clip"):
        assert backbone[model] == head[model]
    assert backbone["aligned student"] == "50.0 [48.0, 52.0]"
    assert head["aligned student"] == "55.0 [53.0, 57.0]"


def test_what_was_not_scored_is_a_dash() -> None:
    _, head = summary.rows(SCORES)
    assert head["unaligned control"] == "-"
    assert set(summary.rows([])[0].values()) == {"pre_logits", "-"}


def test_other_metrics_levels_and_data_do_not_stand_in_it() -> None:
    others = [
        score("base", "pre_logits", 0.9, metric="rsa"),
        score("base", "pre_logits", 0.9, level="border"),
        score("base", "pre_logits", 0.9, dataset="levels"),
    ]
    assert summary.rows([*SCORES, *others]) == summary.rows(SCORES)


def test_a_line_above_says_what_the_numbers_are() -> None:
    about, *table = summary.lines(summary.rows(SCORES), 12_345, 50)
    assert "12,345 triplets of 50 test objects (chance 33.3; 95 % intervals over objects)" in about
    assert len({len(line.rstrip()) for line in table}) <= len(table)
    assert "layer" in table[0]
    assert any("head" in line for line in table)
