"""What runs on GPUs keeps its tensors together there, and finds what it finds on a CPU."""

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.mixed_features import world
from support.pretended_gpu import PINNED, pretended_gpu
from support.small_corpus import SmallCorpus
from support.training import make_batches, make_recipe, save_checkpoint

from alignet_ray.config import Align, Soften
from alignet_ray.core import alignment, kmeans, labelling, triplet_set, vice
from alignet_ray.core import gpu as gpu_settings
from alignet_ray.data.embeddings import TeacherFeatures
from alignet_ray.images import resize
from alignet_ray.images.transfer import pack, prepare
from alignet_ray.models.backbone import load_backbone
from alignet_ray.models.embedding_network import make_network
from alignet_ray.models.features import Encoder
from alignet_ray.stages.cluster import ShardWorker
from alignet_ray.store import Store
from alignet_ray.training import checkpoints
from alignet_ray.training.batches import Batch
from alignet_ray.training.loop import Training

RNG = np.random.default_rng(0)


@pytest.fixture
def gpu() -> Iterator[None]:
    PINNED.clear()
    with pretended_gpu():
        yield


def test_it_refuses_what_a_gpu_refuses(gpu: None) -> None:
    there, here = torch.zeros(3, device="cuda"), torch.ones(3)
    assert str(there.device) == "cuda:0"
    assert there.is_cuda
    assert (there + here.to("cuda") + 1 + torch.tensor(2.0)).cpu().tolist() == [4, 4, 4]
    for wrong in (
        lambda: there + here,
        lambda: torch.cat([here, there]),
        lambda: here[there > 0],
        lambda: here.add_(there),
    ):
        with pytest.raises(RuntimeError, match="one device"):
            wrong()
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()


def test_a_lloyd_pass(gpu: None) -> None:
    x, c = (
        torch.from_numpy(RNG.normal(size=(5000, 8)).astype(np.float16)),
        torch.from_numpy(RNG.random((7, 8), np.float32)),
    )
    there, labels = kmeans.step(x.to("cuda"), c.to("cuda"), far=7)
    here, expected = kmeans.step(x, c, far=7)
    assert torch.equal(labels.cpu(), expected)
    for name, a, b in zip(here._fields, there, here, strict=True):
        if name == "sums":
            # A GPU adds up by a product, whose order is the same every time, but not that of the CPU.
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)
        else:
            np.testing.assert_array_equal(a, b)
    assert torch.equal(kmeans.assign(x.cuda(), c.cuda(), True)[0].cpu(), kmeans.assign(x, c, True)[0])


def test_shards_stay_on_the_gpu_while_there_is_room(gpu: None, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no room is sent again in every pass, and the result is the same."""
    corpus = SmallCorpus(store)
    features = TeacherFeatures(corpus.embed, corpus.align, Path(store.root) / "cache")
    centroids = features.matrix().features[:3].astype(np.float32)
    here = ShardWorker(features, None, spherical=False, shard_size=64)
    shards = math.ceil(len(here.rows) / 64)
    assert shards > 2
    expected = [here.assign(shard, centroids) for shard in range(shards)]

    answers = iter([True, False])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_settings, "fits", lambda size: next(answers))
    there = ShardWorker(features, None, spherical=False, shard_size=64)
    for _ in range(2):
        for shard, (partial, labels) in enumerate(expected):
            found, found_labels = there.assign(shard, centroids)
            np.testing.assert_array_equal(found_labels, labels)
            np.testing.assert_allclose(found.sums, partial.sums, rtol=1e-5, atol=1e-4)
    assert sorted(there.on_gpu) == [0, 1]


def test_resizing_never_computes_in_tf32(gpu: None, tf32: None, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: list[bool] = []
    resize_rows = resize._resize_rows

    def recorded(images: torch.Tensor, axis: resize.Axis) -> torch.Tensor:
        settings.append(torch.backends.cuda.matmul.allow_tf32)
        return resize_rows(images, axis)

    monkeypatch.setattr(resize, "_resize_rows", recorded)
    gpu_settings.set_tf32(True)
    pixels = torch.zeros((2, 9, 9, 3), dtype=torch.uint8).to("cuda")
    axis = resize.Axis(length=9, resized=5, first=0, kept=5, is_bicubic=True)
    assert resize.resize(pixels, axis, axis).shape == (2, 3, 5, 5)
    assert settings == [False]
    assert torch.backends.cuda.matmul.allow_tf32


def test_labels(gpu: None) -> None:
    x = torch.from_numpy(RNG.normal(size=(50, 8)).astype(np.float16))
    triplets = np.stack([RNG.permutation(50)[:3] for _ in range(1000)])
    there = labelling.odd_last(triplets, labelling.resident_similarities(x.cuda(), triplets, chunk=300))
    here = labelling.odd_last(triplets, labelling.similarities(x.numpy(), triplets))
    np.testing.assert_array_equal(there.triplets, here.triplets)
    np.testing.assert_allclose(there.similarities, here.similarities, rtol=1e-4, atol=1e-4)


def test_the_model_of_people(gpu: None) -> None:
    triplets = np.stack([RNG.permutation(12)[:3] for _ in range(300)])
    schedule = Soften().settings(vice.Schedule, dims=6, steps=200, batch_size=64)
    prior = Soften().settings(vice.Prior)
    here, there = (vice.fit(triplets, 12, schedule, prior, 0, None, device) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(there.mu, here.mu, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.25])
@pytest.mark.parametrize("kind", ["affine", "low_rank", "diagonal", "orthogonal"])
def test_a_map_of_the_teacher(gpu: None, kind: alignment.MapKind, alpha: float) -> None:
    x, human, rows = world()
    train, valid = (triplet_set.soft_targets(range(a, b), rows, human, 3_000) for a, b in ((0, 28), (28, 40)))
    settings = Align().settings(alignment.FitSettings, kind=kind, alpha=alpha, steps=60, batch_size=256)
    here, there = (alignment.fit(x, train, valid, settings, 0, None, device) for device in ("cpu", "cuda"))
    assert there.step == here.step
    np.testing.assert_allclose(there.transform.weights, here.transform.weights, atol=1e-5)
    np.testing.assert_allclose(there.transform(x), here.transform(x), atol=1e-4)
    assert there.score.cross_entropy == pytest.approx(here.score.cross_entropy, abs=1e-6)


def images(ids: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (40, 3, 32, 32), np.uint8)[ids])


EVERYTHING: dict[str, Any] = {
    **{"embedding_loss_weight": 1.0, "locality": 0.1, "ema_decay": 0.9, "crop": 0.8, "grad_clip": 1.0},
    **{"micro_batch": 8, "hard_fraction": 0.5, "l2_to_init": 0.1, "layer_decay": 0.7, "normalize": True},
}


@pytest.mark.parametrize("recipe", [{}, EVERYTHING], ids=["plain", "everything"])
def test_a_training_with_a_checkpoint_in_the_middle(gpu: None, store: Store, recipe: dict[str, Any]) -> None:
    ids = np.arange(40)
    batches = make_batches(ids, RNG.normal(size=(40, 8)).astype(np.float16), ids, 16)
    valid = Batch(ids[:12], torch.tensor([[0, 1, 2], [9, 4, 5]]), torch.tensor([[3.0, 1.0, 0.0], [2.0, 1.0, 0.5]]))

    def losses(device: str) -> Iterator[float]:
        """Of two updates, and of two more from their checkpoint on; then what the student is judged by."""
        out = store.draft("distill", device)
        for stop in (2, 4):
            settings = make_recipe(steps=4, lr=1e-3, **recipe)
            training = Training(make_network("random:test_convnext", 32, 16, 0), settings, device)
            checkpoints.resume(out, training)
            if not training.step:
                training.calibrate(batches, images)
            rows: list[float] = []

            def on_update(
                training: Training, figures: dict[str, float], rows: list[float] = rows, stop: int = stop
            ) -> None:
                rows.append(figures["loss"])
                if training.step == stop:
                    raise InterruptedError

            with suppress(InterruptedError):
                training.run(batches, images, on_update)
            save_checkpoint(out, training, checkpoints.MetricsLog())
            yield from rows
        yield from training.validate(valid, images).values()

    here = list(losses("cpu"))
    assert PINNED == []
    there = list(losses("cuda"))
    assert len(there) == 7
    assert set(PINNED) == {(16, 3, 32, 32)}, "a copy out of other memory waits for the GPU"
    np.testing.assert_allclose(there, here, rtol=1e-3)


@pytest.mark.parametrize("narrow", [False, True], ids=["float32", "bfloat16"])
def test_embedding_from_files_and_from_parcels(gpu: None, narrow: bool) -> None:
    """Pictures of one size are resized together where the network is; others were resized before."""
    sizes = ((40, 60), (40, 60), (300, 500), (33, 90))
    pictures = [Image.fromarray(RNG.integers(0, 256, (*size, 3), np.uint8)) for size in sizes]
    found = {}
    for device in ("cpu", "cuda"):
        backbone = load_backbone("random:test_convnext", 32)
        encoder = Encoder((backbone,), "none", device)
        if narrow:
            encoder.to_bfloat16()
        backbone.to(device)
        parcel = pack([prepare(picture, encoder.transforms, allow_unresized=True) for picture in pictures])
        pixels = parcel.unpack(encoder.transforms, device)
        assert pixels[0].device.type == device
        sent = encoder.encode_pixels(pixels, [0, 1, 2, 3], [], batch=3)
        opened = encoder.encode([lambda p=p: p for p in pictures], batch=3)
        np.testing.assert_array_equal(sent.columns["embedding"], opened.columns["embedding"])
        found[device] = sent.columns["embedding"]
    np.testing.assert_allclose(found["cuda"], found["cpu"], rtol=1e-5, atol=1e-6)
