from alignet_ray.artifacts.evaluate import SetFacts
from alignet_ray.core.scores import Score
from alignet_ray.report import build
from alignet_ray.report.contents import ReportContents
from alignet_ray.report.set_section import sets

LEVELS = SetFacts("levels", "odd_one_out", 12, 3, 0, 1200, 40, 31, "Somebody 2025", "CC-BY 4.0")
MATRIX = SetFacts("rsa", "matrix", 92, 0, 2, 4186, 0, 0)


def score(model: str, dataset: str, metric: str, value: float, level: str = "", **more: float) -> Score:
    layer = "" if model == "human" else "pre_logits"
    return Score(model, layer, dataset, metric, value, level=level, split="", **({"n": 1200} | more))  # type: ignore[arg-type]


SCORES = [
    score("human", "levels", "odd_one_out", 0.7, n=300),
    score("student", "levels", "odd_one_out", 0.55, low=0.5, high=0.6),
    score("base", "levels", "odd_one_out", 0.4, low=0.35, high=0.45),
    score("base", "levels", "odd_one_out", 0.3, level="class_border"),
    score("base", "objects", "odd_one_out", 0.9),
    score("base", "rsa", "rsa_spearman", 0.31, low=0.2, high=0.4, n=4186),
    score("base", "rsa", "rsa_spearman", 0.99, level="correlation"),
    score("human", "rsa", "rsa_spearman_participants", 0.48, low=0.48, high=0.58, n=16),
]


def contents(*facts: SetFacts) -> ReportContents:
    return ReportContents("run", {}, [], SCORES, sets=facts)


def test_models_stand_in_their_usual_order_with_the_ceiling_last() -> None:
    (table,) = sets(contents(LEVELS))
    assert [row["who"] for row in table.rows] == ["base", "aligned student", "ceiling"]
    assert table.rows[0] == {
        "who": "base",
        "answers, %": "40.0 [35.0,\u00a045.0]",
        "class_border, %": "30.0",
        "n": "1,200",
    }
    assert table.rows[1]["class_border, %"] == "-"
    assert table.rows[2]["n"] == "300"


def test_correlations_have_a_column_each_and_a_ceiling_of_two_bounds() -> None:
    (table,) = sets(contents(MATRIX))
    assert table.rows == [
        {
            "who": "base",
            "mean matrix, rank correlation": "0.310 [0.200,\u00a00.400]",
            "single people's, rank correlation": "-",
            "n": "4,186",
        },
        {
            "who": "ceiling",
            "mean matrix, rank correlation": "-",
            "single people's, rank correlation": "0.480 to 0.580",
            "n": "16",
        },
    ]


def test_what_was_left_out_is_said() -> None:
    (table,) = sets(contents(LEVELS))
    assert table.counts == [
        "1,200 answers to which of three images is the odd one out by 31 people, about 12 images.",
        "Left out because training saw the image as well: 3 images.",
        "Judgements about images that were left out: 40.",
    ]
    assert table.source == "Somebody 2025; licence: CC-BY 4.0"
    (table,) = sets(contents(MATRIX))
    assert table.counts[1] == "Left out because training saw the image as well: 0 images."
    assert table.counts[2] == "Left out because a model could not read them: 2 images."
    assert table.source == ""


def test_the_page_has_a_section_only_where_there_are_sets() -> None:
    html = build(contents(LEVELS, MATRIX))
    assert '<section id="sets">' in html
    assert "Other human data" in html
    assert html.count("<h3>") >= 2
    assert "Source: Somebody 2025; licence: CC-BY 4.0." in html
    assert '<section id="sets">' not in build(contents())


def test_a_set_of_which_nothing_is_left_has_no_table() -> None:
    empty = SetFacts("gone", "choices", 5, 5, 0, 0, 9, 0)
    (table,) = sets(contents(empty))
    assert table.rows == []
    assert "Nothing is left to score." in build(contents(empty))
