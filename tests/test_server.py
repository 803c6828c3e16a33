"""A real MLflow server with PostgreSQL behind it, killed in the middle of a run and started again."""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from alignet_ray import tracking
from alignet_ray.config import Config
from alignet_ray.store import Store
from alignet_ray.tracking import Session, client

pytestmark = pytest.mark.slow
PASSWORD = "sesame"


def programs() -> Path:
    """The folder of initdb and pg_ctl."""
    places = [Path(found).resolve().parent for found in [shutil.which("pg_ctl")] if found]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for place in places:
        if (place / "initdb").exists():
            return place
    pytest.skip("PostgreSQL is not installed: no initdb on the PATH nor under /usr/lib/postgresql")


def account() -> str | None:
    """Who runs PostgreSQL, which refuses root: None is this user."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """URL of a fresh PostgreSQL, with a password in it."""
    bin, user = programs(), account()
    if importlib.util.find_spec("psycopg2") is None:
        pytest.skip("psycopg2 is not installed: MLflow cannot talk to PostgreSQL")
    folder, port = Path(tempfile.mkdtemp(prefix="postgres-")), free_port()
    if user:
        shutil.chown(folder, user)
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)
    data, options = str(folder / "data"), f"-p {port} -c listen_addresses=127.0.0.1 -k {folder}"

    def call(*command: str) -> None:
        done = subprocess.run(command, user=user, cwd=folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr

    secret = ["-U", "mlflow", "-A", "scram-sha-256", f"--pwfile={folder}/password"]
    call(str(bin / "initdb"), "-D", data, *secret)
    call(str(bin / "pg_ctl"), "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
    yield f"postgresql+psycopg2://mlflow:{PASSWORD}@127.0.0.1:{port}/postgres"
    call(str(bin / "pg_ctl"), "-D", data, "-m", "immediate", "-w", "stop")
    shutil.rmtree(folder)


@contextlib.contextmanager
def server(database: str, port: int, folder: Path) -> Iterator[str]:
    """MLflow's tracking server; killed at the end, workers and all."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database]
    command += ["--artifacts-destination", str(folder), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=folder)
    try:
        deadline = time.monotonic() + 180
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            assert process.poll() is None, (folder / "server.log").read_text()[-3000:]
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_server_that_is_killed_costs_no_metric(
    database: str, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_silent_until", {})
    port = free_port()
    (tmp_path / "report.html").write_text("<p>here</p>")
    with server(database, port, tmp_path) as uri:
        cfg = Config(name="night").replace(store__root=str(tmp_path), tracking__uri=uri)
        session = Session.open(cfg, tmp_path)
        parent = session.begin("night", cfg.replace(tracking__uri=database), {"where": database})
        child = session.begin("distill@student", None, {}, parent.run_id)
        child.log_batch({"loss": 1.0}, 0)
        session.lineage(child, [store.artifact("embed", "0123456789ab")])
        session.attach(child, tmp_path / "report.html")
    start = time.monotonic()
    for step in range(1, 200):
        child.log_batch({"loss": 1.0 / step}, step)
    late = session.begin("embed@student", None, {}, parent.run_id)
    late.log_batch({"rows": 5.0}, 0)
    session.end(late, "FINISHED")
    assert time.monotonic() - start < 60, "training would wait for a server that is down"
    with server(database, port, tmp_path):
        tracking._silent_until.clear()
        session.end(child, "FINISHED")
        session.end(parent, "FINISHED")
        session.flush()
        history = client(uri).get_metric_history(child.run_id, "loss")
        assert sorted(m.step for m in history) == list(range(200))
        run = client(uri).get_run(child.run_id)
        assert run.info.status == "FINISHED"
        assert [d.dataset.digest for d in run.inputs.dataset_inputs] == ["0123456789ab"]
        assert [f.path for f in client(uri).list_artifacts(child.run_id)] == ["report.html"]
        runs = {r.info.run_name: r for r in client(uri).search_runs([session.experiment])}
        assert runs["embed@student"].data.tags["mlflow.parentRunId"] == parent.run_id
        assert runs["embed@student"].data.metrics == {"rows": 5.0}
        assert runs["night"].data.params["tracking.uri"].startswith("postgresql+psycopg2://mlflow:***@")
        assert PASSWORD not in str([r.to_dictionary() for r in runs.values()])
    assert not list(Path(session.spool).glob("*"))
