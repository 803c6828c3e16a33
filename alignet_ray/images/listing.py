"""Lists the images of a source with stable ids, and reads one of them."""

import hashlib
from collections.abc import Iterator
from typing import TypedDict

import numpy as np
import pyarrow as pa

from alignet_ray.artifacts.schemas import IMAGES
from alignet_ray.errors import UserError
from alignet_ray.images import storage
from alignet_ray.images.file_kinds import IMAGES as IMAGE_SUFFIXES
from alignet_ray.images.file_kinds import LeftOut, Member, folder_class, is_class_list, is_shard

BATCH_ROWS = 65_536
"""Rows of a record batch while listing."""


class Fingerprint(TypedDict):
    """What a folder holds. It is part of artifact ids, in which it stands as JSON.

    Attributes:
        files: number of files.
        bytes: their sizes, added up.
        sha256: start of the hash over paths, sizes and times of modification.
    """

    files: int
    bytes: int
    sha256: str


def list_images(uri: str, left_out: LeftOut | None = None) -> pa.Table:
    """Every image under a root, as an IMAGES table; `image_id` is the row number.

    Images are files in folders, members of tar shards or rows of Parquet files. The order is that of the relative POSIX
    paths as UTF-8 bytes. `label` is the class that the shard gives, or a list of validation classes
    (`file_kinds.CLASS_LISTS`), or the class folder; "" where it is unknown. Rows are streamed: memory is that of the
    table.

    Args:
        uri: see `storage.files`.
        left_out: counts the files that are no images.

    Raises:
        UserError: missing or empty folder, a damaged shard, or a file name that is not UTF-8.
    """
    if left_out is None:
        left_out = LeftOut()

    # Validation images of ImageNet lie in one folder, and lists beside it say their classes.
    listed_classes: dict[str, str] = {}
    for text in storage.class_lists(uri):
        listed_classes |= storage.class_list(text)

    # An image's id is its rank, so batches only need to be counted through.
    batches: list[pa.RecordBatch] = []
    first_id = 0
    for members in _batched(_members(uri, listed_classes, left_out)):
        columns = {
            "image_id": np.arange(first_id, first_id + len(members)),
            "path": [member.path for member in members],
            "label": [member.label for member in members],
            "bytes": [member.size for member in members],
        }
        batches.append(pa.RecordBatch.from_pydict(columns, schema=IMAGES))
        first_id += len(members)

    if not batches:
        raise _no_images(uri, left_out)
    return pa.Table.from_batches(batches, schema=IMAGES)


def unlabelled(images: pa.Table) -> str:
    """One line about images without a class among images with one; empty if all have a class, or none has.

    Args:
        images: schema IMAGES.
    """
    labels = images["label"].to_pylist()
    count = labels.count("")
    if count in (0, len(labels)):
        return ""
    first = images["path"][labels.index("")].as_py()
    return f"{count:,} of {len(labels):,} images have no class (first: {first!r})"


def fingerprint(uri: str) -> Fingerprint:
    """What a root (or a single file) holds: number of files, bytes, hash over paths, sizes and times.

    Raises:
        UserError: nothing there.
    """
    # Contents are not read: that would take hours for a large corpus; a changed file changes its time.
    sha256 = hashlib.sha256()
    file_count = 0
    total_size = 0
    left_out = LeftOut()
    for path, size, modified in storage.files(uri, left_out):
        sha256.update(f"{path}\0{size}\0{modified}\n".encode())
        file_count += 1
        total_size += size

    if not file_count:
        raise _no_images(uri, left_out)
    return {"files": file_count, "bytes": total_size, "sha256": sha256.hexdigest()[:16]}


def read_bytes(uri: str, path: str) -> bytes:
    """Content of one image, by the path of the listing.

    Raises:
        OSError: it is gone or may not be read.
    """
    return storage.read(uri, path)


def _members(uri: str, listed_classes: dict[str, str], left_out: LeftOut) -> Iterator[Member]:
    for path, size, _ in storage.files(uri, left_out):
        if is_shard(path):
            yield from storage.members(uri, path, left_out)
        elif not is_class_list(path):
            stem = path.rpartition("/")[2].rsplit(".", 1)[0]
            yield Member(path, listed_classes.get(stem) or folder_class(path), size)


def _no_images(uri: str, left_out: LeftOut) -> UserError:
    suffixes = ", ".join(IMAGE_SUFFIXES[:4])
    expected = f"expected files like CLASS/NAME.jpg ({suffixes}, ...), or .tar or .parquet shards"
    found = left_out.text()
    if found:
        expected += f"; {found}"
    return UserError(f"no images under {uri}: {expected}")


def _batched(members: Iterator[Member]) -> Iterator[list[Member]]:
    batch: list[Member] = []
    for member in members:
        batch.append(member)
        if len(batch) == BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch
