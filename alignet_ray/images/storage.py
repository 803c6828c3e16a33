"""Where images lie: files in folders, members of tar shards, rows of Parquet files; on this machine or behind a URL.

A shard is treated as a folder: `train-000.tar/cat.jpg`, `data.parquet/000000012`. So every image has one path under its
source's root, and its rank by that path is its id, whatever it is stored in. Credentials come from the environment.
"""

import json
import os
import re
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from alignet_ray.errors import UserError
from alignet_ray.store import filesystem

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""Names that are listed as images, whatever is in them."""

SHARDS = (".tar", ".parquet")
"""Names that are opened as folders of images."""

CLASS_LISTS = tuple(
    f"{folder}{name}"
    for folder in ("", "val/", "valid/", "validation/")
    for name in ("LOC_val_solution.csv", "val_annotations.txt", "imagenet_2012_validation_synset_labels.txt")
)
"""Files that give the classes of a flat folder of validation images: Kaggle's, tiny ImageNet's, TensorFlow's."""

PIXELS, CLASSES = ("image", "img", "jpg", "jpeg", "png", "bytes"), ("label", "cls", "class", "wnid")
"""Parquet columns that may hold the encoded image and its class, best first."""


class File(NamedTuple):
    """A file under a source's root: POSIX path relative to it, bytes, modification time in nanoseconds."""

    path: str
    size: int
    modified: int


class Member(NamedTuple):
    """An image: path under the source's root, class ("" if its shard does not say), bytes (in Parquet the mean)."""

    path: str
    label: str
    size: int


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
    """Whether a name is listed as an image."""
    return path.lower().endswith(IMAGES)


def is_shard(path: str) -> bool:
    """Whether a name is opened as a folder of images."""
    return path.lower().endswith(SHARDS)


def is_class_list(path: str) -> bool:
    """Whether a name is that of a list of validation images' classes."""
    return path.endswith(CLASS_LISTS)


def members(uri: str, path: str) -> list[Member]:
    """The images of one shard, in the byte order of their paths.

    Raises:
        UserError: the shard is damaged, or is a table without images.
    """
    if path.lower().endswith(".tar"):
        index = _tar(uri, path)
        return [Member(f"{path}/{name}", label, size) for name, (_, size, label) in index.items()]
    return _parquet_members(uri, path)


def read(uri: str, path: str) -> bytes:
    """Content of an image by its path, or of any file under the root.

    Raises:
        OSError: it is gone or may not be read.
    """
    shard, inner = _split(path)
    if inner and not ("://" not in uri and Path(uri).expanduser().joinpath(path).is_file()):
        return _read_tar(uri, shard, inner) if shard.lower().endswith(".tar") else _read_parquet(uri, shard, inner)
    if "://" not in uri:
        return Path(uri).expanduser().joinpath(path).read_bytes()
    with _open(uri, path) as file:
        content: bytes = file.read()
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
        return {f"ILSVRC2012_val_{i:08d}": row[0] for i, row in enumerate(rows, 1)}
    return {row[0].rsplit(".", 1)[0]: row[1] for row in rows if len(row) > 1}


def _local_files(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[File]:
    """Depth first. A folder or shard sorts as `name/`, so that the order of visits is the byte order of whole paths."""
    stat = os.stat(folder)
    here = (stat.st_dev, stat.st_ino)
    if here in above:  # a link to a folder above
        return
    try:
        with os.scandir(folder) as found:
            entries = [(e.name + "/" if e.is_dir() else e.name, e) for e in found if not e.name.startswith(".")]
    except PermissionError as error:
        raise UserError(f"folder {folder} may not be read: give it read permission or take it out") from error
    for name, entry in sorted(entries, key=lambda pair: _key(os.fsencode(pair[0]))):
        if name.endswith("/"):
            yield from _local_files(entry.path, prefix + name, (*above, here))
        elif is_image(name) or is_shard(name) or is_class_list(name):
            yield _local_file(prefix + name, entry)


def _key(path: bytes) -> bytes:
    return path + b"/" if path.lower().endswith((b".tar", b".parquet")) else path


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
    found = [File(i.path[len(base) + 1 :], i.size, i.mtime_ns or 0) for i in infos if i.type == pafs.FileType.File]
    for file in sorted(found, key=lambda f: _key(f.path.encode())):
        wanted = is_image(file.path) or is_shard(file.path) or is_class_list(file.path)
        if wanted and not any(part.startswith(".") for part in file.path.split("/")):
            yield file


@lru_cache(maxsize=8)
def _root(uri: str) -> tuple[pafs.FileSystem, str]:
    fs, base = filesystem(uri)
    return fs, base.rstrip("/")


def _open(uri: str, path: str) -> pa.NativeFile:
    fs, base = _root(uri)
    return fs.open_input_file(f"{base}/{path}")


def _split(path: str) -> tuple[str, str]:
    """The shard in a path and what comes after it; ("", "") if there is none."""
    found = re.match(r"(.*?\.(?:tar|parquet))/(.+)", path, re.IGNORECASE)
    return (found[1], found[2]) if found else ("", "")


@lru_cache(maxsize=64)
def _tar(uri: str, path: str) -> dict[str, tuple[int, int, str]]:
    """Image members of a tar file in byte order: name -> (offset of the content, bytes, class)."""
    found: dict[str, tuple[int, int]] = {}
    classes: dict[str, str] = {}
    try:
        with _open(uri, path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                if not info.isfile() or Path(info.name).name.startswith("."):
                    continue
                name = info.name.removeprefix("./")
                if is_image(name):
                    found[name] = (info.offset_data, info.size)
                elif name.endswith(".cls"):
                    content = tar.extractfile(info)
                    assert content is not None, "a regular file has content"
                    classes[_stem(name)] = content.read(256).decode("utf-8", "replace").strip()
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{uri}/{path} is not a whole tar file ({error}): fetch it again or take it out") from error
    return {n: (*found[n], classes.get(_stem(n), "")) for n in sorted(found, key=str.encode)}


def _stem(name: str) -> str:
    """WebDataset's key: the name up to the first dot after the last slash."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.split(".")[0]


def _read_tar(uri: str, shard: str, name: str) -> bytes:
    offset, size, _ = _tar(uri, shard)[name]
    with _open(uri, shard) as file:
        file.seek(offset)
        content: bytes = file.read(size)
    if len(content) < size:
        raise OSError(f"{shard} ends inside {name}")
    return content


class _Table(NamedTuple):
    """What a Parquet file holds: its image column, its class column or "", the first row of every row group."""

    pixels: str
    label: str
    names: list[str]
    starts: list[int]
    size: int


@lru_cache(maxsize=64)
def _table(uri: str, path: str) -> _Table:
    try:
        with _open(uri, path) as source:
            file = pq.ParquetFile(source)
            meta, schema = file.metadata, file.schema_arrow
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{uri}/{path} is not a whole Parquet file ({str(error).splitlines()[0]})") from error
    pixels = next((c for c in PIXELS if c in schema.names and _holds_bytes(schema.field(c).type)), "")
    if not pixels:
        raise UserError(f"{uri}/{path} has no column of encoded images: expected one of {', '.join(PIXELS)}")
    label = next((c for c in CLASSES if c in schema.names), "")
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
    starts = [sum(g.num_rows for g in groups[:i]) for i in range(len(groups) + 1)]
    size = sum(g.total_byte_size for g in groups) // max(meta.num_rows, 1)
    return _Table(pixels, label, features.get(label, {}).get("names") or [], starts, size)


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind)) or bool(pa.types.is_large_binary(kind))


def _parquet_members(uri: str, path: str) -> list[Member]:
    table = _table(uri, path)
    labels = [""] * table.starts[-1]
    if table.label:
        with _open(uri, path) as source:
            values = pq.ParquetFile(source).read([table.label])[table.label].to_pylist()
        labels = [table.names[v] if table.names and isinstance(v, int) else "" if v is None else str(v) for v in values]
    return [Member(f"{path}/{row:09d}", label, table.size) for row, label in enumerate(labels)]


@lru_cache(maxsize=4)
def _row_group(uri: str, path: str, group: int) -> pa.Array:
    """The image column of one row group: neighbours are read together, and asked for one after the other."""
    table = _table(uri, path)
    with _open(uri, path) as source:
        column = pq.ParquetFile(source).read_row_group(group, [table.pixels])[table.pixels].combine_chunks()
    return column.field("bytes") if pa.types.is_struct(column.type) else column


def _read_parquet(uri: str, shard: str, name: str) -> bytes:
    row, starts = int(name), _table(uri, shard).starts
    group = next(i for i in range(len(starts) - 1) if row < starts[i + 1])
    return _row_group(uri, shard, group)[row - starts[group]].as_py() or b""
