"""Scores, facts and the report of an evaluation come back as they were written."""

from dataclasses import asdict, replace

import pytest

from alignet_ray.artifacts import schemas
from alignet_ray.artifacts.evaluate import EvaluateArtifact, EvaluateFacts, SetFacts
from alignet_ray.core.scores import Score
from alignet_ray.errors import UserError
from alignet_ray.store import Manifest, Store

SCORES = [
    Score("base", "pre_logits", "objects", "odd_one_out", 0.42, 0.4, 0.44, 1000),
    Score("student", "head", "objects", "odd_one_out", 0.51, 0.48, 0.53, 1000, level="margin:low", seed=3),
    Score("human", "", "objects", "odd_one_out", 0.68, n=1000),
]
FACTS = EvaluateFacts(
    table=["model  agreement", "base   42.0"],
    test_objects=370,
    verdict="cannot tell",
    reasons=["too few objects"],
    scores={"odd_one_out_base_pre_logits": 0.42},
)


@pytest.fixture
def artifact(store: Store) -> EvaluateArtifact:
    return EvaluateArtifact(store.draft("evaluate", "e"))


def test_scores_come_back_row_by_row_in_order(artifact: EvaluateArtifact) -> None:
    artifact.write_scores(SCORES)
    table = artifact.scores()
    assert table.schema.equals(schemas.SCORES)
    expected = [asdict(score) for score in SCORES]
    rows = table.to_pylist()
    for row, wanted in zip(rows, expected, strict=True):
        assert row == pytest.approx(wanted, nan_ok=True)


def test_no_scores_are_an_empty_table_with_all_columns(artifact: EvaluateArtifact) -> None:
    artifact.write_scores([])
    assert artifact.scores().num_rows == 0
    assert artifact.scores().schema.names == schemas.SCORES.names


def test_half_a_table_of_scores_and_other_columns_are_damage(artifact: EvaluateArtifact) -> None:
    artifact.write_scores(SCORES)
    finished = EvaluateArtifact(artifact.draft.finish(Manifest(id="e").to_json()))
    whole = finished.scores()
    artifact.draft.write_table("scores.parquet", whole.slice(0, 1))
    with pytest.raises(UserError, match=r"scores\.parquet is damaged \([0-9,]+ bytes instead of .*delete the folder"):
        finished.scores()

    renamed = whole.rename_columns(["figure" if name == "value" else name for name in whole.column_names])
    artifact.draft.write_table("scores.parquet", renamed)
    artifact.draft.finish(Manifest(id="e").to_json())
    with pytest.raises(UserError, match=r"scores\.parquet is damaged \(its columns are model, layer, .*figure"):
        finished.scores()


def test_facts_come_back_from_the_manifest(artifact: EvaluateArtifact) -> None:
    finished = artifact.draft.finish(Manifest(facts=asdict(FACTS)).to_json())
    assert EvaluateArtifact(finished).facts() == FACTS


def test_sets_of_judgements_come_back_and_artifacts_of_before_have_none(artifact: EvaluateArtifact) -> None:
    sets = [
        SetFacts("levels", "odd_one_out", 12, 3, 0, 1200, 40, 31, "Somebody 2025"),
        SetFacts("m", "matrix", *[1] * 6),
    ]
    with_sets = replace(FACTS, sets=sets)
    finished = artifact.draft.finish(Manifest(facts=asdict(with_sets)).to_json())
    assert EvaluateArtifact(finished).facts() == with_sets


def test_facts_of_before_there_were_sets(artifact: EvaluateArtifact) -> None:
    stored = asdict(FACTS)
    del stored["sets"]
    assert EvaluateArtifact(artifact.draft.finish(Manifest(facts=stored).to_json())).facts() == FACTS


def test_facts_that_later_versions_add_are_left_out(artifact: EvaluateArtifact) -> None:
    finished = artifact.draft.finish(Manifest(facts=asdict(FACTS) | {"warnings": [], "colour": "red"}).to_json())
    assert EvaluateArtifact(finished).facts() == FACTS


@pytest.mark.parametrize("html", ["<!doctype html><p>größer als 50 %, “so”</p>\n", ""])
def test_the_report_is_the_same_text_and_a_file_of_its_own(artifact: EvaluateArtifact, html: str) -> None:
    artifact.write_report(html)
    assert artifact.report() == html
    assert artifact.report_file().name == "report.html"
    assert artifact.report_file().read_bytes() == html.encode()
    assert artifact.report_uri() == str(artifact.report_file())


def test_the_report_of_a_remote_store_is_fetched() -> None:
    """fsspec's file system in memory stands for any remote one."""
    artifact = EvaluateArtifact(Store.open("memory://evaluated").draft("evaluate", "e"))
    artifact.write_report("<p>far away</p>")
    assert artifact.report_uri() == "memory://evaluated/evaluate/e/report.html"
    assert artifact.report_file().read_text(encoding="utf-8") == "<p>far away</p>"


def test_a_finished_evaluation_is_not_written_to(artifact: EvaluateArtifact) -> None:
    finished = EvaluateArtifact(artifact.draft.finish({}))
    with pytest.raises(AssertionError, match="is finished"):
        finished.write_report("")
    with pytest.raises(AssertionError, match="is finished"):
        finished.write_scores(SCORES)
