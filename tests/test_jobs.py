"""The line as submitted jobs on a real cluster of several nodes, token on, and what happens when machines fail.

Every fault is really caused, while the stage works; the artifact must equal the one of an undisturbed run.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pytest
import safetensors.numpy
from support.machines import BIN, ROOT, Done, LocalCluster, cable, free_port, until

from alignet_ray.store import Store

pytestmark = pytest.mark.slow
TINY = [
    *(
        "smoke",
        "--corpus.path",
        "synthetic:tiny",
        "--embed.model",
        "synthetic:tiny",
        "--distill.model",
        "synthetic:tiny",
    ),
    *("--distill.no-control", "--distill.steps", "40", "--distill.checkpoint-every", "0.2", "--name", "job"),
    *("--label.train", "6000", "--label.valid", "4", "--soften.steps", "100", "--align.folds", "0"),
    *("--distill.batch-size", "48", "--evaluate.bootstrap", "50", "--cluster.k", "4"),
    "--ray.force",  # both nodes are to take part, though there is little work
]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts and network namespaces need root")


def job(cluster: LocalCluster, stage: str, root: Path, *more: str) -> Done:
    return cluster.job("python", f"jobs/{stage}.py", *TINY, "--store.root", str(root), *more)


def background(cluster: LocalCluster, stage: str, root: Path, *more: str) -> str:
    """Submit with --no-wait; the submission's id."""
    known = {j["submission_id"] for j in cluster.ask("/api/jobs/")}
    command = ["python", f"jobs/{stage}.py", *TINY, "--store.root", str(root), *more]
    submit = cluster.jobs("submit", "--no-wait", "--working-dir", str(ROOT), "--", *command)
    assert submit.code == 0, submit.text
    (new,) = {j["submission_id"] for j in cluster.ask("/api/jobs/")} - known
    return str(new)


def state(cluster: LocalCluster, submission: str) -> str:
    return str(cluster.ask(f"/api/jobs/{submission}")["status"])


def actors(cluster: LocalCluster) -> list[dict[str, Any]]:
    known: list[dict[str, Any]] = cluster.ask("/api/v0/actors?limit=1000&detail=1")["data"]["result"]["result"]
    return known


def artifact(root: Path, node: str) -> Path:
    reference = Store.open(str(root)).read_ref("job")
    assert reference is not None
    return root / node.split("@")[0] / reference.nodes[node]


def content(root: Path, node: str) -> dict[str, str]:
    folder = artifact(root, node)
    assert (folder / "_SUCCESS").exists(), f"{node} is not finished"
    results = [p for p in sorted(folder.rglob("*")) if p.suffix in (".parquet", ".safetensors", ".npz")]
    kept = [p for p in results if "checkpoints" not in p.parts]
    assert kept
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in kept}


def without(root: Path, node: str, target: Path) -> Path:
    """A copy of a finished root in which one artifact was never made; ids are the same under any root."""
    gone = artifact(root, node)
    skip = {"mlflow.db", "mlflow-artifacts", "logs", "run.lock"}
    shutil.copytree(
        root, target, ignore=lambda folder, names: [n for n in names if n in skip or Path(folder, n) == gone]
    )
    return target


def begun(folder: Path, pattern: str) -> Callable[[], bool]:
    """Whether a durable part of an artifact is there."""
    return lambda: any(not p.name.startswith(".") for p in folder.glob(pattern))


@contextlib.contextmanager
def cluster_of_nodes(*options: str, settings: dict[str, str] | None = None, workers: int = 1) -> Iterator[LocalCluster]:
    """A head and a worker (or more), gone at the end."""
    with tempfile.TemporaryDirectory(prefix="aj", dir="/tmp", ignore_cleanup_errors=True) as folder:
        made = LocalCluster(Path(folder), settings=settings or {})
        try:
            for _ in range(1 + workers):
                made.start(*options)
            yield made
        finally:
            made.stop()


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with cluster_of_nodes() as made:
        yield made


@pytest.fixture(scope="module")
def whole(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The undisturbed line, as one job over two nodes."""
    root = tmp_path_factory.mktemp("whole")
    return root, job(cluster, "pipeline", root, "--ray.cpus", "6")


def test_the_whole_line_is_one_job(whole: tuple[Path, Done]) -> None:
    root, done = whole
    assert done.code == 0, done.text[-4000:]
    for word in ("== embed@corpus", "== distill@student", "== register", "done in", "report "):
        assert word in done.text, word
    assert re.search(r"96/96 images, [\d.]+/s", done.text)
    assert all((artifact(root, n) / "_SUCCESS").exists() for n in ("evaluate", "register", "distill@student"))


def test_a_second_job_finds_nothing_to_do(cluster: LocalCluster, whole: tuple[Path, Done]) -> None:
    done = job(cluster, "pipeline", whole[0])
    assert done.code == 0, done.text[-2000:]
    assert "nothing to do" in done.text


def test_work_went_to_both_nodes(cluster: LocalCluster, whole: tuple[Path, Done]) -> None:
    """The actors that embed lived on both."""
    assert len({a["node_id"] for a in actors(cluster) if "MapWorker" in a["class_name"]}) == 2


SWEEP = ("--align.folds", "2", "--sweep.space", "align.identity_penalty=choice(1e-4,1e-2)")
SWEEP += ("--sweep.trials", "2", "--sweep.repeats", "0", "--sweep.no-full")
"""A sweep of the teacher's map: two trials, nothing after them."""


def test_a_sweep_is_one_job(cluster: LocalCluster, whole: tuple[Path, Done], tmp_path: Path) -> None:
    root = without(whole[0], "align", tmp_path / "root")
    done = job(cluster, "sweep", root, *SWEEP)
    assert done.code == 0, done.text[-3000:]
    assert list(root.glob("**/sweep.html")), done.text[-3000:]


def test_a_head_that_is_killed_under_a_sweep_leaves_its_trials_to_another(
    whole: tuple[Path, Done], tmp_path: Path
) -> None:
    """The head and all on it are gone in the middle of the trials; a new cluster goes on with the same folder."""
    undisturbed = without(whole[0], "align", tmp_path / "undisturbed")
    root = without(whole[0], "align", tmp_path / "root")
    with cluster_of_nodes() as first:
        assert job(first, "sweep", undisturbed, *SWEEP).code == 0
        # One at a time, so that the first has ended and the second has not.
        background(first, "sweep", root, *SWEEP, "--sweep.concurrent", "1")
        until(lambda: bool(finished_trials(root)), 300, "trial")
        first.machines[0].kill()
        known = finished_trials(root)
        assert len(known) < len(finished_trials(undisturbed)), "too late: all trials had ended"
    with cluster_of_nodes() as second:
        done = job(second, "sweep", root, *SWEEP)
    assert done.code == 0, done.text[-3000:]
    assert finished_trials(root) == finished_trials(undisturbed)
    assert known.items() <= finished_trials(root).items()


def finished_trials(root: Path) -> dict[str, dict[str, float]]:
    """Figures of a sweep's finished trials by file name."""
    figures = {}
    for file in root.glob("sweep/*/trials/*.json"):
        trial = json.loads(file.read_text())
        if trial["status"] == "finished":
            figures[file.name] = trial["figures"]
    return figures


def test_a_mistake_ends_the_job_with_its_reason(cluster: LocalCluster, tmp_path: Path) -> None:
    done = cluster.job("python", "jobs/embed.py", *TINY)
    assert done.code == 1
    assert "give an absolute --store.root" in done.text
    assert "exit code 2" in done.text
    done = cluster.job("python", "jobs/pipeline.py", "smok", "--store.root", str(tmp_path))
    assert done.code == 1
    assert "did you mean 'smoke'?" in done.text


def test_a_stopped_job_is_continued_by_the_next(
    cluster: LocalCluster, whole: tuple[Path, Done], tmp_path: Path
) -> None:
    root = without(whole[0], "embed@corpus", tmp_path / "root")
    submission = background(cluster, "embed", root)
    until(begun(artifact(root, "embed@corpus"), "part-*"), 120, "part")
    assert cluster.jobs("stop", submission).code == 0
    assert state(cluster, submission) == "STOPPED"
    parts = len(list(artifact(root, "embed@corpus").glob("part-*")))
    done = job(cluster, "embed", root)
    assert done.code == 0, done.text[-3000:]
    if not (artifact(root, "embed@corpus") / "_SUCCESS").exists():
        assert f"reused {parts} finished parts" in done.text
    assert content(root, "embed@corpus") == content(whole[0], "embed@corpus")


@pytest.mark.parametrize(
    ("node", "pattern"),
    [("embed@corpus", "part-*"), ("label@aligned", "t*/part-*"), ("distill@student", "checkpoints/**/*")],
)
def test_losing_a_worker_node_changes_nothing(
    cluster: LocalCluster, whole: tuple[Path, Done], tmp_path: Path, node: str, pattern: str
) -> None:
    root = without(whole[0], node, tmp_path / "root")
    submission = background(cluster, node.split("@")[0], root)
    until(begun(artifact(root, node), pattern), 180, "part")
    cluster.running()[-1].kill()
    assert not (artifact(root, node) / "_SUCCESS").exists(), "too late: the stage had ended"
    until(lambda: state(cluster, submission) in ("SUCCEEDED", "FAILED"), 300, "end")
    log = cluster.ask(f"/api/jobs/{submission}/logs")["logs"]
    cluster.start()
    assert state(cluster, submission) == "SUCCEEDED", log[-4000:]
    assert content(root, node) == content(whole[0], node)


def test_a_node_that_gives_notice_leaves_a_checkpoint_behind(whole: tuple[Path, Done], tmp_path: Path) -> None:
    """`ray drain-node`, as a pod calls it that is stopped; no other checkpoint is due for hours."""
    settings = {"RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.2"}
    # One slot a node, so that each of them has a training process, and the one that stays may go on alone.
    patient = ("--distill.workers", "2", "--distill.min-workers", "1")
    patient += ("--distill.steps", "600", "--distill.checkpoint-every", "10000")
    root = without(whole[0], "distill@student", tmp_path / "root")
    with cluster_of_nodes("--num-cpus=1", settings=settings) as small:
        submission = background(small, "distill", root, *patient)
        until(begun(root / "distill", "*/checkpoints/*"), 180, "checkpoint")
        out = next(path for path in (root / "distill").iterdir() if any(path.glob("checkpoints/*")))
        small.drain()
        until(lambda: len(list(out.glob("checkpoints/step-*"))) == 2, 60, "checkpoint after the notice")
        noticed = max(path.name for path in out.glob("checkpoints/step-*"))
        assert noticed < "step-00000600.pt", "too late: the training had ended"
        small.running()[-1].kill()
        until(lambda: state(small, submission) in ("SUCCEEDED", "FAILED"), 300, "end")
        log = small.ask(f"/api/jobs/{submission}/logs")["logs"]
    assert (out / "_SUCCESS").exists(), log[-4000:]
    # The first update after a start is saved again: it is the one that follows the notice.
    next_step = int(noticed.removeprefix("step-").removesuffix(".pt")) + 1
    assert (out / "checkpoints" / f"step-{next_step:08d}.pt").exists()


# Four shares of a batch round otherwise than two, and Adam makes a whole step of a gradient near zero.
@pytest.mark.parametrize(("lost", "rounding"), [(1, 5e-4), (3, 1e-3)], ids=["one of two", "three of four"])
def test_training_goes_on_with_fewer_processes(
    whole: tuple[Path, Done], tmp_path: Path, lost: int, rounding: float
) -> None:
    """A process a node, and all nodes but the head's are lost for good: its process takes the whole batch."""
    root = without(whole[0], "distill@student", tmp_path / "root")
    with cluster_of_nodes("--num-cpus=1", workers=lost) as small:
        processes = ("--distill.workers", str(1 + lost), "--distill.min-workers", "1")
        submission = background(small, "distill", root, *processes)
        until(begun(artifact(root, "distill@student"), "checkpoints/**/*"), 300, "part")
        for machine in small.running()[1:]:
            machine.kill()
        assert not (artifact(root, "distill@student") / "_SUCCESS").exists(), "too late: the stage had ended"
        until(lambda: state(small, submission) in ("SUCCEEDED", "FAILED"), 300, "end")
        log = small.ask(f"/api/jobs/{submission}/logs")["logs"]
        assert state(small, submission) == "SUCCEEDED", log[-4000:]
    mine, theirs = (
        safetensors.numpy.load_file(artifact(r, "distill@student") / "backbone.safetensors") for r in (root, whole[0])
    )
    for name, weight in theirs.items():
        np.testing.assert_allclose(mine[name], weight, rtol=0, atol=rounding, err_msg=name)


def test_a_killed_driver_is_continued_by_the_next_job(
    cluster: LocalCluster, whole: tuple[Path, Done], tmp_path: Path
) -> None:
    root = without(whole[0], "embed@corpus", tmp_path / "root")
    submission = background(cluster, "embed", root)
    until(begun(artifact(root, "embed@corpus"), "part-*"), 120, "part")
    os.kill(int(cluster.ask(f"/api/jobs/{submission}")["driver_info"]["pid"]), signal.SIGKILL)
    until(lambda: state(cluster, submission) == "FAILED", 60, "failure")
    done = job(cluster, "embed", root)
    assert done.code == 0, done.text[-3000:]
    assert content(root, "embed@corpus") == content(whole[0], "embed@corpus")


def test_a_node_that_nobody_hears_for_a_minute_changes_nothing(
    cluster: LocalCluster, whole: tuple[Path, Done], tmp_path: Path
) -> None:
    """All processes of a worker node stand still, as behind a cut cable, and come back when the others gave it up."""
    root = without(whole[0], "distill@student", tmp_path / "root")
    submission = background(cluster, "distill", root)
    until(begun(artifact(root, "distill@student"), "checkpoints/**/*"), 180, "part")
    cut = cluster.running()[-1]
    for process in (tree := cut.tree()):
        process.suspend()
    assert not (artifact(root, "distill@student") / "_SUCCESS").exists(), "too late: the stage had ended"
    time.sleep(60)
    for process in tree:
        process.resume()
    until(lambda: state(cluster, submission) in ("SUCCEEDED", "FAILED"), 300, "end")
    log = cluster.ask(f"/api/jobs/{submission}/logs")["logs"]
    cut.kill()
    until(lambda: cluster.alive() == 1, 60, "notice of the node's end")
    cluster.start()
    assert state(cluster, submission) == "SUCCEEDED", log[-4000:]
    assert content(root, "distill@student") == content(whole[0], "distill@student")


@as_root
@pytest.mark.skipif(shutil.which("ip") is None, reason="network namespaces need iproute2's ip")
def test_a_network_cut_for_a_minute_changes_nothing(whole: tuple[Path, Done], tmp_path: Path) -> None:
    """A node in a network namespace of its own: training spans the cable, which is pulled and put back."""
    root = without(whole[0], "distill@student", tmp_path / "root")
    with cable() as wire, tempfile.TemporaryDirectory(prefix="aj", dir="/tmp", ignore_cleanup_errors=True) as folder:
        made = LocalCluster(Path(folder), host=wire.near, settings={"GLOO_SOCKET_IFNAME": wire.name})
        try:
            made.start("--num-cpus=1")
            far = functools.partial(made.start, "--num-cpus=1", f"--node-ip-address={wire.far}", inside=wire.inside)
            far()
            submission = background(made, "distill", root)
            until(begun(artifact(root, "distill@student"), "checkpoints/**/*"), 240, "part")
            workers = [a for a in actors(made) if "RayTrainWorker" in a["class_name"] and a["state"] == "ALIVE"]
            assert len({a["node_id"] for a in workers}) == 2
            wire.plug("down")
            assert not (artifact(root, "distill@student") / "_SUCCESS").exists(), "too late: the stage had ended"
            time.sleep(60)
            wire.plug("up")
            time.sleep(15)
            if len(made.running()) == 1:  # the head had given the node up, so it ended; a service starts it again
                far()
            until(lambda: state(made, submission) in ("SUCCEEDED", "FAILED"), 300, "end")
            log = made.ask(f"/api/jobs/{submission}/logs")["logs"]
            assert state(made, submission) == "SUCCEEDED", log[-4000:]
        finally:
            made.stop()
    assert content(root, "distill@student") == content(whole[0], "distill@student")


def test_a_killed_head_leaves_a_root_that_another_cluster_continues(whole: tuple[Path, Done], tmp_path: Path) -> None:
    root = without(whole[0], "embed@corpus", tmp_path / "root")
    with cluster_of_nodes() as first:
        background(first, "embed", root)
        until(begun(artifact(root, "embed@corpus"), "part-*"), 180, "part")
        first.machines[0].kill()
        assert not (artifact(root, "embed@corpus") / "_SUCCESS").exists(), "too late: the stage had ended"
    with cluster_of_nodes() as second:
        done = job(second, "embed", root)
    assert done.code == 0, done.text[-3000:]
    assert content(root, "embed@corpus") == content(whole[0], "embed@corpus")


def test_a_small_object_store_is_enough(whole: tuple[Path, Done], tmp_path: Path) -> None:
    """The least that Ray takes: what is passed around is names and rows, and matrices lie in files."""
    with cluster_of_nodes("--object-store-memory=80000000") as small:
        done = job(small, "pipeline", tmp_path / "root")
    assert done.code == 0, done.text[-3000:]
    for node in ("embed@corpus", "label@aligned", "distill@student"):
        assert content(tmp_path / "root", node) == content(whole[0], node)


def test_results_may_lie_in_a_bucket(whole: tuple[Path, Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The root is s3://, on a server on loopback; MLflow has a server, too."""
    pytest.importorskip("moto.server")
    bucket, tracking = free_port(), free_port()
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    keys["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{bucket}"
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    database = f"sqlite:///{tmp_path}/mlflow.db"
    artifacts = ["--artifacts-destination", str(tmp_path / "artifacts")]
    with (
        serving(bucket, sys.executable, "-m", "moto.server", "-p", str(bucket)),
        serving(
            tracking, str(BIN / "mlflow"), "server", "--backend-store-uri", database, *artifacts, "-p", str(tracking)
        ),
        cluster_of_nodes(settings=keys) as made,
    ):
        pafs.S3FileSystem(
            endpoint_override=keys["AWS_ENDPOINT_URL"], scheme="http", allow_bucket_creation=True
        ).create_dir("results")
        state = ("--state-dir", str(tmp_path / "state"), "--tracking.uri", f"http://127.0.0.1:{tracking}")
        done = made.job("python", "jobs/pipeline.py", *TINY, "--store.root", "s3://results/root", *state)
        assert done.code == 0, done.text[-4000:]
        store = Store.open("s3://results/root")
        reference = store.read_ref("job")
        assert reference is not None
        for node in ("embed@corpus", "label@aligned", "distill@student"):
            there = store.artifact(node.split("@")[0], reference.nodes[node])
            assert there.finished
            for name, checksum in content(whole[0], node).items():
                assert hashlib.sha256(there.read_bytes(name)).hexdigest() == checksum, f"{node}: {name}"


@contextlib.contextmanager
def serving(port: int, *command: str) -> Iterator[None]:
    """A server on loopback, gone at the end."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        until(lambda: answers(port), 60, "server")
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@as_root
def test_storage_that_a_node_does_not_see_is_found_at_the_start(cluster: LocalCluster, tmp_path: Path) -> None:
    """A third node in a mount namespace of its own, where another disk lies over the root."""
    root = tmp_path / "root"
    root.mkdir()
    hide = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none "{root}" && exec "$@"', "sh"]
    third = cluster.start(inside=hide)
    start = time.monotonic()
    try:
        done = job(cluster, "pipeline", root)
        assert done.code == 1, done.text[-2000:]
        assert "does not see" in done.text
        assert "mount the same storage on every node" in done.text
        assert "== embed" not in done.text
        assert time.monotonic() - start < 120
    finally:
        third.kill()
        until(lambda: cluster.alive() == 2, 60, "notice of the third node's end")


@as_root
def test_a_full_disk_says_so_and_the_run_goes_on_with_room(
    cluster: LocalCluster, whole: tuple[Path, Done], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    size = sum(p.stat().st_size for p in whole[0].rglob("*") if p.is_file())
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size // 2}", "none", str(root)], check=True)
    try:
        done = job(cluster, "pipeline", root)
        assert done.code == 1, done.text[-3000:]
        assert "the disk is full" in done.text, done.text[-3000:]
        subprocess.run(["mount", "-o", f"remount,size={4 * size}", str(root)], check=True)
        done = job(cluster, "pipeline", root)
        assert done.code == 0, done.text[-3000:]
        assert content(root, "distill@student") == content(whole[0], "distill@student")
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Short, since the path of a Unix socket may have 107 bytes only."""
    with tempfile.TemporaryDirectory(prefix="aj", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
