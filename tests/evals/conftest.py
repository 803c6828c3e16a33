"""Annotated objects and spaces with known properties, without images or files."""

from collections.abc import Callable

import numpy as np
import pytest

from alignet_ray.evals.annotated_objects import AnnotatedObjects
from alignet_ray.evals.spaces import EmbeddingSpace

CATEGORIES = ("animal", "food", "tool", "vehicle")


def annotated(objects: int = 24, images: int = 3, first: int = 0, seed: int = 0, dims: int = 8) -> AnnotatedObjects:
    """Objects in four categories, `images` images each, whose people see little but the category."""
    rng = np.random.default_rng([seed, first])
    mu = np.abs(rng.normal(0, 0.3, (objects, dims))).astype(np.float32)
    code = np.arange(objects) % len(CATEGORIES)
    mu[np.arange(objects), code] += 2
    ids = [np.arange(images) + images * (first + o) for o in range(objects)]
    names = [f"thing {first + o}" for o in range(objects)]
    numbers = np.arange(objects) + first
    return AnnotatedObjects(numbers, names, [CATEGORIES[c] for c in code], ids, mu, np.zeros_like(mu))


def space(
    sides: list[AnnotatedObjects], meaning: float, noise: float, model: str = "base", kind: str = "cosine"
) -> EmbeddingSpace:
    """An embedding of all images of `sides`: people's space times `meaning` plus noise."""
    ids = np.concatenate([side.all_images()[0] for side in sides])
    mu = np.concatenate([side.mu[side.all_images()[1]] for side in sides])
    rng = np.random.default_rng(int(1000 * meaning + 10 * noise))
    x = meaning * np.pad(mu, ((0, 0), (0, 8))) + noise * rng.normal(size=(len(ids), mu.shape[1] + 8))
    return EmbeddingSpace(model, "pre_logits", ids, x.astype(np.float32), kind)  # type: ignore[arg-type]


@pytest.fixture
def make_annotated() -> Callable[..., AnnotatedObjects]:
    return annotated


@pytest.fixture
def make_space() -> Callable[..., EmbeddingSpace]:
    return space
