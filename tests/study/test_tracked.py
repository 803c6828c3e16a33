"""A study on the tracking server, an embedded database: one run, once, with its figures and its files."""

from pathlib import Path

import pytest

from alignet_ray import tracking
from alignet_ray.config import Config
from alignet_ray.config.presets import PRESETS
from alignet_ray.screen import Screen
from alignet_ray.store import Store
from alignet_ray.study import tracked
from alignet_ray.study.folder import StudyFolder
from alignet_ray.study.pooling import NAN, PooledScore


def pooled(model: str, layer: str, metric: str, level: str, value: float) -> PooledScore:
    return PooledScore(
        model, layer, "objects", metric, level, value, value - 0.01, value + 0.01, NAN, 5, 711, value, value
    )


@pytest.fixture
def cfg() -> Config:
    return PRESETS["smoke"]()


@pytest.fixture
def folder(store: Store, cfg: Config) -> StudyFolder:
    made = StudyFolder(store.draft("study", "0123456789ab"))
    made.freeze(cfg)
    scores = [
        pooled("base", "pre_logits", "odd_one_out", "", 0.375),
        pooled("student", "head", "odd_one_out", "", 0.46),
        pooled("student", "head", "odd_one_out", "categories:border", 0.571),
        pooled("student", "head", "odd_one_out_gain", "over:base", 0.084),
        pooled("student", "head", "odd_one_out_gain", "over:control", 0.077),
    ]
    made.write(scores, "<html></html>", "| a |", "a")
    return made


def test_one_run_holds_the_pooled_figures_and_the_page(cfg: Config, folder: StudyFolder, tmp_path: Path) -> None:
    lines = ["agreement", "model         gain", "------------  ----", "student head  +8.4"]
    for _ in range(2):  # the second call finds it there
        tracked.record(cfg, folder, lines, tmp_path, Screen())

    client = tracking.client(tracking.database_uri(tmp_path))
    experiment = client.get_experiment_by_name(cfg.tracking.experiment)
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "smoke study"
    assert run.info.status == "FINISHED"
    assert run.data.tags[tracked.TAG] == "0123456789ab"
    assert run.data.metrics == pytest.approx(
        {
            "odd_one_out/base/pre_logits": 0.375,
            "odd_one_out/base/pre_logits/low": 0.365,
            "odd_one_out/base/pre_logits/high": 0.385,
            "odd_one_out/student/head": 0.46,
            "odd_one_out/student/head/low": 0.45,
            "odd_one_out/student/head/high": 0.47,
            "odd_one_out_gain/student/head": 0.084,
            "odd_one_out_gain/student/head/low": 0.074,
            "odd_one_out_gain/student/head/high": 0.094,
        }
    )
    assert "| student head | +8.4 |" in run.data.tags["mlflow.note.content"]
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"study.html", "study.md", "study.parquet", "settings.yaml"}


def test_a_server_that_does_not_answer_costs_no_finished_study(
    cfg: Config,
    folder: StudyFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    nowhere = cfg.replace(tracking__uri="http://127.0.0.1:9")
    tracked.record(nowhere, folder, [], tmp_path, Screen())
    assert "warning: the study is not on the tracking server" in capsys.readouterr().out
