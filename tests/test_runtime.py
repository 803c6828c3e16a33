"""Where a run may lie, and the nodes that it waits for and checks."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from alignet_ray import runtime
from alignet_ray.config import Config
from alignet_ray.errors import UserError


def test_a_relative_root_is_refused_inside_a_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert runtime.state_dir(Config()) == tmp_path / "runs"
    monkeypatch.setenv(runtime.JOB, "{}")
    with pytest.raises(UserError, match="give an absolute"):
        runtime.state_dir(Config())
    with pytest.raises(UserError, match="give an absolute"):
        runtime.state_dir(Config(state_dir=str(tmp_path / "state")))
    assert runtime.state_dir(Config().replace(store__root=str(tmp_path / "there"))) == tmp_path / "there"


def test_a_folder_that_cannot_be_written_names_the_option_that_it_comes_from(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    inside = str(tmp_path / "file" / "x")
    with pytest.raises(UserError, match="choose another --state-dir"):
        runtime.state_dir(Config(state_dir=inside))
    with pytest.raises(UserError, match=r"choose another --store\.root"):
        runtime.state_dir(Config().replace(store__root=inside))
    with pytest.raises(UserError, match=r"^--state-dir s3://b/state is remote"):
        runtime.state_path(Config(state_dir="s3://b/state"))


ASK = """
import os, ray
from alignet_ray import runtime
from alignet_ray.config import Config

runtime.start(Config())
names = ["MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "TQDM_DISABLE"]
found = ray.get(ray.remote(lambda: ([os.environ.get(n) for n in names], os.nice(0), os.sched_getscheduler(0))).remote())
print(*found[0], *found[1:], os.sched_getscheduler(0))
runtime.stop()
"""


def test_workers_keep_freed_memory_unless_the_user_says_otherwise_and_interrupt_nobody() -> None:
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "123456"}
    done = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, timeout=120)
    expected = ["1", "123456", "1", os.nice(0), os.SCHED_BATCH, os.SCHED_OTHER]
    assert done.stdout.split() == [str(value) for value in expected], done.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}", "[::1]:{port}"])
def test_a_cluster_that_is_gone_is_told_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", address.format(port=port))
    start = time.monotonic()
    with pytest.raises(UserError, match=r"no Ray cluster answers at .*: start one, or leave out --ray\.address"):
        runtime.start(Config())
    assert time.monotonic() - start < runtime.CLUSTER_SECONDS + 5


@pytest.mark.parametrize("address", ["127.0.0.1", "http://127.0.0.1:8265", "head:port", " "])
def test_what_is_no_address_of_a_cluster_is_told(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own answer is a traceback."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=r"is no address of a Ray cluster: give HOST:PORT"):
        runtime.start(Config())


def test_processes_of_rays_that_are_not_up_in_time_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def late(**options: Any) -> None:
        raise Exception("2026-01-01 INFO head.py:341 -- Loaded 9 modules\nThe current node timed out during startup.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", late)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(UserError, match="Ray's processes were not up in time: is this machine very busy"):
        runtime.start(Config())


def test_workers_of_a_cluster_work_in_the_folder_where_the_command_was_called(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They begin where the cluster was started: relative paths of images were not found there."""
    import ray

    given: dict[str, Any] = {}

    def refuse(**options: Any) -> None:
        given.update(options["runtime_env"])
        raise ConnectionError

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.chdir(tmp_path)
    with socket.socket() as other_program:
        other_program.bind(("127.0.0.1", 0))
        other_program.listen()
        address = f"127.0.0.1:{other_program.getsockname()[1]}"
        with pytest.raises(UserError, match="with the same RAY_AUTH_MODE and token"):
            runtime.start(Config().replace(ray__address=address))
    assert given["worker_process_setup_hook"] == f"{runtime.__name__}.{runtime.enter_folder.__name__}"

    # What Ray does in a new worker.
    monkeypatch.setenv(runtime.CALLED_IN, given["env_vars"][runtime.CALLED_IN])
    monkeypatch.chdir("/")
    runtime.enter_folder()
    assert Path.cwd() == tmp_path
    monkeypatch.setenv(runtime.CALLED_IN, str(tmp_path / "not on this machine"))
    runtime.enter_folder()
    assert Path.cwd() == tmp_path


def test_the_cache_is_in_the_state_folder_or_where_the_user_says(tmp_path: Path) -> None:
    cfg = Config().replace(store__root=str(tmp_path))
    assert runtime.cache_dir(cfg) == tmp_path / "cache"
    assert runtime.cache_dir(cfg.replace(cache_dir=str(tmp_path / "nvme"))) == tmp_path / "nvme"


def test_sockets_lie_in_a_folder_whose_path_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert len(runtime.session_folder()) <= runtime.MAX_TEMPORARY + len("/ray")
    monkeypatch.setenv("RAY_TMPDIR", "/var/tmp")
    assert runtime.session_folder() == "/var/tmp/ray"
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) == str(long))
    with pytest.raises(UserError, match=r"name one with RAY_TMPDIR"):
        runtime.session_folder()


def test_an_object_store_that_does_not_fit_is_refused_before_ray_starts() -> None:
    with pytest.raises(UserError, match=r"--ray\.object-store-mb 100000000: at most half of this machine's"):
        runtime.start(Config().replace(ray__object_store_mb=100_000_000, ray__address="local"))
    with pytest.raises(UserError, match=r"object_store_mb: .*greater than or equal to 80"):
        Config().replace(ray__object_store_mb=1)


def test_workers_find_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(Path(runtime.__file__).parent.parent)
    monkeypatch.setenv("PYTHONPATH", f"/elsewhere{os.pathsep}{folder}")
    assert runtime._package_path() == f"{folder}{os.pathsep}/elsewhere"
    monkeypatch.setattr(runtime.sysconfig, "get_path", lambda name: folder)
    assert runtime._package_path() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_batch_system_and_a_closed_terminal_stop_a_command_as_ctrl_c_does(number: signal.Signals) -> None:
    # As a shell leaves it: the tests themselves may run under nohup.
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt), runtime.terminable():
            signal.raise_signal(number)
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_under_nohup_a_closed_terminal_stops_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with runtime.terminable():
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_a_thread_of_a_program_nothing_is_done_about_signals() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def work() -> object:
        with runtime.terminable():
            return signal.getsignal(signal.SIGTERM)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result() == before


@pytest.mark.parametrize(("mode", "ends"), [("token", "`ray get-auth-token` prints it)"), ("disabled", ":8265")])
def test_who_opens_the_dashboard_knows_of_its_token(monkeypatch: pytest.MonkeyPatch, mode: str, ends: str) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    line = runtime.dashboard_line(runtime.RayPlaces("logs", "http://127.0.0.1:8265"))
    assert line.startswith("Ray's dashboard at http://127.0.0.1:8265")
    assert line.endswith(ends)
