"""Runs, parameters and lineage in the embedded MLflow database; no secrets in it; a dead server stops nothing."""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from alignet_ray import tracking
from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.store import Store
from alignet_ray.tracking import Session, Tracker, client, hide, resolve_uri


def test_a_run_tree_with_params_metrics_and_lineage(tmp_path: Path, store: Store) -> None:
    cfg = Config(name="night").replace(store__root=str(tmp_path), distill__size=128)
    session = Session.open(cfg, tmp_path)
    parent = session.begin("night", cfg, {"alignet.commit": "abc"})
    child = session.begin("label@aligned", None, {}, parent.run_id)
    child.log_curve({"loss": 0.5}, 3)
    session.lineage(child, [store.artifact("embed", "0123456789ab")])
    session.end(child, "FINISHED")
    run = client(session.uri).get_run(child.run_id)
    assert run.data.tags["mlflow.parentRunId"] == parent.run_id
    assert run.data.metrics == {"curve/loss": 0.5}
    assert [d.dataset.digest for d in run.inputs.dataset_inputs] == ["0123456789ab"]
    params = client(session.uri).get_run(parent.run_id).data.params
    assert params.keys() == cfg.flat().keys()
    assert params["distill.size"] == "128"


def test_numbers_that_are_not_finite_are_not_sent(tmp_path: Path) -> None:
    """MLflow's searches would find a run of NaN by `metrics.loss < 0.1`."""
    session = Session.open(Config().replace(store__root=str(tmp_path)), tmp_path)
    tracker = session.begin("night", None, {})
    tracker.log_batch({"loss": float("nan"), "score": float("inf"), "rate": 1.0}, 0)
    tracker.log_batch({"loss": float("nan")}, 1)
    assert client(session.uri).get_run(tracker.run_id).data.metrics == {"rate": 1.0}
    assert not list(Path(session.spool).glob("*"))


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


@pytest.fixture
def flaky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], Session]]:
    """A session whose server can be switched off."""
    session = Session.open(Config().replace(store__root=str(tmp_path)), tmp_path)
    working = tracking.client

    def switch(up: bool) -> Session:
        tracking._silent_until.clear()

        def broken(uri: str) -> Any:
            raise ConnectionError("nobody at postgresql://me:sesame@db")

        monkeypatch.setattr(tracking, "client", working if up else broken)
        return session

    yield switch
    tracking._silent_until.clear()


def history(session: Session, run: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in client(session.uri).get_metric_history(run, "loss")]


def test_what_the_server_did_not_take_arrives_later(
    flaky: Callable[[bool], Session], caplog: pytest.LogCaptureFixture
) -> None:
    session = flaky(True)
    tracker = session.begin("night", None, {})
    tracker.log_batch({"loss": 1.0}, 1)
    flaky(False)
    tracker.log_batch({"loss": 2.0}, 2)
    assert "they are kept" in caplog.text
    assert "sesame" not in caplog.text
    flaky(True)
    tracker.log_batch({"loss": 4.0}, 4)
    assert history(session, tracker.run_id) == [(1, 1.0), (2, 2.0), (4, 4.0)]
    assert not list(Path(session.spool).glob("*"))


def test_a_server_that_is_down_is_not_asked_again_at_once(flaky: Callable[[bool], Session]) -> None:
    session = flaky(True)
    tracker = session.begin("night", None, {})
    flaky(False)
    tracker.log_batch({"loss": 2.0}, 2)
    quiet = dict(tracking._silent_until)
    flaky(True)
    tracking._silent_until.update(quiet)
    tracker.log_batch({"loss": 3.0}, 3)
    assert history(session, tracker.run_id) == []
    session.flush()
    assert history(session, tracker.run_id) == [(2, 2.0), (3, 3.0)]


def test_whole_runs_wait_and_are_created_after_their_parents(flaky: Callable[[bool], Session], tmp_path: Path) -> None:
    session, cfg = flaky(False), Config(name="night").replace(store__root=str(tmp_path))
    parent = session.begin("night", cfg, {"alignet.commit": "abc"})
    child = session.begin("label", None, {}, parent.run_id)
    child.log_batch({"loss": 0.5}, 7)
    session.end(child, "FINISHED")
    session.end(parent, "FAILED")
    session.flush()
    assert len(list(Path(session.spool).glob("pending-*"))) == 2, "still waiting"
    flaky(True)
    again = Session.open(cfg, tmp_path)
    runs = {r.info.run_name: r for r in client(again.uri).search_runs([again.experiment])}
    assert runs["night"].info.status == "FAILED"
    assert runs["night"].data.params.keys() == cfg.flat().keys()
    assert runs["label"].data.tags["mlflow.parentRunId"] == runs["night"].info.run_id
    assert runs["label"].info.status == "FINISHED"
    assert history(again, runs["label"].info.run_id) == [(7, 0.5)]
    assert not list(Path(session.spool).glob("*"))


def test_a_run_that_had_to_wait_is_begun_as_soon_as_the_server_answers(flaky: Callable[[bool], Session]) -> None:
    """A server that was away when the run began: the steps after its return are children of the run, without delay."""
    session = flaky(False)
    parent = session.begin("night", None, {"alignet.commit": "abc"})
    first = session.begin("embed", None, {}, parent.run_id)
    first.log_batch({"loss": 3.0}, 1)
    assert parent.is_pending
    assert first.is_pending

    flaky(True)
    second = session.begin("label", None, {}, parent.run_id)
    assert not second.is_pending
    assert not parent.is_pending
    first.log_batch({"loss": 2.0}, 2)
    parent.log_batch({"agreement": 0.5}, 0)
    session.describe(parent, "with a password: postgresql://me:sesame@db")
    for tracker in (first, second, parent):
        session.end(tracker, "FINISHED")
    session.flush()

    runs = {run.info.run_name: run for run in client(session.uri).search_runs([session.experiment])}
    assert runs.keys() == {"night", "embed", "label"}
    for child in ("embed", "label"):
        assert runs[child].data.tags[tracking.PARENT] == runs["night"].info.run_id
        assert runs[child].info.status == "FINISHED"
    assert history(session, runs["embed"].info.run_id) == [(1, 3.0), (2, 2.0)]
    assert runs["night"].data.metrics == {"agreement": 0.5}
    assert runs["night"].data.tags["mlflow.note.content"] == "with a password: postgresql://me:***@db"
    assert not list(Path(session.spool).glob("*"))


def test_a_step_that_needs_the_server_asks_it_again_at_once(flaky: Callable[[bool], Session]) -> None:
    session = flaky(False)
    parent = session.begin("night", None, {})
    silent = dict(tracking._silent_until)
    flaky(True)
    tracking._silent_until.update(silent)
    assert session.begin("embed", None, {}, parent.run_id).is_pending
    assert not session.begin("register", None, {}, parent.run_id, needs_server=True).is_pending


def test_uploads_may_take_longer_than_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    for given, within in ((None, "600"), ("10", "600"), ("3000", "3000")):
        if given is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, given)
        with tracking.patient_uploads():
            assert os.environ[name] == within
        assert os.environ.get(name) == given


def test_the_data_that_a_run_read_is_told(tmp_path: Path) -> None:
    session = Session.open(Config().replace(store__root=str(tmp_path)), tmp_path)
    run = session.begin("night", None, {})
    data = tracking.DataSet("train", "abc", "folder", "s3://me:sesame@bucket/train", "embed, distill")
    session.inputs(run, [data])
    (found,) = client(session.uri).get_run(run.run_id).inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest, found.dataset.source_type) == ("train", "abc", "folder")
    assert found.dataset.source == '{"uri": "s3://me:***@bucket/train"}'
    assert [(tag.key, tag.value) for tag in found.tags] == [("mlflow.data.context", "embed, distill")]


def test_a_spool_cut_short_by_a_kill_is_read_up_to_there(flaky: Callable[[bool], Session]) -> None:
    session = flaky(True)
    tracker = session.begin("night", None, {})
    flaky(False)
    tracker.log_batch({"loss": 2.0}, 2)
    with next(Path(session.spool).glob("*")).open("a") as file:
        file.write('{"metrics": {"lo')
    flaky(True).flush()
    assert history(session, tracker.run_id) == [(2, 2.0)]


def test_a_spool_that_cannot_be_written_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    Tracker("x", "pending-1", str(tmp_path / "file")).log_batch({"loss": 1.0}, 1)
    assert "lost: " in caplog.text


def test_runs_that_a_killed_process_left_are_closed(tmp_path: Path) -> None:
    session = Session.open(Config().replace(store__root=str(tmp_path)), tmp_path)
    mine, other = ({tracking.STATE: folder} for folder in ("/here", "/elsewhere"))
    parent = session.begin("killed", None, mine)
    children = [session.begin(name, None, {}, parent.run_id) for name in ("done", "cut short")]
    session.end(children[0], "FINISHED")
    stranger = session.begin("of another", None, other)
    session.kill_orphans("/here")
    status = {r.info.run_name: r.info.status for r in client(session.uri).search_runs([session.experiment])}
    assert status == {"killed": "KILLED", "done": "FINISHED", "cut short": "KILLED", "of another": "RUNNING"}
    assert stranger.run_id


def test_the_load_of_the_machine_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    session = Session.open(Config().replace(store__root=str(tmp_path)), tmp_path)
    parent = session.begin("run", None, {})
    with tracking.system_metrics(parent):
        time.sleep(1.5)
    found = client(session.uri).get_run(parent.run_id).data.metrics
    assert 0 < found["system/system_memory_usage_percentage"] <= 100
    assert "system/cpu_utilization_percentage" in found
    with tracking.system_metrics(Tracker()):
        pass  # nothing is tracked


@pytest.mark.parametrize("name", ["My%20Data", "a? b", "(50%)", "x#y", "me@host", 'it\'s "it"', "gr\u00f6\u00dfe"])
def test_any_folder_can_hold_the_database(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / name
    folder.mkdir()
    cfg = Config().replace(store__root=str(folder))
    session = Session.open(cfg, folder)
    tracker = session.begin("run", None, {})
    session.end(tracker, "FINISHED")
    assert (folder / "mlflow.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name], "nothing lies beside the root"
    assert tracking.registry_uri(str(folder)) == session.uri


def test_reading_a_registry_that_is_not_there_creates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="no model registry"):
        tracking.registry_uri(str(tmp_path / "50%"))
    assert not any(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"s3://b/r is remote: name a tracking server .*in Python: tracking_uri="):
        tracking.registry_uri("s3://b/r")


def test_logged_files_are_looked_up_beside_the_database_that_names_them(tmp_path: Path) -> None:
    address = tracking.database_uri(tmp_path)
    there = tmp_path / "mlflow-artifacts" / "models" / "m-1"
    there.mkdir(parents=True)
    assert tracking.beside_database(address, "file:///gone/mlflow-artifacts/models/m-1") == there
    assert tracking.beside_database(address, "/gone/mlflow-artifacts/models/m-2") is None
    assert tracking.beside_database(address, "s3://elsewhere/models/m-1") is None
    assert tracking.beside_database("http://server", "file:///gone/mlflow-artifacts/models/m-1") is None


def test_a_deleted_experiment_is_told_before_anything_starts(tmp_path: Path) -> None:
    session = Session.open(Config(), tmp_path)
    client(session.uri).delete_experiment(session.experiment)
    with pytest.raises(UserError, match=r"'alignet-ray' .* was deleted: restore it \(mlflow experiments restore"):
        Session.open(Config(), tmp_path)


def test_a_database_of_another_version_names_the_command(tmp_path: Path) -> None:
    Session.open(Config(), tmp_path)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("update alembic_version set version_num = '7f2a7d5fae7d'")
    code = f"""
from pathlib import Path
from alignet_ray.config import Config
from alignet_ray.tracking import Session
Session.open(Config(), Path({str(tmp_path)!r}))
"""
    # Another process: MLflow looks at a database's version only when it opens it.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "run `mlflow db upgrade " in done.stderr.splitlines()[-1], done.stderr[-500:]
