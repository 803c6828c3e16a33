from dataclasses import replace

import pytest

from alignet_ray.core.scores import Score
from alignet_ray.evals.gate import Decision, Verdict
from alignet_ray.report import table_sections
from alignet_ray.report.about import About
from alignet_ray.report.contents import ReportContents
from alignet_ray.report.rendering import render


def score(model: str, metric: str, value: float, **more: object) -> Score:
    return Score(model, "" if model == "human" else "pre_logits", "objects", metric, value, n=40, **more)  # type: ignore[arg-type]


def contents(*scores: Score, **more: object) -> ReportContents:
    return ReportContents("run", {}, [], list(scores), **more)  # type: ignore[arg-type]


AGREEMENT = (
    score("student", "odd_one_out", 0.5, low=0.4, high=0.6),
    score("base", "odd_one_out", 0.4),
    score("human", "odd_one_out", 0.7),
)


def test_the_headline_compares_student_and_base() -> None:
    summary = table_sections.summary(contents(*AGREEMENT))
    assert (summary.base, summary.aligned, summary.points) == (0.4, 0.5, pytest.approx(10))
    assert summary.is_student
    assert table_sections.summary(contents(AGREEMENT[0])).aligned is None


def test_without_a_student_the_report_is_about_the_teacher() -> None:
    def aligned(metric: str, value: float, level: str = "") -> Score:
        return replace(score("teacher", metric, value, level=level), layer="aligned")

    scores = [score("base", "odd_one_out", 0.4), aligned("odd_one_out", 0.55)]
    scores += [score("base", "odd_one_out", 0.4, level="margin:low")]
    scores += [aligned("odd_one_out", 0.5, "margin:low")]
    scores += [score("base", "knn_category", 0.5), aligned("knn_category", 0.6)]
    shown = contents(*scores)
    summary = table_sections.summary(shown)
    assert (summary.aligned, summary.is_student, summary.points) == (0.55, False, pytest.approx(15))
    levels = table_sections.levels(shown)
    assert levels is not None
    assert (levels.rows[0]["teacher"], levels.rows[0]["gain"]) == ("50.0", "+10.0")
    generalisation = table_sections.generalisation(shown)
    assert generalisation is not None
    assert generalisation.rows[0]["change"] == "+10.0"


def test_bars_are_in_the_usual_order_with_chance_and_ceiling() -> None:
    found = table_sections.agreement(contents(*AGREEMENT))
    assert found is not None
    assert [bar.name for bar in found.bars] == ["base", "aligned student", "ceiling"]
    assert [bar.interval for bar in found.bars] == [None, (0.4, 0.6), None]
    assert found.marks == pytest.approx([1 / 3, 0.7])
    assert found.scale == pytest.approx(1.08 * 0.7)
    assert table_sections.agreement(contents()) is None


def test_levels_show_the_gain_and_the_largest_categories() -> None:
    scores = [score(model, "odd_one_out", 0.4, level="margin:high") for model in ("base", "student")]
    scores += [score("base", "odd_one_out", 0.4, level=f"category:{number:02}") for number in range(12)]
    found = table_sections.levels(contents(*scores))
    assert found is not None
    assert found.rows[0] == {
        "triplets": "clear for people",
        "base": "40.0",
        "student": "40.0",
        "gain": "+0.0",
        "number": "40",
    }
    assert [row["triplets"] for row in found.rows[1:]] == [f"{number:02}" for number in range(8)]


def test_generalisation_shows_the_change_with_its_interval() -> None:
    scores = [score("base", "knn_category", 0.5), score("student", "knn_category", 0.55)]
    scores.append(score("student", "knn_category_gain", 0.05, low=-0.01, high=0.11, level="over:base"))
    found = table_sections.generalisation(contents(*scores))
    assert found is not None
    assert found.rows[0]["change"] == "+5.0 [-1.0,\u00a0+11.0]"
    assert table_sections.generalisation(contents(scores[1])) is None


def test_external_judgements_are_shares_or_correlations() -> None:
    scores = [
        Score("base", "pre_logits", "choices", "two_afc", 0.8),
        Score("base", "pre_logits", "matrix", "rsa_spearman", 0.1234),
        Score("human", "", "choices", "two_afc", 0.9),
    ]
    found = table_sections.external(contents(*scores))
    assert found is not None
    assert [row["base"] for row in found.rows] == ["80.0", "0.123"]
    assert [row["ceiling"] for row in found.rows] == ["90.0", "-"]


def test_the_verdict_comes_with_the_summary() -> None:
    decision = Decision(Verdict.CANNOT_TELL, Verdict.YES, Verdict.CANNOT_TELL, ["because"])
    summary = table_sections.summary(contents(*AGREEMENT, decision=decision))
    page = " ".join(
        render("sections/summary.html", title="t", about=About("today", {}), people="P", summary=summary).split()
    )
    assert "Nearer to people: <b>yes</b>" in page
    assert "No worse at anything else: <b>cannot tell</b>" in page
    assert "odd one out as P in 50.0 % of cases" in page
    assert "<li>because</li>" in page


def test_what_was_kept_stands_between_the_base_and_chance() -> None:
    kept = score("student", "neighbours_kept", 0.61)
    found = table_sections.drift(contents(kept, score("base", "rsa_spearman", 0.2)))
    assert found is not None
    assert [row["model"] for row in found.rows] == ["base", "aligned student", "by chance"]
    assert [row["neighbours kept"] for row in found.rows] == ["100.0 %", "61.0 %", f"{1000 / 39:.1f} %"]
    assert found.rows[0]["rank correlation with people"] == "0.200"
    assert table_sections.drift(contents()) is None
