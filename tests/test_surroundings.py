"""`alignet-ray doctor` names what is wrong around a run: each planted fault by its line, with the fix."""

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from alignet_ray import surroundings
from alignet_ray.surroundings import Line, Place

Plant = Callable[[pytest.MonkeyPatch, Path], None]


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def no_torchvision(patch: pytest.MonkeyPatch, folder: Path) -> None:
    def fails(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    patch.setattr(surroundings.importlib, "import_module", fails)


def no_timm(patch: pytest.MonkeyPatch, folder: Path) -> None:
    def version(name: str) -> str:
        if name == "timm":
            raise PackageNotFoundError(name)
        return "1.0"

    patch.setattr(surroundings, "version", version)


def little_memory(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1e9, total=8e9))


def full_disk(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1e8, total=1e12))


def small_shared_memory(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1e12, total=64e6))


def few_files(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setattr(resource, "getrlimit", lambda kind: (256, 1024))


def unwritable_root(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setattr(os, "access", lambda path, mode: False)


def network_file_system(patch: pytest.MonkeyPatch, folder: Path) -> None:
    mounts = [SimpleNamespace(mountpoint="/", fstype="ext4"), SimpleNamespace(mountpoint=str(folder), fstype="nfs4")]
    patch.setattr(psutil, "disk_partitions", lambda all: mounts)


def gone_cluster(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port()}")


def gone_server(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{closed_port()}")


def dead_proxy(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("HTTPS_PROXY", f"http://user:secret@127.0.0.1:{closed_port()}")


def shadowing_script(patch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "timm.py").write_text("")
    patch.chdir(folder)


def c_locale(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setattr(surroundings.locale, "getpreferredencoding", lambda set_it: "ANSI_X3.4-1968")


def long_temporary_folder(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setattr(surroundings.runtime, "MAX_TEMPORARY", 2)


FAULTS: dict[str, tuple[Plant, str]] = {
    "torchvision": (no_torchvision, "pip install --upgrade torch torchvision"),
    "libraries": (no_timm, "pip install timm"),
    "memory": (little_memory, "close other programs"),
    "disk": (full_disk, "alignet-ray gc"),
    "shared memory": (small_shared_memory, "--shm-size"),
    "open files": (few_files, "ulimit -n"),
    "root": (unwritable_root, "another --store.root"),
    "file system": (network_file_system, "--tracking.uri"),
    "Ray": (gone_cluster, "start one, or leave out --ray.address and RAY_ADDRESS"),
    "MLflow": (gone_server, "start the server"),
    "proxy": (dead_proxy, "unset HTTPS_PROXY"),
    "current folder": (shadowing_script, "rename timm.py"),
    "locale": (c_locale, "LANG=C.UTF-8"),
    "temporary files": (long_temporary_folder, "RAY_TMPDIR"),
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "HTTPS_PROXY", "https_proxy", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def lines(folder: Path) -> dict[str, Line]:
    return {line.name: line for line in surroundings.examine(Place(str(folder / "runs")))}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named_with_its_fix(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = lines(tmp_path)
    plant, fix = FAULTS[name]
    plant(monkeypatch, tmp_path)
    after = lines(tmp_path)
    assert fix in after[name].fix, after[name]
    assert "secret" not in str(after[name])
    # The fault is found, and not merely always reported.
    assert fix not in before[name].fix or name in ("memory", "disk", "open files", "shared memory"), before[name]
    assert not (tmp_path / "runs").exists(), "looking creates nothing"


def test_an_examination_that_fails_is_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def surprise() -> None:
        raise OSError("no such thing\nsecond line")

    monkeypatch.setattr(psutil, "virtual_memory", surprise)
    assert lines(tmp_path)["memory"] == Line("memory", "OSError: no such thing", "please report this line")


def test_the_command_prints_every_line_and_an_exit_code(tmp_path: Path) -> None:
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{closed_port()}"}
    command = [sys.executable, "-m", "alignet_ray.cli", "doctor", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    found = {line["name"]: line for line in json.loads(done.stdout)}
    assert len(found) == len(surroundings.CHECKS)
    assert "start the server" in found["MLflow"]["fix"]
    assert "torch " in found["libraries"]["value"]
