"""File permissions that count for root as well, and a disk that is full."""

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CAPABILITY_VERSION = 0x20080522
"""Of the structures of capset(2): two words for each of the three sets."""

OVERRIDES = (1 << 0) | (1 << 1) | (1 << 2) | (1 << 3)
"""Bits of what lets root change, read, and own every file: CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Set(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextlib.contextmanager
def as_anybody() -> Iterator[None]:
    """Within it this thread, also root's, may do with files what their permissions say."""
    if os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root writes everywhere, and can lay that down only on Linux")

    libc = ctypes.CDLL(None, use_errno=True)
    header = _Header(CAPABILITY_VERSION, 0)
    sets = (_Set * 2)()
    assert libc.capget(ctypes.byref(header), sets) == 0
    before = sets[0].effective
    sets[0].effective = before & ~OVERRIDES
    assert libc.capset(ctypes.byref(header), sets) == 0
    try:
        yield
    finally:
        sets[0].effective = before
        assert libc.capset(ctypes.byref(header), sets) == 0


@contextlib.contextmanager
def read_only(*folders: Path) -> Iterator[None]:
    """Within it nothing in these folders can be changed."""
    changed: list[tuple[Path, int]] = []
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            changed.append((path, path.stat().st_mode))
            path.chmod(path.stat().st_mode & ~0o222)
    try:
        with as_anybody():
            yield
    finally:
        for path, mode in changed:
            if path.exists():
                path.chmod(mode)


@contextlib.contextmanager
def full_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """A small disk of its own at `folder`; skips the test where none can be made. `fill` leaves no room on it."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)]
    if os.geteuid() != 0 or sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a disk can be mounted by root on Linux alone")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave no room on the disk of a folder."""
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
