"""Images of a source: the list with stable ids, the bytes of one of them, and careful decoding."""

import hashlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps, UnidentifiedImageError

from alignet_ray.artifacts.schemas import IMAGES
from alignet_ray.errors import UserError
from alignet_ray.images import storage

MAX_PIXELS = 178_956_970
"""Pillow's limit for decompression bombs: 0.5 GB of RGB."""

MAX_ASPECT = 100
"""Thinner images would explode when the short side is enlarged to the network's size."""

CHUNK = 65_536  # rows per record batch while listing

SPLITS = ("train", "val", "valid", "validation", "test")
"""Top folders that are no classes: the class folder is the one below."""


def list_images(uri: str) -> pa.Table:
    """Every image under a root, as an IMAGES table; `image_id` is the row number.

    Images are files in folders, members of tar shards or rows of Parquet files. The order is that of the relative POSIX
    paths as UTF-8 bytes. `label` is what the shard says, or a list of validation classes (`sources.CLASS_LISTS`), or
    the class folder ("" for files at the root). Rows are streamed: memory is that of the table.

    Raises:
        UserError: missing or empty folder, a damaged shard, or a file name that is not UTF-8.
    """
    batches, first = [], 0
    flat = {name: label for text in storage.class_lists(uri) for name, label in storage.class_list(text).items()}
    for rows in _chunks(_members(uri)):
        columns = {
            "image_id": np.arange(first, first + len(rows)),
            "path": [row.path for row in rows],
            "label": [row.label or _label(row.path, flat) for row in rows],
            "bytes": [row.size for row in rows],
        }
        batches.append(pa.RecordBatch.from_pydict(columns, schema=IMAGES))
        first += len(rows)
    if not batches:
        raise _nothing(uri)
    return pa.Table.from_batches(batches, schema=IMAGES)


def fingerprint(uri: str) -> dict[str, Any]:
    """What a root holds (or the one file that it is): number of files, bytes, hash over paths, sizes and times.

    Raises:
        UserError: nothing there.
    """
    total, count, weight = hashlib.sha256(), 0, 0
    for path, size, modified in storage.files(uri):
        total.update(f"{path}\0{size}\0{modified}\n".encode())
        count, weight = count + 1, weight + size
    if not count:
        raise _nothing(uri)
    return {"files": count, "bytes": weight, "sha256": total.hexdigest()[:16]}


def read_bytes(uri: str, path: str) -> bytes:
    """Content of one image, by the path of the listing.

    Raises:
        OSError: it is gone or may not be read.
    """
    return storage.read(uri, path)


def decode(data: bytes, least: int | None = None) -> Image.Image:
    """Any image file's bytes -> an upright RGB picture, as a person would see it.

    Args:
        data: the file.
        least: decode a JPEG at the smallest of 1, 1/2, 1/4, 1/8 of its size whose sides have at least so many pixels:
            quicker, and not quite what resizing the whole picture gives. Left out: at its own size.

    EXIF rotation is applied, transparency is laid over white, 16-bit grey is scaled to 8, CMYK and palettes are
    converted, an animation gives its first frame.

    Raises:
        ValueError: with the reason why it can't be used.
    """
    if not data:
        raise ValueError("empty file")
    try:
        with Image.open(io.BytesIO(data)) as image:
            refuse(image)
            if least:
                image.draft(None, (least, least))
            image.load()
            return _rgb(_upright(image))
    except ValueError:
        raise
    except Image.DecompressionBombError as error:
        raise ValueError("too many pixels (decompression bomb)") from error
    except UnidentifiedImageError as error:
        raise ValueError(_unknown(data)) from error
    except Exception as error:  # decoders fail on hostile bytes in every way there is
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError("truncated" if "truncated" in text else f"broken: {text[:100]}") from error


def _members(uri: str) -> Iterator[storage.Member]:
    for path, size, _ in storage.files(uri):
        if storage.is_shard(path):
            yield from storage.members(uri, path)
        elif storage.is_image(path):
            yield storage.Member(path, "", size)


def _label(path: str, flat: dict[str, str]) -> str:
    *folders, name = path.split("/")
    if flat and name.rsplit(".", 1)[0] in flat:
        return flat[name.rsplit(".", 1)[0]]
    if len(folders) > 1 and folders[0].lower() in SPLITS:
        return folders[1]
    return folders[0] if folders else ""


def _nothing(uri: str) -> UserError:
    names = ", ".join(storage.IMAGES)
    return UserError(f"no images under {uri}: expected files like CLASS/NAME.jpg ({names}), or .tar or .parquet shards")


def _chunks(members: Iterator[storage.Member]) -> Iterator[list[storage.Member]]:
    rows: list[storage.Member] = []
    for member in members:
        rows.append(member)
        if len(rows) == CHUNK:
            yield rows
            rows = []
    if rows:
        yield rows


def refuse(image: Image.Image) -> None:
    """Raise ValueError for a picture that costs more than it can be worth, by its header alone."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"too many pixels ({width} x {height})")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"too thin ({width} x {height})")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF: the picture itself is sound
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits in 16 or 32; Pillow's own conversion would clip at 255
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray((np.clip(values, 0, 65_535) // 257 if values.max() > 255 else values).astype(np.uint8))
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _unknown(data: bytes) -> str:
    start = data[:512].lstrip().lower()
    return "text or HTML, not an image" if start.startswith((b"<", b"{")) else "not an image"
