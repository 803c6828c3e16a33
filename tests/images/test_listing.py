import io
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alignet_ray.artifacts.schemas import IMAGES, check
from alignet_ray.errors import UserError
from alignet_ray.images.listing import decode, fingerprint, list_images, read_bytes

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
    return encoded(image if mode == "I;16" else image.convert("I"), "TIFF" if mode == "I" else "PNG")


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


def test_order_is_that_of_utf8_bytes(tmp_path: Path) -> None:
    names = [
        "a/b.jpg",
        "a.jpg",
        "a-b/c.jpg",
        "B.png",
        "é/z.jpg",
        "z/é.jpg",
        "𝔘.png",
        "\uffee.png",
        "a/b/c.gif",
        "a/b0.jpg",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    table = check(list_images(str(tmp_path)), IMAGES)
    assert table["path"].to_pylist() == sorted(names, key=lambda name: name.encode())
    assert table["image_id"].to_pylist() == list(range(len(names)))
    labels = dict(zip(table["path"].to_pylist(), table["label"].to_pylist(), strict=True))
    assert labels["a/b/c.gif"] == "a"
    assert labels["a.jpg"] == ""
    assert set(table["bytes"].to_pylist()) == {1}


@settings(max_examples=30, deadline=None)
@given(names=st.lists(st.text("ab./-é", min_size=1, max_size=8), min_size=1, max_size=12, unique=True))
def test_walk_orders_any_tree_like_its_paths(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    root = tmp_path_factory.mktemp("tree")
    made = set()
    for name in names:
        parts = [part for part in name.split("/") if part.strip(".")]
        path = root.joinpath("x", *parts[:-1], (parts or ["n"])[-1] + ".png")
        if any(p.is_file() for p in path.parents) or path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        if not any(part.startswith(".") for part in path.relative_to(root).parts):
            made.add(path.relative_to(root).as_posix())
    found = list_images(str(root))["path"].to_pylist() if made else []
    assert found == sorted(made, key=str.encode)


def test_listing_leaves_out_what_is_not_an_image(tmp_path: Path) -> None:
    for name in ("a/x.jpg", "a/notes.txt", "a/.hidden.jpg", ".git/y.png", "a/._x.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert list_images(str(tmp_path))["path"].to_pylist() == ["a/x.jpg"]


def test_links_are_followed_but_never_round_in_circles(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.png").write_bytes(b"x")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "root" / "circle").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "dangling.png").symlink_to(tmp_path / "gone.png")
    assert list_images(str(tmp_path / "root"))["path"].to_pylist() == ["dangling.png", "linked/x.png"]


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: (p.mkdir(), (p / "x.txt").touch())])
def test_no_images_is_the_users_mistake(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "images")
    for ask in (list_images, fingerprint):
        with pytest.raises(UserError, match=r"does not exist|no images under"):
            ask(str(tmp_path / "images"))


def test_a_name_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(str(tmp_path)) + b"/\xff.jpg")).write_bytes(b"x")
    with pytest.raises(UserError, match="not UTF-8"):
        list_images(str(tmp_path))


def test_fingerprint_sees_new_changed_and_renamed_files(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    seen = {str(fingerprint(str(tmp_path))), str(fingerprint(str(tmp_path)))}
    assert len(seen) == 1
    (tmp_path / "b.jpg").write_bytes(b"y")
    seen.add(str(fingerprint(str(tmp_path))))
    (tmp_path / "b.jpg").write_bytes(b"yy")
    seen.add(str(fingerprint(str(tmp_path))))
    (tmp_path / "b.jpg").rename(tmp_path / "c.jpg")
    seen.add(str(fingerprint(str(tmp_path))))
    os.utime(tmp_path / "c.jpg", ns=(1, 1))
    seen.add(str(fingerprint(str(tmp_path))))
    assert len(seen) == 5
    assert fingerprint(str(tmp_path)).items() >= {"files": 2, "bytes": 3}.items()


def test_read_bytes_reads_what_was_listed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"content")
    table: pa.Table = list_images(str(tmp_path))
    assert read_bytes(str(tmp_path), table["path"][0].as_py()) == b"content"
    with pytest.raises(OSError):
        read_bytes(str(tmp_path), "a/gone.png")


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
