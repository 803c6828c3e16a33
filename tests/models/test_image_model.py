"""A loaded model takes pictures as people have them, and always gives what its network gives for them."""

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alignet_ray.errors import UserError
from alignet_ray.models.embedding_network import make_network, save_network
from alignet_ray.models.hub import load
from alignet_ray.models.image_model import ImageIndex, ImageModel

NETWORK = "random:test_efficientnet"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ImageModel:
    """A student with a head of 8 whose temperature is not 1."""
    folder = tmp_path_factory.mktemp("student")
    student = make_network(NETWORK, 32, 8, seed=1)
    student.tau = 0.5
    save_network(folder, student, {"role": "student"})
    return load(folder, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pictures of noise in two class folders."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(7):
        file = folder / f"class{number % 2}" / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        noise(number).save(file)
    return folder


def noise(seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def logits_of(model: ImageModel, rgb: Image.Image) -> np.ndarray:
    """What the bare network says of an RGB image, by the parts alone."""
    network, _ = model
    with torch.no_grad():
        return network(network.preprocess(rgb)[None]).triplet_logits[0].numpy()


def in_mode(mode: str) -> tuple[Image.Image, Image.Image]:
    """A picture in a mode of Pillow, and the RGB picture that a person sees."""
    rgb = noise(3)
    if mode == "RGBA":
        picture = rgb.convert("RGBA")
        alpha = Image.new("L", rgb.size, 255)
        alpha.paste(0, (0, 0, 20, 40))
        picture.putalpha(alpha)
        seen = rgb.copy()
        seen.paste((255, 255, 255), (0, 0, 20, 40))
        return picture, seen
    if mode == "I;16":
        grey = np.asarray(rgb.convert("L"))
        return Image.fromarray(grey.astype(np.uint16) * 257), Image.fromarray(grey).convert("RGB")
    picture = rgb.convert(mode)
    return picture, picture.convert("RGB")


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "CMYK", "I;16"])
def test_every_mode_gives_what_a_person_sees(model: ImageModel, tmp_path: Path, mode: str) -> None:
    picture, seen = in_mode(mode)
    expected = logits_of(model, seen)
    file = tmp_path / "picture.tiff"
    picture.save(file)
    for form in (picture, file, str(file)):
        assert model.embed(form) == pytest.approx(expected, abs=1e-6)
    assert model.embed([picture, picture]) == pytest.approx(np.stack([expected] * 2), abs=1e-6)
    assert model(model.preprocess(picture)[None]).triplet_logits[0].numpy() == pytest.approx(expected, abs=1e-6)


def test_arrays_and_tensors_are_pictures_too(model: ImageModel) -> None:
    rgb = noise(5)
    expected = logits_of(model, rgb)
    pixels = np.asarray(rgb)
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    forms = [pixels, pixels / 255, (pixels / 255).astype(np.float32), pixels.astype(np.uint16) * 257, tensor]
    for form in [*forms, model.preprocess(rgb)]:
        assert model.embed(form) == pytest.approx(expected, abs=1e-6)

    many = model.embed(np.stack([pixels, pixels]))
    assert many == pytest.approx(np.stack([expected] * 2), abs=1e-6)
    grey = np.asarray(rgb.convert("L"))
    assert model.embed(grey) == pytest.approx(model.embed(grey[:, :, None]), abs=0)
    assert model.embed(grey > 127) == pytest.approx(model.embed(((grey > 127) * 255).astype(np.uint8)), abs=0)


def test_a_folder_is_embedded_in_the_order_of_its_paths(model: ImageModel, folder: Path) -> None:
    files = sorted(folder.rglob("*.png"))
    expected = np.stack([logits_of(model, Image.open(file)) for file in files])
    assert model.embed(folder, batch=3) == pytest.approx(expected, abs=1e-6)
    index = model.index(str(folder), batch=3)
    assert index.names == [file.relative_to(folder).as_posix() for file in files]
    assert index.embeddings == pytest.approx(expected, abs=1e-6)
    frame = index.to_frame()
    assert list(frame.index) == index.names
    assert frame.shape == (7, 8)


def test_the_layer_can_be_chosen(model: ImageModel) -> None:
    network, preprocess = model
    picture = noise(1)
    with torch.no_grad():
        expected = network(preprocess(picture)[None]).embedding[0].numpy()
    assert model.layer == "head"
    assert model.embed(picture, layer="pre_logits") == pytest.approx(expected, abs=1e-6)


def test_a_backbone_has_no_head(folder: Path) -> None:
    backbone = load(NETWORK, device="cpu")
    assert backbone.layer == "pre_logits"
    assert backbone.embed(noise(1)).shape == (backbone.network.backbone.width,)
    with pytest.raises(UserError, match="has no triplet head"):
        backbone.embed(noise(1), layer="head")
    probabilities = backbone.odd_one_out(noise(1), noise(1), noise(2))
    # Cosines: the two equal pictures have 1, so the third is the most probable odd one, the other two are even.
    assert probabilities.argmax() == 2
    assert probabilities[0] == pytest.approx(probabilities[1])


def test_distance_is_one_less_the_cosine(model: ImageModel) -> None:
    first, second = noise(1), noise(2)
    a, b = model.embed([first, second])
    expected = 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert model.distance(first, second) == pytest.approx(expected, abs=1e-6)
    assert model.distance(first, first) == pytest.approx(0, abs=1e-6)
    assert model.distance(first, [first, second]) == pytest.approx([0, expected], abs=1e-6)
    with pytest.raises(UserError, match="lists of 3, 2 pictures do not match"):
        model.distance([first] * 3, [second] * 2)


def test_odd_one_out_is_the_networks_own(model: ImageModel) -> None:
    pictures = [noise(seed) for seed in (1, 2, 3)]
    a, b, c = model.embed(pictures)
    logits = np.array([b @ c, a @ c, a @ b]) / 0.5  # the pair that remains when a, b or c is the odd one
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert model.odd_one_out(*pictures) == pytest.approx(expected, abs=1e-6)

    several = model.odd_one_out([pictures[0]] * 2, [pictures[1]] * 2, [pictures[2]] * 2)
    assert several == pytest.approx(np.stack([expected] * 2), abs=1e-6)
    tensors = [model.preprocess(picture)[None] for picture in pictures]
    assert model.network.odd_one_out(*tensors)[0].numpy() == pytest.approx(expected, abs=1e-6)


def test_nearest_finds_the_picture_itself_first(model: ImageModel, folder: Path, tmp_path: Path) -> None:
    query = folder / "class1" / "3.png"
    found = model.nearest(query, folder, k=3)
    assert [found[0].name, round(found[0].similarity, 5)] == ["class1/3.png", 1.0]
    assert [neighbour.similarity for neighbour in found] == sorted((n.similarity for n in found), reverse=True)

    index = model.index(folder)
    index.save(tmp_path / "index.npz")
    assert model.nearest(query, ImageIndex.read(tmp_path / "index.npz"), k=3) == found
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04nothing")
    with pytest.raises(UserError, match=r"broken\.npz is not a saved index"):
        ImageIndex.read(tmp_path / "broken.npz")


def test_an_unreadable_picture_is_named(model: ImageModel, folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "class0" / "broken.png"
    broken.parent.mkdir()
    broken.write_bytes((folder / "class0" / "0.png").read_bytes()[:200])
    noise(4).save(tmp_path / "class0" / "good.png")

    with pytest.raises(UserError, match=r"class0/broken\.png of .*: (truncated|broken)"):
        model.embed(tmp_path)
    with pytest.raises(UserError, match=r"broken\.png: "):
        model.embed([broken])
    with pytest.raises(UserError, match=r"gone\.png: No such file"):
        model.embed(tmp_path / "gone.png")

    index = model.index(tmp_path, skip_unreadable=True)
    assert index.names == ["class0/good.png"]
    assert [name for name, _ in index.unreadable] == ["class0/broken.png"]
    with pytest.raises(UserError, match="none of 1 pictures can be read; the first: "):
        model.index([broken], skip_unreadable=True)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 4, 2), np.uint8), r"an array of shape \(4, 4, 2\)"),
        (np.full((4, 4), 2.0), "floats outside 0 to 1"),
        (np.full((4, 4), np.nan), "floats outside 0 to 1"),
        (np.zeros((4, 4), np.int64), "an array of int64"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), r"a tensor of type torch\.int32"),
        ([], "the list of pictures is empty"),
        (np.array(["a.jpg", "b.jpg"]), r"give them as a list \(array\.tolist\(\)\)"),
        ("a" * 5000, "File name too long"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(model: ImageModel, picture: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        model.embed(picture)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (b"\xff\xd8\xff", "bytes are no picture: give the file's name"),
        (bytearray(3), "bytes are no picture"),
        ((name for name in ["a.jpg"]), "generator is no picture: .* or several of them as a list"),
        ({"a.jpg"}, "set is no picture"),
        (None, "NoneType is no picture"),
        ([["a.jpg"]], "list is no picture"),
    ],
)
def test_other_kinds_of_python_are_named(model: ImageModel, pictures: Any, message: str, untyped_caller: None) -> None:
    with pytest.raises(UserError, match=message):
        model.embed(pictures)


@pytest.mark.parametrize("batch", [0, -1, 1.5, "a", None, True])
def test_a_batch_has_a_whole_number_of_images(model: ImageModel, batch: Any, untyped_caller: None) -> None:
    with pytest.raises(UserError, match=r"batch=.*: give the number of images of a forward pass, a whole number"):
        model.embed([noise(1)], batch=batch)


def test_a_saved_index_is_read_by_the_name_it_was_saved_by(model: ImageModel, folder: Path, tmp_path: Path) -> None:
    index = model.index(folder)
    for name in ("index", "index.npz", "index.v2"):
        index.save(tmp_path / name)
        assert ImageIndex.read(tmp_path / name).names == index.names
        assert np.array_equal(ImageIndex.read(str(tmp_path / name)).embeddings, index.embeddings)


@pytest.mark.parametrize(
    "arrays",
    [
        {"names": np.array(["a"]), "embeddings": np.zeros((2, 3))},
        {"names": np.array(["a", "b"]), "embeddings": np.zeros(2)},
        {"names": np.array(["a", "b"]), "embeddings": np.array([["x"], ["y"]])},
    ],
)
def test_an_index_whose_names_belong_to_other_rows_is_refused(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    np.savez(tmp_path / "index.npz", **arrays)
    with pytest.raises(UserError, match="is not a saved index: it holds"):
        ImageIndex.read(tmp_path / "index.npz")


def test_an_index_takes_one_row_of_any_kind_of_numbers(model: ImageModel, folder: Path, untyped_caller: None) -> None:
    index = model.index(folder)
    row = index.embeddings[2]
    expected = index.nearest(row)
    assert expected[0].name == index.names[2]
    for kind in (row.tolist(), torch.from_numpy(row)):
        assert index.nearest(kind) == expected
    with pytest.raises(UserError, match="not finite"):
        index.nearest(np.full_like(row, np.nan))


def test_an_error_leaves_no_reading_threads_behind(model: ImageModel, folder: Path, tmp_path: Path) -> None:
    """The garbage collector would end them in any thread, perhaps in one of their own, which would wait for itself."""
    (tmp_path / "broken.png").write_bytes(b"no picture")
    pictures = [tmp_path / "broken.png", *[folder / "class0" / "0.png"] * 300]
    with pytest.raises(UserError) as caught:
        model.index(pictures)
    reading = [thread.name for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]
    assert caught.value.__traceback__ is not None, "it holds on to the frames, and so to what they read with"
    assert reading == []


def test_only_what_preprocess_may_have_returned_counts_as_preprocessed(model: ImageModel) -> None:
    whole = model.preprocess(noise(5))
    expected = logits_of(model, noise(5))
    assert model.embed(whole[None]) == pytest.approx(expected[None], abs=1e-6)
    assert model.embed([whole, whole.double()]) == pytest.approx(np.stack([expected] * 2), abs=1e-6)

    pixels = torch.from_numpy(np.asarray(noise(5)).copy()).permute(2, 0, 1)
    for wrong in (pixels / 255, pixels.float(), whole[:, :16], torch.zeros(1, 32, 32), [whole[None]]):
        with pytest.raises(
            UserError, match=r"floats count as preprocessed, here \(3, 32, 32\): give bytes \(c, h, w\)"
        ):
            model.distance(wrong, noise(5))
    with pytest.raises(UserError, match="not all finite: give bytes"):
        model.embed(torch.full((3, 32, 32), torch.nan))
    with pytest.raises(UserError, match="or what `preprocess` returns"):
        model.preprocess(pixels / 255)


@pytest.mark.parametrize("k", [-1, 0, 3.0, "3", True, None])
def test_a_number_of_neighbours_that_is_none_is_refused(
    model: ImageModel, folder: Path, k: Any, untyped_caller: None
) -> None:
    index = model.index(folder)
    for among in (folder, index):
        with pytest.raises(UserError, match="a whole number from 1 on"):
            model.nearest(noise(1), among, k=k)


def test_an_index_refuses_what_a_slice_would_take_for_something_else(model: ImageModel, folder: Path) -> None:
    index = model.index(folder)
    for k in (-1, 0):
        with pytest.raises(UserError, match="a whole number from 1 on"):
            index.nearest(index.embeddings[0], k)
    assert len(index.nearest(index.embeddings[0], 2)) == 2
    with pytest.raises(UserError, match="give one embedding of 8 numbers"):
        index.nearest(index.embeddings[0, :3])


def test_neighbours_are_those_of_one_picture(model: ImageModel, folder: Path, untyped_caller: None) -> None:
    index = model.index(folder)
    for query in (folder, [noise(1)], [noise(1), noise(2)]):
        with pytest.raises(UserError, match="the query is one picture"):
            model.nearest(query, index)


def test_an_empty_path_is_no_picture(model: ImageModel) -> None:
    for ask in (model.embed, model.preprocess, model.index):
        with pytest.raises(UserError, match=r"the path of (a picture|pictures) is empty"):
            ask("")
    with pytest.raises(UserError, match="the path of a picture is empty"):
        model.distance([""], noise(1))


FORKED = """
import os, signal, sys
import numpy as np, torch
from alignet_ray.models.hub import load

torch.set_num_threads(4)
model = load(sys.argv[1], device="cpu")
pictures = list(np.random.default_rng(0).integers(0, 256, (32, 64, 64, 3), dtype=np.uint8))
before = model.embed(pictures)
child = os.fork()
if child == 0:
    signal.alarm(60)
    same = np.allclose(model.embed(pictures), before, atol=1e-5)
    os._exit(0 if same and torch.get_num_threads() == 1 else 1)
assert os.waitpid(child, 0)[1] == 0
assert torch.get_num_threads() == 4
"""
"""A program that embeds, forks, and embeds in both processes."""


def test_a_forked_process_embeds_the_same(tmp_path: Path) -> None:
    save_network(tmp_path, make_network(NETWORK, 64, 8, seed=1), {"role": "student"})
    done = subprocess.run([sys.executable, "-c", FORKED, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
