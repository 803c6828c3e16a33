"""Pixels on their way from the process that opens images to the one that computes, which may resize them on its GPU.

One flat array, picture after picture, those of one size together: whoever unpacks it takes each size as one stack.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from alignet_ray.data.resample import resize
from alignet_ray.data.view import Picture, View

TIMES = 6
"""Pictures of more than so many times the networks' pixels travel resized: sending them takes longer than resizing."""

STACK = 32
"""Pictures that are resized at once."""

WHOLE = -1
"""In place of a view's number: pictures as they were decoded, for all views."""


class Parcel(NamedTuple):
    """Pixels of `total` images.

    Attributes:
        pixels: those of every group, one after the other: (g, h, w, 3) as decoded, (g, 3, s, s) as a view sees them.
        groups: (number of the view or `WHOLE`, h, w, positions of the images).
        total: images.
    """

    pixels: UInt8[np.ndarray, " n"]
    groups: list[tuple[int, int, int, list[int]]]
    total: int

    def unpack(self, views: Sequence[View], device: str) -> list[UInt8[Tensor, "total 3 _ _"]]:
        """What each view sees of the images, on the device, where those that were sent whole are resized."""
        flat = torch.from_numpy(self.pixels)
        if device == "cuda":
            flat = flat.pin_memory().to(device, non_blocking=True)
        seen = [torch.empty((self.total, 3, v.size, v.size), dtype=torch.uint8, device=device) for v in views]
        start = 0
        for number, h, w, images in self.groups:
            block = flat[start : start + len(images) * 3 * h * w]
            start += len(block)
            where = torch.tensor(images, device=device)
            if number != WHOLE:
                seen[number][where] = block.view(-1, 3, h, w)
                continue
            for k in range(0, len(images), STACK):
                stack = block.view(-1, h, w, 3)[k : k + STACK]
                for view, out in zip(views, seen, strict=True):
                    out[where[k : k + STACK]] = resize(stack, *_axes(view, h, w))
        return seen


Seen = list[tuple[int, UInt8[np.ndarray, "..."]]]
"""What an image travels as: the decoded picture (h, w, 3) alone, or (3, s, s) for every view."""


def see(picture: Picture, views: Sequence[View], whole: bool) -> Seen:
    """An image as it will travel: decoded, if it may travel whole and the views can be had from that; else resized."""
    if whole:
        h, w = picture.shape[1:] if isinstance(picture, Tensor) else picture.size[::-1]
        most = TIMES * max(view.size for view in views) ** 2
        if h * w <= most and all(view.axes(h, w) for view in views):
            decoded = picture.permute(1, 2, 0).numpy() if isinstance(picture, Tensor) else np.asarray(picture)
            return [(WHOLE, decoded)]
    return [(number, view(picture).numpy()) for number, view in enumerate(views)]


def pack(images: Sequence[Seen]) -> Parcel:
    """Put images together."""
    places: dict[tuple[int, int, int], list[tuple[int, np.ndarray]]] = {}
    for position, seen in enumerate(images):
        for number, x in seen:
            h, w = x.shape[:2] if number == WHOLE else x.shape[1:]
            places.setdefault((number, h, w), []).append((position, x))
    groups = [(*key, [position for position, _ in found]) for key, found in sorted(places.items())]
    pixels = np.empty(sum(x.size for seen in images for _, x in seen), np.uint8)
    start = 0
    for _, found in sorted(places.items()):
        for _, x in found:
            pixels[start : start + x.size].reshape(x.shape)[...] = x
            start += x.size
    return Parcel(pixels, groups, len(images))


def _axes(view: View, h: int, w: int) -> Any:
    axes = view.axes(h, w)
    assert axes is not None, "sent whole only where every view can be had from that"
    return axes
