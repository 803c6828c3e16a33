"""The pictures of the page: a folder's, and the latest uploads."""

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alignet_ray.demo import compare
from alignet_ray.demo import pictures as pictures_module
from alignet_ray.demo.compare import MODELS, EncodedImages, ModelComparison, ModelView, ModelViews
from alignet_ray.demo.encoded import KnownPictures
from alignet_ray.demo.pictures import PREVIEW_SIDE, ImageFolder, Pictures, list_folder, preview
from alignet_ray.errors import UserError
from alignet_ray.images.decode import decode
from alignet_ray.models.embedding_network import make_network
from alignet_ray.screen import Screen


def picture(seed: int, width: int = 40, height: int = 30) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def views_of(base: list[list[float]], aligned: list[list[float]]) -> ModelViews:
    """Views whose choices go by the vectors themselves."""
    return {
        name: ModelView(np.array(rows, np.float32), np.array(rows, np.float32))
        for name, rows in zip(MODELS, (base, aligned), strict=True)
    }


@pytest.fixture(scope="module")
def comparison() -> ModelComparison:
    student = make_network("random:test_efficientnet", 32, 8, seed=1).eval()
    base = make_network("random:test_efficientnet", 32, None, seed=1).eval()
    return ModelComparison(student, base, {"base": "base", "aligned": "student"})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Seven pictures in two classes, of which the fourth in the listing is broken."""
    # Few triplets are enough for so few pictures.
    monkeypatch.setattr(compare, "TRIALS", 300)
    for number in range(7):
        file = tmp_path / ("a" if number < 4 else "b") / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(picture(number) if number != 3 else b"<html>")
    return tmp_path


KEY = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.6, 0.8]]
OTHER = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]


def shown(comparison: ModelComparison, base: list[list[float]], aligned: list[list[float]], uri: str = "") -> Pictures:
    paths = [f"{number}.png" for number in range(len(base))]
    pictures = Pictures(comparison)
    pictures.folder = ImageFolder(uri, paths, [""] * len(base), views_of(base, aligned))
    return pictures


def embedded(comparison: ModelComparison, uri: str, most: int = 100, known: KnownPictures | None = None) -> Pictures:
    """A folder whose pictures are all embedded, or cannot be."""
    pictures = Pictures(comparison, list_folder(uri, most), known)
    pictures.embed_folder(Screen())
    return pictures


def test_the_same_picture_twice_is_one_upload(comparison: ModelComparison) -> None:
    pictures = Pictures(comparison)
    first = pictures.add(picture(0))
    assert first.startswith("u")
    assert pictures.add(picture(0)) == first
    assert pictures.add(picture(1)) != first
    assert len(pictures.uploads) == 2


def test_an_upload_has_both_models_vectors_and_a_preview(comparison: ModelComparison) -> None:
    pictures = Pictures(comparison)
    name = pictures.add(picture(0))
    expected = comparison.views(comparison.encode_image(decode(picture(0))))
    for model in MODELS:
        np.testing.assert_allclose(pictures.views(name)[model].embedding, expected[model].embedding, atol=1e-5)
    assert decode(pictures.jpeg(name)).size == (40, 30)


@pytest.mark.parametrize(("data", "reason"), [(b"", "empty file"), (b"hello", "not an image"), (b"<p>", "HTML")])
def test_bytes_that_are_no_picture_are_refused_and_not_kept(
    comparison: ModelComparison, data: bytes, reason: str
) -> None:
    pictures = Pictures(comparison)
    with pytest.raises(ValueError, match=reason):
        pictures.add(data)
    assert not pictures.uploads


def test_the_upload_used_longest_ago_is_forgotten(comparison: ModelComparison, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures_module, "MAX_UPLOADS", 2)
    pictures = Pictures(comparison)
    first, second = pictures.add(picture(0)), pictures.add(picture(1))
    pictures.add(picture(0))  # used again, so that the second one is the older of the two
    third = pictures.add(picture(2))
    assert list(pictures.uploads) == [first, third]
    with pytest.raises(KeyError):
        pictures.views(second)
    with pytest.raises(KeyError):
        pictures.jpeg(second)


def test_a_row_of_the_folder_keeps_the_shape_of_several(comparison: ModelComparison) -> None:
    pictures = shown(comparison, KEY, OTHER)
    views = pictures.views("f1")
    assert views["base"].embedding.tolist() == [[0.0, 1.0]]
    assert views["aligned"].choice.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("name", ["", "f", "f4", "f-1", "f1.0", "f²", "ff1", "g1", "u", "u..", "f1/../f2"])
def test_a_name_that_means_no_picture_is_a_key_error(comparison: ModelComparison, name: str) -> None:
    pictures = shown(comparison, KEY, OTHER)
    with pytest.raises(KeyError):
        pictures.views(name)
    with pytest.raises(KeyError):
        pictures.jpeg(name)


def test_without_a_folder_there_are_neither_rows_nor_triplets(comparison: ModelComparison) -> None:
    pictures = Pictures(comparison)
    with pytest.raises(KeyError):
        pictures.views("f0")
    with pytest.raises(KeyError, match="folder"):
        pictures.triplet("random", 0)


def test_a_random_triplet_is_three_pictures_and_the_same_for_the_same_seed(comparison: ModelComparison) -> None:
    pictures = shown(comparison, KEY, KEY)
    drawn = [pictures.triplet("random", seed) for seed in range(20)]
    assert drawn == [pictures.triplet("random", seed) for seed in range(20)]
    for names in drawn:
        assert len(set(names)) == 3
        assert set(names) <= {"f0", "f1", "f2", "f3"}
    assert len(set(map(tuple, drawn))) > 5


def test_models_that_disagree_about_a_triplet_are_shown_it(comparison: ModelComparison) -> None:
    # Of the first three the base calls the second odd, the student the third; the fourth is never in such a triplet.
    pictures = shown(comparison, KEY[:3], OTHER[:3])
    assert sorted(pictures.triplet("disputed", 0)) == ["f0", "f1", "f2"]
    assert shown(comparison, KEY, KEY).triplet("disputed", 0) == []


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((2 * PREVIEW_SIDE, PREVIEW_SIDE), (PREVIEW_SIDE, PREVIEW_SIDE // 2)),
        ((PREVIEW_SIDE // 4, PREVIEW_SIDE * 2), (PREVIEW_SIDE // 8, PREVIEW_SIDE)),
        ((30, 20), (30, 20)),
    ],
)
def test_a_preview_is_a_small_jpeg_and_never_enlarged(size: tuple[int, int], expected: tuple[int, int]) -> None:
    with Image.open(BytesIO(preview(Image.new("RGB", size, "red")))) as image:
        assert image.format == "JPEG"
        assert image.size == expected
        red = image.convert("RGB").getpixel((5, 5))
    assert red == pytest.approx((255, 0, 0), abs=3)


def test_a_file_that_is_gone_or_has_changed_has_no_preview(comparison: ModelComparison, tmp_path: Path) -> None:
    pictures = shown(comparison, KEY, OTHER, str(tmp_path))
    (tmp_path / "0.png").write_bytes(picture(0))
    assert decode(pictures.jpeg("f0")).size == (40, 30)
    (tmp_path / "0.png").write_bytes(b"hello")
    with pytest.raises(ValueError, match="not an image"):
        pictures.jpeg("f0")
    (tmp_path / "0.png").unlink()
    with pytest.raises(OSError, match=r"0\.png"):
        pictures.jpeg("f0")


@pytest.mark.parametrize("chunk", [2, 64])
def test_a_folder_is_encoded_without_its_broken_files(
    comparison: ModelComparison,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    chunk: int,
) -> None:
    monkeypatch.setattr(pictures_module, "CHUNK", chunk)
    pictures = embedded(comparison, str(folder))
    found = pictures.folder
    assert found is not None
    assert pictures.embedded == 7
    assert found.paths == ["a/0.png", "a/1.png", "a/2.png", "b/4.png", "b/5.png", "b/6.png"]
    assert found.labels == ["a", "a", "a", "b", "b", "b"]
    said = capsys.readouterr().out
    assert f"6 pictures of {folder}, 1 could not be used (first: a/3.png: " in said
    for row, path in enumerate(found.paths):
        expected = comparison.views(comparison.encode_image(decode((folder / path).read_bytes())))
        for model in MODELS:
            np.testing.assert_allclose(found.views[model].embedding[row], expected[model].embedding[0], atol=1e-4)
            np.testing.assert_allclose(found.views[model].choice[row], expected[model].choice[0], rtol=1e-3, atol=1e-3)


def test_fewer_pictures_are_spread_over_the_whole_listing(comparison: ModelComparison, folder: Path) -> None:
    (folder / "a" / "3.png").write_bytes(picture(3))
    found = embedded(comparison, str(folder), 4).folder
    assert found is not None
    assert found.paths == ["a/0.png", "a/2.png", "b/4.png", "b/6.png"]
    assert found.labels == ["a", "a", "b", "b"]


def test_fewer_than_three_usable_pictures_are_a_problem_that_the_page_tells(
    comparison: ModelComparison, tmp_path: Path
) -> None:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(picture(number) if number < 2 else b"")
    pictures = embedded(comparison, str(tmp_path))
    assert pictures.folder is None
    assert pictures.why_unusable.endswith("holds 2 usable pictures: three or more are needed")
    # What can be known before is refused before.
    for number in range(1, 4):
        (tmp_path / f"{number}.png").unlink()
    with pytest.raises(UserError, match="holds 1 pictures: three or more are needed"):
        list_folder(str(tmp_path), 100)


def test_pictures_are_embedded_once_whatever_they_are_called(
    comparison: ModelComparison, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a" / "copy.png").write_bytes(picture(0))
    file = tmp_path / "cache" / "known.safetensors"
    first = embedded(comparison, str(folder), known=KnownPictures(file)).folder
    assert first is not None
    assert first.paths[:4] == ["a/0.png", "a/1.png", "a/2.png", "a/copy.png"]

    # Next time only what is new goes through the networks: one picture, and the broken one that never had vectors.
    (folder / "b" / "new.png").write_bytes(picture(50))
    (folder / "a" / "0.png").rename(folder / "a" / "moved.png")
    jobs: list[int] = []
    encode = comparison.encode

    def counted(images: Sequence[Callable[[], Image.Image]], **options: int) -> EncodedImages:
        jobs.append(len(images))
        return encode(images, **options)

    monkeypatch.setattr(comparison, "encode", counted)
    second = embedded(comparison, str(folder), known=KnownPictures(file)).folder
    assert jobs == [2]
    assert second is not None
    assert "b/new.png" in second.paths
    for name in second.views:
        moved = second.views[name].embedding[second.paths.index("a/moved.png")]
        np.testing.assert_array_equal(moved, first.views[name].embedding[0])


def test_classes_have_names(comparison: ModelComparison, tmp_path: Path) -> None:
    for number, label in enumerate(("n02110341", "n99999999", "cups")):
        (tmp_path / label).mkdir()
        (tmp_path / label / "0.png").write_bytes(picture(number))
    assert sorted(list_folder(str(tmp_path), 9).labels) == ["cups", "dalmatian", "n99999999"]


def test_a_large_upload_has_the_vectors_of_the_same_picture_in_the_folder(comparison: ModelComparison) -> None:
    """The preview is smaller than the picture, which must be embedded at its own size."""
    pictures = Pictures(comparison)
    data = picture(3, 3 * PREVIEW_SIDE, 2 * PREVIEW_SIDE)
    found = pictures.views(pictures.add(data))
    expected = comparison.views(comparison.encode_image(decode(data)))
    for model in MODELS:
        np.testing.assert_array_equal(found[model].embedding, expected[model].embedding)


@pytest.mark.parametrize("name", ["0", "f" + 5000 * "1", "f\u0661", "f-1", "f", "", "f1.0"])
def test_names_that_requests_make_up_are_unknown(comparison: ModelComparison, name: str) -> None:
    with pytest.raises(KeyError):
        shown(comparison, KEY, OTHER).views(name)
