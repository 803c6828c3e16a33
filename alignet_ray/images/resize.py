"""Pillow's resizing as two matrix products, equal bit for bit, for a stack of images of one size on any device.

Pillow's filters are linear: every row of the result is a weighted mean of the image's rows, every column one of its
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

from alignet_ray.core.gpu import exact_products

ROWS_FIRST = int(PIL.__version__.split(".")[0]) >= 13
"""Whether Pillow resizes rows first where they shrink more than twice as much as columns (before 13 it never did)."""

WEIGHT_BITS = 22
"""Binary digits of Pillow's weights for 8-bit pixels."""

HALF_BITS = 11
"""Binary digits of the lower half of a weight."""


class Axis(NamedTuple):
    """Resizing and cropping of an image's rows or columns.

    Attributes:
        length: rows or columns of the image.
        resized: rows or columns of the image after resizing.
        first: the first of them that the crop keeps.
        kept: how many it keeps.
        is_bicubic: whether the filter is bicubic (a = -1/2) and not bilinear.
    """

    length: int
    resized: int
    first: int
    kept: int
    is_bicubic: bool


@lru_cache(maxsize=512)
def filter_weights(axis: Axis, device: str = "cpu") -> Float[Tensor, "kept_twice length"]:
    """Weights of an image's rows (or columns) in those of the result, times 2^22, rounded to integers as Pillow does.

    Cut in two halves: the upper halves of the `kept` rows first (to be multiplied by 2^11), then the lower ones.
    """
    scale = axis.length / axis.resized
    filter_scale = max(scale, 1.0)  # enlarging needs no wider filter
    support = filter_scale
    if axis.is_bicubic:
        support = 2 * filter_scale

    kept = torch.arange(axis.first, axis.first + axis.kept, dtype=torch.float64)
    # A pixel's value belongs to its middle, hence the halves.
    centre = ((kept + 0.5) * scale)[:, None]
    source = torch.arange(axis.length, dtype=torch.float64)
    is_inside = (source >= (centre - support + 0.5).floor()) & (source < (centre + support + 0.5).floor())
    distance = ((source - centre + 0.5) * (1 / filter_scale)).abs()

    if axis.is_bicubic:
        response = _bicubic(distance)
    else:
        response = (1 - distance).clamp(min=0)
    weights = torch.where(is_inside, response, 0)
    weights = weights / weights.sum(1, keepdim=True) * 2**WEIGHT_BITS

    # Integers of two times 11 bits multiply 8-bit pixels exactly in float32 (hence the two halves).
    # Round half away from zero, as Pillow's C code does; torch.round would round half to even.
    integers = weights.sign() * (weights.abs() + 0.5).floor()
    upper = (integers / 2**HALF_BITS).round()
    lower = integers - upper * 2**HALF_BITS
    return torch.cat([upper, lower]).float().to(device)


def resize(pixels: UInt8[Tensor, "b h w 3"], rows: Axis, columns: Axis) -> UInt8[Tensor, "b 3 y x"]:
    """Resize and crop images, on the device on which they lie.

    Args:
        pixels: decoded images of one size.
        rows: how their rows become those of the result.
        columns: how their columns do.
    """
    # Sums are exact in float32 alone: a process that computes in TF32 must not resize in it.
    with exact_products():
        return _resize_exactly(pixels.permute(0, 3, 1, 2), rows, columns)


def _resize_exactly(images: UInt8[Tensor, "b 3 h w"], rows: Axis, columns: Axis) -> UInt8[Tensor, "b 3 y x"]:
    rows_lost = rows.length - rows.resized
    columns_lost = columns.length - columns.resized

    # Each pass rounds to 8 bits, so the order has to be Pillow's.
    if ROWS_FIRST and rows_lost > max(0, 2 * columns_lost):
        return _resize_columns(_resize_rows(images, rows), columns)
    return _resize_rows(_resize_columns(images, columns), rows)


def _resize_rows(images: UInt8[Tensor, "b 3 h w"], axis: Axis) -> UInt8[Tensor, "b 3 y w"]:
    weights = filter_weights(axis, str(images.device))
    upper, lower = (weights @ images.float()).int().chunk(2, -2)
    return _join_halves(upper, lower)


def _resize_columns(images: UInt8[Tensor, "b 3 h w"], axis: Axis) -> UInt8[Tensor, "b 3 h x"]:
    weights = filter_weights(axis, str(images.device))
    upper, lower = (images.float() @ weights.T).int().chunk(2, -1)
    return _join_halves(upper, lower)


def _join_halves(upper: Int[Tensor, "..."], lower: Int[Tensor, "..."]) -> UInt8[Tensor, "..."]:
    # Half of the last place is added before the shift, which rounds down: together they round to the nearest.
    total: Tensor = (upper << HALF_BITS) + lower + 2 ** (WEIGHT_BITS - 1)
    return (total >> WEIGHT_BITS).clamp_(0, 255).to(torch.uint8)


def _bicubic(distance: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Keys' cubic convolution kernel with a = -1/2."""
    a = -0.5
    inner = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    outer = (((distance - 5) * distance + 8) * distance - 4) * a
    return torch.where(distance < 1, inner, torch.where(distance < 2, outer, 0))
