"""The folder of a study: on a local disk only, served by one process at a time."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from support.ignored_case import lists_as

from alignet_ray.ask import folder
from alignet_ray.ask.folder import StudyFolder, all_studies, file_system_type, open_folder, served_once
from alignet_ray.errors import UserError


def test_a_study_lies_under_the_root(tmp_path: Path) -> None:
    found = open_folder("pilot", str(tmp_path))
    assert found.path == tmp_path / "ask" / "pilot"
    assert found.file.parent == found.path
    assert found.picture(12).name == "000012.jpg"
    assert not found.exists
    assert not found.path.exists()  # looking creates nothing


def test_a_remote_root_needs_a_local_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--state-dir"):
        open_folder("pilot", "s3://bucket/runs")
    assert open_folder("pilot", "s3://bucket/runs", str(tmp_path)).path == tmp_path / "ask" / "pilot"


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "lustre"])
def test_network_file_systems_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    mounts = [
        SimpleNamespace(mountpoint="/", fstype="ext4"),
        SimpleNamespace(mountpoint=str(tmp_path), fstype=kind),
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    with pytest.raises(UserError, match=rf"{kind}.*--state-dir"):
        open_folder("pilot", str(tmp_path))
    assert file_system_type(tmp_path.parent) == "ext4"


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden"])
def test_a_name_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="a study's name"):
        open_folder(name, str(tmp_path))


def test_two_studies_whose_names_differ_in_case_are_never_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_folder("Pilot", str(tmp_path)).path.mkdir(parents=True)
    open_folder("pilot", str(tmp_path)).path.mkdir()
    lists_as(monkeypatch, {"pilot": "Pilot"})
    with pytest.raises(UserError, match="does not tell 'pilot' from 'Pilot'"):
        open_folder("pilot", str(tmp_path))


def test_a_study_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none yet"):
        open_folder("pilot", str(tmp_path)).require()
    other = open_folder("other", str(tmp_path))
    other.path.mkdir(parents=True)
    other.file.touch()
    with pytest.raises(UserError, match="there are: other"):
        open_folder("pilot", str(tmp_path)).require()
    assert all_studies(tmp_path) == [other]
    assert other.require() is other


def test_only_one_process_serves_a_study(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from alignet_ray.ask.folder import *\n"
        "with served_once(StudyFolder(Path(sys.argv[1]))): print('held')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "pilot")]
    with served_once(StudyFolder(tmp_path / "pilot")):
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "served already" in refused.stderr.splitlines()[-1]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "held\n"
    assert os.stat(tmp_path / "pilot").st_mode & 0o077 == 0  # nobody else's business


def test_snapshots_can_be_forgotten(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    folder.forget_snapshots(study)  # there are none
    study.snapshots.mkdir()
    (study.snapshots / "a.csv").touch()
    folder.forget_snapshots(study)
    assert not study.snapshots.exists()
