"""Packs decoded images for transfer to GPU actors, which may resize them there.

One flat array, image after image, those of one size together: whoever unpacks it takes each size as one stack.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from alignet_ray.images.resize import Axis, resize
from alignet_ray.images.transform import DecodedImage, PixelTransform

MAX_PIXEL_RATIO = 6
"""Images of more than this many times the networks' pixels are resized first: sending them would take longer."""

STACK_SIZE = 32
"""Images that are resized at once."""

UNRESIZED = -1
"""Stands in place of a transform's number: images as they were decoded, for all transforms."""

PreparedImage = list[tuple[int, UInt8[np.ndarray, "..."]]]
"""An image ready to be packed: (`UNRESIZED`, (h, w, 3)) alone, or (number, (3, s, s)) for every transform."""


class ImageGroup(NamedTuple):
    """Images of one size within a pack. As JSON it is a plain list.

    Attributes:
        transform: number of the transform that made them, or `UNRESIZED`.
        height: pixels.
        width: pixels.
        positions: positions of the images.
    """

    transform: int
    height: int
    width: int
    positions: list[int]


class PackedImages(NamedTuple):
    """Pixels of images in one flat array.

    Attributes:
        pixels: those of every group, one after the other: (g, h, w, 3) as decoded, (g, 3, s, s) after a transform.
        groups: what lies in the array, in this order.
        image_count: number of images.
    """

    pixels: UInt8[np.ndarray, " n"]
    groups: list[ImageGroup]
    image_count: int

    def unpack(self, transforms: Sequence[PixelTransform], device: str) -> list[UInt8[Tensor, "image_count 3 _ _"]]:
        """The images as each transform gives them, on the device, where those that were sent unresized are resized.

        Args:
            transforms: those with which the images were prepared.
            device: "cpu" or "cuda".
        """
        flat = torch.from_numpy(self.pixels)
        if device == "cuda":
            flat = flat.pin_memory().to(device, non_blocking=True)

        outputs = []
        for transform in transforms:
            shape = (self.image_count, 3, transform.size, transform.size)
            outputs.append(torch.empty(shape, dtype=torch.uint8, device=device))

        start = 0
        for group in map(ImageGroup._make, self.groups):  # lists, where the groups came as JSON
            stop = start + len(group.positions) * 3 * group.height * group.width
            positions = torch.tensor(group.positions, device=device)

            # Pixels as decoded are resized for every network, those of a transform are one network's alone.
            if group.transform == UNRESIZED:
                images = flat[start:stop].view(-1, group.height, group.width, 3)
                _resize_group(images, positions, transforms, outputs)
            else:
                images = flat[start:stop].view(-1, 3, group.height, group.width)
                outputs[group.transform][positions] = images

            start = stop
        return outputs


def prepare(image: DecodedImage, transforms: Sequence[PixelTransform], allow_unresized: bool) -> PreparedImage:
    """Bring an image into the form in which it will be sent.

    That is as decoded, if this is allowed, the image is small enough, and `resize` can do what every transform does;
    otherwise as every transform gives it.
    """
    if allow_unresized and _can_travel_unresized(image, transforms):
        if isinstance(image, Tensor):
            pixels = image.permute(1, 2, 0).numpy()
        else:
            pixels = np.asarray(image)
        return [(UNRESIZED, pixels)]
    return [(number, transform(image).numpy()) for number, transform in enumerate(transforms)]


def pack(images: Sequence[PreparedImage]) -> PackedImages:
    """Put images together, grouped by transform and size."""
    members: dict[tuple[int, int, int], list[tuple[int, np.ndarray]]] = {}
    for position, prepared in enumerate(images):
        for transform, pixels in prepared:
            # Pixels as decoded have their channels last, those of a transform first.
            if transform == UNRESIZED:
                height, width = pixels.shape[:2]
            else:
                height, width = pixels.shape[1:]
            members.setdefault((transform, height, width), []).append((position, pixels))

    # One flat array for all groups: the object store shares it between processes without a copy.
    groups: list[ImageGroup] = []
    parts: list[np.ndarray] = [np.empty(0, np.uint8)]
    for (transform, height, width), group in sorted(members.items()):
        positions: list[int] = []
        for position, pixels in group:
            positions.append(position)
            parts.append(pixels.reshape(-1))
        groups.append(ImageGroup(transform, height, width, positions))
    return PackedImages(np.concatenate(parts), groups, len(images))


def _can_travel_unresized(image: DecodedImage, transforms: Sequence[PixelTransform]) -> bool:
    if isinstance(image, Tensor):
        height, width = image.shape[1:]
    else:
        width, height = image.size

    # Resizing on the GPU saves CPU time, but full-size pixels have to be sent there: large images would lose by it.
    max_pixels = MAX_PIXEL_RATIO * max(transform.size for transform in transforms) ** 2
    if height * width > max_pixels:
        return False
    return all(transform.resize_axes(height, width) is not None for transform in transforms)


def _resize_group(
    images: UInt8[Tensor, "g h w 3"],
    positions: Tensor,
    transforms: Sequence[PixelTransform],
    outputs: Sequence[UInt8[Tensor, "image_count 3 _ _"]],
) -> None:
    height, width = images.shape[1:3]
    for transform, output in zip(transforms, outputs, strict=True):
        rows, columns = _known_axes(transform, height, width)
        for start in range(0, len(images), STACK_SIZE):
            stack = images[start : start + STACK_SIZE]
            output[positions[start : start + STACK_SIZE]] = resize(stack, rows, columns)


def _known_axes(transform: PixelTransform, height: int, width: int) -> tuple[Axis, Axis]:
    axes = transform.resize_axes(height, width)
    assert axes is not None, "`prepare` sends images unresized only where every transform has its axes"
    return axes
