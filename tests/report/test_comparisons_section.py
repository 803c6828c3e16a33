from alignet_ray import report
from alignet_ray.core.scores import Score
from alignet_ray.report.comparisons_section import comparisons
from alignet_ray.report.contents import ReportContents

SCORES = [
    Score("base", "pre_logits", "objects", "comparison_votes", 0.7, 0.65, 0.75, 120),
    Score("student", "pre_logits", "objects", "comparison_votes", 0.76, 0.71, 0.8, 120),
    Score("student", "pre_logits", "objects", "comparison_votes_gain", 0.06, 0.02, 0.1, 120, "over:base"),
    Score("human", "", "objects", "comparison_votes", 0.83, 0.8, 0.86, 120),
    Score("base", "pre_logits", "objects", "comparison_majority", 0.8, 0.7, 0.9, 100),
]


def test_a_row_for_each_model_with_its_gain() -> None:
    found = comparisons(ReportContents("title", {}, [], SCORES))
    assert found is not None
    assert found.questions == 120
    assert [row["model"] for row in found.rows] == ["base", "aligned student", "ceiling"]
    assert found.rows[0] == {
        "model": "base",
        "votes": "70.0 [65.0, 75.0]",
        "gain over base": "-",
        "most people": "80.0 [70.0, 90.0]",
        "votes, a new object among known ones": "-",
    }
    assert found.rows[1]["gain over base"] == "+6.0 [+2.0, +10.0]"


def test_the_section_stands_in_the_report_where_people_were_asked() -> None:
    assert "Which of two is more like a third?" in report.build(ReportContents("title", {}, [], SCORES))
    assert comparisons(ReportContents("title", {}, [], [])) is None
    assert "Which of two" not in report.build(ReportContents("title", {}, [], []))
