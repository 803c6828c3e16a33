"""Lists the images of a source with stable ids, and reads one of them."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from alignet_ray.artifacts.schemas import IMAGE_ROWS, IMAGES
from alignet_ray.artifacts.spans import Span
from alignet_ray.errors import UserError
from alignet_ray.images import storage
from alignet_ray.images.file_kinds import IMAGES as IMAGE_SUFFIXES
from alignet_ray.images.file_kinds import LeftOut, Member, folder_class, is_class_list, is_shard
from alignet_ray.images.shards import ShardOpener, rows_of


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
    (`file_kinds.CLASS_LISTS`), or the class folder; "" where it is unknown.

    Args:
        uri: see `storage.files`.
        left_out: counts the files that are no images.

    Raises:
        UserError: missing or empty folder, a damaged shard, or a file name that is not UTF-8.
    """
    return pa.Table.from_batches(list_batches(uri, left_out), schema=IMAGES)


def list_batches(
    uri: str,
    left_out: LeftOut | None = None,
    summary: "FolderSummary | None" = None,
    shards: ShardOpener | None = None,
) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of `IMAGE_ROWS`, the last one smaller: no more than one of them need be in memory.

    Args:
        uri: see `storage.files`.
        left_out: counts the files that are no images.
        summary: adds up the files that were listed.
        shards: how shards are opened; None: in this process.

    Raises:
        UserError: as `list_images`; nothing found is known only at the end.
    """
    if left_out is None:
        left_out = LeftOut()

    # Validation images of ImageNet lie in one folder, and lists beside it say their classes.
    listed_classes: dict[str, str] = {}
    for text in storage.class_lists(uri):
        listed_classes |= storage.class_list(text)

    # Counts of both stay apart: how far the walk is ahead of opened shards must not show in what comes first.
    in_shards = LeftOut()
    is_empty = True
    files = _counted(storage.files(uri, left_out), summary or FolderSummary())
    for batch in numbered(_rows(uri, files, listed_classes, shards or ShardOpener(), in_shards), IMAGE_ROWS):
        is_empty = False
        yield batch

    left_out.add_all(in_shards)
    if is_empty:
        raise _no_images(uri, left_out)


def unlabelled(blocks: Iterable[pa.Table | pa.RecordBatch]) -> str:
    """One line about images without a class among images with one; empty if all have a class, or none has.

    Args:
        blocks: rows of schema IMAGES, or of its columns `path` and `label`.
    """
    total = 0
    count = 0
    first = ""
    for block in blocks:
        is_unlabelled = pc.equal(block["label"], "")
        total += len(block)

        # The sum over no rows is null.
        found = int(pc.sum(is_unlabelled).as_py() or 0)
        if found and not count:
            first = block["path"].filter(is_unlabelled)[0].as_py()
        count += found

    # Where no image has a class, the folders are not meant as classes.
    if count in (0, total):
        return ""
    return f"{count:,} of {total:,} images have no class (first: {first!r})"


class FolderSummary:
    """What a folder holds, added up file by file: number of files, bytes, and a hash over paths, sizes and times.

    Args:
        told: is called with 1 for every file.
    """

    def __init__(self, told: Callable[[int], None] | None = None) -> None:
        self._told = told
        self._files = 0
        self._bytes = 0
        self._sha256 = hashlib.sha256()

    def add(self, file: storage.File) -> None:
        """Count one file; the order of files is part of the hash."""
        # Contents are not read: that would take hours for a large corpus; a changed file changes its time.
        path, size, modified = file
        self._sha256.update(f"{path}\0{size}\0{modified}\n".encode())
        self._files += 1
        self._bytes += size
        if self._told:
            self._told(1)

    @property
    def fingerprint(self) -> Fingerprint:
        """The files so far."""
        return {"files": self._files, "bytes": self._bytes, "sha256": self._sha256.hexdigest()[:16]}


def fingerprint(uri: str) -> Fingerprint:
    """What a root (or a single file) holds: number of files, bytes, hash over paths, sizes and times.

    Raises:
        UserError: nothing there.
    """
    summary = FolderSummary()
    left_out = LeftOut()
    for file in storage.files(uri, left_out):
        summary.add(file)

    found = summary.fingerprint
    if not found["files"]:
        raise _no_images(uri, left_out)
    return found


def read_bytes(uri: str, path: str, span: Span | None = None) -> bytes:
    """Content of one image, by the path of the listing, and by its place in a tar file where that is known.

    Raises:
        OSError: it is gone or may not be read.
    """
    return storage.read(uri, path, span)


def _counted(files: Iterable[storage.File], summary: FolderSummary) -> Iterator[storage.File]:
    for file in files:
        summary.add(file)
        yield file


def _rows(
    uri: str, files: Iterable[storage.File], listed_classes: dict[str, str], shards: ShardOpener, in_shards: LeftOut
) -> Iterator[pa.RecordBatch]:
    """All images as rows without ids, in the byte order of their paths."""
    for are_shards, run in itertools.groupby(files, lambda file: is_shard(file.path)):
        if are_shards:
            for opened in shards.opened(uri, run):
                in_shards.add_all(opened.left_out)
                yield opened.rows
            continue
        for members in _batched(_image_files(run, listed_classes)):
            yield rows_of(members)


def _image_files(files: Iterable[storage.File], listed_classes: dict[str, str]) -> Iterator[Member]:
    for path, size, _ in files:
        if not is_class_list(path):
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
        if len(batch) == IMAGE_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def numbered(blocks: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Rows of a listing with their ids, in batches of `rows`, the last one smaller.

    An image's id is its rank, so rows only need to be counted through.

    Args:
        blocks: schema ROWS, of any size.
        rows: of a batch.
    """
    waiting: list[pa.RecordBatch] = []
    count = 0
    first_id = 0
    for block in blocks:
        waiting.append(block)
        count += len(block)
        while count >= rows:
            merged = pa.concat_batches(waiting)
            yield _with_ids(merged.slice(0, rows), first_id)
            first_id += rows
            count -= rows
            waiting = [merged.slice(rows)]
    if count:
        yield _with_ids(pa.concat_batches(waiting), first_id)


def _with_ids(block: pa.RecordBatch, first_id: int) -> pa.RecordBatch:
    ids = pa.array(np.arange(first_id, first_id + len(block)), pa.int64())
    return pa.RecordBatch.from_arrays([ids, *block.columns], schema=IMAGES)
