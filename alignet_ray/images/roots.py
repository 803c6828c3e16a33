"""Opens files under a source's root: a folder, or the folder of a root that is one file; local or behind a URL."""

from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from alignet_ray.locations import filesystem


@lru_cache(maxsize=8)
def local_root(uri: str) -> Path:
    """The folder that paths are relative to: of a root that is one file, the folder where it lies."""
    root = Path(uri).expanduser()
    if root.is_file():
        return root.resolve().parent
    return root


@lru_cache(maxsize=8)
def remote_root(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a root, and the path there of the folder that paths are relative to."""
    fs, base = filesystem(uri)
    base = base.rstrip("/")
    if fs.get_file_info(base).type == pafs.FileType.File:
        base = base.rpartition("/")[0]
    return fs, base


@lru_cache(maxsize=65_536)
def is_file(uri: str, path: str) -> bool:
    """Whether a path under the root is a file."""
    fs, base = remote_root(uri)
    return bool(fs.get_file_info(f"{base}/{path}").type == pafs.FileType.File)


def open_file(uri: str, path: str) -> pa.NativeFile:
    """A file under the root, for reading at any place."""
    fs, base = remote_root(uri)
    return fs.open_input_file(f"{base}/{path}")


def open_stream(uri: str, path: str, buffer: int) -> pa.NativeFile:
    """A file under the root, for reading from its beginning to its end, so many bytes at a time."""
    fs, base = remote_root(uri)
    return fs.open_input_stream(f"{base}/{path}", buffer_size=buffer)


def read_start(uri: str, path: str, size: int) -> bytes:
    """The first bytes of a file; none if it cannot be read."""
    try:
        with open_file(uri, path) as stream:
            start: bytes = stream.read(size)
            return start
    except OSError:
        return b""
