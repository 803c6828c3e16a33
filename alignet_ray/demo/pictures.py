"""The images that the page shows: those of a folder, encoded at the start, and the latest uploads."""

import hashlib
import io
import os
from collections import OrderedDict
from functools import partial
from threading import Lock
from typing import NamedTuple

import numpy as np
from PIL import Image

from alignet_ray.demo.compare import ModelComparison, ModelViews, concatenate, disputed_triplets, random_triplets
from alignet_ray.errors import UserError
from alignet_ray.images.decode import decode
from alignet_ray.images.listing import list_images, read_bytes
from alignet_ray.screen import Screen

MIN_PICTURES = 3
"""Usable pictures of a folder, at least: a verdict is about three of them."""

MAX_DIGITS = 9
"""Digits of a row's number in an image's name, at most."""

MAX_UPLOADS = 300
"""Uploads that are remembered; each takes about 50 kB."""

CHUNK = 64
"""Images between two updates of the progress line."""

PREVIEW_SIDE = 480
"""Longer side of a preview in pixels."""


class Upload(NamedTuple):
    """An uploaded image: a preview (JPEG) and both models' vectors."""

    preview: bytes
    views: ModelViews


class ImageFolder(NamedTuple):
    """A folder's images: path and label of every row, and both models' vectors."""

    uri: str
    paths: list[str]
    labels: list[str]
    views: ModelViews


class Pictures:
    """Images by name: `f12` is row 12 of the folder, `u` and a hash an upload.

    Attributes:
        comparison: both models.
        folder: the images to compare with; None if there are none.
    """

    def __init__(self, comparison: ModelComparison, folder: ImageFolder | None) -> None:
        self.comparison = comparison
        self.folder = folder
        self.uploads: OrderedDict[str, Upload] = OrderedDict()
        # One image at a time: a large one takes half a gigabyte while it is decoded.
        self.lock = Lock()

    def add(self, data: bytes) -> str:
        """Take an uploaded image and return its name.

        Raises:
            ValueError: with the reason why the bytes are not a usable image.
        """
        # A name from the content: the same picture dropped twice is one upload.
        name = "u" + hashlib.sha256(data).hexdigest()[:16]
        with self.lock:
            if name not in self.uploads:
                image = decode(data)
                self.uploads[name] = Upload(preview(image), self.comparison.encode_image(image))

            # The picture used longest ago is forgotten first.
            self.uploads.move_to_end(name)
            while len(self.uploads) > MAX_UPLOADS:
                self.uploads.popitem(last=False)
        return name

    def views(self, name: str) -> ModelViews:
        """Both models' vectors for an image.

        Raises:
            KeyError: there is no such image, or it is forgotten.
        """
        if name.startswith("u"):
            return self.uploads[name].views
        folder, row = self._folder_row(name)

        # A slice, not a number: a single image keeps the shape of several.
        views = {}
        for model, view in folder.views.items():
            views[model] = view.take(slice(row, row + 1))
        return views

    def jpeg(self, name: str) -> bytes:
        """A preview of an image.

        Raises:
            KeyError: as `views`.
            ValueError, OSError: the folder's file is gone or has changed.
        """
        if name.startswith("u"):
            return self.uploads[name].preview
        folder, row = self._folder_row(name)
        return preview(decode(read_bytes(folder.uri, folder.paths[row])))

    def triplet(self, kind: str, seed: int) -> list[str]:
        """Names of three of the folder's images: `random` or `disputed` ones; empty if there are none.

        Raises:
            KeyError: no folder was given.
        """
        if self.folder is None:
            raise KeyError("folder")
        if kind == "disputed":
            triplets = disputed_triplets(self.folder.views, seed)
        else:
            triplets = random_triplets(len(self.folder.paths), 100, seed)

        if not len(triplets):
            return []
        return [f"f{row}" for row in triplets[seed % len(triplets)]]

    def _folder_row(self, name: str) -> tuple[ImageFolder, int]:
        # Names come from requests, so anything may stand in them.
        row = name.removeprefix("f")
        is_number = name.startswith("f") and row.isascii() and row.isdecimal() and len(row) <= MAX_DIGITS
        if self.folder is None or not is_number or int(row) >= len(self.folder.paths):
            raise KeyError(name)
        return self.folder, int(row)


def preview(image: Image.Image) -> bytes:
    """A JPEG whose longer side is at most PREVIEW_SIDE pixels."""
    # A copy: the image itself is still to be embedded, at its own size.
    small = image.copy()
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def encode_folder(comparison: ModelComparison, uri: str, max_images: int, screen: Screen) -> ImageFolder:
    """Encode a folder's images (at most `max_images`, evenly spread over the listing) and set the base's temperature.

    Raises:
        UserError: fewer than three usable images.
    """
    listing = list_images(uri)
    count = min(max_images, len(listing))
    # Spread over the listing, which goes folder by folder: its beginning would show one class.
    rows = np.unique(np.linspace(0, len(listing) - 1, count).astype(int))
    selected = listing.take(rows)
    paths = selected["path"].to_pylist()

    kept: list[int] = []
    parts: list[ModelViews] = []
    with screen.progress(len(paths), "pictures") as progress:
        for start in range(0, len(paths), CHUNK):
            chunk = paths[start : start + CHUNK]
            jobs = [partial(_open, uri, path) for path in chunk]
            encoded = comparison.encode(jobs, readers=os.cpu_count() or 1)
            kept += [start + position for position in encoded.kept]
            parts.append(encoded.views)
            progress.add(len(jobs))

    if len(kept) < MIN_PICTURES:
        raise UserError(f"{uri} holds {len(kept)} usable pictures: three or more are needed")
    screen.line(f"{len(kept)} pictures of {uri}, {len(paths) - len(kept)} could not be used")

    views = comparison.match_confidence(concatenate(parts))
    usable = selected.take(kept)
    return ImageFolder(uri, usable["path"].to_pylist(), usable["label"].to_pylist(), views)


def _open(uri: str, path: str) -> Image.Image:
    return decode(read_bytes(uri, path))
