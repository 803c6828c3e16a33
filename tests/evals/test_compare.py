import pyarrow as pa

from alignet_ray.artifacts.schemas import SCORES
from alignet_ray.evals import compare


def scores(*rows: tuple[str, str, str, float, float, float, str]) -> pa.Table:
    names = ("model", "layer", "metric", "value", "low", "high", "level")
    fixed = {"dataset": "objects", "n": 10, "split": "test", "seed": 0}
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) | fixed for row in rows], schema=SCORES)


NAN = float("nan")
FIRST = scores(
    ("base", "pre_logits", "odd_one_out", 0.37, 0.35, 0.39, ""),
    ("student", "pre_logits", "odd_one_out", 0.46, 0.44, 0.48, ""),
    ("student", "pre_logits", "rsa_spearman", 0.25, NAN, NAN, ""),
    ("student", "pre_logits", "odd_one_out", 0.66, 0.6, 0.7, "margin:high"),
)
SECOND = scores(
    ("base", "pre_logits", "odd_one_out", 0.38, 0.36, 0.4, ""),
    ("student", "pre_logits", "odd_one_out", 0.56, 0.54, 0.58, ""),
)


def test_runs_stand_side_by_side_with_their_difference() -> None:
    lines = compare.text({"one": FIRST, "two": SECOND}).splitlines()
    assert lines[1].split() == ["metric", "better", "model", "layer", "one", "two", "difference"]
    assert lines[3].split() == [
        "odd_one_out",
        "higher",
        "base",
        "pre_logits",
        "37.0",
        "[35.0,",
        "39.0]",
        "38.0",
        "[36.0,",
        "40.0]",
        "+1.0",
    ]
    assert lines[4].endswith("+10.0 *")
    assert lines[5].split() == ["rsa_spearman", "higher", "student", "pre_logits", "0.250", "-"]
    assert lines[6].startswith("* differs at 5 %")
    assert len(lines) == 7


def test_marks_are_corrected_for_all_rows_and_say_where_items_differ() -> None:
    level = ("base", "pre_logits", "knn", 0.5, 0.47, 0.53, "")
    other = ("base", "pre_logits", "knn", 0.545, 0.515, 0.575, "")  # alone: z = 2.08, p = 0.038
    assert compare.text({"one": scores(level), "two": scores(other)}).splitlines()[3].endswith("+4.5 *")
    more = [("base", "pre_logits", f"few_shot_{k}", 0.5, 0.47, 0.53, "") for k in (1, 5)]
    lines = compare.text({"one": scores(level, *more), "two": scores(other, *more)}).splitlines()
    assert not any(line.endswith("*") for line in lines)
    fewer = scores(level).set_column(8, "n", pa.array([9]))
    assert compare.text({"one": fewer, "two": scores(other)}).splitlines()[3].endswith("* ~")


def test_levels_on_demand_and_any_number_of_runs() -> None:
    assert "margin:high" in compare.text({"one": FIRST}, levels=True)
    assert "difference" not in compare.text({"one": FIRST, "two": SECOND, "three": SECOND})


def test_agreement_with_people_comes_first_and_every_row_says_what_is_better() -> None:
    rows = [
        ("student", "head", metric, 0.5, NAN, NAN, "") for metric in ("anomaly_auroc", "temperature", "cross_entropy")
    ]
    lines = compare.text({"one": FIRST, "two": scores(*rows)}).splitlines()
    assert lines[0] == "Scores on test data of: objects. Shares in %, [95 % intervals]"
    metrics = [line.split()[0] for line in lines[3:-1]]
    assert metrics == ["odd_one_out", "odd_one_out", "rsa_spearman", "anomaly_auroc", "cross_entropy", "temperature"]
    better = {line.split()[0]: line.split()[1] for line in lines[3:-1]}
    assert (better["anomaly_auroc"], better["cross_entropy"], better["temperature"]) == ("higher", "lower", "student")


def test_several_data_sets_have_a_column() -> None:
    """A set of judgements may have a metric that the test objects have, too."""
    other = FIRST.set_column(2, "dataset", pa.array(["levels"] * len(FIRST)))
    lines = compare.text({"one": pa.concat_tables([FIRST, other])}).splitlines()
    assert lines[0].startswith("Scores on test data of: levels, objects.")
    assert lines[1].split()[:3] == ["data", "set", "metric"]
    assert [line.split()[0] for line in lines[3:]] == ["levels"] * 3 + ["objects"] * 3
