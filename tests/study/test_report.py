from dataclasses import replace

import pytest

from alignet_ray.core.scores import Score
from alignet_ray.study import report
from alignet_ray.study.pooling import FoldScores, pool


def scores(shift: float) -> list[Score]:
    """Base, student and ceiling of one fold; a level of triplets, two scores of what was kept."""

    def row(model: str, layer: str, metric: str, value: float, level: str = "") -> Score:
        return Score(model, layer, "objects", metric, value, value - 0.02, value + 0.02, 100, level)

    return [
        row("base", "pre_logits", "odd_one_out", 0.40 + shift),
        row("base", "pre_logits", "odd_one_out", 0.5, "categories:border"),
        row("student", "pre_logits", "odd_one_out", 0.48 + shift),
        row("student", "pre_logits", "odd_one_out_gain", 0.08, "over:base"),
        row("human", "", "odd_one_out", 0.66 + shift),
        row("base", "pre_logits", "few_shot_1", 0.46),
        row("student", "pre_logits", "few_shot_1_gain", -0.01, "over:base"),
        row("student", "pre_logits", "neighbours_kept", 0.6),
    ]


@pytest.fixture
def study() -> report.Study:
    runs = []
    for fold, shift in enumerate((0.0, 0.02)):
        result = FoldScores(0, fold, scores(shift))
        runs.append(report.FoldRun(result, f"tiny-fold{fold}", 20 + fold, 0.65, {"align": 60.0, "distill": 65.0}))
    return report.Study(
        title="tiny: 3 folds",
        people="people, as a model of 500 of their answers predicts them,",
        frozen="2026-01-02 03:04",
        chosen="nine settings on validation objects <of split 0>",
        folds=3,
        seeds=1,
        runs=runs,
        scores=pool([run.result for run in runs]),
        settings="seed: 0",
    )


def test_rows_of_agreement(study: report.Study) -> None:
    base, student, human = report.agreement_rows(study.scores)
    assert base["model"] == "base features"
    assert base["all triplets"] == "41.0 [39.6, 42.4]"  # each fold +-2, so their mean +-2 / sqrt(2)
    assert base["gain over base"] == base["p"] == "-"
    assert base["two categories"] == "50.0 [48.6, 51.4]"
    assert student["gain over base"] == "+8.0 [+6.6, +9.4]"
    assert student["p"] == "< .001"
    assert (human["model"], human["one category"]) == ("ceiling", "-")


def test_rows_of_what_was_kept(study: report.Study) -> None:
    few_shot, neighbours = report.kept_rows(study.scores)
    assert few_shot == {
        "score": "object, learned from 1 image",
        "base": "46.0 [44.6, 47.4]",
        "student features": "-1.0 [-2.4, +0.4]",
    }
    assert neighbours["student features"] == "60.0 [58.6, 61.4]"


def test_the_page_says_what_was_done_and_what_is_missing(study: report.Study) -> None:
    page = report.build(study)
    assert "the aligned student agrees with people in 49.0 [47.6, 50.4] % of the triplets" in page
    assert "2 of 3 runs are finished" in page
    assert "41 objects were test objects once each" in page
    assert "2026-01-02 03:04" in page
    assert "nine settings on validation objects &lt;of split 0&gt;" in page
    assert "2 min 05 s" in page
    assert "data:image/png" in page


def test_a_study_of_features_is_about_the_teacher(study: report.Study) -> None:
    def rename(text: str) -> str:
        return {"student": "teacher", "pre_logits": "aligned"}.get(text, text)

    renamed = []
    for row in study.scores:
        if row.model == "student":
            row = replace(row, model=rename(row.model), layer=rename(row.layer))
        renamed.append(row)
    runs = [replace(run, interpolation=None) for run in study.runs]
    page = report.build(replace(study, scores=renamed, runs=runs))
    assert "the teacher agrees with people in 49.0 [47.6, 50.4] % of the triplets, the base in 41.0" in page
    assert "student head" not in page
    assert "student at" not in page


def test_tables_for_papers(study: report.Study) -> None:
    text = report.markdown(study)
    assert "| base features | 41.0 [39.6, 42.4] | - | - |" in text
    assert "|---|" in text.replace(" ", "")

    tex = report.latex(study)
    assert r"student features & 49.0 [47.6, 50.4] & +8.0 [+6.6, +9.4] & $<$ .001" in tex
    assert tex.count(r"\begin{tabular}{l") == tex.count(r"\end{tabular}") == 2
    # A bare percent sign would hide the rest of its line.
    assert not [line for line in tex.splitlines() if "%" in line.replace(r"\%", "") and not line.startswith("%")]
