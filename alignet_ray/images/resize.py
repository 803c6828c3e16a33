"""Pillow's resizing as two matrix products, bit for bit, for a stack of pictures of one size, on any device.

Pillow's filters are linear: every row of the result is a weighted mean of the picture's rows, every column one of its
columns. As matrices they run on a GPU as fast as it multiplies. Pillow sums 8-bit pixels times weights of 22 binary
digits as integers and rounds to 8 bits after each pass. float32 holds 24 digits, so the weights are cut into halves of
11, whose sums are exact.
"""

from functools import lru_cache
from typing import NamedTuple

import PIL
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

ROWS_FIRST = int(PIL.__version__.split(".")[0]) >= 13
"""Whether Pillow resizes rows first where they lose more than twice as much as columns (before 13 it never did)."""

DIGITS, HALF = 22, 11
"""Binary digits of Pillow's weights for 8-bit pixels, and of their lower half."""


class Axis(NamedTuple):
    """What becomes of a picture's rows or columns.

    Attributes:
        length: how many there are.
        resized: how many the whole picture is resized to.
        first, kept: which of these stay, from the first on.
        cubic: by the bicubic filter (a = -1/2), not the bilinear one.
    """

    length: int
    resized: int
    first: int
    kept: int
    cubic: bool


@lru_cache(maxsize=512)
def weights(axis: Axis, device: str = "cpu") -> Float[Tensor, "kept_twice length"]:
    """Share of every row (or column) of a picture in those of the result, times 2^22, as Pillow rounds it.

    Integers, cut in two: 2^11 times the first `kept` rows and once the others.
    """
    scale = axis.length / axis.resized
    stretch = max(scale, 1.0)  # enlarging needs no wider filter
    reach = (2 if axis.cubic else 1) * stretch
    centre = ((torch.arange(axis.first, axis.first + axis.kept, dtype=torch.float64) + 0.5) * scale)[:, None]
    x = torch.arange(axis.length, dtype=torch.float64)
    near = (x >= (centre - reach + 0.5).floor()) & (x < (centre + reach + 0.5).floor())
    t = ((x - centre + 0.5) * (1 / stretch)).abs()
    shares = torch.where(near, _cubic(t) if axis.cubic else (1 - t).clamp(min=0), 0)
    shares = shares / shares.sum(1, keepdim=True) * 2**DIGITS
    whole = shares.sign() * (shares.abs() + 0.5).floor()
    upper = (whole / 2**HALF).round()
    return torch.cat([upper, whole - upper * 2**HALF]).float().to(device)


def resize(pixels: UInt8[Tensor, "b h w 3"], rows: Axis, columns: Axis) -> UInt8[Tensor, "b 3 y x"]:
    """Pictures resized and cropped, on the device on which they lie.

    Args:
        pixels: decoded pictures of one size.
        rows, columns: of the pictures, and of the result.
    """
    x = pixels.permute(0, 3, 1, 2)
    lost = rows.length - rows.resized
    if ROWS_FIRST and lost > max(0, 2 * (columns.length - columns.resized)):
        return _columns(_rows(x, rows), columns)
    return _rows(_columns(x, columns), rows)


def _rows(x: UInt8[Tensor, "b 3 h w"], axis: Axis) -> UInt8[Tensor, "b 3 y w"]:
    return _merge(*(weights(axis, str(x.device)) @ x.float()).int().chunk(2, -2))


def _columns(x: UInt8[Tensor, "b 3 h w"], axis: Axis) -> UInt8[Tensor, "b 3 h x"]:
    return _merge(*(x.float() @ weights(axis, str(x.device)).T).int().chunk(2, -1))


def _merge(upper: Int[Tensor, "..."], lower: Int[Tensor, "..."]) -> UInt8[Tensor, "..."]:
    total: Tensor = (upper << HALF) + lower + 2 ** (DIGITS - 1)
    return (total >> DIGITS).clamp_(0, 255).to(torch.uint8)


def _cubic(t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    a = -0.5
    inner = ((a + 2) * t - (a + 3)) * t * t + 1
    outer = (((t - 5) * t + 8) * t - 4) * a
    return torch.where(t < 1, inner, torch.where(t < 2, outer, 0))
