"""Kill -9 in the middle of a stage, after its first durable part and before its last; the next run ends the same.

The undisturbed run and the killed ones use the generated world `tiny`; artifacts have the same ids under both roots, so
their files can be compared by content.
"""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from alignet_ray.store import Store

TINY = [
    "--ray.force",  # faults are of Ray's processes, which so little work would not need
    *("--corpus.path", "synthetic:tiny", "--embed.model", "synthetic:tiny", "--distill.model", "synthetic:tiny"),
    *("--distill.no-control", "--name", "kill", "--cluster.k", "4", "--label.train", "6000", "--label.valid", "4"),
    *(
        "--distill.batch-size",
        "48",
        "--distill.steps",
        "60",
        "--distill.checkpoint-every",
        "0",
        "--distill.workers",
        "1",
    ),
]


def command(root: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "alignet_ray.cli", "run", "smoke", *TINY, "--store.root", str(root), *more]


def node(root: Path, name: str) -> Path:
    reference = Store.open(str(root)).read_ref("kill")
    assert reference is not None
    return root / name.split("@")[0] / reference.nodes[name]


def content(folder: Path, keep: Callable[[str], bool]) -> dict[str, str]:
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in files.items() if keep(n)}


def is_result(name: str) -> bool:
    return name.endswith((".parquet", ".safetensors"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    done = subprocess.run(command(root), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return root


def run_and_kill(root: Path, when: Callable[[], bool], sent: int = signal.SIGKILL) -> tuple[int, float]:
    """Start a run, signal it as soon as `when` holds; its exit code and how long it took to end."""
    process = subprocess.Popen(
        command(root),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    try:
        while not when():
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.002)
        start = time.monotonic()
        os.kill(process.pid, sent)
        return process.wait(timeout=60), time.monotonic() - start
    finally:
        process.kill()
        process.wait()


def begun(root: Path, name: str, pattern: str) -> bool:
    """Whether the artifact of a node holds a durable part."""
    if not (root / "refs" / "kill.json").exists():
        return False
    return any(not part.name.startswith(".") for part in node(root, name).glob(pattern))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("embed@corpus", "part-*.parquet"),
        ("label@aligned", "train/part-*.parquet"),
        ("distill@student", "checkpoints/**/*"),
    ],
)
def test_killed_in_the_middle(undisturbed: Path, tmp_path: Path, name: str, pattern: str) -> None:
    root = tmp_path / "root"
    code, _ = run_and_kill(root, lambda: begun(root, name, pattern))
    assert code == -signal.SIGKILL
    assert not (node(root, name) / "_SUCCESS").exists(), "killed too late: it had finished"
    time.sleep(5)  # Ray's processes notice that their driver is gone
    again = subprocess.run(command(root), capture_output=True, text=True, timeout=900)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    said = again.stdout.split(f"== {name}")[1].split("\n==")[0]
    assert "reused" in said or "resumed" in said
    expected = content(node(undisturbed, name), is_result)
    found = content(node(root, name), is_result)
    assert {k: v for k, v in found.items() if "checkpoint" not in k} == {
        k: v for k, v in expected.items() if "checkpoint" not in k
    }


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_stops_cleanly_within_seconds(tmp_path: Path, sent: int) -> None:
    root = tmp_path / "root"
    code, seconds = run_and_kill(root, lambda: begun(root, "distill@student", "checkpoints/**/*"), sent)
    assert code == 130
    assert seconds < 20
    again = subprocess.run([*command(root), "--help"], capture_output=True, timeout=60)
    assert again.returncode == 0


@pytest.mark.slow
def test_a_second_run_is_refused_while_one_lives(tmp_path: Path) -> None:
    root = tmp_path / "root"
    first = subprocess.Popen(command(root), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (root / "run.owner").exists() or not (root / "run.owner").read_text():
            time.sleep(0.01)
        second = subprocess.run(command(root), capture_output=True, text=True, timeout=120)
        assert second.returncode == 2
        assert "in use by another run" in second.stderr
        assert "Traceback" not in second.stderr
    finally:
        first.kill()
        first.wait()
