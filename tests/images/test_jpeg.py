"""The fast decoder gives Pillow's values, and leaves every file that is no upright JPEG to Pillow."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alignet_ray.images import decode as by_pillow
from alignet_ray.images import jpeg


def encoded(size: tuple[int, int], mode: str = "RGB", format: str = "JPEG", **options: object) -> bytes:
    """Smooth noise: a JPEG of pure noise would differ by its own rounding."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR).convert(mode).save(sink, format, **options)
    return sink.getvalue()


def pixels(decoded: object) -> np.ndarray:
    """(3, h, w), whichever decoder it came from."""
    if isinstance(decoded, Image.Image):
        return np.asarray(decoded.convert("RGB")).transpose(2, 0, 1)
    return np.asarray(decoded)


@settings(max_examples=20)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from(["RGB", "L"]), st.booleans())
def test_values_are_those_of_pillow(width: int, height: int, mode: str, progressive: bool) -> None:
    data = encoded((width, height), mode, progressive=progressive)
    fast = pixels(jpeg.decode(data))
    assert fast.shape == (3, height, width)
    np.testing.assert_array_equal(fast, pixels(by_pillow.decode(data)))


@pytest.mark.parametrize(("side", "expected"), [(0, (240, 320)), (30, (30, 40)), (31, (60, 80)), (121, (240, 320))])
def test_a_large_file_is_decoded_at_a_fraction_that_is_no_smaller_than_needed(
    side: int, expected: tuple[int, int]
) -> None:
    height, width = pixels(jpeg.decode(encoded((320, 240)), side)).shape[1:]
    assert min(height, width) >= side
    assert (height, width) == expected


def test_a_turned_photo_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[jpeg.EXIF_ORIENTATION] = 6  # turn by 90 degrees to view
    data = encoded((40, 30), exif=exif)
    assert pixels(jpeg.decode(data)).shape == (3, 40, 30)


@pytest.mark.parametrize(("mode", "format"), [("CMYK", "JPEG"), ("RGB", "PNG"), ("L", "PNG")])
def test_other_files_are_decoded_by_pillow(mode: str, format: str) -> None:
    data = encoded((20, 10), mode, format)
    assert isinstance(jpeg.decode(data), Image.Image)
    np.testing.assert_array_equal(pixels(jpeg.decode(data)), pixels(by_pillow.decode(data)))


@pytest.mark.parametrize("data", [b"", b"<html></html>", encoded((64, 64))[:200]])
def test_damage_is_told_with_the_reason_that_the_careful_decoder_finds(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w") as careful:
        by_pillow.decode(data)
    with pytest.raises(ValueError, match=r"\w") as fast:
        jpeg.decode(data)
    assert str(fast.value) == str(careful.value)
