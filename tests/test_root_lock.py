"""One run at a time holds a root, and a refused run leaves none behind that it made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from alignet_ray import root_lock
from alignet_ray.errors import UserError

LOCK = """
import sys
from pathlib import Path
from alignet_ray import root_lock

with root_lock.lock(Path(sys.argv[1])):
    pass
"""


def test_a_second_run_is_told_who_holds_the_root(tmp_path: Path) -> None:
    with root_lock.lock(tmp_path):
        done = subprocess.run([sys.executable, "-c", LOCK, str(tmp_path)], capture_output=True, text=True)
        assert f"is in use by another run (pid {os.getpid()}, since" in done.stderr
    with root_lock.lock(tmp_path):
        pass  # free again


def test_a_refused_run_removes_the_root_that_it_made_unless_results_lie_there(tmp_path: Path) -> None:
    def refused(root: Path, *names: str) -> None:
        created = root_lock.missing_folders(root)
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text("")
        with pytest.raises(UserError, match="wrong path"), root_lock.removed_if_refused(created):
            raise UserError("wrong path")

    refused(tmp_path / "new" / "runs", "run.lock", "run.owner", "logs/run.log")
    assert list(tmp_path.iterdir()) == []
    refused(tmp_path / "drawn", "run.lock", "worlds/tiny/images.parquet")
    refused(tmp_path / "drawn", "run.lock")
    assert (tmp_path / "drawn" / "worlds" / "tiny" / "images.parquet").exists()
