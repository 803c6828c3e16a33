"""Tar files as folders of images: their members by name, and the classes in `.cls` files beside them (WebDataset)."""

import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import PurePosixPath
from typing import NamedTuple

from alignet_ray.artifacts.spans import Span
from alignet_ray.errors import UserError, first_line
from alignet_ray.images.file_kinds import (
    START_BYTES,
    LeftOut,
    Member,
    folder_class,
    is_hidden,
    is_image,
    known_class,
)
from alignet_ray.images.roots import open_file, open_stream, read_start

CLASS_SUFFIX = ".cls"

MAX_CLASS_BYTES = 256
"""Bytes that are read of a `.cls` file."""

READ_AHEAD = 8 << 20
"""Bytes of a remote tar file that one request brings."""

COMPRESSED_STARTS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"(\xb5/\xfd": "zstd"}
"""First bytes of a compressed file."""


class TarEntry(NamedTuple):
    """Where an image lies in a tar file: offset of its content, bytes, class."""

    offset: int
    size: int
    label: str


@dataclass
class TarIndex:
    """What a tar file holds.

    Attributes:
        images: its images by name, in byte order.
        others: names of files that are no images, hidden ones among them.
        copies: names of images that it holds more than once.
    """

    images: dict[str, TarEntry] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)


def tar_members(uri: str, path: str, left_out: LeftOut) -> Iterator[Member]:
    """The images of a tar file, in the byte order of their names; all its other files are counted in `left_out`.

    A tar without `.cls` files gives the class folders inside it; without these its own name is the class, but only
    where it is a WordNet id (as ImageNet's class tars have) or where all its images' names begin with it.

    Raises:
        UserError: it is damaged or compressed.
    """
    # A listing meets every file once: what it holds is not kept in memory.
    index = _look_through(uri, path)
    for name in index.others:
        left_out.add(f"{path}/{name}")
    for name in index.copies:
        left_out.copies.add(f"{path}/{name}")

    class_of_tar = _class_of_tar(path, index.images)
    for name, entry in index.images.items():
        label = entry.label or folder_class(name) or class_of_tar
        yield Member(f"{path}/{name}", label, entry.size, entry.offset)


def read_tar_member(uri: str, shard: str, name: str, span: Span | None = None) -> bytes:
    """Content of an image in a tar file.

    Args:
        uri: root of the source.
        shard: the tar file.
        name: of the image in it.
        span: where it lies, if that is known; without it the whole file is looked through, once in each process.

    Raises:
        OSError: it is not there, or the file ends inside it.
    """
    if span is None:
        entry = _tar_index(uri, shard).images.get(name)
        if entry is None:
            raise FileNotFoundError(f"{shard} holds no {name} any more")
        span = Span(entry.offset, entry.size)

    with open_file(uri, shard) as stream:
        stream.seek(span.offset)
        content: bytes = stream.read(span.size)

    if len(content) < span.size:
        raise OSError(f"{shard} ends inside {name}")
    return content


@lru_cache(maxsize=64)
def _tar_index(uri: str, path: str) -> TarIndex:
    """What a tar file holds, in memory: for images whose place no listing says."""
    return _look_through(uri, path)


def _look_through(uri: str, path: str) -> TarIndex:
    contents: dict[str, tuple[int, int]] = {}
    classes: dict[str, str] = {}
    index = TarIndex()
    try:
        with _opened_tar(uri, path) as tar:
            for info in tar:
                name = info.name.removeprefix("./")
                if not info.isfile():
                    continue

                if is_hidden(name):
                    index.others.append(name)
                # As `tar -x` does, the last one of several members of a name counts.
                elif is_image(name, partial(_member_content, tar, info, START_BYTES)):
                    if name in contents:
                        index.copies.append(name)
                    contents[name] = (info.offset_data, info.size)
                # WebDataset: the class of `x.jpg` stands in a member `x.cls`.
                elif name.lower().endswith(CLASS_SUFFIX):
                    text = _member_content(tar, info, MAX_CLASS_BYTES).decode("utf-8", "replace")
                    classes[name[: -len(CLASS_SUFFIX)]] = known_class(text)
                else:
                    index.others.append(name)
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise UserError(f"{uri}/{path} {_why_unreadable(uri, path, error)}") from error

    # Classes come last: a tar may hold a class before its image or after it.
    stems_of_sample = _stems_by_sample(classes)
    for name in sorted(contents, key=_name_bytes):
        offset, size = contents[name]
        index.images[name] = TarEntry(offset, size, _class_of(name, classes, stems_of_sample))
    return index


@contextmanager
def _opened_tar(uri: str, path: str) -> Iterator[tarfile.TarFile]:
    """A tar file to be gone through from its beginning to its end."""
    if "://" not in uri:
        with open_file(uri, path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            yield tar
        return
    # Read through: to skip from header to header would ask the server once for every image, and an answer takes longer
    # than a photo travels.
    with open_stream(uri, path, READ_AHEAD) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        yield tar


def _why_unreadable(uri: str, path: str, error: Exception) -> str:
    start = read_start(uri, path, START_BYTES)
    for signature, compression in COMPRESSED_STARTS.items():
        if start.startswith(signature):
            return f"is compressed by {compression}: unpack it, as single images are read from it at random"
    return f"is not a whole tar file ({first_line(error)}): fetch it again or take it out"


def _member_content(tar: tarfile.TarFile, info: tarfile.TarInfo, size: int) -> bytes:
    file = tar.extractfile(info)
    assert file is not None, "a regular file has content"
    return file.read(size)


def _name_bytes(name: str) -> bytes:
    """A name in UTF-8; tarfile keeps bytes that are not UTF-8 as surrogates."""
    try:
        return name.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the file name {os.fsencode(name)!r} in a tar file is not UTF-8: rename it") from error


def _sample(name: str) -> str:
    """WebDataset's key of a sample: the name up to the first dot after the last slash."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.split(".")[0]


def _stems_by_sample(classes: Mapping[str, str]) -> dict[str, list[str]]:
    """Names of `.cls` files without that suffix, by the sample that WebDataset counts them to."""
    stems: dict[str, list[str]] = defaultdict(list)
    for stem in classes:
        stems[_sample(stem)].append(stem)
    return stems


def _class_of(name: str, classes: Mapping[str, str], stems_of_sample: Mapping[str, list[str]]) -> str:
    """The class in the `.cls` file beside an image; "" if there is none, or if it cannot be told which one it is."""
    # By the whole name first: WebDataset counts 22.05.png and 22.06.png to one sample, 22, whose class would be both's.
    stem = name.rpartition(".")[0]
    if stem in classes:
        return classes[stem]
    stems = stems_of_sample.get(_sample(name), [])
    if len(stems) != 1:
        return ""
    return classes[stems[0]]


def _class_of_tar(path: str, names: Iterable[str]) -> str:
    """The class that a tar's own name says; "" if it says none."""
    stem = PurePosixPath(path).stem
    if re.fullmatch(r"n\d{8}", stem):
        return stem
    bases = [PurePosixPath(name).name for name in names]
    # One class a tar, as in dog.tar with dog_0001.jpg: any name of another form makes the tar a mere container.
    is_prefix = all(re.match(rf"{re.escape(stem)}[_\-. ]?\d", base) for base in bases)
    if bases and is_prefix:
        return stem
    return ""
