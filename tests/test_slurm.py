"""The Slurm script, on one machine with stand-ins for Slurm's commands: a real job, and time that runs out."""

import os
import subprocess
from pathlib import Path

import psutil
import pytest
from support.machines import BIN, ROOT, Done, until
from test_jobs import TINY
from test_jobs import tmp_path as tmp_path

pytestmark = pytest.mark.slow


@pytest.fixture
def slurm(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """Stand-ins for Slurm's commands on one machine: srun runs what follows its options, scontrol notes its calls."""
    (tmp_path / "scontrol").write_text('#!/bin/sh\n[ "$1" = show ] && exec hostname\necho "$@" >> "$SLURM_NOTES"\n')
    (tmp_path / "srun").write_text('#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n')
    for name in ("scontrol", "srun"):
        (tmp_path / name).chmod(0o755)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    slurm = {"JOB_ID": str(os.getpid()), "JOB_NODELIST": "here", "JOB_NUM_NODES": "1", "CPUS_ON_NODE": "4"}
    env = clean | {f"SLURM_{k}": v for k, v in slurm.items()}
    env |= {"SLURM_NOTES": str(tmp_path / "notes"), "RAY_TMPDIR": str(tmp_path / "ray"), "SLURM_SUBMIT_DIR": str(ROOT)}
    return tmp_path, env | {"PATH": f"{tmp_path}:{BIN}:{os.environ['PATH']}"}


def test_the_slurm_script_runs_a_job_and_leaves_nothing(slurm: tuple[Path, dict[str, str]]) -> None:
    folder, env = slurm
    command = ["bash", str(ROOT / "cluster" / "slurm.sh"), "smok", "--store.root", str(folder / "root")]
    done = Done.of(command, env, 180)
    assert done.code == 2, done.text
    assert "did you mean 'smoke'?" in done.text
    assert not list(ROOT.glob(".ray-token-*"))
    assert not processes(str(folder))


def test_the_slurm_script_queues_again_when_time_is_up(slurm: tuple[Path, dict[str, str]]) -> None:
    folder, env = slurm
    command = ["bash", str(ROOT / "cluster" / "slurm.sh"), *TINY, "--store.root", str(folder / "root")]
    with (folder / "log").open("wb") as log:
        script = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        until(lambda: "== soften" in (folder / "log").read_text(), 180, "stage")
        script.terminate()
        assert script.wait(timeout=90) == 130, (folder / "log").read_text()[-2000:]
    finally:
        script.kill()
    assert "requeue" in (folder / "notes").read_text()
    assert "the same command goes on from there" in (folder / "log").read_text()
    until(lambda: not processes(str(folder)), 20, "end of Ray's processes")


def processes(mark: str) -> list[int]:
    """Processes whose command line names a folder."""
    return [p.pid for p in psutil.process_iter(["cmdline"]) if mark in " ".join(p.info["cmdline"] or [])]
