"""Starts and stops Ray, and says what the cluster offers.

Ray is imported when it is started, not before.
"""

import contextlib
import logging
import os
import platform
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import psutil

from alignet_ray import invocation
from alignet_ray.config import Config
from alignet_ray.errors import UserError, first_line

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TQDM_DISABLE": "1",
}
"""Environment of driver and workers: no usage reports, no progress bars of other libraries."""

SAME_FOLDER = {"RAY_CHDIR_TO_TRIAL_DIR": "0"}
"""Environment in which trials and training processes work in the folder where the command was called.

Ray would give each a folder of its own, where relative paths (a root, images, weights) mean something else.
"""

CALLED_IN = "ALIGNET_CALLED_IN"
"""Environment variable that tells workers of a cluster the folder where the command was called."""

MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "THP_MEM_ALLOC_ENABLE": "1",
}
"""Environment for memory: the C library keeps what torch frees, and large tensors lie on huge pages.

With glibc's defaults every activation is mapped and faulted in again at every step, a quarter of the time of a training
step on a CPU. One arena is enough, as only the main one can hold large pieces.
"""

NOTICE_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
"""Environment variable by which Ray Train watches for the notice that a machine will be taken away; on by itself."""

ALONE = {
    "RAY_TRAIN_METRICS_ENABLED": "0",
    NOTICE_WATCHER: "0",
    "RAY_metrics_report_interval_ms": "60000",
    "RAY_num_workers_soft_limit": "0",
    "RAY_idle_worker_killing_time_threshold_ms": "20000",
    "RAY_worker_niceness": "0",
}
"""Environment of a Ray that this process starts for itself: no metrics, since nobody reads them.

Workers keep the priority of a plain process (Ray's niceness of 15 costs a twentieth of a training on two cores), and
leave after 20 seconds without work: the next stage still finds them, a long training is not disturbed by them.
"""

LIBRARIES = ("ray", "torch", "torchvision", "timm", "numpy", "pyarrow", "scikit-learn", "mlflow")
"""Distributions whose versions an artifact records and a bug report needs."""

CACHE = "cache"
"""Folder under the local folder of runs, see `cache_dir`."""

LOCAL = "local"
"""Address of a Ray that the command starts for itself."""

CLUSTER_SECONDS = 10
"""Seconds in which a cluster must take a connection."""

MAX_TEMPORARY = 36
"""Bytes of the path of the folder in which Ray makes its session's folder."""

JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable that Ray sets for the entrypoint of a submitted job (this is its whole name)."""


def state_path(cfg: Config) -> Path:
    """The local folder for lock, logs, generated worlds and embedded tracking; it need not exist.

    Raises:
        UserError: the root is remote and no --state-dir is given, or it is relative inside a submitted job, whose
            working directory is thrown away.
    """
    folder = cfg.state_dir or cfg.store.root
    # Ray unpacks a job's working directory into a folder of its own, and deletes it with the job.
    if JOB in os.environ:
        for given, option in ((cfg.store.root, "--store.root"), (folder, _option(cfg))):
            if "://" not in given and not Path(given).expanduser().is_absolute():
                raise UserError(f"{given} would vanish with the job's folder: give an absolute {option}")
    if "://" in folder:
        raise UserError(f"{_option(cfg)} {folder} is remote: give a local folder with --state-dir")
    return Path(folder).expanduser().resolve()


def _option(cfg: Config) -> str:
    """The option that the folder of `state_path` comes from."""
    if cfg.state_dir:
        return "--state-dir"
    return "--store.root"


def state_dir(cfg: Config) -> Path:
    """`state_path`, made if need be.

    Raises:
        UserError: as `state_path`, or the folder cannot be written.
    """
    path = state_path(cfg)
    # Permission bits do not tell (network mounts, containers), so a file is written on trial.
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable-{os.getpid()}"
        probe.write_text("", encoding="utf-8")
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write to {path} ({error.strerror}): choose another {_option(cfg)}") from error
    return path


def cache_dir(cfg: Config) -> Path:
    """Local folder of what can be made again: matrices that processes share, vectors of pictures. `gc` empties it.

    On several machines it may be one folder of them all, or one of the same name on each.

    Raises:
        UserError: as `state_dir`.
    """
    if cfg.cache_dir is None:
        return state_dir(cfg) / CACHE
    return Path(cfg.cache_dir).expanduser().resolve()


class RayPlaces(NamedTuple):
    """Where to look at a Ray: the folder of its worker logs, and the address of its dashboard ("" without one)."""

    logs: str
    dashboard: str


def start(cfg: Config, dashboard: bool = False) -> RayPlaces | None:
    """Start Ray on this machine or join a cluster, once.

    Args:
        cfg: its section `ray`.
        dashboard: also start the dashboard of a local Ray, as `ray.dashboard` does: without it Ray does not notice when
            the driver of a Train run is killed, and never frees what that run held.

    Returns:
        Where to look at it; None if Ray runs already.

    Raises:
        UserError: no cluster answers.
    """
    address = ray_address(cfg)
    is_local = address == LOCAL
    require_answer(address)
    if is_local and cfg.ray.object_store_mb:
        _require_memory(cfg.ray.object_store_mb)

    # Ray reads its variables when it is imported.
    env = _set_environment(is_local)
    import ray

    if ray.is_initialized():
        return None

    dashboard = dashboard or cfg.ray.dashboard
    options: dict[str, Any] = {}
    scheduling: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if is_local:
        options = _local_options(cfg, dashboard)
        # Ray's processes inherit the scheduling class of the one that starts them.
        scheduling = batch_scheduling()
    if is_local and dashboard:
        # Workers would find the dashboard by process names, and give up if another Ray runs on this machine.
        env["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{options['dashboard_port']}"

    if package_path := _package_path():
        env["PYTHONPATH"] = package_path
    runtime_env: dict[str, object] = {"env_vars": env}
    if not is_local:
        env[CALLED_IN] = os.getcwd()
        runtime_env["worker_process_setup_hook"] = "alignet_ray.runtime.enter_folder"

    sigterm_handler = signal.getsignal(signal.SIGTERM)
    with scheduling, _start_told(address):
        context: Any = ray.init(
            address=address,
            logging_level=logging.ERROR,
            log_to_driver=False,
            job_config=_job_config(),
            runtime_env=runtime_env,
            **options,
        )

    # ray.init installs a handler of its own, under which a stop would not look like one.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, sigterm_handler)
    return _places(context)


@contextlib.contextmanager
def _start_told(address: str) -> Iterator[None]:
    """Within it, what Ray raises where it does not start or is not joined becomes one line.

    Raises:
        UserError: no cluster at the address, or processes that are not up in time.
    """
    try:
        yield
    except ConnectionError as error:
        # Something listened there a moment ago: another program, or a cluster that does not know us.
        raise UserError(
            f"no Ray cluster answers at {address}: start one (with the same RAY_AUTH_MODE and token as here), or leave "
            "out --ray.address"
        ) from error
    except Exception as error:
        # Ray's own type where one of its processes is not up in time: none, with the end of that process's log as text.
        if type(error) not in (Exception, RuntimeError):
            raise
        raise UserError(
            "Ray's processes were not up in time: is this machine very busy, or short of memory? Run it again; "
            "`alignet-ray doctor` looks for other reasons, and --debug shows the end of their logs"
        ) from error


def enter_folder() -> None:
    """Work in the folder where the command was called, as workers of a local Ray do; Ray calls it in new workers.

    Workers of a cluster begin in the folder where that was started, where relative paths lead to other files. A machine
    that does not have the folder does not see the files either, which is told where they are read.
    """
    with contextlib.suppress(OSError, KeyError):
        os.chdir(os.environ[CALLED_IN])


def ray_address(cfg: Config) -> str:
    """Where Ray is: `LOCAL`, or the address of a cluster."""
    return cfg.ray.address or os.environ.get("RAY_ADDRESS") or LOCAL


def dashboard_line(places: RayPlaces) -> str:
    """One line about where Ray's dashboard is, and what it asks for."""
    line = f"Ray's dashboard at {places.dashboard}"
    # Ray sets the variable when it starts or joins a cluster with tokens; without one the page shows nothing.
    if os.environ.get("RAY_AUTH_MODE") == "token":
        line += " (it asks for a token: `ray get-auth-token` prints it)"
    return line


def _places(context: Any) -> RayPlaces:
    """Where to look at the Ray that `ray.init` gave this context of."""
    logs = Path(context.address_info["session_dir"]) / "logs"
    dashboard = ""
    if context.dashboard_url:
        dashboard = f"http://{context.dashboard_url}"
    return RayPlaces(str(logs), dashboard)


def _set_environment(is_local: bool) -> dict[str, str]:
    """Set the variables of this process and return them for the workers; what the user has set stays."""
    wanted = QUIET | SAME_FOLDER | MEMORY | {"PYTHONUTF8": "1"}
    if is_local:
        wanted |= ALONE

    values: dict[str, str] = {}
    for key, value in wanted.items():
        values[key] = os.environ.setdefault(key, value)

    # A shell's background job ignores Ctrl-C. Ray Tune would take it all the same, and end a sweep that nobody meant.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    return values


def _local_options(cfg: Config, dashboard: bool) -> dict[str, Any]:
    """Options of a Ray that starts on this machine."""
    options: dict[str, Any] = {
        # Slots are not threads: a pipeline needs a few actors and tasks at once even on a machine with one core.
        "num_cpus": cfg.ray.num_cpus or max(4, os.cpu_count() or 1),
        "include_dashboard": dashboard,
        "_temp_dir": session_folder(),
    }
    if cfg.ray.object_store_mb:
        options["object_store_memory"] = cfg.ray.object_store_mb * 10**6
    if dashboard:
        options["dashboard_port"] = _free_port()
    return options


def _job_config() -> Any:
    """A job whose workers do not import from the folder where the command was called.

    Ray would put that folder on their import path, and a script of the user called timm.py there would be imported in
    place of the library.
    """
    from ray.job_config import JobConfig

    class JobWithoutFolder(JobConfig):
        # Ray adds the folder only where the job brings no working directory of its own.
        def _runtime_env_has_working_dir(self) -> bool:
            return True

    return JobWithoutFolder()


@contextlib.contextmanager
def batch_scheduling() -> Iterator[None]:
    """Processes started within it do not interrupt those that compute (Linux scheduling class SCHED_BATCH).

    Each of Ray's processes wakes up a hundred times a second. On two cores that costs a training whose threads wait for
    each other a tenth of its time.
    """
    ordinary = hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER
    if ordinary:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        if ordinary:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def require_answer(address: str) -> None:
    """Check that something listens at HOST:PORT: Ray itself would wait for ten minutes.

    Raises:
        UserError: nothing does, or it is no address of a cluster.
    """
    if address in (LOCAL, "auto"):
        return
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    # Jobs are submitted to an http address, that of the dashboard; Ray's own error for the others is a traceback.
    if not separator or not port.isdecimal() or address.startswith("http"):
        raise UserError(
            f"{address!r} is no address of a Ray cluster: give HOST:PORT (6379 is usual), auto, or leave out "
            "--ray.address and RAY_ADDRESS"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CLUSTER_SECONDS).close()
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise UserError(
            f"no Ray cluster answers at {address} ({reason}): start one, or leave out --ray.address and RAY_ADDRESS"
        ) from error


def _require_memory(megabytes: int) -> None:
    """Refuse an object store that leaves no memory for anything else.

    Raises:
        UserError: it is larger than half of this machine's memory.
    """
    total = psutil.virtual_memory().total // 10**6
    if megabytes > total // 2:
        raise UserError(f"--ray.object-store-mb {megabytes}: at most half of this machine's {total:,} MB can be given")


def session_folder() -> str:
    """Where a local Ray keeps its sockets and logs: the system's folder for temporary files, unless its path is long.

    Raises:
        UserError: no folder is short enough.
    """
    # A path of a socket has at most 107 bytes, of which Ray's own names take 68.
    candidates = [os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), "/tmp", "/var/tmp", str(Path.home())]
    for folder in filter(None, candidates):
        if len(os.fsencode(folder)) <= MAX_TEMPORARY and os.access(folder, os.W_OK):
            return str(Path(folder) / "ray")
    raise UserError(
        f"Ray's sockets need a folder whose path has at most {MAX_TEMPORARY} bytes, and {tempfile.gettempdir()} has "
        f"{len(os.fsencode(tempfile.gettempdir()))}: name one with RAY_TMPDIR"
    )


def _package_path() -> str:
    """PYTHONPATH for workers where the package is not installed but imported from a folder; else empty."""
    # An installed package is found by every Python of the environment.
    folder = str(Path(__file__).resolve().parent.parent)
    if folder in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        return ""

    # What the user has put there is for the user's own modules, and stays behind the package.
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != folder]
    return os.pathsep.join([folder, *others])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stop() -> None:
    """Stop Ray if this process started it."""
    # A command that never started Ray does not pay for its import here.
    if "ray" in sys.modules:
        import ray

        ray.shutdown()


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Within it, SIGTERM and SIGHUP stop the run the way Ctrl-C does."""
    # Only the main thread of a program can take signals.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # Batch systems and `docker stop` send SIGTERM, a terminal that closes sends SIGHUP. At both Python would end
    # without closing anything. Under `nohup` the latter is ignored, and stays so.
    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def tags() -> dict[str, str]:
    """What a tracked run says of where it runs: commit, library versions, cores, and this machine's GPUs."""
    code = provenance()
    gpus = list(Path("/proc/driver/nvidia/gpus").glob("*"))
    described = {
        "commit": str(code.commit),
        "python": code.python,
        "cpus": str(os.cpu_count()),
        "gpus": str(len(gpus)),
        "platform": platform.platform(),
    }
    for name, value in code.versions.items():
        described[f"version.{name}"] = value

    # A server may be shared with other programs, whose tags have names of their own.
    return {f"alignet.{name}": value for name, value in described.items()}


def source_tags() -> dict[str, str]:
    """What every tracked run says of where it comes from: the command, the commit, and who called it."""
    return invocation.tags(JOB in os.environ, provenance().commit)


class Provenance(NamedTuple):
    """The code that runs: its git commit (None outside a checkout), and the versions of Python and the libraries."""

    commit: str | None
    python: str
    versions: dict[str, str]


def provenance() -> Provenance:
    """The running code's provenance."""
    # An installed package has no checkout, and a container often no git.
    commit = None
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=5, check=True)
        commit = done.stdout.strip()

    versions = {name: version(name) for name in ("alignet-ray", *LIBRARIES)}
    return Provenance(commit, sys.version.split()[0], versions)
