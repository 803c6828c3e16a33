"""The folder of a study, `<root>/ask/<name>/`: on a local disk, with what lies in it and the lock of its server."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from alignet_ray.config.names import check_run_name
from alignet_ray.errors import UserError
from alignet_ray.locations import other_case

FOLDER = "ask"
"""Name of the folder under the root that holds all studies."""

NETWORK_TYPES = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "afs",
    "ceph",
    "gluster",
    "lustre",
    "gpfs",
    "beegfs",
    "fuse.sshfs",
    "fuse.s3",
)
"""How the types of file systems begin that other machines share: their locks and their order of writes are not sure."""


@dataclass(frozen=True)
class StudyFolder:
    """Where a study lies.

    Attributes:
        path: the folder; it need not exist.
    """

    path: Path

    @property
    def name(self) -> str:
        """The study's name."""
        return self.path.name

    @property
    def file(self) -> Path:
        """The SQLite file with everything that people said."""
        return self.path / "study.sqlite"

    @property
    def pictures(self) -> Path:
        """Copies of the images as people see them."""
        return self.path / "pictures"

    @property
    def snapshots(self) -> Path:
        """Answers as they were when a run began to read them."""
        return self.path / "snapshots"

    @property
    def exists(self) -> bool:
        """Whether there is such a study."""
        return self.file.is_file()

    def picture(self, image: int) -> Path:
        """The copy of an image."""
        return self.pictures / f"{image:06d}.jpg"

    def require(self) -> "StudyFolder":
        """This folder.

        Raises:
            UserError: there is no such study; the message names those that there are.
        """
        if self.exists:
            return self
        others = [folder.name for folder in all_studies(self.path.parent.parent)]
        there = "none yet: begin one with `alignet-ray ask IMAGES --name NAME`"
        if others:
            there = ", ".join(others)
        raise UserError(f"there is no study {self.name!r} under {self.path.parent} (there are: {there})")


def open_folder(name: str, root: str, state_dir: str | None = None) -> StudyFolder:
    """The folder of a study, on a disk of this machine.

    Args:
        name: the study's name.
        root: the store's root.
        state_dir: local folder that takes the root's place where the root is remote.

    Raises:
        UserError: the root is a URL or on a network file system, or the name is no file's name, or one that the file
            system takes for another study's.
    """
    base = state_dir or root
    if "://" in base:
        raise UserError(f"--store.root {base} is remote, and answers need a local disk: give a folder with --state-dir")

    # A study's name names a folder and files, as a run's name does: the same rule holds.
    try:
        check_run_name(name)
    except ValueError as error:
        raise UserError(str(error).replace("a run's name", "a study's name")) from error

    path = Path(base).expanduser().resolve() / FOLDER / name
    kind = file_system_type(path)
    if kind.startswith(NETWORK_TYPES):
        raise UserError(
            f"{path} is on a network file system ({kind}), where SQLite can lose answers: give a folder on a local "
            "disk with --state-dir"
        )
    if other := other_case(str(path)):
        raise UserError(
            f"the file system of {path.parent} does not tell {name!r} from {other!r}, a study that is there: write the "
            "name as that one's, or choose another"
        )
    return StudyFolder(path)


def all_studies(base: Path) -> list[StudyFolder]:
    """The studies under a root (or state folder), by name."""
    found = [StudyFolder(path) for path in sorted((base / FOLDER).glob("*"))]
    return [folder for folder in found if folder.exists]


def file_system_type(path: Path) -> str:
    """Type of the file system that a path is on, in small letters; "" where the system does not say."""
    # The longest mount point that the path lies under is its own.
    best = ""
    kind = ""
    for partition in psutil.disk_partitions(all=True):
        mount = Path(partition.mountpoint)
        if path.is_relative_to(mount) and len(partition.mountpoint) >= len(best):
            best = partition.mountpoint
            kind = partition.fstype.lower()
    return kind


@contextlib.contextmanager
def served_once(folder: StudyFolder) -> Iterator[None]:
    """Hold a study for this server; the operating system frees the lock when the process ends, however it ends.

    Raises:
        UserError: another server holds it, or the folder cannot be written.
    """
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        # What people answer is nobody else's business on a shared machine.
        folder.path.chmod(0o700)
        held = FileLock(folder.path / "server.lock")
        held.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"the study {folder.name!r} is served already by another process: stop it first") from error
    except OSError as error:
        raise UserError(f"cannot write to {folder.path} ({error.strerror}): choose another --store.root") from error
    try:
        yield
    finally:
        held.release()


def forget_snapshots(folder: StudyFolder) -> None:
    """Delete the files that runs have read, which hold answers of people who have withdrawn meanwhile.

    Raises:
        UserError: they are still there, in part.
    """
    try:
        shutil.rmtree(folder.snapshots)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(
            f"the answers are deleted from the study, but not from {folder.snapshots} ({error.strerror}): delete that "
            "folder by hand"
        ) from error
