"""Ray's start and stop, where logs go, and what the machine offers. Ray is imported when it is started, not before."""

import contextlib
import errno
import fcntl
import logging
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, cast

from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.screen import Screen

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TQDM_DISABLE": "1",
}
"""Environment of driver and workers: no usage reports, no progress bars but ours."""

MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "THP_MEM_ALLOC_ENABLE": "1",
}
"""The same for memory: the C library keeps what torch frees, and large tensors lie on huge pages. As glibc comes, every
activation is mapped and faulted in again at every step, which took a training step on a CPU a quarter of its time and
a forward pass more; threads need one arena, as only the main one can hold large pieces."""

ALONE = {
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_metrics_report_interval_ms": "60000",
    "RAY_num_workers_soft_limit": "0",
    "RAY_idle_worker_killing_time_threshold_ms": "20000",
    "RAY_worker_niceness": "0",
}
"""The same where Ray is our own. Nobody scrapes its metrics. Workers yield to nothing that a plain process would not
yield to (with Ray's own niceness of 15 its daemons took a twentieth of a training on two cores). They go when they have
had nothing to do for 20 seconds, as each takes a hundredth of a core even so: the next stage finds them, a long
training does not."""

JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable that Ray sets for the entrypoint of a submitted job (this is its whole name)."""


def state_path(cfg: Config) -> Path:
    """The local folder for lock, logs, generated worlds and embedded tracking; it need not exist.

    Raises:
        UserError: the root is remote and no --state-dir is given, or it is relative inside a submitted job, whose
            working directory is thrown away.
    """
    folder = cfg.state_dir or cfg.store.root
    if JOB in os.environ:
        for given in (cfg.store.root, folder):
            if "://" not in given and not Path(given).expanduser().is_absolute():
                raise UserError(f"{given} would vanish with the job's working directory: give an absolute --store.root")
    if "://" in folder:
        raise UserError(f"--store.root {folder} is remote: give a local folder with --state-dir as well")
    return Path(folder).expanduser().resolve()


def state_dir(cfg: Config) -> Path:
    """`state_path`, made if need be.

    Raises:
        UserError: as `state_path`, or the folder cannot be written.
    """
    path = state_path(cfg)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write to {path} ({error.strerror}): choose another --store.root") from error
    return path


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the root for this run; the lock goes with the process, however it ends.

    Raises:
        UserError: another live process holds it.
    """
    with (folder / "run.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            file.seek(0)
            raise UserError(
                f"{folder} is in use by another run ({file.read().strip() or 'unknown'}): wait for it, stop it, "
                "or choose another --store.root"
            ) from error
        file.truncate(0)
        file.write(f"pid {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
        yield
        file.truncate(0)


@contextlib.contextmanager
def log_to(path: Path, screen: Screen) -> Iterator[None]:
    """Within it, logging, warnings and all that libraries print go to a file; only `screen` reaches the terminal.

    The file descriptors themselves are redirected, since Ray's C++ core and its log threads write to them as well.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO, filename=path, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logging.captureWarnings(True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {number: os.dup(number) for number in (1, 2)}
    before = screen.stream
    with path.open("a") as file, os.fdopen(os.dup(1), "w") as terminal:
        if before is sys.stdout:
            screen.stream = terminal
        for number in kept:
            os.dup2(file.fileno(), number)
        try:
            yield
        except Exception:
            logging.getLogger(__name__).exception("the run ended")  # whatever the terminal is told
            raise
        finally:
            screen.stream = before
            sys.stdout.flush()
            sys.stderr.flush()
            for number, original in kept.items():
                os.dup2(original, number)
                os.close(original)


def start(cfg: Config, dashboard: bool = False) -> str:
    """Start Ray on this machine or join a cluster, once; returns where its worker logs lie.

    With `dashboard`, a Ray of our own sees when the driver of a Train run is killed, and frees what that run held.
    """
    address = cfg.ray.address or os.environ.get("RAY_ADDRESS") or "local"
    ours = QUIET | MEMORY | (ALONE if address == "local" else {})
    env = {key: os.environ.setdefault(key, value) for key, value in ours.items()}
    import ray

    if ray.is_initialized():
        return ""
    options: dict[str, Any] = {}
    if address == "local":
        options["num_cpus"] = cfg.ray.num_cpus or max(4, os.cpu_count() or 1)
        options["include_dashboard"] = dashboard
        if dashboard:  # workers would look for it by process names, and give up if another Ray runs on this machine
            options["dashboard_port"] = port = _free_port()
            env["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
        if cfg.ray.object_store_mb:
            options["object_store_memory"] = cfg.ray.object_store_mb * 10**6
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with batch_scheduling() if address == "local" else contextlib.nullcontext():
            context: Any = ray.init(
                address=address,
                logging_level=logging.ERROR,
                log_to_driver=False,
                runtime_env={"env_vars": env},
                **options,
            )
    except ConnectionError as error:
        raise UserError(f"no Ray cluster answers at {address}: start one, or leave out --ray.address") from error
    signal.signal(signal.SIGTERM, handler)  # ray.init puts its own in place, under which a stop would not look like one
    return str(Path(context.address_info["session_dir"]) / "logs")


@contextlib.contextmanager
def batch_scheduling() -> Iterator[None]:
    """What starts within it waits for its turn instead of interrupting whoever computes (Linux: SCHED_BATCH).

    Each of Ray's processes wakes up a hundred times a second. On two cores these were a thousand interruptions a second
    of a training whose threads wait for each other: a tenth of its time.
    """
    ordinary = hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER
    if ordinary:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        if ordinary:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class ClusterNodes:
    """The nodes that stages spread over: waited for, and each looked over once, since any may join late."""

    def __init__(self, cfg: Config, say: Callable[[str], None]) -> None:
        self.cfg, self.say = cfg, say
        self.seen: set[str] = set()

    def ready(self) -> None:
        """Wait for what `--ray.gpus` and `--ray.cpus` ask for; check that new nodes share this process's storage.

        Raises:
            UserError: nothing came in time, or a node misses a folder or the package.
        """
        for kind, count in (("GPU", self.cfg.ray.gpus), ("CPU", self.cfg.ray.cpus)):
            if _offered(kind) < count:
                self._wait(kind, count)
        self._look()

    def _wait(self, kind: str, count: int) -> None:
        """A placement group of `count` bundles tells an autoscaler what is missing; it is gone once that is there."""
        from ray.util import placement_group, remove_placement_group

        patience = self.cfg.ray.patience
        self.say(f"   waiting up to {patience:g} minutes for {count} {kind}s: {_offered(kind)} are there")
        wish, deadline = placement_group([{kind: 1}] * count), time.monotonic() + 60 * patience
        try:
            while _offered(kind) < count and time.monotonic() < deadline:
                time.sleep(1)
        finally:
            remove_placement_group(wish)
        if not _offered(kind):
            raise UserError(f"no {kind} came within {patience:g} minutes: `ray status` says why, or ask for fewer")
        self.say(f"   going on with {_offered(kind)} {kind}s")

    def _look(self) -> None:
        """Ask every new node, all at once, whether it sees the folders that all must share."""
        import ray

        nodes = {n["NodeID"]: n["NodeManagerAddress"] for n in ray.nodes() if n["Alive"]}  # type: ignore[no-untyped-call]
        new = {node: address for node, address in nodes.items() if node not in self.seen}
        if len(nodes) > 1 and new:
            _same_storage(self.cfg, new)
        self.seen |= new.keys()


def _offered(kind: str) -> int:
    import ray

    return int(ray.cluster_resources().get(kind, 0))  # type: ignore[no-untyped-call]


def _same_storage(cfg: Config, nodes: dict[str, str]) -> None:
    """Have every node (id -> address) look for the local folders and for a file that was made just now."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    folders = [p for p in (cfg.corpus.path, cfg.objects.path, cfg.store.root) if p and "://" not in p]
    paths = [str(Path(p).expanduser().resolve()) for p in folders]
    probe = Path(paths[-1]) / f".shared-{os.getpid()}" if "://" not in cfg.store.root else None
    if probe:
        probe.touch()
        paths[-1] = str(probe)
    look = ray.remote(num_cpus=0, max_retries=0)(_missing)
    there = {n: NodeAffinitySchedulingStrategy(n, soft=False) for n in nodes}
    answers = {n: look.options(scheduling_strategy=there[n]).remote(paths) for n in nodes}
    try:
        for node, answer in answers.items():
            _judge(nodes[node], answer)
    finally:
        if probe:
            probe.unlink(missing_ok=True)


def _missing(paths: list[str]) -> list[str]:
    """The paths that this node does not see."""
    return [p for p in paths if not os.path.exists(p)]


def _judge(address: str, answer: Any) -> None:
    """Turn a node's answer into a message; a node that dies meanwhile is Ray's business."""
    import ray

    try:
        missing = ray.get(answer)
    except ray.exceptions.RayTaskError as error:
        raise UserError(
            f"node {address} cannot import alignet_ray: submit with --working-dir . or install the package there"
        ) from error
    except ray.exceptions.RayError:
        return
    if missing:
        folder = missing[0] if ".shared-" not in missing[0] else os.path.dirname(missing[0])
        raise UserError(
            f"node {address} does not see {folder}: mount the same storage on every node at the same path, or use s3://"
        )


def stop() -> None:
    """Stop Ray if this process started it."""
    if "ray" in sys.modules:
        import ray

        ray.shutdown()


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Within it, SIGTERM stops the run the way Ctrl-C does."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def tags() -> dict[str, str]:
    """What a tracked run says of where it runs: commit, library versions, cores, and this machine's GPUs."""
    found = provenance()
    versions = cast(dict[str, str], found["versions"])
    gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*"))
    where = {"commit": str(found["commit"]), "python": str(found["python"]), "cpus": str(os.cpu_count())}
    where |= {"gpus": str(len(gpus)), "platform": platform.platform()}
    return {f"alignet.{k}": v for k, v in where.items()} | {f"alignet.version.{k}": v for k, v in versions.items()}


def provenance() -> dict[str, object]:
    """Git commit of the running code (if it is a checkout), and library versions."""
    here = Path(__file__).parent
    commit = None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
        commit = done.stdout.strip()
    names = ("alignet-ray", "ray", "torch", "torchvision", "timm", "numpy", "pyarrow", "scikit-learn", "mlflow")
    return {
        "commit": commit,
        "python": sys.version.split()[0],
        "versions": {name: version(name) for name in names},
    }
