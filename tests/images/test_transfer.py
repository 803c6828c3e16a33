"""Transfer of images: packed by one process, unpacked by another."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from alignet_ray.images.transfer import MAX_PIXEL_RATIO, UNRESIZED, PackedImages, pack, prepare
from alignet_ray.images.transform import DecodedImage, PixelTransform

DATA = {"input_size": (3, 40, 40), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 0.875, "interpolation": "bicubic"}
SIZES = [(60, 50), (50, 60), (60, 50), (90, 30), (200, 200), (20, 20), (50, 60), (41, 40)]


def pictures(tensors: bool = False) -> list[DecodedImage]:
    rng = np.random.default_rng(0)
    images: list[DecodedImage] = []
    for size in SIZES:
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        images.append(torch.from_numpy(pixels).permute(2, 0, 1) if tensors else Image.fromarray(pixels))
    return images


def sent(packed: PackedImages) -> PackedImages:
    """What arrives at another process: bytes that may not be written, and JSON."""
    pixels = np.frombuffer(packed.pixels.tobytes(), np.uint8)
    return PackedImages(pixels, json.loads(json.dumps(packed.groups)), packed.image_count)


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("unresized", [True, False])
@pytest.mark.parametrize("tensors", [True, False])
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_every_transform_gives_the_same_after_the_transfer(mode: str, tensors: bool, unresized: bool) -> None:
    small = DATA | {"input_size": (3, 24, 24), "interpolation": "bilinear", "crop_pct": 1.0}
    transforms = [PixelTransform(DATA | {"crop_mode": mode}), PixelTransform(small)]
    images = [prepare(picture, transforms, unresized) for picture in pictures(tensors)]
    packed = sent(pack(images))
    assert packed.image_count == len(SIZES)
    sent_unresized = sorted(i for number, _, _, group in packed.groups if number == UNRESIZED for i in group)
    small_enough = [i for i, (h, w) in enumerate(SIZES) if h * w <= MAX_PIXEL_RATIO * 40 * 40]
    assert sent_unresized == (small_enough if unresized and mode != "border" else [])
    for transform, pixels in zip(transforms, packed.unpack(transforms, "cpu"), strict=True):
        for i, (from_pillow, given) in enumerate(zip(pictures(), pictures(tensors), strict=True)):
            assert torch.equal(pixels[i], transform(from_pillow if i in sent_unresized else given))


def test_images_of_one_size_lie_together() -> None:
    packed = pack([prepare(picture, [PixelTransform(DATA)], True) for picture in pictures()])
    groups = {(h, w): images for number, h, w, images in packed.groups if number == UNRESIZED}
    assert groups[60, 50] == [0, 2]
    assert groups[50, 60] == [1, 6]
    assert packed.pixels.size == sum(len(images) * 3 * h * w for _, h, w, images in packed.groups)


def test_an_empty_list_can_be_sent() -> None:
    (pixels,) = sent(pack([])).unpack([PixelTransform(DATA)], "cpu")
    assert pixels.shape == (0, 3, 40, 40)


def test_axes_of_plain_transforms() -> None:
    assert PixelTransform(DATA | {"interpolation": "lanczos"}).resize_axes(50, 60) is None
    assert PixelTransform(DATA | {"crop_mode": "border"}).resize_axes(50, 60) is None
    rows, columns = PixelTransform(DATA).resize_axes(90, 60)  # type: ignore[misc]
    assert (rows.length, rows.resized, rows.first, rows.kept) == (90, 67, 14, 40)
    assert (columns.length, columns.resized, columns.first, columns.kept) == (60, 45, 2, 40)
