"""Files by their location: a path of this machine, or a URL that pyarrow or fsspec understands."""

import os
import unicodedata
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from alignet_ray.errors import RemoteError, UserError, first_line, require_regular

CREDENTIALS = ("AWS_", "GOOGLE_", "GCS_", "AZURE_")
"""Beginnings of the environment's variables that say who may open a remote location."""


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """pyarrow filesystem and path of a local path or URL; local paths become absolute.

    URLs that pyarrow does not know (`az://`, ...) are fsspec's, if the package for them is installed.

    Raises:
        UserError: no such host, no credentials, or a URL of an unknown kind.
    """
    if "://" not in uri:
        return pafs.LocalFileSystem(), str(Path(uri).expanduser().resolve())
    # Credentials that somebody sets after a first try must count.
    who = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith(CREDENTIALS)))
    return _remote_filesystem(uri, who, os.getpid())


@lru_cache(maxsize=256)
def _remote_filesystem(uri: str, who: tuple[tuple[str, str], ...], process: int) -> tuple[pafs.FileSystem, str]:
    """The client of a URL, kept: a new one asks a store for the bucket's region, which takes longer than many a file.

    Clients hold connections, so that every process has its own.
    """
    # pyarrow reads S3 and GCS itself; its prefix fsspec+ hands any other scheme to fsspec.
    for known in (uri, f"fsspec+{uri}"):
        try:
            opened, path = pafs.FileSystem.from_uri(known)
            if isinstance(opened, pafs.PyFileSystem):
                opened = pafs.PyFileSystem(_FsspecHandler(opened.handler.fs))
            return opened, path
        except (pa.ArrowInvalid, OSError, ValueError, ImportError) as error:
            message = str(error).splitlines()[0]
            # An error of a scheme that pyarrow does know (no such host, no credentials) is the one to show.
            if not message.startswith("Unrecognized filesystem type"):
                break
    raise UserError(f"cannot open {uri}: {message}")


def _with_os_errors(call: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose errors are those of files, whatever the client of a server makes of a lost connection."""

    @wraps(call)
    def guarded(*args: Any) -> Any:
        try:
            return call(*args)
        # What a kind of storage cannot do at all (a web server is not written to) is no failure of the connection.
        except (OSError, NotImplementedError):
            raise
        except Exception as error:  # every package for fsspec has error types of its own
            raise RemoteError(f"{type(error).__name__}: {first_line(error)}") from error

    return guarded


class _FsspecHandler(pafs.FSSpecHandler):  # type: ignore[misc]
    """fsspec's file systems for pyarrow: their errors are those of files, which every reader here has a line for."""

    get_file_info = _with_os_errors(pafs.FSSpecHandler.get_file_info)
    get_file_info_selector = _with_os_errors(pafs.FSSpecHandler.get_file_info_selector)
    open_output_stream = _with_os_errors(pafs.FSSpecHandler.open_output_stream)

    @_with_os_errors
    def open_input_file(self, path: str) -> pa.PythonFile:
        # Not `isfile`, which says that there is no file where there is no connection.
        if self.fs.info(path)["type"] != "file":
            raise FileNotFoundError(path)
        return pa.PythonFile(_FsspecFile(self.fs.open(path, mode="rb")), mode="r")

    open_input_stream = open_input_file


class _FsspecFile:
    """A file that is read from a server; the connection may be lost at any read."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.read = _with_os_errors(file.read)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def read_bytes(path: str) -> bytes:
    """A file's content, from a local path or a URL.

    Raises:
        UserError: there is no such file, it may not be read, or it is no file.
    """
    fs, name = filesystem(path)
    # Reading a named pipe would wait for a writer for ever.
    if isinstance(fs, pafs.LocalFileSystem):
        require_regular(name)

    try:
        with fs.open_input_stream(name) as stream:
            return bytes(stream.read())
    except FileNotFoundError as error:
        raise UserError(f"cannot read {path}: no such file") from error
    except OSError as error:
        # Not every reason is a missing file: rights, a folder, a server that does not answer.
        raise UserError(f"cannot read {path}: {first_line(error)}") from error


def other_case(file: str) -> str | None:
    """The name under which a folder lists a file that is there under this one as well; None where names do not differ.

    File systems of macOS and Windows open `Night.json` as `night.json`, too: two names of one file. Object stores keep
    the letters of names, so there is nothing to find behind a URL.
    """
    if "://" in file or not os.path.exists(file):
        return None
    # HFS+ lists another Unicode form than it was given, which is no other name.
    wanted = unicodedata.normalize("NFC", os.path.basename(file))
    listed = [unicodedata.normalize("NFC", name) for name in os.listdir(os.path.dirname(file))]
    if wanted in listed:
        return None
    return next((name for name in listed if name.casefold() == wanted.casefold()), None)
