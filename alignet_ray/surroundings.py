"""What a run finds around it: versions, machine, folders, servers. Each line is in order, or comes with its fix.

`alignet-ray doctor` prints it: what a maintainer asks for first when something does not work. Nothing in it is secret.
"""

import importlib
import locale
import os
import platform
import resource
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlparse

import psutil

from alignet_ray import runtime, tracking
from alignet_ray.errors import UserError, first_line

MIN_PYTHON = (3, 11)

GB = 1e9

MIN_MEMORY = 4 * GB
MIN_DISK = 5 * GB
MIN_SHARED_MEMORY = 0.5 * GB
MIN_OPEN_FILES = 4096
"""Below these a run of some thousand images may end early: memory and disk that are free, the size of /dev/shm (Ray's
object store), and files that a process may open (Ray opens some for every actor)."""

NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "fuse", "9p", "lustre", "gpfs", "beegfs", "ceph")
"""Beginnings of the names of file systems on which SQLite's locks may not work."""

CONNECT_SECONDS = 5.0


class Line(NamedTuple):
    """One line of the examination.

    Attributes:
        name: what was looked at.
        value: what was found.
        fix: what to do; empty if it is in order.
    """

    name: str
    value: str
    fix: str = ""


@dataclass(frozen=True)
class Place:
    """Where a run would work.

    Attributes:
        root: its root.
        tracking_uri: its tracking server; None: as the environment says.
    """

    root: str
    tracking_uri: str | None = None


def examine(place: Place) -> list[Line]:
    """Look at everything; nothing is created or started."""
    lines: list[Line] = []
    for check in CHECKS:
        try:
            lines.append(check(place))
        except Exception as error:  # an examination that ends at its first surprise is of no use
            name = check.__name__.removeprefix("_").replace("_", " ")
            lines.append(Line(name, f"{type(error).__name__}: {first_line(error)}", "please report this line"))
    return lines


def _python(place: Place) -> Line:
    found = platform.python_version()
    fix = ""
    if sys.version_info < MIN_PYTHON:
        fix = f"install Python {'.'.join(map(str, MIN_PYTHON))} or newer"
    return Line("python", f"{found} ({sys.executable})", fix)


def _libraries(place: Place) -> Line:
    # Metadata alone: importing all of them would take half a minute, and one may be what is broken.
    found: list[str] = []
    missing: list[str] = []
    for name in runtime.LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)

    fix = ""
    if missing:
        fix = f"pip install {' '.join(missing)}"
    return Line("libraries", ", ".join(found), fix)


def _torch_and_torchvision(place: Place) -> Line:
    """Whether the two fit each other: torchvision's compiled operators need the torch that they were built for."""
    # The operators are registered at import, which fails where they were built for another torch.
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        return Line("torchvision", first_line(error), "pip install --upgrade torch torchvision, both in one command")
    return Line("torchvision", "fits torch")


def _platform(place: Place) -> Line:
    return Line("platform", platform.platform())


def _cores(place: Place) -> Line:
    # A container or a batch system may give a process fewer cores than the machine has; macOS does not tell.
    usable = os.cpu_count()
    if hasattr(os, "sched_getaffinity"):
        usable = len(os.sched_getaffinity(0))
    return Line("cores", f"{usable} usable of {os.cpu_count()}")


def _memory(place: Place) -> Line:
    # What is available, not what is free: the system gives its file cache back at once.
    memory = psutil.virtual_memory()
    fix = ""
    if memory.available < MIN_MEMORY:
        fix = "close other programs, or use a smaller --embed.batch-size and --distill.micro-batch"
    return Line("memory", f"{memory.available / GB:.1f} GB free of {memory.total / GB:.1f} GB", fix)


def _shared_memory(place: Place) -> Line:
    # Docker gives containers 64 MB of it, in which Ray's object store does not fit.
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Line("shared memory", "no /dev/shm on this system")
    total = shutil.disk_usage(folder).total
    fix = ""
    if total < MIN_SHARED_MEMORY:
        fix = "give the container more: docker run --shm-size=4g (in Kubernetes an emptyDir of medium Memory)"
    return Line("shared memory", f"{total / GB:.1f} GB in /dev/shm", fix)


def _gpu(place: Place) -> Line:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return Line("GPU", ", ".join(names))

    # The driver lists its cards, whether or not torch can use them.
    cards = list(Path("/proc/driver/nvidia/gpus").glob("*"))
    if cards:
        fix = "install a torch that is built for your driver (pytorch.org/get-started), or update the driver"
        return Line("GPU", f"{len(cards)} cards, which torch {torch.__version__} cannot use", fix)
    return Line("GPU", "none: everything runs on the CPU")


def _root(place: Place) -> Line:
    """Whether the root, or the folder that it would be made in, can be written."""
    if "://" in place.root:
        return Line("root", place.root)
    folder = _existing(Path(place.root))
    if not os.access(folder, os.W_OK):
        return Line("root", f"{place.root} cannot be written", "choose another --store.root, or give the permission")
    return Line("root", str(Path(place.root).expanduser().resolve()))


def _file_system(place: Place) -> Line:
    if "://" in place.root:
        return Line("file system", "remote")
    folder = _existing(Path(place.root))

    # Mount points lie in each other: the longest path above the folder is the one that holds it.
    mounts = [mount for mount in psutil.disk_partitions(all=True) if folder.is_relative_to(mount.mountpoint)]
    kind = "unknown"
    if mounts:
        kind = max(mounts, key=lambda mount: len(mount.mountpoint)).fstype

    # With a server of its own the tracking has no database under the root.
    fix = ""
    if kind.startswith(NETWORK_FILE_SYSTEMS) and place.tracking_uri is None:
        fix = "SQLite's locks may fail there: name an MLflow server with --tracking.uri, or a local --state-dir"
    return Line("file system", f"{kind} at {folder}", fix)


def _disk(place: Place) -> Line:
    if "://" in place.root:
        return Line("disk", "remote")

    free = shutil.disk_usage(_existing(Path(place.root))).free
    fix = ""
    if free < MIN_DISK:
        fix = "free some room: alignet-ray gc deletes what no run uses"
    return Line("disk", f"{free / GB:.1f} GB free", fix)


def _open_files(place: Place) -> Line:
    # An unlimited number is written as -1.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fix = ""
    if 0 <= soft < MIN_OPEN_FILES:
        fix = "ulimit -n 65536, before the run"
    return Line("open files", f"{soft:,} of at most {hard:,}", fix)


def _temporary_folder(place: Place) -> Line:
    """Whether Ray's sockets have a folder whose path is short enough."""
    try:
        return Line("temporary files", runtime.session_folder())
    except UserError as error:
        return Line("temporary files", "no folder", str(error))


def _locale(place: Place) -> Line:
    encoding = locale.getpreferredencoding(False)
    fix = ""
    if encoding.upper().replace("-", "") != "UTF8":
        fix = "export LANG=C.UTF-8 (the command line takes UTF-8 by itself, your own scripts may not)"
    return Line("locale", encoding, fix)


def _current_folder(place: Place) -> Line:
    """Scripts in the current folder that have the name of a library: Python would import them in its place."""
    # Packages are named with a dash, and imported with an underscore.
    names = {name.replace("-", "_") for name in runtime.LIBRARIES} | {"alignet_ray"}
    shadowing = sorted(path.name for path in Path.cwd().glob("*.py") if path.stem in names)
    if shadowing:
        fix = f"rename {', '.join(shadowing)}: Python may import it in place of the library"
        return Line("current folder", str(Path.cwd()), fix)
    return Line("current folder", str(Path.cwd()))


def _ray(place: Place) -> Line:
    # Joining a cluster to find out would leave a job in its list.
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return Line("Ray", "starts on this machine")
    try:
        runtime.require_answer(address)
    except UserError as error:
        return Line("Ray", tracking.hide(address), str(error))
    return Line("Ray", f"a cluster answers at {tracking.hide(address)}")


def _mlflow(place: Place) -> Line:
    uri = place.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    # A database is a file, and its folder is examined as the root.
    if not uri.startswith(("http://", "https://")):
        return Line("MLflow", tracking.hide(uri) or f"a database under {place.root}")
    if reason := _unreachable(uri):
        return Line("MLflow", f"{tracking.hide(uri)} ({reason})", "start the server, or change MLFLOW_TRACKING_URI")
    return Line("MLflow", f"a server answers at {tracking.hide(uri)}")


def _proxy(place: Place) -> Line:
    uri = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy") or ""
    if not uri:
        return Line("proxy", "none")
    if reason := _unreachable(uri):
        return Line("proxy", f"{tracking.hide(uri)} ({reason})", "unset HTTPS_PROXY, or name a proxy that is there")
    return Line("proxy", tracking.hide(uri))


CHECKS: tuple[Callable[[Place], Line], ...] = (
    _python,
    _libraries,
    _torch_and_torchvision,
    _platform,
    _cores,
    _memory,
    _shared_memory,
    _gpu,
    _root,
    _file_system,
    _disk,
    _open_files,
    _temporary_folder,
    _locale,
    _current_folder,
    _ray,
    _mlflow,
    _proxy,
)
"""All examinations, in the order of the lines."""


def _existing(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    folder = folder.expanduser().resolve()
    while not folder.exists():
        folder = folder.parent
    return folder


def _unreachable(uri: str) -> str:
    """Why nothing takes a connection at a URL; empty if something does."""
    parsed = urlparse(uri)
    default_port = 80
    if parsed.scheme == "https":
        default_port = 443

    address = (parsed.hostname or "", parsed.port or default_port)
    try:
        socket.create_connection(address, timeout=CONNECT_SECONDS).close()
    except OSError as error:
        return error.strerror or first_line(error)
    return ""
