"""Annotated objects for tests of training: generated images, and people who sort them by colour."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from alignet_ray.config import Config
from alignet_ray.human import objects
from alignet_ray.images.listing import list_images
from alignet_ray.store import Artifact, Store

OBJECTS = 30


@pytest.fixture
def truth() -> np.ndarray:
    """People sort by colour: red, green and blue things."""
    return (2 * np.eye(3, dtype=np.float32))[np.arange(OBJECTS) % 3]


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    """Two images an object: its colour in a random place on noise."""
    rng = np.random.default_rng(0)
    for n in range(OBJECTS):
        folder = tmp_path / "images" / f"o{n:02d}"
        folder.mkdir(parents=True)
        for k in range(2):
            pixels = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
            y, x = rng.integers(0, 12, 2)
            pixels[y : y + 20, x : x + 20, n % 3] = 255
            Image.fromarray(pixels).save(folder / f"{k}.png")
    return Config().replace(
        corpus__path=str(tmp_path / "images"),
        embed__model=("random:test_efficientnet_ln",),
        embed__size=32,
        align__map="network",
        align__network__steps=12,
        align__network__every=4,
        align__network__batch_size=16,
        align__network__lr=1e-3,
        align__network__workers=1,
        align__network__crop=1.0,
    )


@pytest.fixture
def soften(store: Store, cfg: Config, truth: np.ndarray) -> Artifact:
    listed = list_images(str(cfg.corpus.path))
    ids: dict[int, list[int]] = {}
    for row in listed.to_pylist():
        ids.setdefault(OBJECTS - 1 - int(row["label"][1:]), []).append(row["image_id"])  # not in the images' order
    draft = store.draft("soften", "s")
    draft.write_bytes("embedding.safetensors", safetensors.numpy.save({"mu": truth, "sigma": 0 * truth}))
    draft.write_table("objects.parquet", objects.objects_table(0, OBJECTS, [], ids))
    return draft.finish({})
