"""Recipes and batches for tests of training: the defaults of the config, but for what a test sets."""

from contextlib import closing
from typing import Any

import numpy as np

from alignet_ray.config import Config
from alignet_ray.store import Draft
from alignet_ray.training.batches import InBatchTriplets
from alignet_ray.training.checkpoints import CheckpointWriter, MetricsLog
from alignet_ray.training.loop import Training
from alignet_ray.training.recipe import Recipe, student_recipe


def make_recipe(**changes: Any) -> Recipe:
    """The default recipe of a student without warm-up and without the loss on the embeddings; `changes` are config
    fields of `distill`, and `seed`."""
    seed = changes.pop("seed", 0)
    plain = {"warmup": 0, "embedding_loss_weight": 0.0}
    section = type(Config().distill).model_validate(plain | changes)
    return student_recipe(section, seed)


def make_batches(
    ids: np.ndarray, teacher: np.ndarray, rows: np.ndarray, batch_size: int, **changes: Any
) -> InBatchTriplets:
    """In-batch triplets of images drawn uniformly."""
    settings: dict[str, Any] = {
        "seed": 0,
        "scale": 1.0,
        "max_triplets": Config().distill.in_batch_triplets,
        "clusters": None,
        "images_per_cluster": 0,
    }
    return InBatchTriplets(ids, teacher, rows, batch_size, **(settings | changes))


def save_checkpoint(out: Draft, training: Training, metrics: MetricsLog) -> None:
    """Write a checkpoint, and wait until it is there."""
    with closing(CheckpointWriter(out)) as writer:
        writer.save(training, metrics)
        writer.wait()
