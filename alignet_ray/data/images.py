"""Folders of images (local or s3://): the list with stable ids, the bytes of one image, and careful decoding."""

import hashlib
import io
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
from PIL import Image, ImageOps, UnidentifiedImageError

from alignet_ray.data.schemas import IMAGES
from alignet_ray.errors import UserError
from alignet_ray.store import filesystem

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""File names that are listed, whatever is in them; anything else in the folder is not an image."""

MAX_PIXELS = 178_956_970
"""Pillow's limit for decompression bombs: 0.5 GB of RGB."""

MAX_ASPECT = 100
"""Thinner images would explode when the short side is enlarged to the network's size."""

CHUNK = 65_536  # rows per record batch while listing

Entry = tuple[str, int, int]
"""Relative POSIX path, size in bytes, modification time in nanoseconds."""


def list_images(uri: str) -> pa.Table:
    """Every image file under a folder, as an IMAGES table; `image_id` is the row number.

    The order is that of the relative POSIX paths as UTF-8 bytes; `label` is the top folder ("" for files at the root).
    Files are streamed: memory is that of the table, not of Python objects.

    Raises:
        UserError: missing or empty folder, or a file name that is not UTF-8.
    """
    batches, first = [], 0
    for rows in _chunks(walk(uri)):
        paths = [path for path, _, _ in rows]
        columns = {
            "image_id": np.arange(first, first + len(rows)),
            "path": paths,
            "label": [path.partition("/")[0] if "/" in path else "" for path in paths],
            "bytes": [size for _, size, _ in rows],
        }
        batches.append(pa.RecordBatch.from_pydict(columns, schema=IMAGES))
        first += len(rows)
    if not batches:
        raise _nothing(uri)
    return pa.Table.from_batches(batches, schema=IMAGES)


def fingerprint(uri: str) -> str:
    """Hash over path, size and modification time of every image under a folder (or of the one file that `uri` is).

    Raises:
        UserError: nothing there.
    """
    total, found = hashlib.sha256(), False
    for path, size, modified in walk(uri):
        total.update(f"{path}\0{size}\0{modified}\n".encode())
        found = True
    if not found:
        raise _nothing(uri)
    return total.hexdigest()[:16]


def read_bytes(uri: str, path: str) -> bytes:
    """Content of one image, by the path of the listing.

    Raises:
        OSError: it is gone or may not be read.
    """
    if "://" not in uri:
        return Path(uri, path).read_bytes()
    fs, base = _remote(uri)
    with fs.open_input_stream(f"{base}/{path}") as stream:
        content: bytes = stream.read()
        return content


def decode(data: bytes) -> Image.Image:
    """Any image file's bytes -> an upright RGB picture, as a person would see it.

    EXIF rotation is applied, transparency is laid over white, 16-bit grey is scaled to 8, CMYK and palettes are
    converted, an animation gives its first frame.

    Raises:
        ValueError: with the reason why it can't be used.
    """
    if not data:
        raise ValueError("empty file")
    try:
        with Image.open(io.BytesIO(data)) as image:
            _refuse(image)
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


def walk(uri: str) -> Iterator[Entry]:
    """Image files under a folder in listing order, one by one; a file is listed as itself.

    Raises:
        UserError: nothing there.
    """
    if "://" in uri:
        yield from _walk_remote(uri)
        return
    root = Path(uri).expanduser()
    if root.is_file():
        stat = root.stat()
        yield root.name, stat.st_size, stat.st_mtime_ns
    elif root.is_dir():
        yield from _walk(str(root), "", ())
    else:
        raise UserError(f"{uri} does not exist: give a folder of images")


def _walk(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[Entry]:
    """Depth first. A folder sorts as `name/`, so that the order of visits is the byte order of whole paths."""
    stat = os.stat(folder)
    here = (stat.st_dev, stat.st_ino)
    if here in above:  # a link to a folder above
        return
    try:
        with os.scandir(folder) as found:
            entries = [(e.name + "/" if e.is_dir() else e.name, e) for e in found if not e.name.startswith(".")]
    except PermissionError as error:
        raise UserError(f"folder {folder} may not be read: give it read permission or take it out") from error
    for name, entry in sorted(entries, key=lambda pair: os.fsencode(pair[0])):
        if name.endswith("/"):
            yield from _walk(entry.path, prefix + name, (*above, here))
        elif name.lower().endswith(SUFFIXES):
            yield _entry(prefix + name, entry)


def _entry(path: str, entry: "os.DirEntry[str]") -> Entry:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the file name {os.fsencode(path)!r} is not UTF-8: rename it") from error
    try:
        stat = entry.stat()
    except OSError:  # a dangling link: listed, so that quarantine can name it
        return path, 0, 0
    return path, stat.st_size, stat.st_mtime_ns


def _walk_remote(uri: str) -> Iterator[Entry]:
    fs, base = _remote(uri)
    try:
        infos = fs.get_file_info(pafs.FileSelector(base, recursive=True))
    except OSError as error:
        raise UserError(f"cannot list {uri}: {str(error).splitlines()[0]}") from error
    names = ((info.path[len(base) + 1 :], info) for info in infos if info.type == pafs.FileType.File)
    images = [(n, i) for n, i in names if n.lower().endswith(SUFFIXES) and not any(p[:1] == "." for p in n.split("/"))]
    for name, info in sorted(images, key=lambda pair: pair[0].encode()):
        yield name, info.size, info.mtime_ns or 0


@lru_cache(maxsize=8)
def _remote(uri: str) -> tuple[pafs.FileSystem, str]:
    fs, base = filesystem(uri)
    return fs, base.rstrip("/")


def _nothing(uri: str) -> UserError:
    return UserError(f"no images under {uri}: expected files like CLASS/NAME.jpg ({', '.join(SUFFIXES)})")


def _chunks(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    rows: list[Entry] = []
    for entry in entries:
        rows.append(entry)
        if len(rows) == CHUNK:
            yield rows
            rows = []
    if rows:
        yield rows


def _refuse(image: Image.Image) -> None:
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
