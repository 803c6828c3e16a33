"""uint8 training images: decoded on the fly or memory-mapped.

A training run reads the same images at random over and over. Rows of the cache file are memory-mapped, so all processes
of a machine share them, and reading one costs no more than copying it.
"""

import os
import shutil
import socket
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from filelock import FileLock
from jaxtyping import Int, UInt8
from torch import Tensor

from alignet_ray.artifacts.spans import NO_OFFSET, Span
from alignet_ray.errors import UserError
from alignet_ray.images import jpeg
from alignet_ray.images.listing import read_bytes
from alignet_ray.images.storage import fetches
from alignet_ray.images.transform import PixelTransform

PIECE = 64
"""Rows that are decoded and written at a time."""


@dataclass(frozen=True)
class DecodedImages:
    """Images that are read, decoded and resized whenever they are asked for.

    Attributes:
        uri: folder of the images.
        ids: image ids, ascending.
        paths: path of each, as an Arrow array of strings: a million of them as Python's would take 100 MB.
        transform: the network's resizing and cropping.
        threads: images decoded at once.
        offsets, sizes: where tar files hold the images, as the listing says; None where there is no tar file.
    """

    uri: str
    ids: Int[np.ndarray, " n"]
    paths: pa.Array
    transform: PixelTransform
    threads: int = 1
    offsets: Int[np.ndarray, " n"] | None = None
    sizes: Int[np.ndarray, " n"] | None = None

    @property
    def size(self) -> int:
        """Side in pixels."""
        return self.transform.size

    def __call__(self, ids: Int[np.ndarray, " b"]) -> UInt8[Tensor, "b 3 s s"]:
        """Pixels of images, channels last in memory."""
        return channels_first(self.rows(positions_of(self.ids, ids)))

    def readable(self) -> "tuple[DecodedImages, list[str]]":
        """The same images without those that cannot be decoded, and the paths of the latter."""

        def is_readable(position: int) -> bool:
            try:
                jpeg.decode(self._read(position))
            except (ValueError, OSError):
                return False
            return True

        with ThreadPoolExecutor(fetches(self.uri, self.threads)) as pool:
            kept = np.array(list(pool.map(is_readable, range(len(self.ids)))), dtype=bool)
        return self.chosen(np.flatnonzero(kept)), self.paths.filter(pa.array(~kept)).to_pylist()

    def chosen(self, positions: Int[np.ndarray, " k"]) -> "DecodedImages":
        """Some of the images, by their positions in `ids`, which ascend."""
        paths = self.paths.take(pa.array(positions, pa.int64()))
        if self.offsets is None or self.sizes is None:
            return replace(self, ids=self.ids[positions], paths=paths)
        offsets = self.offsets[positions]
        return replace(self, ids=self.ids[positions], paths=paths, offsets=offsets, sizes=self.sizes[positions])

    def rows(self, positions: Int[np.ndarray, " b"]) -> UInt8[np.ndarray, "b s s 3"]:
        """Pixels of the images at these positions in `ids`."""
        threads = fetches(self.uri, self.threads)
        if threads == 1:
            return np.stack([self._decode_row(int(position)) for position in positions])
        with ThreadPoolExecutor(threads) as pool:
            return np.stack(list(pool.map(self._decode_row, positions.tolist())))

    def _decode_row(self, position: int) -> UInt8[np.ndarray, "s s 3"]:
        return self.transform(jpeg.decode(self._read(position))).permute(1, 2, 0).numpy()

    def _read(self, position: int) -> bytes:
        """Content of the image at this position in `ids`."""
        span = None
        if self.offsets is not None and self.sizes is not None and self.offsets[position] != NO_OFFSET:
            span = Span(int(self.offsets[position]), int(self.sizes[position]))
        return read_bytes(self.uri, self.paths[position].as_py(), span)


@dataclass(frozen=True)
class CachedImages:
    """Images in a memory-mapped file: rows of (size, size, 3) uint8.

    Attributes:
        path: the file.
        ids: image ids of its rows, ascending.
        size: side in pixels.
        source: what the rows are made of, by a machine whose folder is its own; None: the file is there.
    """

    path: Path
    ids: Int[np.ndarray, " n"]
    size: int
    source: DecodedImages | None = None

    def require(self) -> None:
        """Make the file if this machine does not have it; its other processes wait for the one that does.

        Raises:
            UserError: the disk is too small.
        """
        if self.source is not None and not self.path.exists():
            pack_once(self.path, self.source, lambda pack: pack.write(0, len(self.ids)))

    @cached_property
    def pixels(self) -> np.ndarray:
        """The memory map, opened once in each process."""
        self.require()
        return np.memmap(self.path, np.uint8, "r", shape=(len(self.ids), self.size, self.size, 3))

    def __call__(self, ids: Int[np.ndarray, " b"]) -> UInt8[Tensor, "b 3 s s"]:
        """Pixels of images, channels last in memory."""
        return channels_first(np.ascontiguousarray(self.pixels[positions_of(self.ids, ids)]))

    def __getstate__(self) -> dict[str, object]:
        """Without the map: every process opens its own."""
        return {"path": self.path, "ids": self.ids, "size": self.size, "source": self.source}


@dataclass(frozen=True)
class CacheWriter:
    """A cache file that several processes fill; it gets its name once it is complete.

    Attributes:
        target: final path.
        images: where rows come from.
        temporary: path under which they are written.
    """

    target: Path
    images: DecodedImages
    temporary: Path

    @classmethod
    def begin(cls, target: Path, images: DecodedImages) -> "CacheWriter":
        """Reserve the space, and remove the leftovers of an interrupted run.

        Raises:
            UserError: the disk is too small.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        for leftover in target.parent.glob(f".{target.name}.*"):
            leftover.unlink(missing_ok=True)

        # A disk that is too small is found before hours of decoding. (Reserving the space would write it once more on
        # network file systems, which know no other way.)
        size = len(images.ids) * images.size**2 * 3
        free = shutil.disk_usage(target.parent).free
        if free < size:
            place = f"{target.parent} on {socket.gethostname()}"
            raise UserError(
                f"{place} is too small: {size:,} bytes are needed, {free:,} are free: make room there, or name another "
                "folder with --cache-dir"
            )
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        with temporary.open("wb") as file:
            file.truncate(size)
        return cls(target, images, temporary)

    def write(self, start: int, stop: int) -> int:
        """Fill rows start..stop, and return their number."""
        row = self.images.size**2 * 3
        # Written, not mapped: a full disk is an error of a write, where a map would end the process. A few rows at a
        # time, so that a task of thousands of large images does not hold them all.
        with self.temporary.open("r+b") as file:
            for first in range(start, stop, PIECE):
                last = min(first + PIECE, stop)
                file.seek(first * row)
                file.write(self.images.rows(np.arange(first, last)).data)
        return stop - start

    def finish(self) -> None:
        """Give the complete file its name."""
        # An atomic rename: another run must never map a file that is half full.
        os.replace(self.temporary, self.target)


def pack_once(target: Path, images: DecodedImages, pack: Callable[[CacheWriter], object]) -> None:
    """Make a cache file unless it is there; whoever else wants it on the same storage waits, and finds it made.

    Args:
        target: the file.
        images: where its rows come from.
        pack: fills it.

    Raises:
        UserError: the disk is too small.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # Without the lock two trials of a sweep would each take the other's half file for a leftover.
    with FileLock(target.with_name(f"{target.name}.lock")):
        if not target.exists():
            new = CacheWriter.begin(target, images)
            pack(new)
            new.finish()


def positions_of(known_ids: Int[np.ndarray, " n"], ids: Int[np.ndarray, " b"]) -> Int[np.ndarray, " b"]:
    """Positions of ids among known ones (ascending)."""
    positions = np.searchsorted(known_ids, ids)
    nearest = known_ids[np.minimum(positions, len(known_ids) - 1)]
    assert np.array_equal(nearest, ids), "an image that training may not see"
    return positions


def channels_first(rows: UInt8[np.ndarray, "b s s 3"]) -> UInt8[Tensor, "b 3 s s"]:
    """The same memory with the axes in the order that networks want."""
    return torch.from_numpy(rows).permute(0, 3, 1, 2)
