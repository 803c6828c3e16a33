"""Runs, parameters and lineage in the embedded MLflow database; nothing secret in it; a dead server stops nothing."""

import sqlite3
from pathlib import Path

import pytest

from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.store import Store
from alignet_ray.tracking import Session, Tracker, client, hide, resolve_uri


def test_a_run_tree_with_params_metrics_and_lineage(tmp_path: Path, store: Store) -> None:
    cfg = Config(name="night").replace(store__root=str(tmp_path), distill__size=128)
    session = Session.open(cfg, tmp_path)
    parent = session.begin("night", cfg, {"alignet.commit": "abc"})
    child = session.begin("label@aligned", None, {}, parent.run_id)
    child.log_batch({"loss": 0.5}, 3)
    session.lineage(child, [store.artifact("embed", "0123456789ab")])
    session.end(child, "FINISHED")
    run = client(session.uri).get_run(child.run_id)
    assert run.data.tags["mlflow.parentRunId"] == parent.run_id
    assert run.data.metrics == {"loss": 0.5}
    assert [d.dataset.digest for d in run.inputs.dataset_inputs] == ["0123456789ab"]
    params = client(session.uri).get_run(parent.run_id).data.params
    assert params.keys() == cfg.flat().keys()
    assert params["distill.size"] == "128"


def test_a_second_session_finds_the_experiment(tmp_path: Path) -> None:
    cfg = Config().replace(store__root=str(tmp_path))
    assert Session.open(cfg, tmp_path) == Session.open(cfg, tmp_path)


def test_passwords_never_arrive(tmp_path: Path) -> None:
    uri = "postgresql://me:sesame@db/mlflow"
    assert hide(uri) == "postgresql://me:***@db/mlflow"
    cfg = Config().replace(store__root=str(tmp_path))
    session = Session.open(cfg, tmp_path)
    session.begin("run", cfg.replace(tracking__uri=uri), {})
    with sqlite3.connect(tmp_path / "mlflow.db") as db:
        assert "sesame" not in "\n".join(db.iterdump())


def test_a_server_that_died_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    dead = "http://127.0.0.1:9"
    Tracker(dead, "run").log_batch({"loss": 1.0}, 1)
    session = Session(dead, "0")
    assert session.begin("run", Config(), {}) == Tracker()
    session.end(Tracker(dead, "run"), "FINISHED")
    with pytest.raises(UserError, match="no MLflow at"):
        Session.open(Config().replace(tracking__uri=dead), tmp_path)


def test_a_remote_root_needs_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    remote = Config().replace(store__root="s3://bucket/runs")
    with pytest.raises(UserError, match=r"--tracking\.uri"):
        resolve_uri(remote, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert resolve_uri(remote, tmp_path) == "http://127.0.0.1:5000"
