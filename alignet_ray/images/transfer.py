"""Pixels on their way from the process that opens images to the one that computes, which may resize them on its GPU.

One flat array, picture after picture, those of one size together: whoever unpacks it takes each size as one stack.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from alignet_ray.images.resize import Axis, resize
from alignet_ray.images.transform import Picture, View

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
        """What each view sees of the images, on the device, where those that were sent whole are resized.

        Args:
            views: those with which the images were packed.
            device: "cpu" or "cuda".
        """
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
    """An image as it will travel: as decoded, if that is allowed (`whole`), small enough, and `resize` can make every
    view of it; else as every view sees it."""
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
    ordered = sorted(places.items())
    groups = [(*key, [position for position, _ in found]) for key, found in ordered]
    flat = [x.reshape(-1) for _, found in ordered for _, x in found]
    return Parcel(np.concatenate(flat) if flat else np.empty(0, np.uint8), groups, len(images))


def _axes(view: View, h: int, w: int) -> tuple[Axis, Axis]:
    axes = view.axes(h, w)
    assert axes is not None, "sent whole only where every view can be had from that"
    return axes
