"""The commands as functions: what a notebook gets from them."""

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.smoke_run import SmokeRun

import alignet_ray
from alignet_ray import api
from alignet_ray.api import RunResult
from alignet_ray.errors import UserError


@pytest.fixture(scope="module")
def result(smoke: SmokeRun) -> RunResult:
    return alignet_ray.open_run("smoke", root=str(smoke.root))


def test_scores_are_a_data_frame(result: RunResult, smoke: SmokeRun) -> None:
    scores = result.scores
    assert {"model", "layer", "dataset", "metric", "value", "low", "high", "n"} <= set(scores.columns)
    row = result.summary.loc["student", "head"]
    assert row.value == smoke.score("student", "head")
    assert row.low < row.value < row.high
    assert set(result.summary.index.get_level_values("model")) >= {"base", "teacher", "student", "control"}


def test_the_result_prints_the_table_of_the_run(result: RunResult) -> None:
    printed = repr(result)
    assert "RunResult('smoke')" in printed
    assert "aligned student" in printed


def test_a_notebook_shows_the_report_in_a_frame(result: RunResult) -> None:
    report = result.report
    assert report.uri.endswith("report.html")
    shown = report._repr_html_()
    assert shown.lower().startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    # Four attributes have two quotes each; one more would be the page's own, and would end its attribute.
    assert shown.count('"') == 8


def test_the_student_and_the_artifacts_are_at_hand(result: RunResult, tmp_path: Path) -> None:
    student = result.student
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    index = alignet_ray.embed(tmp_path, student)
    assert index.names == ["0.png", "1.png", "2.png"]
    assert np.array_equal(index.embeddings, student.embed(tmp_path))
    assert np.array_equal(alignet_ray.embed(tmp_path, student.name).embeddings, index.embeddings)

    assert result["evaluate"].finished
    assert next(iter(result)) == "soften"
    assert len(result) == len(result.artifacts)


def test_running_again_reuses_everything_and_leaves_logging_alone(
    smoke: SmokeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(smoke.folder)
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    shown = warnings.showwarning

    again = alignet_ray.run("smoke", quiet=True)

    assert {name: artifact.id for name, artifact in again.items()} == {
        name: artifact.id for name, artifact in alignet_ray.open_run("smoke").items()
    }
    assert list(logging.getLogger().handlers) == handlers
    assert logging.getLogger().level == level
    assert warnings.showwarning is shown
    assert capsys.readouterr() == ("", "")

    frame = alignet_ray.plan("smoke")
    assert (frame.state == "finished").all()
    changed = alignet_ray.plan("smoke", distill__lr=1e-4)
    assert changed.loc["distill@student", "why"] == "changed: lr"


def test_mistakes_are_told_in_one_line(smoke: SmokeRun) -> None:
    with pytest.raises(UserError, match=r"there is no run 'smok' under .*: known runs: smoke"):
        alignet_ray.open_run("smok", root=str(smoke.root))
    with pytest.raises(UserError, match="there is no preset 'smok': use smoke, sample"):
        alignet_ray.plan("smok")
    with pytest.raises(UserError, match=r"distill\.lrr: no such field; did you mean distill\.lr\?"):
        alignet_ray.plan("smoke", distill__lrr=1)
    with pytest.raises(UserError, match="distil: no such field"):
        alignet_ray.plan("smoke", distil__lr=1)
    with pytest.raises(UserError, match=r"distill\.lr: "):
        alignet_ray.plan("smoke", distill__lr="fast")


@pytest.mark.parametrize("config", [None, {"seed": 1}, 3])
def test_what_is_no_configuration_is_refused(config: Any, untyped_caller: None) -> None:
    for ask in (alignet_ray.run, alignet_ray.plan, alignet_ray.run_study, alignet_ray.run_sweep):
        with pytest.raises(UserError, match=r"is no configuration: give the name of a preset \(smoke, "):
            ask(config)


def test_paths_are_texts_or_paths(smoke: SmokeRun, tmp_path: Path, untyped_caller: None) -> None:
    assert alignet_ray.list_runs(smoke.root).index.tolist() == ["smoke"]
    assert alignet_ray.open_run("smoke", smoke.root).name == "smoke"
    assert alignet_ray.compare("smoke", root=smoke.root).columns.tolist() == ["smoke"]
    assert alignet_ray.Store.open(tmp_path) == alignet_ray.Store.open(str(tmp_path))
    for wrong, message in ((None, "NoneType is no path of the root"), (5, "int is no path"), ("", "is empty")):
        with pytest.raises(UserError, match=message):
            alignet_ray.list_runs(wrong)
        with pytest.raises(UserError, match=message):
            alignet_ray.open_run("smoke", wrong)


@pytest.mark.parametrize("name", [None, 5, Path("smoke"), ["smoke"]])
def test_what_is_no_name_of_a_run_is_refused(name: Any, tmp_path: Path, untyped_caller: None) -> None:
    for ask in (alignet_ray.open_run, alignet_ray.compare):
        with pytest.raises(UserError, match="is no name of a run: give it as text"):
            ask(name, root=tmp_path)


def test_messages_name_settings_as_python_writes_them(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    corpus = str(tmp_path / "images")
    with pytest.raises(
        UserError, match=r"give human__triplets= .*, human__comparisons= .*or human__embedding="
    ) as caught:
        alignet_ray.plan(alignet_ray.Config(), corpus__path=corpus)
    assert "--" not in str(caught.value)
    with pytest.raises(UserError, match="choose another state_dir="):
        alignet_ray.run("smoke", quiet=True, state_dir="/proc/nowhere", store__root=str(tmp_path / "root"))
    (tmp_path / "rows.txt").write_text("0 1 2\n")
    with pytest.raises(UserError, match=r"^embeddings= says nothing about human responses"):
        alignet_ray.verify(tmp_path / "rows.txt", embeddings="x")
    with pytest.raises(UserError, match=r"--store\.root DIR \(in Python: root=\)"):
        alignet_ray.list_runs(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("path", [None, 3, b"x", ["rows.txt"]])
def test_what_is_no_path_is_not_called_a_missing_file(path: Any, untyped_caller: None) -> None:
    with pytest.raises(UserError, match="is no path of the file to check: give it as text"):
        alignet_ray.verify(path)


@pytest.mark.parametrize(
    ("text", "in_python"),
    [
        ("choose another --store.root", "choose another store__root="),
        ("use --human.base 0, or", "use human__base=0, or"),
        ("name it --store.root DIR", "name it store__root=DIR"),
        ("try --distill.no-control", "try distill__control=False"),
        ("raise --soften.kl-anneal, take", "raise soften__kl_anneal=, take"),
        ("give --objects.table, a CSV", "give objects__table=, a CSV"),
        ("see --nothing.known and a--b", "see --nothing.known and a--b"),
    ],
)
def test_options_become_keyword_arguments(text: str, in_python: str) -> None:
    with pytest.raises(UserError) as caught, api._in_python():
        raise UserError(text)
    assert str(caught.value) == in_python


def test_help_and_completion_know_every_public_name() -> None:
    assert set(alignet_ray.__all__) == set(dir(alignet_ray))
    for name in alignet_ray.__all__:
        assert getattr(alignet_ray, name) is not None
    documented = sys.modules["alignet_ray"].__doc__ or ""
    for name in ("load", "run", "plan", "open_run", "embed", "presets"):
        assert name in documented


def test_a_run_may_end_at_a_stage(smoke: SmokeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(smoke.folder)
    part = alignet_ray.run("smoke", quiet=True, until="label")
    assert "label@raw" in part
    assert "evaluate" not in part
    with pytest.raises(UserError, match="there is no stage 'labels': use embed"):
        alignet_ray.run("smoke", until="labels")
    # The name still means the whole run, with the student that an earlier call has finished.
    assert alignet_ray.open_run("smoke")["evaluate"].finished


def test_runs_are_listed_and_compared(result: RunResult, smoke: SmokeRun) -> None:
    runs = alignet_ray.list_runs(str(smoke.root))
    assert runs.loc["smoke", "artifacts"] == runs.loc["smoke", "finished"] == len(result)
    table = alignet_ray.compare("smoke", "smoke", root=str(smoke.root))
    value = smoke.score("student", "head")
    assert table.loc[("student", "head"), "smoke"].startswith(f"{value:.1%} [")
    with pytest.raises(UserError, match="nowhere is not a folder"):
        alignet_ray.list_runs("nowhere")
    with pytest.raises(UserError, match="name the runs"):
        alignet_ray.compare(root=str(smoke.root))


def test_files_are_checked_with_a_verdict(smoke: SmokeRun, tmp_path: Path) -> None:
    good = alignet_ray.verify(smoke.world / "triplets.txt", objects=96)
    assert good.ok
    assert good.kind.startswith("human responses")
    assert {"check", "verdict"} <= set(good.checks.columns)
    assert "<table" in good._repr_html_()
    (tmp_path / "bad.txt").write_text("0 1 1\n")
    assert not alignet_ray.verify(tmp_path / "bad.txt").ok
    with pytest.raises(UserError, match="there is no reference 'object'"):
        alignet_ray.verify(tmp_path / "bad.txt", object=96)
