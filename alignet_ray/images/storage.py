"""Reads images from folders, tar shards and Parquet files, on this machine or behind a URL.

A shard counts as a folder: `train-000.tar/cat.jpg`, `data.parquet/000000012`. So every image has one path under its
source's root, and its rank by that path is its id, however it is stored. Credentials come from the environment.
"""

import json
import os
import re
import tarfile
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from alignet_ray.errors import UserError
from alignet_ray.store import JsonObject, filesystem

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""Suffixes of files that are listed as images, whatever is in them."""

SHARDS = (".tar", ".parquet")
"""Suffixes of files that are opened as folders of images."""

CLASS_LISTS = tuple(
    f"{folder}{name}"
    for folder in ("", "val/", "valid/", "validation/")
    for name in ("LOC_val_solution.csv", "val_annotations.txt", "imagenet_2012_validation_synset_labels.txt")
)
"""Files that give the classes of a flat folder of validation images: Kaggle's, tiny ImageNet's, TensorFlow's."""

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "bytes")
"""Parquet columns that may hold the encoded image, best first."""

CLASS_COLUMNS = ("label", "cls", "class", "wnid")
"""Parquet columns that may hold the image's class, best first."""


class File(NamedTuple):
    """A file under a source's root: POSIX path relative to it, bytes, modification time in nanoseconds."""

    path: str
    size: int
    modified: int


class Member(NamedTuple):
    """An image: path under the source's root, class ("" if its shard gives none), bytes (in Parquet the mean)."""

    path: str
    label: str
    size: int


class TarEntry(NamedTuple):
    """Where an image lies in a tar file: offset of its content, bytes, class."""

    offset: int
    size: int
    label: str


class ParquetLayout(NamedTuple):
    """How a Parquet file holds its images.

    Attributes:
        image_column: the column of encoded images.
        class_column: the column of classes; "" if there is none.
        class_names: Hugging Face's names of the numbered classes; empty if there are none.
        group_starts: first row of every row group, and the number of rows at the end.
        mean_size: mean bytes of a row.
    """

    image_column: str
    class_column: str
    class_names: list[str]
    group_starts: list[int]
    mean_size: int


def files(uri: str) -> Iterator[File]:
    """Images, shards and class lists under a root, in the byte order of the images' paths, one by one.

    Raises:
        UserError: nothing there, a folder that may not be read, or a name that is not UTF-8.
    """
    if "://" in uri:
        yield from _remote_files(uri)
        return

    root = Path(uri).expanduser()
    if root.is_file():
        stat = root.stat()
        yield File(root.name, stat.st_size, stat.st_mtime_ns)
    elif root.is_dir():
        yield from _local_files(str(root), "", ())
    else:
        raise UserError(f"{uri} does not exist: give a folder of images")


def is_image(path: str) -> bool:
    """Whether a file is listed as an image."""
    return path.lower().endswith(IMAGES)


def is_shard(path: str) -> bool:
    """Whether a file is opened as a folder of images."""
    return path.lower().endswith(SHARDS)


def is_class_list(path: str) -> bool:
    """Whether a file lists the classes of validation images."""
    return path.endswith(CLASS_LISTS)


def members(uri: str, path: str) -> list[Member]:
    """The images of one shard, in the byte order of their paths.

    Raises:
        UserError: the shard is damaged, or is a table without images.
    """
    if path.lower().endswith(".tar"):
        entries = _tar_entries(uri, path)
        return [Member(f"{path}/{name}", entry.label, entry.size) for name, entry in entries.items()]
    return _parquet_members(uri, path)


def read(uri: str, path: str) -> bytes:
    """Content of an image by its path, or of any file under the root.

    Raises:
        OSError: it is gone or may not be read.
    """
    is_local = "://" not in uri
    local_file = Path(uri).expanduser().joinpath(path)
    shard, name = _split_shard(path)

    # A local folder may be called like a shard: then the path is that of a plain file.
    if shard and not (is_local and local_file.is_file()):
        if shard.lower().endswith(".tar"):
            return _read_tar(uri, shard, name)
        return _read_parquet(uri, shard, name)

    if is_local:
        return local_file.read_bytes()
    with _open(uri, path) as stream:
        content: bytes = stream.read()
    return content


def class_lists(uri: str) -> Iterator[str]:
    """Contents of the lists of validation images' classes that lie under a root."""
    fs, base = _root(uri)
    for info in fs.get_file_info([f"{base}/{name}" for name in CLASS_LISTS]):
        if info.type == pafs.FileType.File:
            with fs.open_input_stream(info.path) as stream:
                yield stream.read().decode("utf-8", "replace")


def class_list(text: str) -> dict[str, str]:
    """Image name without suffix -> class, from a list of validation classes.

    Two layouts: rows that begin with an image's name and its class (separated by comma, tab or blank), or one class a
    line for ILSVRC2012_val_00000001 and on.
    """
    rows = [re.split(r"[,\t ]+", line.strip()) for line in text.splitlines() if line.strip()]
    if rows and rows[0][0] == "ImageId":
        rows = rows[1:]

    if all(len(row) == 1 for row in rows):
        return {f"ILSVRC2012_val_{number:08d}": row[0] for number, row in enumerate(rows, 1)}
    return {row[0].rsplit(".", 1)[0]: row[1] for row in rows if len(row) > 1}


def _local_files(folder: str, prefix: str, ancestors: tuple[tuple[int, int], ...]) -> Iterator[File]:
    """Depth first; a folder or shard sorts as `name/`, so that the order of visits is the byte order of whole paths."""
    stat = os.stat(folder)
    identity = (stat.st_dev, stat.st_ino)
    if identity in ancestors:  # a link to a folder above: following it would never end
        return

    entries: dict[str, os.DirEntry[str]] = {}
    try:
        with os.scandir(folder) as scan:
            for entry in scan:
                if not entry.name.startswith("."):
                    suffix = "/" if entry.is_dir() else ""
                    entries[entry.name + suffix] = entry
    except PermissionError as error:
        raise UserError(f"folder {folder} may not be read: give it read permission or take it out") from error

    for name in sorted(entries, key=lambda name: _sort_key(os.fsencode(name))):
        if name.endswith("/"):
            yield from _local_files(entries[name].path, prefix + name, (*ancestors, identity))
        elif is_image(name) or is_shard(name) or is_class_list(name):
            yield _local_file(prefix + name, entries[name])


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


def _remote_files(uri: str) -> Iterator[File]:
    fs, base = _root(uri)
    try:
        infos = fs.get_file_info(pafs.FileSelector(base, recursive=True))
    except OSError as error:
        raise UserError(f"cannot list {uri}: {str(error).splitlines()[0]}") from error

    plain_files = [info for info in infos if info.type == pafs.FileType.File]
    listed = [File(info.path[len(base) + 1 :], info.size, info.mtime_ns or 0) for info in plain_files]
    for file in sorted(listed, key=lambda file: _sort_key(file.path.encode())):
        is_hidden = any(part.startswith(".") for part in file.path.split("/"))
        is_listed = is_image(file.path) or is_shard(file.path) or is_class_list(file.path)
        if is_listed and not is_hidden:
            yield file


@lru_cache(maxsize=8)
def _root(uri: str) -> tuple[pafs.FileSystem, str]:
    fs, base = filesystem(uri)
    return fs, base.rstrip("/")


def _open(uri: str, path: str) -> pa.NativeFile:
    fs, base = _root(uri)
    return fs.open_input_file(f"{base}/{path}")


def _split_shard(path: str) -> tuple[str, str]:
    """The shard in a path and the image's name inside it; ("", "") if there is no shard."""
    match = re.match(r"(.*?\.(?:tar|parquet))/(.+)", path, re.IGNORECASE)
    if match is None:
        return "", ""
    return match[1], match[2]


@lru_cache(maxsize=64)
def _tar_entries(uri: str, path: str) -> dict[str, TarEntry]:
    """Images of a tar file by name, in byte order; their classes stand in `.cls` files beside them (WebDataset)."""
    contents: dict[str, tuple[int, int]] = {}
    classes: dict[str, str] = {}
    try:
        with _open(uri, path) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for info in tar:
                if not info.isfile() or Path(info.name).name.startswith("."):
                    continue
                name = info.name.removeprefix("./")
                if is_image(name):
                    contents[name] = (info.offset_data, info.size)
                elif name.endswith(".cls"):
                    class_file = tar.extractfile(info)
                    assert class_file is not None, "a regular file has content"
                    classes[_webdataset_key(name)] = class_file.read(256).decode("utf-8", "replace").strip()
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{uri}/{path} is not a whole tar file ({error}): fetch it again or take it out") from error

    entries = {}
    for name in sorted(contents, key=str.encode):
        offset, size = contents[name]
        entries[name] = TarEntry(offset, size, classes.get(_webdataset_key(name), ""))
    return entries


def _webdataset_key(name: str) -> str:
    """The name up to the first dot after the last slash."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.split(".")[0]


def _read_tar(uri: str, shard: str, name: str) -> bytes:
    entry = _tar_entries(uri, shard)[name]
    with _open(uri, shard) as stream:
        stream.seek(entry.offset)
        content: bytes = stream.read(entry.size)
    if len(content) < entry.size:
        raise OSError(f"{shard} ends inside {name}")
    return content


@lru_cache(maxsize=64)
def _parquet_layout(uri: str, path: str) -> ParquetLayout:
    try:
        with _open(uri, path) as stream:
            parquet = pq.ParquetFile(stream)
            metadata = parquet.metadata
            schema = parquet.schema_arrow
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{uri}/{path} is not a whole Parquet file ({str(error).splitlines()[0]})") from error

    names = [name for name in IMAGE_COLUMNS if name in schema.names]
    image_column = next((name for name in names if _holds_bytes(schema.field(name).type)), "")
    if not image_column:
        raise UserError(f"{uri}/{path} has no column of encoded images: expected one of {', '.join(IMAGE_COLUMNS)}")
    class_column = next((name for name in CLASS_COLUMNS if name in schema.names), "")

    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    group_starts = list(accumulate((group.num_rows for group in groups), initial=0))
    mean_size = sum(group.total_byte_size for group in groups) // max(metadata.num_rows, 1)
    return ParquetLayout(image_column, class_column, _class_names(schema, class_column), group_starts, mean_size)


def _class_names(schema: pa.Schema, column: str) -> list[str]:
    """Names of numbered classes, which Hugging Face's datasets keep in the schema's metadata."""
    about: JsonObject = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = about.get("info", {}).get("features", {})
    return features.get(column, {}).get("names") or []


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind)) or bool(pa.types.is_large_binary(kind))


def _parquet_members(uri: str, path: str) -> list[Member]:
    layout = _parquet_layout(uri, path)
    labels = [""] * layout.group_starts[-1]
    if layout.class_column:
        with _open(uri, path) as stream:
            column = pq.ParquetFile(stream).read([layout.class_column])[layout.class_column]
        labels = [_class_label(value, layout.class_names) for value in column.to_pylist()]
    return [Member(f"{path}/{row:09d}", label, layout.mean_size) for row, label in enumerate(labels)]


def _class_label(value: Any, class_names: list[str]) -> str:
    if class_names and isinstance(value, int):
        return class_names[value]
    if value is None:
        return ""
    return str(value)


@lru_cache(maxsize=4)
def _row_group_images(uri: str, path: str, group: int) -> pa.Array:
    """The image column of one row group; cached, since neighbouring rows are asked for one after the other."""
    name = _parquet_layout(uri, path).image_column
    with _open(uri, path) as stream:
        column = pq.ParquetFile(stream).read_row_group(group, [name])[name].combine_chunks()
    if pa.types.is_struct(column.type):
        return column.field("bytes")
    return column


def _read_parquet(uri: str, shard: str, name: str) -> bytes:
    row = int(name)
    group_starts = _parquet_layout(uri, shard).group_starts
    group = bisect_right(group_starts, row) - 1
    return _row_group_images(uri, shard, group)[row - group_starts[group]].as_py() or b""
