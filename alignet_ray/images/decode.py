"""Decodes image files as a person would see them, or says why not: whatever the bytes are, no other error."""

import contextlib
import io
import os
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image, ImageOps, UnidentifiedImageError

# Pillow warns of pictures half as large as its limit, in lines of its own between those of a run; all are decoded.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# Nor is broken EXIF the user's matter: the picture is sound, and lies as it was stored.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")

MAX_PIXELS = 178_956_970
"""Pillow's limit for decompression bombs: 0.5 GB of RGB."""

MAX_16_BIT = 65_535
MAX_12_BIT = 4_095

MAX_12_BIT_AS_8 = MAX_12_BIT // 256
"""What Pillow makes of it in a colour image, of whose 16 bits it keeps the higher eight."""

TWELVE_BIT = "alignet_ray.twelve_bit"
"""Key of a decoded image's `info`: whether its 16 bits hold values of 12 bits, which come out nearly black."""

TWELVE_BIT_HELP = (
    "16 bits of which a sixteenth of the range or less is used, so it comes out nearly black: "
    "if it holds 12 bits, multiply its values by 16"
)

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "JPEG2000", "PPM", "TGA", "QOI")
"""Formats that are read, the common ones first.

Named one by one: Pillow knows more, and hands some of them to other programs, PostScript to Ghostscript for one.
"""

LARGE_PIXELS = 89_478_485
"""Pixels above which pictures are decoded one at a time on a machine.

A decoder needs up to 20 bytes a pixel: one process for each core, each with a picture of the largest size, would take
more memory than a machine has.
"""

ROWS_AT_ONCE = 1_024
"""Rows of a transparent picture that are laid over white at once; bounds the memory for it."""

MAX_ASPECT = 100
"""Largest aspect ratio: thinner images would explode when the short side is enlarged to the network's size."""


def decode(data: bytes, min_side: int | None = None) -> Image.Image:
    """Decode any image file into an upright RGB image, as a person would see it.

    EXIF rotation is applied, transparency is laid over white, 16-bit grey is scaled to 8, CMYK and palettes are
    converted, an animation gives its first frame.

    Args:
        data: content of the file.
        min_side: decode a JPEG at the smallest of 1, 1/2, 1/4, 1/8 of its size whose sides keep this many pixels:
            faster, and not quite what resizing the full image gives. None: at its own size.

    Raises:
        ValueError: with the reason why it can't be used.
    """
    if not data:
        raise ValueError("empty file")
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image, memory_for(image):
            check_header(image)
            # Pillow keeps the higher eight bits of colours of 16, and forgets that there were more once they are read.
            has_16_bits = any(";16" in str(tile) for tile in image.tile)
            if min_side:
                # libjpeg leaves out the high frequencies of its cosine transform: no full image is ever made.
                image.draft(None, (min_side, min_side))
            image.load()
            seen = _to_rgb(_upright(image, in_place=True))
            if has_16_bits and not image.mode.startswith("I"):
                seen.info[TWELVE_BIT] = _largest_colour(image) <= MAX_12_BIT_AS_8
            return seen
    except ValueError:
        raise
    except Image.DecompressionBombError as error:
        raise ValueError("too many pixels (decompression bomb)") from error
    except UnidentifiedImageError as error:
        raise ValueError(_why_unknown(data)) from error
    except Exception as error:  # hostile bytes make decoders raise errors of any type
        raise ValueError(_why_broken(error)) from error


def as_seen(image: Image.Image) -> Image.Image:
    """An image that is open already, as `decode` gives it: upright, RGB, transparency over white.

    Raises:
        ValueError: as `check_header`.
    """
    check_header(image)
    return _to_rgb(_upright(image, in_place=False))


@contextlib.contextmanager
def memory_for(image: Image.Image) -> Iterator[None]:
    """Within it there is memory to decode a picture: of very large ones a machine decodes one at a time."""
    width, height = image.size
    if width * height <= LARGE_PIXELS:
        yield
        return
    # A lock of the system ends with the process that holds it, however that ends.
    with FileLock(Path(tempfile.gettempdir()) / f"alignet-ray-large-pictures-{os.getuid()}.lock"):
        yield


def check_header(image: Image.Image) -> None:
    """Refuse an image by its header alone, before its pixels cost time and memory.

    Raises:
        ValueError: too large, too thin, or pixels whose range nobody knows.
    """
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"too many pixels ({width} x {height})")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"too thin ({width} x {height})")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range")
    if image.mode == "I" and image.format == "TIFF":
        raise ValueError("pixels of 32 bits, or with a sign, have no fixed range: save it with 8 or 16 bits")


@cache
def _formats() -> tuple[str, ...]:
    """Those of the formats that the installed Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _largest_colour(image: Image.Image) -> int:
    """The largest value of all bands but alpha."""
    largest = 0
    for name, band in zip(image.getbands(), image.split(), strict=True):
        if name != "A":
            largest = max(largest, int(band.getextrema()[1]))  # type: ignore[arg-type]
    return largest


def _upright(image: Image.Image, in_place: bool) -> Image.Image:
    try:
        if in_place:
            ImageOps.exif_transpose(image, in_place=True)
            return image
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF: the image itself is sound
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    # 16-bit grey comes in modes of 16 or 32 bits; Pillow's own conversion would clip it at 255.
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > MAX_16_BIT:
            raise ValueError(f"pixels from {values.min():,} to {values.max():,} do not fit into 16 bits")
        is_twelve_bit = 255 < int(values.max()) <= MAX_12_BIT
        if values.max() > 255:
            values = values // 257
        image = Image.fromarray(values.astype(np.uint8))
        # A scan of 12 bits, most probably; but a night sky may be as dark, so it is told and not changed.
        image.info[TWELVE_BIT] = is_twelve_bit

    bands = image.getbands()
    if "A" in bands or "a" in bands or "transparency" in image.info:
        return _over_white(image)
    if image.mode == "RGB":
        return image
    return image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """A transparent image over white, some rows at a time."""
    width, height = image.size
    result = Image.new("RGB", image.size)
    for top in range(0, height, ROWS_AT_ONCE):
        rows = image.crop((0, top, width, min(top + ROWS_AT_ONCE, height))).convert("RGBA")
        white = Image.new("RGBA", rows.size, "white")
        result.paste(Image.alpha_composite(white, rows).convert("RGB"), (0, top))
    return result


def _why_broken(error: Exception) -> str:
    """The reason that a decoder gives, short enough for a table."""
    text = type(error).__name__
    if str(error):
        text = str(error).splitlines()[0]
    # By far the most common damage, a download that broke off, is one reason for all decoders.
    if "truncated" in text:
        return "truncated"
    return f"broken: {text[:100]}"


def _why_unknown(data: bytes) -> str:
    start = data[:512].lstrip().lower()
    if start.startswith((b"<", b"{")):
        return "text or HTML, not an image"
    return "not an image, or of a format that is not read"
