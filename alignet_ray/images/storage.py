"""Reads images from folders, tar shards and Parquet files, on this machine or behind a URL.

A shard counts as a folder: `train-000.tar/cat.jpg`, `data.parquet/000000012`. So every image has one path under its
source's root, and its rank by that path is its id, however it is stored. Credentials come from the environment.
"""

import os
import re
import stat as stat_module
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow.fs as pafs

from alignet_ray.artifacts.spans import Span
from alignet_ray.errors import UserError, first_line
from alignet_ray.images.ahead import prefetch
from alignet_ray.images.file_kinds import (
    CLASS_LISTS,
    START_BYTES,
    LeftOut,
    Member,
    is_class_list,
    is_hidden,
    is_image,
    is_shard,
)
from alignet_ray.images.parquet_shards import parquet_members, read_parquet_row
from alignet_ray.images.roots import is_file, local_root, open_file, remote_root
from alignet_ray.images.tar_shards import read_tar_member, tar_members
from alignet_ray.locations import filesystem
from alignet_ray.store import is_root

FETCHES = 24
"""Files of a remote source that one process fetches at a time: each waits for an answer much longer than it travels."""


class File(NamedTuple):
    """A file under a source's root: POSIX path relative to it, bytes, modification time in nanoseconds."""

    path: str
    size: int
    modified: int


def files(uri: str, left_out: LeftOut | None = None) -> Iterator[File]:
    """Images, shards and class lists under a root, in the byte order of the images' paths, one by one.

    Args:
        uri: a folder, one image, or one shard; local or behind a URL.
        left_out: counts the files that are none of these, and the folders without any.

    Raises:
        UserError: nothing there, a file of another kind, a folder that may not be read, or a name that is not UTF-8.
    """
    if left_out is None:
        left_out = LeftOut()
    if "://" in uri:
        yield from _remote_files(uri, left_out)
        return

    root = Path(uri).expanduser()
    if root.is_file():
        # A root that is one file: its folder is the root, and all its other files count as not there.
        root = root.resolve()
        if not _is_listed(root.name, lambda: _local_start(root)):
            raise _no_image_file(uri)
        stat = root.stat()
        yield File(root.name, stat.st_size, stat.st_mtime_ns)
    elif root.is_dir():
        yield from _local_files(str(root), "", (), left_out)
    else:
        raise UserError(f"{uri} does not exist: give a folder of images")


def fetches(uri: str, threads: int = 1) -> int:
    """Files of a source that a process should read at a time, where it has so many threads for decoding."""
    if "://" in uri:
        return max(threads, FETCHES)
    return threads


def members(uri: str, path: str, left_out: LeftOut) -> Iterator[Member]:
    """The images of one shard, in the byte order of their paths; what it holds besides is counted in `left_out`.

    Raises:
        UserError: the shard is damaged, or is a table without images.
    """
    if path.lower().endswith(".tar"):
        return tar_members(uri, path, left_out)
    return parquet_members(uri, path, left_out)


def read(uri: str, path: str, span: Span | None = None) -> bytes:
    """Content of an image by its path, or of any file under the root.

    Args:
        uri: root of the source.
        path: under it.
        span: where a tar file holds the image, as the listing says; without it the tar file is looked through.

    Raises:
        OSError: it is gone, may not be read, or is no path under the root.
    """
    # Tables of paths may come from strangers, with a run that they shared: they must not name other files.
    if path.startswith("/") or ".." in path.split("/"):
        raise OSError(f"{path} leads out of {uri}")
    shard, name = _split_shard(uri, path)
    if shard:
        try:
            if shard.lower().endswith(".tar"):
                return read_tar_member(uri, shard, name, span)
            return read_parquet_row(uri, shard, name)
        except UserError as error:
            # It was whole when it was listed: now its images fail one by one, as files that were deleted do.
            raise OSError(first_line(error)) from error

    if "://" not in uri:
        return (local_root(uri) / path).read_bytes()
    with open_file(uri, path) as stream:
        content: bytes = stream.read()
    return content


def class_lists(uri: str) -> Iterator[str]:
    """Contents of the lists of validation images' classes that lie under a root.

    Raises:
        UserError: the source does not answer, or a list may not be read.
    """
    fs, base = remote_root(uri)
    try:
        for info in fs.get_file_info([f"{base}/{name}" for name in CLASS_LISTS]):
            if info.type == pafs.FileType.File:
                with fs.open_input_stream(info.path) as stream:
                    yield stream.read().decode("utf-8", "replace").removeprefix("\ufeff")
    except OSError as error:
        raise UserError(f"cannot list {uri}: {first_line(error)}") from error


def class_list(text: str) -> dict[str, str]:
    """Image name without suffix -> class, from a list of validation classes.

    Two layouts: rows that begin with an image's name and its class (separated by comma, tab or blank), or one class a
    line for ILSVRC2012_val_00000001 and on.
    """
    lines = filter(None, map(str.strip, text.splitlines()))
    rows = [re.split(r"[,\t ]+", line) for line in lines]
    if rows and rows[0][0] == "ImageId":
        rows = rows[1:]

    if all(len(row) == 1 for row in rows):
        return {f"ILSVRC2012_val_{number:08d}": row[0] for number, row in enumerate(rows, 1)}

    classes: dict[str, str] = {}
    for row in rows:
        if len(row) > 1:
            stem = row[0].rsplit(".", 1)[0]
            classes[stem] = row[1]
    return classes


def _local_files(
    folder: str, prefix: str, ancestors: tuple[tuple[int, int], ...], left_out: LeftOut
) -> Generator[File, None, bool]:
    """Depth first; a folder or shard sorts as `name/`, so that the order of visits is the byte order of whole paths.

    Returns:
        Whether there was any file.
    """
    stat = os.stat(folder)
    identity = (stat.st_dev, stat.st_ino)
    if identity in ancestors:
        # A link to a folder above: following it would never end, and its images are listed already.
        return True

    entries = _visible_entries(folder, prefix, left_out)
    if is_root(entries):
        # The results of earlier runs, whose tables and pictures are no input.
        left_out.hidden.add(prefix or folder)
        return True

    found = False
    empty_folders: list[str] = []
    for name in sorted(entries, key=lambda name: _sort_key(os.fsencode(name))):
        entry = entries[name]

        # Results travel up by `yield from`: a folder is empty if none of those below it holds a file.
        if name.endswith("/"):
            has_files = yield from _local_files(entry.path, prefix + name, (*ancestors, identity), left_out)
            found = found or has_files
            if not has_files:
                empty_folders.append(prefix + name)
        elif not _is_special(entry) and _is_listed(name, partial(_local_start, entry.path)):
            found = True
            yield _local_file(prefix + name, entry)
        else:
            left_out.add(prefix + name)

    # Of folders inside each other only the outermost is counted: the one above does it.
    if found:
        for name in empty_folders:
            left_out.folders.add(name)
    return found


def _visible_entries(folder: str, prefix: str, left_out: LeftOut) -> dict[str, "os.DirEntry[str]"]:
    """What a folder holds by name, folders with a slash at the end; hidden and system names are counted."""
    entries: dict[str, os.DirEntry[str]] = {}
    try:
        with os.scandir(folder) as scan:
            for entry in scan:
                is_folder = entry.is_dir()
                if not is_hidden(entry.name):
                    name = entry.name
                    if is_folder:
                        name += "/"
                    entries[name] = entry
                # What a hidden folder holds does not matter: it counts whole, and is not opened.
                elif is_folder:
                    left_out.hidden.add(f"{prefix}{entry.name}/")
                else:
                    left_out.add(prefix + entry.name)
    except PermissionError as error:
        raise UserError(f"folder {folder} may not be read: give it read permission or take it out") from error
    return entries


def _is_special(entry: "os.DirEntry[str]") -> bool:
    """Whether it is a pipe, socket or device: reading it may never end. A dangling link is left to quarantine."""
    try:
        return not stat_module.S_ISREG(entry.stat().st_mode)
    except OSError:
        return False


def _is_listed(name: str, start: Callable[[], bytes]) -> bool:
    # Most files are images by their suffix, so that is looked at first.
    return is_image(name, start) or is_shard(name) or is_class_list(name)


def _local_start(file: str | Path) -> bytes:
    """The first bytes of a file; none of what is no regular file, as a pipe would make the reader wait for ever."""
    try:
        if not stat_module.S_ISREG(os.stat(file).st_mode):
            return b""
        with open(file, "rb") as stream:
            return stream.read(START_BYTES)
    except OSError:
        return b""


def _no_image_file(uri: str) -> UserError:
    return UserError(
        f"{uri} is neither an image nor a .tar or .parquet file of images: give a folder, or unpack it first"
    )


def _sort_key(path: bytes) -> bytes:
    if path.lower().endswith((b".tar", b".parquet")):
        return path + b"/"
    return path


def _local_file(path: str, entry: "os.DirEntry[str]") -> File:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the file name {os.fsencode(path)!r} is not UTF-8: rename it") from error
    try:
        stat = entry.stat()
    except OSError:  # a dangling link: listed, so that quarantine can name it
        return File(path, 0, 0)
    return File(path, stat.st_size, stat.st_mtime_ns)


def _remote_files(uri: str, left_out: LeftOut) -> Iterator[File]:
    fs, base = filesystem(uri)
    try:
        # A URL may name one shard or one image in place of a folder.
        single = fs.get_file_info(base)
        if single.type == pafs.FileType.File:
            name = base.rpartition("/")[2]
            if not _is_listed(name, partial(_stream_start, fs, base)):
                raise _no_image_file(uri)
            yield _remote_file(name, single)
            return

        base = base.rstrip("/")
        infos = _listed_folder(fs, base)
    except OSError as error:
        raise UserError(f"cannot list {uri}: {first_line(error)}") from error

    # Folders are listed while the files are read: the store may fail at any of them.
    try:
        yield from _remote_folder(fs, base, "", infos, left_out)
    except OSError as error:
        raise UserError(f"cannot list {uri}: {first_line(error)}") from error


def _remote_folder(
    fs: pafs.FileSystem, base: str, prefix: str, infos: list[pafs.FileInfo], left_out: LeftOut
) -> Iterator[File]:
    """Depth first, as `_local_files`; the next folders are listed ahead, as each of them waits for the server.

    Folder by folder: a listing of all that lies below would have to be in memory as a whole, to be sorted.
    """
    entries: dict[str, pafs.FileInfo] = {}
    for info in infos:
        name = info.base_name
        is_folder = info.type == pafs.FileType.Directory
        if not is_hidden(name):
            entries[name + "/" * is_folder] = info
        elif is_folder:
            left_out.hidden.add(f"{prefix}{name}/")
        else:
            left_out.add(prefix + name)

    if is_root(entries):
        # The results of earlier runs, as in a local folder.
        left_out.hidden.add(prefix or base)
        return

    names = sorted(entries, key=lambda name: _sort_key(name.encode()))
    jobs = (partial(_listed_folder, fs, entries[name].path) for name in names if name.endswith("/"))
    with closing(prefetch(jobs, FETCHES, FETCHES)) as listed:
        for name in names:
            path = prefix + name
            info = entries[name]

            # Listings come in the order of the jobs, one for each folder.
            if name.endswith("/"):
                yield from _remote_folder(fs, base, path, next(listed), left_out)
            elif _is_listed(name, partial(_stream_start, fs, info.path)):
                yield _remote_file(path, info)
            else:
                left_out.add(path)


def _listed_folder(fs: pafs.FileSystem, path: str) -> list[pafs.FileInfo]:
    infos: list[pafs.FileInfo] = fs.get_file_info(pafs.FileSelector(path))
    return infos


def _remote_file(path: str, info: pafs.FileInfo) -> File:
    return File(path, info.size, info.mtime_ns or 0)


def _stream_start(fs: pafs.FileSystem, path: str) -> bytes:
    try:
        with fs.open_input_stream(path) as stream:
            start: bytes = stream.read(START_BYTES)
            return start
    except OSError:
        return b""


def _split_shard(uri: str, path: str) -> tuple[str, str]:
    """The shard in a path and the image's name inside it; ("", "") if there is no shard."""
    parts = path.split("/")
    prefixes = ["/".join(parts[:count]) for count in range(1, len(parts))]
    # A folder may be called like a shard: Spark writes a folder data.parquet of files part-0.parquet.
    for shard in prefixes:
        if is_shard(shard) and is_file(uri, shard):
            return shard, path[len(shard) + 1 :]
    return "", ""
