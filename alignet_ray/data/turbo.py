"""Decoding JPEGs by libjpeg-turbo straight into pixels: to Pillow's values, without Pillow's images."""

import io
from contextlib import suppress

import PIL.Image
import simplejpeg
import torch

from alignet_ray.data.images import decode, refuse
from alignet_ray.data.view import Picture

ORIENTATION = 0x0112
"""EXIF's tag for how the camera was held."""


def decode_fast(data: bytes, least: int) -> Picture:
    """As `decode`, in less than half the time when it is followed by `View`'s quick resizing.

    Upright JPEGs are decoded by libjpeg-turbo straight into pixels, to the same values; those more than twice as large
    as need be at a part of their size, which is not quite what resizing the whole picture gives.

    Args:
        data: the file.
        least: pixels that the shorter side should keep.

    Raises:
        ValueError: with the reason why it can't be used.
    """
    with suppress(Exception), PIL.Image.open(io.BytesIO(data)) as image:  # the careful decoder says what is wrong
        refuse(image)
        if image.format == "JPEG" and image.mode in ("RGB", "L") and image.getexif().get(ORIENTATION, 1) == 1:
            enough = least if min(image.size) >= 2 * least else 0
            pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=enough, min_width=enough)
            return torch.from_numpy(pixels).permute(2, 0, 1)
    return decode(data, least)
