"""Scores that a section of the report picks, in the order of its rows."""

from alignet_ray.core.scores import Score
from alignet_ray.report import contents


def score(model: str, layer: str = "pre_logits", **changes: str) -> Score:
    tags = {"dataset": "objects", "metric": "rsa", "level": ""} | changes
    return Score(model=model, layer=layer, value=0.5, **tags)


def test_models_are_in_their_usual_order_others_last_and_the_backbone_before_the_head() -> None:
    mixed = [score("other"), score("student", "head"), score("human", ""), score("student"), score("base")]
    found = [(s.model, s.layer) for s in contents.select_scores(mixed, "rsa")]
    assert found == [
        ("base", "pre_logits"),
        ("student", "pre_logits"),
        ("student", "head"),
        ("human", ""),
        ("other", "pre_logits"),
    ]


def test_only_the_metric_the_level_and_the_data_that_were_asked_for() -> None:
    scores = [score("base"), score("base", metric="auc"), score("base", level="border"), score("base", dataset="ood")]
    assert contents.select_scores(scores, "rsa") == [scores[0]]
    assert contents.select_scores(scores, "auc") == [scores[1]]
    assert contents.select_scores(scores, "rsa", "border") == [scores[2]]
    assert contents.select_scores(scores, "rsa", dataset="ood") == [scores[3]]


def test_one_score_is_found_or_none() -> None:
    scores = [score("base", level="border"), score("student", "head")]
    assert contents.find_score(scores, "rsa", "student", "head") is scores[1]
    assert contents.find_score(scores, "rsa", "student", "pre_logits") is None
    assert contents.find_score(scores, "rsa", "base", "pre_logits") is None, "a score of one level only"


def test_titles_name_the_head() -> None:
    assert contents.score_title(score("student", "head")) == "aligned student, head"
    assert contents.score_title(score("human", "")) == "ceiling"
    assert contents.score_title(score("clip")) == "clip"
