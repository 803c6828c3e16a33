"""Images as a network sees them but for the normalisation: uint8, decoded each time or packed once into one file.

A training run reads the same images at random over and over. Packed rows are memory-mapped, so all processes of a
machine share them, and reading one costs no more than copying it.
"""

import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from alignet_ray.images import jpeg
from alignet_ray.images.listing import read_bytes
from alignet_ray.images.transform import View


@dataclass(frozen=True)
class Decoder:
    """Reads, decodes and resizes images whenever they are asked for.

    Attributes:
        uri: folder of the images.
        ids: image ids, ascending.
        paths: path of each.
        view: the network's resizing and cropping.
        threads: images decoded at once.
    """

    uri: str
    ids: Int[np.ndarray, " n"]
    paths: tuple[str, ...]
    view: View
    threads: int = 1

    def __call__(self, ids: Int[np.ndarray, " b"]) -> UInt8[Tensor, "b 3 s s"]:
        """Pixels of images, channels last in memory."""
        return as_images(self.rows(positions(self.ids, ids)))

    def rows(self, at: Int[np.ndarray, " b"]) -> UInt8[np.ndarray, "b s s 3"]:
        """Pixels of the images at these positions in `ids`."""
        if self.threads == 1:
            return np.stack([self._one(int(i)) for i in at])
        with ThreadPoolExecutor(self.threads) as pool:
            return np.stack(list(pool.map(self._one, map(int, at))))

    def _one(self, at: int) -> np.ndarray:
        return self.view(jpeg.decode(read_bytes(self.uri, self.paths[at]))).permute(1, 2, 0).numpy()

    @property
    def size(self) -> int:
        """Side in pixels."""
        return self.view.size


@dataclass(frozen=True)
class Packed:
    """Images packed into a file: rows of (size, size, 3) uint8.

    Attributes:
        path: the file.
        ids: image ids of its rows, ascending.
        size: side in pixels.
    """

    path: Path
    ids: Int[np.ndarray, " n"]
    size: int

    @cached_property
    def pixels(self) -> np.ndarray:
        """The map, opened once in each process."""
        return np.memmap(self.path, np.uint8, "r", shape=(len(self.ids), self.size, self.size, 3))

    def __call__(self, ids: Int[np.ndarray, " b"]) -> UInt8[Tensor, "b 3 s s"]:
        """Pixels of images, channels last in memory."""
        return as_images(np.ascontiguousarray(self.pixels[positions(self.ids, ids)]))

    def __getstate__(self) -> dict[str, object]:
        """Without the map: it does not travel."""
        return {"path": self.path, "ids": self.ids, "size": self.size}


@dataclass(frozen=True)
class Pack:
    """A file being packed by several processes; it gets its name when it is whole.

    Attributes:
        target: final path.
        decoder: where rows come from.
        temporary: where they are written.
    """

    target: Path
    decoder: Decoder
    temporary: Path

    @classmethod
    def begin(cls, target: Path, decoder: Decoder) -> "Pack":
        """Reserve the space, and remove what an interrupted run left.

        Raises:
            OSError: the disk is too small.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(f".{target.name}.*"):
            left.unlink(missing_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        try:
            with temporary.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, len(decoder.ids) * decoder.size**2 * 3)
        except OSError:
            temporary.unlink()
            raise
        return cls(target, decoder, temporary)

    def write(self, start: int, stop: int) -> int:
        """Fill rows start..stop; returns how many."""
        shape = (len(self.decoder.ids), self.decoder.size, self.decoder.size, 3)
        rows = np.memmap(self.temporary, np.uint8, "r+", shape=shape)
        rows[start:stop] = self.decoder.rows(np.arange(start, stop))
        rows.flush()
        return stop - start

    def finish(self) -> None:
        """All rows are there: the file gets its name."""
        os.replace(self.temporary, self.target)


def positions(known: Int[np.ndarray, " n"], ids: Int[np.ndarray, " b"]) -> Int[np.ndarray, " b"]:
    """Positions of ids among known ones (ascending)."""
    at = np.searchsorted(known, ids)
    assert np.array_equal(known[np.minimum(at, len(known) - 1)], ids), "an image that training may not see"
    return at


def as_images(rows: UInt8[np.ndarray, "b s s 3"]) -> UInt8[Tensor, "b 3 s s"]:
    """A view with the axes in the order that networks want."""
    return torch.from_numpy(rows).permute(0, 3, 1, 2)
