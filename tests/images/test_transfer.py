"""Pixels that travel: packed by one process, unpacked by another."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from alignet_ray.images.transfer import TIMES, WHOLE, Parcel, pack, see
from alignet_ray.images.transform import Picture, View

DATA = {"input_size": (3, 40, 40), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 0.875, "interpolation": "bicubic"}
SIZES = [(60, 50), (50, 60), (60, 50), (90, 30), (200, 200), (20, 20), (50, 60), (41, 40)]


def pictures(tensors: bool = False) -> list[Picture]:
    rng = np.random.default_rng(0)
    found: list[Picture] = []
    for size in SIZES:
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        found.append(torch.from_numpy(pixels).permute(2, 0, 1) if tensors else Image.fromarray(pixels))
    return found


def sent(parcel: Parcel) -> Parcel:
    """What arrives at another process: bytes that may not be written, and JSON."""
    pixels = np.frombuffer(parcel.pixels.tobytes(), np.uint8)
    return Parcel(pixels, json.loads(json.dumps(parcel.groups)), parcel.total)


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("tensors", [True, False])
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_views_see_the_same_after_the_journey(mode: str, tensors: bool, whole: bool) -> None:
    small = DATA | {"input_size": (3, 24, 24), "interpolation": "bilinear", "crop_pct": 1.0}
    views = [View(DATA | {"crop_mode": mode}), View(small)]
    images = [see(picture, views, whole) for picture in pictures(tensors)]
    parcel = sent(pack(images))
    assert parcel.total == len(SIZES)
    travelled = sorted(i for number, _, _, group in parcel.groups if number == WHOLE for i in group)
    within = [i for i, (h, w) in enumerate(SIZES) if h * w <= TIMES * 40 * 40]
    assert travelled == (within if whole and mode != "border" else [])
    for view, x in zip(views, parcel.unpack(views, "cpu"), strict=True):
        for i, (careful, quick) in enumerate(zip(pictures(), pictures(tensors), strict=True)):
            assert torch.equal(x[i], view(careful if i in travelled else quick))


def test_pictures_of_one_size_lie_together() -> None:
    parcel = pack([see(picture, [View(DATA)], True) for picture in pictures()])
    groups = {(h, w): images for number, h, w, images in parcel.groups if number == WHOLE}
    assert groups[60, 50] == [0, 2]
    assert groups[50, 60] == [1, 6]
    assert parcel.pixels.size == sum(len(images) * 3 * h * w for _, h, w, images in parcel.groups)


def test_nothing_travels_too() -> None:
    (seen,) = sent(pack([])).unpack([View(DATA)], "cpu")
    assert seen.shape == (0, 3, 40, 40)


def test_an_axis_for_every_plain_transform() -> None:
    assert View(DATA | {"interpolation": "lanczos"}).axes(50, 60) is None
    assert View(DATA | {"crop_mode": "border"}).axes(50, 60) is None
    rows, columns = View(DATA).axes(90, 60)  # type: ignore[misc]
    assert (rows.length, rows.resized, rows.first, rows.kept) == (90, 67, 14, 40)
    assert (columns.length, columns.resized, columns.first, columns.kept) == (60, 45, 2, 40)
