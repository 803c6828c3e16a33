"""MLflow's database in a file: it is known before the work that it cannot be written; files stay beside it."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support.unprivileged import read_only

from alignet_ray.config import Config
from alignet_ray.embedded_database import BUSY_SECONDS, file_of, require_writable
from alignet_ray.errors import UserError
from alignet_ray.tracking import Session, client


def make_database(folder: Path) -> str:
    folder.mkdir()
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
        connection.execute("CREATE TABLE experiments (name TEXT, artifact_location TEXT)")
    return f"sqlite:///{folder}/mlflow.db"


def test_only_files_are_looked_at(tmp_path: Path) -> None:
    assert file_of("http://server") is None
    assert file_of("sqlite://") is None
    assert file_of(f"sqlite:///{tmp_path}/mlflow.db") == tmp_path / "mlflow.db"
    require_writable("http://server")
    require_writable(f"sqlite:///{tmp_path}/none.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("locked", ["mlflow.db", "."])
def test_a_database_that_takes_no_rows_is_refused(tmp_path: Path, locked: str) -> None:
    address = make_database(tmp_path / "runs")
    before = (tmp_path / "runs" / "mlflow.db").read_bytes()
    require_writable(address)
    with (
        read_only(tmp_path / "runs" / locked),
        pytest.raises(UserError, match="cannot write MLflow's database"),
    ):
        require_writable(address)
    assert (tmp_path / "runs" / "mlflow.db").read_bytes() == before


def test_a_database_that_somebody_writes_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert BUSY_SECONDS > 0
    monkeypatch.setattr("alignet_ray.embedded_database.BUSY_SECONDS", 0.01)
    address = make_database(tmp_path / "runs")
    with closing(sqlite3.connect(tmp_path / "runs" / "mlflow.db", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        require_writable(address)


def test_runs_in_a_copied_or_moved_root_keep_their_files_there(tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.mkdir()
    Session.open(Config().replace(store__root=str(first)), first)
    shutil.copytree(first, tmp_path / "copy")
    first.rename(tmp_path / "moved")

    for name in ("copy", "moved"):
        root = tmp_path / name
        cfg = Config().replace(store__root=str(root))
        session = Session.open(cfg, root)
        tracker = session.begin("again", cfg, {})
        (tmp_path / "note.txt").write_text("a file of the run")
        session.attach(tracker, tmp_path / "note.txt")
        session.end(tracker, "FINISHED")
        (kept,) = root.glob("mlflow-artifacts/**/note.txt")
        assert client(session.uri).get_run(tracker.run_id).info.artifact_uri in kept.parent.as_uri()
    assert not first.exists()


def test_a_place_that_somebody_chose_stays(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    cfg = Config().replace(store__root=str(root))
    uri = Session.open(cfg, root).uri
    client(uri).create_experiment("mine", artifact_location="s3://bucket/mlflow-artifacts")
    Session.open(cfg.replace(tracking__experiment="mine"), root)
    assert client(uri).get_experiment_by_name("mine").artifact_location == "s3://bucket/mlflow-artifacts"
