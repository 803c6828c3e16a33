"""timm's evaluation transform in two halves, and the fast JPEG decoder beside the careful one."""

import io
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alignet_ray.images import jpeg
from alignet_ray.images.decode import decode
from alignet_ray.images.transform import PixelTransform
from alignet_ray.models.backbone import preprocessing

DATA = {"input_size": [3, 48, 48], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "crop_pct": 0.875}


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def jpeg_bytes(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 92} | options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
@pytest.mark.parametrize("size", [(50, 70), (200, 61), (48, 48), (20, 30)])
def test_both_halves_are_timms_transform(mode: str, interpolation: str, size: tuple[int, int]) -> None:
    data = DATA | {"crop_mode": mode, "interpolation": interpolation}
    image = picture(*size)
    transform = pickle.loads(pickle.dumps(PixelTransform(data)))
    pixels = transform(image)
    assert pixels.dtype == torch.uint8
    assert torch.equal(transform.normalize(pixels[None])[0], preprocessing(data)(image))
    plain = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert torch.equal(transform(plain), pixels)
    fast = PixelTransform(data, fast=True)(plain)
    assert fast.shape == pixels.shape
    assert (fast.int() - pixels.int()).abs().max() <= 2
    assert (fast.int() - pixels.int()).abs().float().mean() < 0.3


def test_the_minimum_side_is_what_the_transform_resizes_to() -> None:
    assert PixelTransform(DATA).min_image_side == preprocessing(DATA).transforms[0].size == 54  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (64, 64), (107, 200)])
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"quality": 30}, {"keep_rgb": True}],
)
@pytest.mark.parametrize("min_side", [0, 250])
def test_plain_jpegs_are_decoded_alike(size: tuple[int, int], options: dict[str, object], min_side: int) -> None:
    data = jpeg_bytes(picture(*size), **options)
    fast = jpeg.decode(data, min_side)
    assert isinstance(fast, torch.Tensor)
    assert torch.equal(fast, torch.from_numpy(np.array(decode(data))).permute(2, 0, 1))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 100), st.integers(0, 2), st.booleans())
def test_any_jpeg_is_decoded_alike(width: int, height: int, quality: int, subsampling: int, grey: bool) -> None:
    image = picture(width, height, quality)
    data = jpeg_bytes(
        image.convert("L") if grey else image, quality=quality, **({} if grey else {"subsampling": subsampling})
    )
    fast = jpeg.decode(data)
    assert isinstance(fast, torch.Tensor)
    assert torch.equal(fast, torch.from_numpy(np.array(decode(data))).permute(2, 0, 1))


def test_grey_and_turned_jpegs() -> None:
    grey = jpeg.decode(jpeg_bytes(picture(60, 40).convert("L")), 40)
    assert isinstance(grey, torch.Tensor)
    assert grey.shape == (3, 40, 60)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = jpeg.decode(jpeg_bytes(picture(60, 40), exif=exif), 40)
    assert isinstance(turned, Image.Image)
    assert turned.size == (40, 60)


def test_much_larger_jpegs_are_decoded_at_a_part_of_their_size() -> None:
    image = picture(640, 480)
    large = jpeg.decode(jpeg_bytes(image), 60)
    assert isinstance(large, torch.Tensor)
    assert large.shape == (3, 60, 80)
    expected = torch.from_numpy(np.array(image.resize((80, 60), Image.Resampling.BOX))).permute(2, 0, 1)
    assert (large.int() - expected.int()).abs().float().mean() < 4


def test_everything_else_is_decoded_carefully() -> None:
    cmyk = jpeg.decode(jpeg_bytes(picture(60, 40).convert("CMYK")), 40)
    assert isinstance(cmyk, Image.Image)
    file = io.BytesIO()
    picture(60, 40).save(file, "PNG")
    assert isinstance(jpeg.decode(file.getvalue(), 40), Image.Image)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<html>", "text or HTML"),
        (jpeg_bytes(picture(300, 300))[:4000], "truncated"),
        (jpeg_bytes(Image.new("RGB", (2000, 10))), "too thin"),
    ],
)
def test_unusable_files_are_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        jpeg.decode(data, 200)
