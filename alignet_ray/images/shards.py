"""Opens tar and Parquet files of images, some at a time, and keeps what they hold: no file is looked through twice."""

import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from alignet_ray.artifacts.schemas import IMAGES
from alignet_ray.images import storage
from alignet_ray.images.ahead import prefetch
from alignet_ray.images.file_kinds import LeftOut, Member
from alignet_ray.store import digest

VERSION = 1
"""Raised when the rows of a shard change."""

REMOTE_SHARDS = 8
"""Shards of a remote source that one process opens at a time: each waits for a server's answers, most of the time."""

ROWS = pa.schema([field for field in IMAGES if field.name != "image_id"])
"""Columns of a shard's images. They have no ids, which are ranks in the whole listing."""

LEFT_OUT_KEY = b"alignet.left_out"
"""Parquet metadata of kept rows: what there is besides images."""


@dataclass(frozen=True)
class OpenedShard:
    """What a shard holds.

    Attributes:
        rows: its images, schema ROWS, in the byte order of their paths.
        left_out: what it holds besides.
    """

    rows: pa.RecordBatch
    left_out: LeftOut


def open_shard(uri: str, path: str) -> OpenedShard:
    """Look through one shard: the headers of a tar file, or the classes of a Parquet file.

    Raises:
        UserError: it is damaged, or is a table without images.
    """
    left_out = LeftOut()
    members = list(storage.members(uri, path, left_out))
    return OpenedShard(rows_of(members), left_out)


def rows_of(members: list[Member]) -> pa.RecordBatch:
    """Images as rows, schema ROWS."""
    columns = []
    for number, field in enumerate(ROWS):
        columns.append(pa.array([member[number] for member in members], field.type))
    return pa.RecordBatch.from_arrays(columns, schema=ROWS)


@dataclass(frozen=True)
class ShardOpener:
    """How the shards of a listing are opened.

    Attributes:
        cache: local folder of opened shards, so that a listing that was stopped goes on and one more file costs one
            more file; None: nothing is kept.
        open_one: opens a shard of a source: here, or on another machine.
        at_once: shards that are opened at a time; 0: as many as this process alone does best.
    """

    cache: Path | None = None
    open_one: Callable[[str, str], OpenedShard] = open_shard
    at_once: int = 0

    def opened(self, uri: str, shards: Iterator[storage.File]) -> Iterator[OpenedShard]:
        """Shards in the order in which they come, with at most `at_once` of them in memory.

        Raises:
            UserError: as `open_shard`.
        """
        at_once = self.at_once or _threads_here(uri)
        jobs = (partial(self._opened, uri, shard) for shard in shards)
        with closing(prefetch(jobs, at_once, at_once)) as found:
            yield from found

    def _opened(self, uri: str, shard: storage.File) -> OpenedShard:
        # Where a server tells no time, a file of the same size may be another one.
        if self.cache is None or not shard.modified:
            return self.open_one(uri, shard.path)

        kept = self.cache / f"shard-{digest([VERSION, uri, *shard])}.parquet"
        if is_whole(kept):
            return _read(kept)
        opened = self.open_one(uri, shard.path)
        _write(kept, opened)
        return opened


def _threads_here(uri: str) -> int:
    """Headers of a local file are read at once; a server takes its time for every answer."""
    if "://" in uri:
        return REMOTE_SHARDS
    return 1


def is_whole(kept: Path) -> bool:
    """Whether kept rows are there with all that was written beside them: a machine that lost its power leaves half."""
    try:
        return LEFT_OUT_KEY in (pq.read_metadata(kept).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def _read(kept: Path) -> OpenedShard:
    with pq.ParquetFile(kept) as file:
        left_out = LeftOut.from_json(json.loads(file.metadata.metadata[LEFT_OUT_KEY]))
        table = file.read().combine_chunks()
    # A table without rows has no batch.
    batches = table.to_batches() or [rows_of([])]
    return OpenedShard(batches[0].cast(ROWS), left_out)


def _write(kept: Path, opened: OpenedShard) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    # The name comes last, so that what a killed process leaves is never read.
    temporary = kept.with_name(f".{kept.name}.{uuid.uuid4().hex[:8]}")
    try:
        with pq.ParquetWriter(temporary, ROWS, compression="zstd", use_dictionary=["label"]) as writer:
            writer.write_batch(opened.rows)
            writer.add_key_value_metadata({LEFT_OUT_KEY.decode(): json.dumps(opened.left_out.to_json())})
        os.replace(temporary, kept)
    finally:
        temporary.unlink(missing_ok=True)
