import io
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alignet_ray.images import decode as decoding
from alignet_ray.images import jpeg
from alignet_ray.images.decode import TWELVE_BIT, as_seen, decode
from alignet_ray.images.listing import list_images, read_bytes

RED, BLUE = (250, 10, 20), (10, 20, 250)


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, size[0], size[1]))
    return image.convert(mode)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format, **options)
    return sink.getvalue()


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    return encoded(picture(), "JPEG", exif=exif, quality=95)


def transparent() -> bytes:
    image = picture("RGBA")
    image.putalpha(0)
    return encoded(image)


def animated() -> bytes:
    return encoded(picture(), "GIF", save_all=True, append_images=[Image.new("RGB", (40, 30))] * 3)


def sixteen(mode: str = "I;16") -> bytes:
    values = np.zeros((30, 40), np.uint16)
    values[:, 20:] = 65_535
    image = Image.fromarray(values)
    if mode == "I;16":
        return encoded(image)
    return encoded(image.convert("I"), "PPM")  # a PGM file of 16 bits, which Pillow opens in its mode of 32


def bomb() -> bytes:
    """A PNG of 400 megapixels in a few bytes: the header alone promises them."""
    data = bytearray(encoded(picture()))
    data[16:24] = struct.pack(">II", 20_000, 20_000)
    import zlib

    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def broken_exif() -> bytes:
    return encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff", quality=95)


JPEG = encoded(picture(size=(200, 150)), "JPEG", quality=95)

REFUSED: dict[str, tuple[bytes, str]] = {
    "empty.jpg": (b"", "empty file"),
    "html.jpg": (b"<!DOCTYPE html><html>404</html>", "text or HTML"),
    "json.png": (b'{"error": "rate limit"}', "text or HTML"),
    "noise.jpg": (bytes(range(256)) * 8, "not an image"),
    "head_only.jpg": (JPEG[:20], "not an image|truncated|broken"),
    "cut.jpg": (JPEG[: len(JPEG) // 2], "truncated"),
    "cut.png": (encoded(Image.effect_noise((99, 99), 50))[:3000], "truncated|broken"),
    "cut.webp": (encoded(picture(), "WEBP")[:60], "not an image|truncated|broken"),
    "cut.gif": (animated()[:30], "not an image|truncated|broken"),
    "bomb.png": (bomb(), "too many pixels"),
    "line.png": (encoded(Image.new("RGB", (5000, 1))), "too thin"),
    "float.tif": (encoded(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF"), "floating-point"),
    "zip.jpg": (b"PK\x03\x04" + bytes(100), "not an image"),
    "pdf.jpg": (b"%PDF-1.7\n" + bytes(100), "not an image"),
    "svg.png": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "text or HTML"),
}

ACCEPTED: dict[str, bytes] = {
    "rgb.jpg": JPEG,
    "rgb.png": encoded(picture()),
    "upper.JPEG": JPEG,
    "progressive.jpg": encoded(picture(), "JPEG", progressive=True, quality=95),
    "cmyk.jpg": encoded(picture("CMYK"), "JPEG", quality=95),
    "palette.png": encoded(picture("P")),
    "palette.gif": encoded(picture("P"), "GIF"),
    "animated.gif": animated(),
    "alpha.png": encoded(picture("RGBA")),
    "webp.webp": encoded(picture(), "WEBP", quality=95),
    "bitmap.bmp": encoded(picture(), "BMP"),
    "tiff.tif": encoded(picture(), "TIFF"),
    "png_named.jpg": encoded(picture()),
    "jpeg_named.png": JPEG,
    "broken_exif.jpg": broken_exif(),
    "long_tail.jpg": JPEG + b"\0" * 1000,
    "lab.tif": encoded(picture("LAB"), "TIFF"),
}


def colours(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Mean colours of the left and right thirds."""
    pixels = np.asarray(image, dtype=np.float32)
    third = pixels.shape[1] // 3
    return pixels[:, :third].mean((0, 1)), pixels[:, -third:].mean((0, 1))


@pytest.mark.parametrize("name", ACCEPTED)
def test_decode_shows_what_a_person_sees(name: str) -> None:
    image = decode(ACCEPTED[name])
    assert image.mode == "RGB"
    left, right = colours(image)
    assert np.abs(left - RED).max() < 30
    assert np.abs(right - BLUE).max() < 30


@pytest.mark.parametrize("name", REFUSED)
def test_decode_refuses_with_a_reason(name: str) -> None:
    data, reason = REFUSED[name]
    with pytest.raises(ValueError, match=reason):
        decode(data)


def test_exif_rotation_is_applied() -> None:
    image = decode(rotated())
    assert image.size == (30, 40)
    pixels = np.asarray(image, dtype=np.float32)
    assert np.abs(pixels[:12].mean((0, 1)) - RED).max() < 30  # the left half is on top now


def test_transparency_is_laid_over_white() -> None:
    assert np.asarray(decode(transparent())).min() == 255


def test_grey_with_a_transparent_value_is_laid_over_white() -> None:
    grey = Image.new("L", (8, 8), 7)
    assert np.asarray(decode(encoded(grey, transparency=7))).min() == 255


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bits_keep_their_range(mode: str) -> None:
    left, right = colours(decode(sixteen(mode)))
    assert left.max() == 0
    assert right.min() == 255


def test_twelve_bits_in_sixteen_are_marked() -> None:
    for largest, is_twelve_bit in ((200, False), (4095, True), (4096, False), (65_535, False)):
        values = np.linspace(0, largest, 64).astype(np.uint16).reshape(8, 8)
        assert decode(encoded(Image.fromarray(values))).info.get(TWELVE_BIT) is is_twelve_bit
    assert TWELVE_BIT not in decode(encoded(picture())).info


def png_of_16_bits(values: np.ndarray) -> bytes:
    """A colour PNG of 16 bits, which Pillow reads and cannot write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_twelve_bits_in_sixteen_are_marked_in_colour_too() -> None:
    ramp = np.linspace(0, 1, 8 * 8 * 3).reshape(8, 8, 3)
    for largest, is_twelve_bit in ((4095, True), (4096, False), (65_535, False), (255, True)):
        image = decode(png_of_16_bits(np.round(ramp * largest).astype(np.uint16)))
        assert image.info.get(TWELVE_BIT) is is_twelve_bit, largest


@pytest.mark.parametrize("kind", ["EPS", "ICO", "PCX", "SGI"])
@pytest.mark.parametrize("by", [decode, jpeg.decode])
def test_only_the_named_formats_are_read(kind: str, by: Callable[[bytes], Any]) -> None:
    """PostScript first of all, which Pillow would hand to Ghostscript."""
    with pytest.raises(ValueError, match="not an image, or of a format that is not read"):
        by(encoded(picture(), kind))


@pytest.mark.parametrize("by", [decode, jpeg.decode])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_very_large_pictures_are_decoded_one_at_a_time(
    by: Callable[[bytes], Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[str] = []

    class Recorded(FileLock):  # type: ignore[misc]
        def __enter__(self) -> Any:
            held.append(str(self.lock_file))
            return super().__enter__()

    monkeypatch.setattr(decoding, "FileLock", Recorded)
    data = encoded(picture(), kind)
    by(data)
    assert held == []
    monkeypatch.setattr(decoding, "LARGE_PIXELS", 40 * 30 - 1)
    by(data)
    assert len(held) == 1
    assert Path(held[0]).parent == Path(tempfile.gettempdir())


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_a_transparent_picture_is_laid_over_white_in_pieces(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (30, 17, 4), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if mode == "P":
        image = image.convert("RGB").quantize(16)
        image.info["transparency"] = 3
    else:
        image = image.convert(mode)
    whole = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
    monkeypatch.setattr(decoding, "ROWS_AT_ONCE", 7)
    assert np.array_equal(np.asarray(as_seen(image)), np.asarray(whole))


def test_pixels_of_32_bits_are_refused() -> None:
    """Their range is unknown: scaled as 16 bits they would come out white, in silence."""
    values = Image.fromarray(np.linspace(0, 2e9, 64).astype(np.int32).reshape(8, 8))
    with pytest.raises(ValueError, match="pixels of 32 bits, or with a sign"):
        decode(encoded(values, "TIFF"))
    with pytest.raises(ValueError, match="pixels from 0 to 2,000,000,000 do not fit into 16 bits"):
        as_seen(values)


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_images_become_three_equal_channels(mode: str) -> None:
    pixels = np.asarray(decode(encoded(picture(mode))))
    assert pixels.shape == (30, 40, 3)
    assert (pixels[..., 0] == pixels[..., 2]).all()


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=200), cut=st.integers(0, len(JPEG)))
def test_hostile_bytes_only_ever_raise_value_errors(data: bytes, cut: int) -> None:
    for hostile in (data, JPEG[:cut] + data + JPEG[cut + len(data) :]):
        try:
            image = decode(hostile)
        except ValueError:
            continue
        assert image.mode == "RGB"


def test_the_real_sample_decodes(sample: Path) -> None:
    table = list_images(str(sample / "imagenet_sample"))
    assert len(table) == 810
    assert len(set(table["label"].to_pylist())) == 810
    for path in table["path"].to_pylist()[::100]:
        assert min(decode(read_bytes(str(sample / "imagenet_sample"), path)).size) > 20


@pytest.mark.parametrize(
    ("size", "min_side", "expected"), [((500, 374), 147, (250, 187)), ((500, 374), 400, (500, 374))]
)
def test_a_jpeg_is_decoded_no_smaller_than_needed(
    size: tuple[int, int], min_side: int, expected: tuple[int, int]
) -> None:
    x = np.linspace(0, 255, size[0], dtype=np.uint8)[None, :, None].repeat(size[1], 0).repeat(3, 2)
    data = io.BytesIO()
    Image.fromarray(x).save(data, "JPEG", quality=95)
    picture = decode(data.getvalue(), min_side)
    assert picture.size == expected
    whole = decode(data.getvalue()).resize(expected)
    assert np.abs(np.asarray(picture, np.int16) - np.asarray(whole, np.int16)).max() <= 6


def test_broken_exif_is_no_warning(tmp_path: Path) -> None:
    """Cut off, an orientation twice, and one beyond the end of the file: Pillow warns of each, for every image."""
    little_endian = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1)
    for number, entry in enumerate(
        (
            struct.pack("<HH", 0x112, 3),
            struct.pack("<HHIHHI", 0x112, 3, 2, 6, 3, 0),
            struct.pack("<HHIHHI", 0x112, 3, 2**31, 0, 0, 0),
        )
    ):
        sink = io.BytesIO()
        Image.new("RGB", (15, 10)).save(sink, "JPEG", exif=little_endian + entry)
        (tmp_path / f"{number}.jpg").write_bytes(sink.getvalue())
    program = (
        "import pathlib, sys\n"
        "from alignet_ray.images.decode import decode\n"
        "for file in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    decode(file.read_bytes())\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_large_picture_is_decoded_without_a_warning_of_pillows() -> None:
    program = (
        "import io\n"
        "from PIL import Image\n"
        "from alignet_ray.images.decode import decode\n"
        "sink = io.BytesIO()\n"
        "Image.new('RGB', (15, 10)).save(sink, 'PNG')\n"
        "Image.MAX_IMAGE_PIXELS = 100\n"
        "print(decode(sink.getvalue()).size)\n"
    )
    done = subprocess.run([sys.executable, "-W", "always", "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stdout == "(15, 10)\n"
    assert "DecompressionBomb" not in done.stderr
