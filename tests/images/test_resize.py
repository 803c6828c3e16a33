"""Pillow is the oracle of resizing by matrix products."""

import numpy as np
import PIL
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alignet_ray.images import resize as resize_module
from alignet_ray.images.resize import Axis, filter_weights, resize


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    """Black or white: the filters overshoot everywhere, so that rounding, clipping and their order all show."""
    pixels = np.random.default_rng(seed).integers(0, 2, (height, width, 3)) * 255
    return Image.fromarray(pixels.astype(np.uint8))


def differences(image: Image.Image, height: int, width: int, cubic: bool) -> np.ndarray:
    expected = image.resize((width, height), Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR)
    rows, columns = Axis(image.height, height, 0, height, cubic), Axis(image.width, width, 0, width, cubic)
    found = resize(torch.from_numpy(np.array(image))[None], rows, columns)[0].permute(1, 2, 0)
    return np.abs(found.numpy().astype(int) - np.array(expected))


SIDE = st.integers(1, 160)


@settings(deadline=None, max_examples=150)
@given(SIDE, SIDE, SIDE, SIDE, st.booleans(), st.integers(0, 9))
def test_pictures_are_resized_as_pillow_does(h: int, w: int, height: int, width: int, cubic: bool, seed: int) -> None:
    assert differences(noise(h, w, seed), height, width, cubic).max() == 0


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (1000, 700), (1001, 700), (300, 100), (64, 64)])
def test_photographs_sizes(height: int, width: int) -> None:
    for to in ((224, 224), (341, 256), (256, 341)):
        assert differences(noise(height, width), *to, cubic=True).max() == 0


def test_the_order_of_the_passes_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resize_module, "ROWS_FIRST", not resize_module.ROWS_FIRST)
    assert differences(noise(1001, 700), 600, 500, cubic=True).max() > 1, f"what does Pillow {PIL.__version__} do?"


def test_a_crop_is_a_part_of_the_whole() -> None:
    picture = torch.from_numpy(np.array(noise(90, 120)))[None]
    whole = resize(picture, Axis(90, 48, 0, 48, True), Axis(120, 64, 0, 64, True))
    part = resize(picture, Axis(90, 48, 4, 40, True), Axis(120, 64, 12, 40, True))
    assert torch.equal(part, whole[:, :, 4:44, 12:52])


def test_weights_worked_by_hand() -> None:
    upper, lower = filter_weights(Axis(4, 2, 0, 2, False)).split(2)  # triangles of reach 2 around 1 and 3
    expected = torch.tensor([[3, 3, 1, 0], [0, 1, 3, 3]]) * (2**22 / 7)
    assert torch.equal(upper * 2048 + lower, expected.round())
    assert torch.equal(filter_weights(Axis(5, 5, 0, 5, True)), torch.cat([torch.eye(5) * 2048, torch.zeros(5, 5)]))
