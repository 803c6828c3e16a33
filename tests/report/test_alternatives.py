import numpy as np

from alignet_ray.report import alternatives
from alignet_ray.report.figures import Line


def test_a_line_is_told_by_its_ends_and_its_turn() -> None:
    lines = [
        Line("loss", [0, 500, 1000], [1.0, 0.25, 0.5], "#000000"),
        Line("agreement", [0, 500, 1000], [0.3, 0.61, 0.6], "#000000"),
        Line("steady", [0, 1000], [0.3, 0.4], "#000000"),
        Line("", [0, 1000], [9.0, 9.0], "#000000"),
    ]
    assert alternatives.of_lines(lines, "nats", "step") == (
        "Line chart of nats by step. loss: from 1 at 0 to 0.5 at 1,000, lowest with 0.25 at 500. "
        "agreement: from 0.3 at 0 to 0.6 at 1,000, highest with 0.61 at 500. steady: from 0.3 at 0 to 0.4 at 1,000."
    )
    assert alternatives.of_lines([Line("none", [], [], "#000000")], "nats", "step") == "Line chart of nats by step."


def test_a_histogram_is_told_by_its_fullest_bin_and_its_median() -> None:
    shares = {"aligned teacher": [0.1, 0.5, 0.3, 0.1], "unaligned teacher": [0.0, 0.0, 0.0, 0.0]}
    assert alternatives.of_shares(shares, 1.0, "margin").startswith(
        "Histogram of margin. aligned teacher: most, 50 %, between 0.25 and 0.50; half of all below about 0.50. "
        "unaligned teacher: most, 0 %"
    )


def test_a_matrix_is_told_by_how_well_its_groups_hold_together() -> None:
    shades = np.array([[1.0, 0.9, 0.2], [0.9, 1.0, 0.4], [0.2, 0.4, 1.0]])
    text = alternatives.of_matrix("people", shades, ["cat", "cat", "tool"])
    assert text.startswith("Similarity matrix of 3 objects, people.")
    assert "90 within groups, 30 between groups" in text
    assert alternatives.of_matrix("people", shades, ["cat"] * 3) == "Similarity matrix of 3 objects, people."
    assert alternatives.of_matrix("people", shades, ["a", "b", "c"]) == "Similarity matrix of 3 objects, people."


def test_folds_are_told_one_after_the_other() -> None:
    text = alternatives.of_folds([{"base": 0.4, "student": 0.5}, {"base": 0.41}])
    assert text == "Agreement with people in %, fold by fold. base: 40.0, 41.0. student: 50.0."
