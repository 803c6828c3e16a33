"""Holds a root for one run at a time, and takes back a root that a refused run has just made."""

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from alignet_ray import root_lease
from alignet_ray.errors import UserError
from alignet_ray.store import RUN_LOCK

OWNER = "run.owner"
CLAIM_NOTES = "run.claims"
LOGS = "logs"
"""Names beside the lock's file: who holds it, claims of a remote root made from here, the folder of the runs' logs."""


def missing_folders(path: Path) -> list[Path]:
    """The folder and those above it that do not exist, the deepest first."""
    return [folder for folder in (path, *path.parents) if not folder.exists()]


@contextlib.contextmanager
def removed_if_refused(created: Sequence[Path]) -> Iterator[None]:
    """Within it, a UserError removes a root that this run made, as long as it holds nothing but lock and log.

    Inputs are checked while the lock is held and the log is open; after a wrong path nobody wants an empty `runs`.

    Args:
        created: `missing_folders` of the root, before it was made; empty: the root was there.
    """
    try:
        yield
    except UserError:
        if created and not _holds_results(created[0]):
            shutil.rmtree(created[0])
            # A folder above may have got other files meanwhile: only empty ones go.
            with contextlib.suppress(OSError):
                for folder in created[1:]:
                    folder.rmdir()
        raise


def _holds_results(root: Path) -> bool:
    """Whether anything but the run's lock and logs lies under a root."""
    for path in root.rglob("*"):
        top = path.relative_to(root).parts[0]
        if not path.is_dir() and top not in (RUN_LOCK, OWNER, CLAIM_NOTES, LOGS):
            return True
    return False


def require_writable(root: str, folders: Iterable[str]) -> None:
    """Refuse folders that somebody else made in a shared root, before the hours of work that would end there.

    Args:
        root: a local folder or a URL.
        folders: names of those under the root that will be written to; they need not exist.

    Raises:
        UserError: one of them cannot be written.
    """
    if "://" in root:
        return
    effective = os.access in os.supports_effective_ids
    for name in sorted(set(folders)):
        folder = Path(root) / name
        if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective):
            raise UserError(
                f"cannot write to {folder} (it belongs to {folder.owner()}): give the permission, "
                "or choose another --store.root"
            )


@contextlib.contextmanager
def hold(root: str, state: Path, say: Callable[[str], None], makes_room: bool = False) -> Iterator[None]:
    """Hold a root for this run: its local folder by a lock, and a remote root by a lease, too.

    Args:
        root: a local folder or a URL.
        state: the local folder of lock and logs.
        say: shows a line while it waits.
        makes_room: as for `lock`.

    Raises:
        UserError: another run has it, or takes it over because this one was not heard of for long.
    """
    with lock(state, makes_room):
        if "://" not in root:
            yield
            return
        # Another machine does not see the lock. Whoever has it, though, knows that earlier runs from here have ended.
        with root_lease.hold(root, root_lease.ClaimNotes(state / CLAIM_NOTES), say):
            yield


@contextlib.contextmanager
def lock(folder: Path, makes_room: bool = False) -> Iterator[None]:
    """Hold the root for this run; the operating system frees the lock when the process ends, however it ends.

    Args:
        folder: where the lock lies.
        makes_room: whether it is held to delete something, which a full disk must not prevent.

    Raises:
        UserError: another live process holds it, or the folder cannot be written.
    """
    owner = folder / OWNER
    held = FileLock(folder / RUN_LOCK)
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        # The holder writes who it is after it has the lock, so there may be nothing to read yet.
        holder = ""
        if owner.exists():
            holder = owner.read_text(encoding="utf-8").strip()
        raise UserError(
            f"{folder} is in use by another run ({holder or 'unknown'}): wait for it, stop it, "
            "or choose another --store.root"
        ) from error
    except OSError as error:
        raise UserError(
            f"cannot write {folder / RUN_LOCK} ({error.strerror}): give the permission, or choose another --store.root"
        ) from error

    try:
        _say_who_holds(owner, makes_room)
        yield
    finally:
        owner.unlink(missing_ok=True)
        held.release()


def _say_who_holds(owner: Path, makes_room: bool) -> None:
    """Write down who holds a lock, for whoever is refused."""
    try:
        owner.write_text(f"pid {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}", encoding="utf-8")
    except OSError as error:
        if not (makes_room and error.errno in (errno.ENOSPC, errno.EDQUOT)):
            raise
