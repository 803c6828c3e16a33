"""Listings that a run keeps: a folder is listed once, and all steps see the same images under the same ids."""

import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from jaxtyping import Int

from alignet_ray.artifacts.schemas import IMAGE_ROWS, IMAGES
from alignet_ray.errors import UserError
from alignet_ray.images.file_kinds import LeftOut
from alignet_ray.images.listing import FolderSummary, list_batches
from alignet_ray.images.shards import LEFT_OUT_KEY, ShardOpener, is_whole
from alignet_ray.screen import Screen
from alignet_ray.store import digest

VERSION = 1
"""Raised when the rows of a listing change."""


@dataclass(frozen=True)
class Listings:
    """The listings of a run's folders.

    A folder whose fingerprint the run took is listed into a file of the cache, named by that fingerprint; all further
    steps and runs read the file. So files that come or go meanwhile do not shift the ids of the others.

    Attributes:
        cache: local folder; None: nothing is kept.
        fingerprints: fingerprint of every folder, as the plan found it. Folders that are not among them are listed
            whenever they are asked for.
        shards: how shards are opened.
        screen: shows how far a long listing is; None: nothing is shown.
    """

    cache: Path | None = None
    fingerprints: Mapping[str, Any] = field(default_factory=dict)
    shards: ShardOpener = field(default_factory=ShardOpener)
    screen: Screen | None = None

    def table(self, uri: str, left_out: LeftOut | None = None) -> pa.Table:
        """All images under a root: see `listing.list_images`."""
        return pa.Table.from_batches(self.batches(uri, left_out), schema=IMAGES)

    def batches(self, uri: str, left_out: LeftOut | None = None) -> Iterator[pa.RecordBatch]:
        """All images under a root, batch by batch: see `listing.list_batches`.

        Raises:
            UserError: as there, or the folder is not what the run found at its start.
        """
        path = self._kept(uri)
        if path is None:
            yield from list_batches(uri, left_out, shards=self.shards)
            return
        with pq.ParquetFile(path) as kept:
            if left_out is not None:
                left_out.add_all(LeftOut.from_json(json.loads(kept.metadata.metadata[LEFT_OUT_KEY])))
            yield from kept.iter_batches(IMAGE_ROWS)

    def count(self, uri: str) -> int:
        """Number of images under a root.

        Raises:
            UserError: as `batches`.
        """
        path = self._kept(uri)
        if path is None:
            return sum(len(batch) for batch in list_batches(uri, shards=self.shards))
        return int(pq.read_metadata(path).num_rows)

    def paths(self, uri: str, ids: Int[np.ndarray, " n"]) -> list[str]:
        """Paths of some images of a root, by their ids."""
        path_of: dict[int, str] = {}
        for batch in self.batches(uri):
            # An image's id is its row, so each batch holds one range of ids.
            first = int(batch["image_id"][0].as_py())
            inside = ids[(ids >= first) & (ids < first + len(batch))]
            found = batch["path"].take(pa.array(inside - first)).to_pylist()
            path_of |= dict(zip(inside.tolist(), found, strict=True))
        return [path_of[image_id] for image_id in ids.tolist()]

    def _kept(self, uri: str) -> Path | None:
        """The file of a root's listing, made here if it is not there; None for a root that is listed every time."""
        fingerprint = self.fingerprints.get(uri)
        if self.cache is None or not isinstance(fingerprint, dict):
            return None
        path = self.cache / f"listing-{digest([VERSION, uri, fingerprint])}.parquet"
        if not is_whole(path):
            self._keep(path, uri, fingerprint)
        return path

    def _keep(self, path: Path, uri: str, fingerprint: Mapping[str, Any]) -> None:
        """List a folder into a file, which gets its name once it is whole; other processes wait meanwhile."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{path.name}.lock")):
            if is_whole(path):
                return

            for leftover in path.parent.glob(f".{path.name}.*"):
                leftover.unlink(missing_ok=True)  # of a run that was killed while it listed
            temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
            try:
                self._write(temporary, uri, fingerprint)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

    @contextmanager
    def _told(self, files: int) -> Iterator[Callable[[int], None] | None]:
        """What is called for every file that is listed."""
        if self.screen is None:
            yield None
            return
        with self.screen.progress(files, "files listed", told_if_short=False) as bar:
            yield bar.add

    def _write(self, path: Path, uri: str, fingerprint: Mapping[str, Any]) -> None:
        left_out = LeftOut()
        with (
            self._told(fingerprint["files"]) as told,
            # Classes repeat, so that a dictionary of them is all that a batch holds.
            pq.ParquetWriter(path, IMAGES, compression="zstd", use_dictionary=["label"]) as writer,
        ):
            summary = FolderSummary(told)
            for batch in list_batches(uri, left_out, summary, self.shards):
                writer.write_batch(batch)
            writer.add_key_value_metadata({LEFT_OUT_KEY.decode(): json.dumps(left_out.to_json())})

        # The artifact's id stands for the folder as the plan found it: rows of another state must not get that id.
        if summary.fingerprint != fingerprint:
            raise UserError(
                f"the images under {uri} changed after the run began: wait until nothing is written there, and run it"
                " again"
            )
