"""Pictures that the page shows: those of a folder, seen beforehand, and the last ones that were dropped on it."""

import hashlib
import io
import os
from collections import OrderedDict
from functools import partial
from threading import Lock
from typing import NamedTuple

import numpy as np
from PIL import Image

from alignet_ray.demo.compare import ModelComparison, Sights, disputed, join, random_triplets
from alignet_ray.errors import UserError
from alignet_ray.images.listing import decode, list_images, read_bytes
from alignet_ray.screen import Screen

KEPT = 300  # dropped pictures that are remembered; each takes some 50 kB
CHUNK = 64  # pictures between two lines of progress
SIDE = 480  # longer side of a preview in pixels


class Picture(NamedTuple):
    """A picture that was dropped: a preview (JPEG) and how both models see it."""

    preview: bytes
    sights: Sights


class PictureFolder(NamedTuple):
    """A folder's pictures: path and label of every row, and how both models see them."""

    uri: str
    paths: list[str]
    labels: list[str]
    sights: Sights


class Pictures:
    """Pictures by name: `f12` is row 12 of the folder, `u` and a hash a dropped one.

    Attributes:
        folder: the pictures to compare with; None if there are none.
    """

    def __init__(self, judges: ModelComparison, folder: PictureFolder | None) -> None:
        self.judges, self.folder = judges, folder
        self.dropped: OrderedDict[str, Picture] = OrderedDict()
        self.lock = Lock()  # one picture at a time: a large one takes half a gigabyte

    def add(self, data: bytes) -> str:
        """Take a dropped picture; its name.

        Raises:
            ValueError: with the reason why the bytes are no usable picture.
        """
        name = "u" + hashlib.sha256(data).hexdigest()[:16]
        with self.lock:
            if name not in self.dropped:
                image = decode(data)
                self.dropped[name] = Picture(preview(image), self.judges.look(image))
            self.dropped.move_to_end(name)
            while len(self.dropped) > KEPT:
                self.dropped.popitem(last=False)
        return name

    def sights(self, name: str) -> Sights:
        """How both models see a picture.

        Raises:
            KeyError: there is no such picture, or it is forgotten.
        """
        if name.startswith("u"):
            return self.dropped[name].sights
        folder, row = self._row(name)
        return {model: sight.take(slice(row, row + 1)) for model, sight in folder.sights.items()}

    def jpeg(self, name: str) -> bytes:
        """A preview of a picture.

        Raises:
            KeyError: as `sights`.
            ValueError, OSError: the folder's file is gone or has changed.
        """
        if name.startswith("u"):
            return self.dropped[name].preview
        folder, row = self._row(name)
        return preview(decode(read_bytes(folder.uri, folder.paths[row])))

    def triplet(self, kind: str, seed: int) -> list[str]:
        """Names of three of the folder's pictures: `random` ones, or `disputed` ones; none if there are none.

        Raises:
            KeyError: no folder was given.
        """
        if self.folder is None:
            raise KeyError("folder")
        n = len(self.folder.paths)
        found = disputed(self.folder.sights, seed) if kind == "disputed" else random_triplets(n, 100, seed)
        return [f"f{row}" for row in found[seed % len(found)]] if len(found) else []

    def _row(self, name: str) -> tuple[PictureFolder, int]:
        rows = name.removeprefix("f")
        if self.folder is None or not rows.isdecimal() or int(rows) >= len(self.folder.paths):
            raise KeyError(name)
        return self.folder, int(rows)


def preview(image: Image.Image) -> bytes:
    """A JPEG whose longer side is at most SIDE pixels."""
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def see_folder(judges: ModelComparison, uri: str, most: int, screen: Screen) -> PictureFolder:
    """Look at a folder's pictures (at most `most`, evenly spread over the listing), and set the base's temperature.

    Raises:
        UserError: fewer than three usable pictures.
    """
    listed = list_images(uri)
    rows = np.unique(np.linspace(0, len(listed) - 1, min(most, len(listed))).astype(int))
    paths, labels = ([listed[name][int(r)].as_py() for r in rows] for name in ("path", "label"))
    kept: list[int] = []
    seen: list[Sights] = []
    with screen.progress(len(paths), "pictures") as progress:
        for start in range(0, len(paths), CHUNK):
            jobs = [partial(_open, uri, path) for path in paths[start : start + CHUNK]]
            found = judges.see(jobs, readers=os.cpu_count() or 1)
            kept += [start + position for position in found.kept]
            seen.append(found.sights)
            progress.add(len(jobs))
    if len(kept) < 3:
        raise UserError(f"{uri} holds {len(kept)} usable pictures: three or more are needed")
    screen.line(f"{len(kept)} pictures of {uri}, {len(paths) - len(kept)} could not be used")
    return PictureFolder(uri, [paths[k] for k in kept], [labels[k] for k in kept], judges.settle(join(seen)))


def _open(uri: str, path: str) -> Image.Image:
    return decode(read_bytes(uri, path))
