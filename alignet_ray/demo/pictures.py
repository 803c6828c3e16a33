"""The images that the page shows: those of a folder, embedded while the page is open, and the latest uploads."""

import hashlib
import io
import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from alignet_ray.demo.compare import (
    ModelComparison,
    ModelViews,
    Vectors,
    disputed_triplets,
    random_triplets,
)
from alignet_ray.demo.encoded import KnownPictures, digest_of
from alignet_ray.demo.stored import StoredVectors
from alignet_ray.errors import UserError
from alignet_ray.images.class_names import class_title
from alignet_ray.images.decode import decode
from alignet_ray.images.listing import list_images, read_bytes
from alignet_ray.screen import Screen

MIN_PICTURES = 3
"""Usable pictures of a folder, at least: a verdict is about three of them."""

MAX_DIGITS = 9
"""Digits of a row's number in an image's name, at most."""

MAX_UPLOADS = 300
"""Uploads that are remembered; each takes about 50 kB."""

CHUNK = 32
"""Images that are embedded at once; an upload waits for one such step at most."""

PREVIEW_SIDE = 480
"""Longer side of a preview in pixels."""


class Upload(NamedTuple):
    """An uploaded image: a preview (JPEG) and both models' vectors."""

    preview: bytes
    vectors: Vectors


class ImageFolder(NamedTuple):
    """A folder's images: path and class of every row, and both models' vectors."""

    uri: str
    paths: list[str]
    labels: list[str]
    views: ModelViews


class FolderListing(NamedTuple):
    """The images of a folder that will be embedded.

    Attributes:
        uri: the folder.
        paths: of the images.
        labels: their classes, by names.
    """

    uri: str
    paths: list[str]
    labels: list[str]


class Pictures:
    """Images by name: `f12` is row 12 of the folder, `u` and a hash an upload.

    Attributes:
        comparison: both models.
        folder: the images to compare with; None if there are none, or not yet.
        listing: the images that are being embedded; None without a folder.
        embedded: how many of them are.
        why_unusable: why the folder cannot be used; "" if it can.
        uploads: the latest uploads.
    """

    def __init__(
        self,
        comparison: ModelComparison,
        listing: FolderListing | None = None,
        known: KnownPictures | None = None,
        stored: StoredVectors | None = None,
    ) -> None:
        self.comparison = comparison
        self.folder: ImageFolder | None = None
        self.listing = listing
        self.embedded = 0
        self.why_unusable = ""
        self.uploads: OrderedDict[str, Upload] = OrderedDict()
        self._known = known or KnownPictures()
        self._stored = stored
        # One image or chunk at a time: a large image takes half a gigabyte while it is decoded.
        self._lock = Lock()

    def embed_folder(self, screen: Screen) -> None:
        """Embed the folder's pictures and set the base's temperature; what goes wrong is kept in `why_unusable`."""
        assert self.listing is not None, "there is a folder"
        try:
            self.folder = self._embedded(self.listing, screen)
        except UserError as error:
            self.why_unusable = str(error)
            screen.line(f"warning: {error}")
        except OSError as error:
            self.why_unusable = f"{self.listing.uri} cannot be read: {error}"
            screen.line(f"warning: {self.why_unusable}")

    def _embedded(self, listing: FolderListing, screen: Screen) -> ImageFolder:
        kept: list[int] = []
        usable: list[bytes] = []
        first_reason = ""
        total = len(listing.paths)
        with screen.progress(total, "pictures") as progress, ThreadPoolExecutor(os.cpu_count()) as readers:
            for start in range(0, total, CHUNK):
                paths = listing.paths[start : start + CHUNK]
                contents = list(readers.map(partial(_read, listing.uri), paths))
                positions, digests, reasons = self._learn(paths, contents)
                kept += [start + position for position in positions]
                usable += digests

                # Reasons come in the order of the pictures: the first is that of the first one that is not usable.
                if reasons and not first_reason:
                    bad = min(set(range(len(paths))) - set(positions))
                    first_reason = f" (first: {paths[bad]}: {reasons[0]})"

                # The page shows this number while it waits.
                self.embedded = start + len(paths)
                progress.add(len(paths))

        if len(kept) < MIN_PICTURES:
            raise UserError(f"{listing.uri} holds {len(kept)} usable pictures: three or more are needed")
        screen.line(f"{len(kept)} pictures of {listing.uri}, {total - len(kept)} could not be used{first_reason}")

        if self._stored is not None:
            reused = sum(path in self._stored.row_of for path in listing.paths)
            screen.line(f"{reused} of them as the run {self._stored.run} has embedded them")

        self._keep(screen)
        vectors = self._known.take(usable)
        self.comparison.match_confidence(vectors)
        paths = [listing.paths[row] for row in kept]
        labels = [listing.labels[row] for row in kept]
        return ImageFolder(listing.uri, paths, labels, self.comparison.views(vectors))

    def _learn(self, paths: Sequence[str], contents: Sequence[bytes]) -> tuple[list[int], list[bytes], list[str]]:
        """Positions and hashes of the usable pictures, which are known then, and why the others are not usable.

        Known pictures, and those that a run has embedded, are not embedded again.
        """
        digests = [digest_of(data) for data in contents]
        known = self._known

        # What the run has embedded is taken over, for pictures with content: an empty one has none to be known by.
        if self._stored is not None:
            stored_paths: list[str] = []
            stored_digests: list[bytes] = []
            for path, content, digest in zip(paths, contents, digests, strict=True):
                if content and path in self._stored.row_of:
                    stored_paths.append(path)
                    stored_digests.append(digest)
            known.add(stored_digests, self._stored.take(stored_paths))

        new: list[bytes] = []
        jobs = []
        for content, digest in zip(contents, digests, strict=True):
            if digest not in known:
                new.append(digest)
                jobs.append(partial(decode, content))

        reasons: list[str] = []
        if new:
            with self._lock:
                encoded = self.comparison.encode(jobs, readers=os.cpu_count() or 1)
            reasons = encoded.reasons
            known.add([new[position] for position in encoded.kept], encoded.vectors)

        kept = [position for position, digest in enumerate(digests) if digest in known]
        return kept, [digests[position] for position in kept], reasons

    def _keep(self, screen: Screen) -> None:
        try:
            self._known.save()
        except OSError as error:
            screen.line(f"warning: the pictures' vectors are not kept for next time ({error.strerror})")

    def add(self, data: bytes) -> str:
        """Take an uploaded image and return its name.

        Raises:
            ValueError: with the reason why the bytes are not a usable image.
        """
        # A name from the content: the same picture dropped twice is one upload.
        name = "u" + hashlib.sha256(data).hexdigest()[:16]
        with self._lock:
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
            return self.comparison.views(self.uploads[name].vectors)
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
            KeyError: no folder was given, or it is not embedded yet.
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


def list_folder(uri: str, max_images: int) -> FolderListing:
    """A folder's images, at most `max_images`, evenly spread over the listing.

    Raises:
        UserError: it has no images, or fewer than three.
    """
    listing: pa.Table = list_images(uri)
    count = min(max_images, len(listing))
    if count < MIN_PICTURES:
        raise UserError(f"{uri} holds {count} pictures: three or more are needed")
    # Spread over the listing, which goes folder by folder: its beginning would show one class.
    rows = np.unique(np.linspace(0, len(listing) - 1, count).astype(int))
    selected = listing.take(rows)
    labels = [class_title(label) for label in selected["label"].to_pylist()]
    return FolderListing(uri, selected["path"].to_pylist(), labels)


def _read(uri: str, path: str) -> bytes:
    """An image's bytes; none where the file is gone, which no decoder takes for a picture."""
    try:
        return read_bytes(uri, path)
    except OSError:
        return b""
