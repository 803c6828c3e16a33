"""Features of images: what happens when the memory of the device is too small for a batch."""

import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo.testing
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from alignet_ray.errors import UserError
from alignet_ray.models.features import Encoder, is_convolutional
from alignet_ray.stages.embed_actor import compiling_pays, pass_size


class Small(Encoder):
    """An encoder on a device that holds `room` images."""

    room = 3

    def _columns(self, member: object, x: Tensor) -> dict[str, Tensor]:
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super()._columns(member, x)  # type: ignore[arg-type]


def pictures(n: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)) for _ in range(n)]


def test_a_batch_that_does_not_fit_is_halved_until_it_does() -> None:
    whole = Encoder.load(["random:test_efficientnet_ln"], 32)
    small = Small(whole.members)
    images = [lambda image=image: image for image in pictures(11)]
    expected, found = whole.encode(images, 8), small.encode(images, 8)
    assert small.max_batch == 2
    assert found.kept == expected.kept == list(range(11))
    assert not found.errors
    np.testing.assert_allclose(found.columns["embedding"], expected.columns["embedding"], rtol=1e-4, atol=1e-5)


def test_an_image_that_never_fits_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Small, "room", 0)
    small = Small(Encoder.load(["random:test_efficientnet_ln"], 32).members)
    with pytest.raises(UserError, match="use a smaller"):
        small.encode([lambda: pictures(1)[0]], 8)


def test_channels_lie_last_where_that_is_faster_with_the_same_result() -> None:
    """In the order of memory alone: the embeddings of convolutional networks differ by rounding, others not at all."""
    images = [lambda image=image: image for image in pictures(5)]
    for name, is_last in (("test_efficientnet", True), ("test_resnet", True), ("test_vit", False)):
        encoder = Encoder.load([f"random:{name}"], 64)
        assert is_convolutional(encoder.members[0]) is is_last
        for layer in encoder.members[0].modules():
            if isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (3, 3) and min(layer.weight.shape[:2]) > 1:
                assert layer.weight.is_contiguous(memory_format=torch.channels_last) is is_last
        found = encoder.encode(images, 3).columns["embedding"]
        plain = Encoder(tuple(member.to(memory_format=torch.contiguous_format) for member in encoder.members))
        expected = plain.encode(images, 3).columns["embedding"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "test_convnext", "test_efficientnet_ln"])
def test_bfloat16_weights_stay_near(name: str) -> None:
    images = [lambda image=image: image for image in pictures(5)]
    float32, bfloat16 = (Encoder.load([f"random:{name}"], 64) for _ in range(2))
    bfloat16.to_bfloat16()
    expected, found = (encoder.encode(images, 3).columns["embedding"] for encoder in (float32, bfloat16))
    assert found.dtype == np.float32
    assert cosines(expected, found).min() > 0.999
    statistics = [m for m in bfloat16.members[0].modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(m.running_var is not None and m.running_var.dtype == torch.float32 for m in statistics)
    assert {p.dtype for p in bfloat16.members[0].parameters()} >= {torch.bfloat16}


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_encoder_takes_one_batch_size(backend: str) -> None:
    if backend == "inductor" and not shutil.which("g++"):
        pytest.skip("needs a C++ compiler")
    torch._dynamo.reset()
    plain, compiled = (Encoder.load(["random:test_vit", "random:test_efficientnet"], 32) for _ in range(2))
    compiled.compile(4, backend)
    images = [lambda image=image: image for image in pictures(10)]
    expected, found = plain.encode(images, 4), compiled.encode(images, 4)
    assert found.kept == list(range(10))
    np.testing.assert_allclose(found.columns["embedding"], expected.columns["embedding"], rtol=1e-3, atol=1e-4)


def test_compiled_once_for_all_batches() -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    encoder = Encoder.load(["random:test_vit"], 32)
    encoder.compile(4, counter)
    images = [lambda image=image: image for image in pictures(10)]
    encoder.encode(images[:4], 4)
    first = counter.frame_count
    assert first > 0
    encoder.encode(images, 4)
    assert counter.frame_count == first


@pytest.mark.parametrize("reason", ["Failed to find C compiler. Please specify via CC env variable.", "no such kernel"])
def test_networks_that_cannot_be_compiled_go_on_as_they_are(reason: str) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError(reason)

    torch._dynamo.reset()
    plain, compiled = (Encoder.load(["random:test_vit"], 32) for _ in range(2))
    compiled.compile(4, broken)
    images = [lambda image=image: image for image in pictures(10)]
    expected, found = plain.encode(images, 4), compiled.encode(images, 4)
    assert reason in compiled.not_compiled
    assert compiled.compiled_batch == 0
    np.testing.assert_array_equal(found.columns["embedding"], expected.columns["embedding"])


def test_without_a_compiler_on_the_path_the_run_goes_on(tmp_path: Path) -> None:
    """torch's own compiler, in a process that finds no C or C++ compiler."""
    code = """
import numpy as np
from PIL import Image
from alignet_ray.models.features import Encoder
image = Image.fromarray(np.zeros((40, 40, 3), np.uint8))
encoder = Encoder.load(["random:test_vit"], 32)
encoder.compile(2)
found = encoder.encode([lambda: image] * 4, 2)
print(found.columns["embedding"].shape, encoder.not_compiled)
"""
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path / "cache")
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shape, _, reason = done.stdout.partition(") ")
    assert shape.startswith("(4, ")
    assert "compiler" in reason.lower()


def test_memory_that_is_short_for_a_compiled_pass_is_no_failure_of_the_compiler() -> None:
    def full(*_: object) -> object:
        def forward(*_: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        return forward

    torch._dynamo.reset()
    encoder = Encoder.load(["random:test_vit"], 32)
    encoder.compile(1, full)
    with pytest.raises(UserError, match="use a smaller"):
        encoder.encode([lambda: pictures(1)[0]], 1)
    assert encoder.not_compiled == ""


@given(unit=st.integers(1, 256), batch=st.integers(1, 512))
def test_compiled_passes_divide_a_unit_unless_they_would_be_tiny(unit: int, batch: int) -> None:
    size = pass_size(unit, batch)
    largest = min(unit, batch)
    assert 1 <= size <= largest
    if unit % size == 0:
        assert 2 * size > largest
    else:
        assert size == largest
    # Copies that fill up a pass never cost more than the plain batch would.
    assert math.ceil(unit / size) * size <= math.ceil(unit / largest) * largest


def test_256_images_take_passes_of_64_and_not_288_forward_passes() -> None:
    assert pass_size(256, 96) == 64
    assert pass_size(256, 256) == 256
    assert pass_size(251, 96) == 96, "a prime number has no smaller divisor than itself but 1"


def test_pixels_from_another_process_give_the_same() -> None:
    encoder = Encoder.load(["random:test_vit", "random:test_resnet"])
    images = [lambda image=image: image for image in pictures(9)]
    expected = encoder.encode(images, 4)
    pixels = [torch.stack([transform(image()) for image in images]) for transform in encoder.transforms]
    found = encoder.encode_pixels(pixels, list(range(9)), [], 4)
    np.testing.assert_array_equal(found.columns["embedding"], expected.columns["embedding"])
    some = encoder.encode_pixels([x[[0, 2, 3, 7]] for x in pixels], [0, 2, 3, 7], [(1, "empty file")], 3)
    np.testing.assert_allclose(
        some.columns["embedding"], expected.columns["embedding"][[0, 2, 3, 7]], rtol=1e-4, atol=1e-5
    )
    assert some.errors == [(1, "empty file")]
    nothing = encoder.encode_pixels([x[:0] for x in pixels], [], [(i, "empty file") for i in range(9)], 4)
    assert nothing.columns["embedding"].shape == (0, expected.columns["embedding"].shape[1])


def test_compiling_must_pay() -> None:
    assert not compiling_pays(10_000, 1 / 5000)
    assert compiling_pays(1_281_167 // 2, 1 / 1000)
