"""Validation of a network teacher during training: its agreement with people on validation objects."""

import copy
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from alignet_ray.core import triplet_set
from alignet_ray.images.cache import DecodedImages
from alignet_ray.models.kernel_head import KernelHead
from alignet_ray.training.loop import Training
from alignet_ray.training.teacher_job import TeacherJob

MAX_KEYS = 2000
"""Annotated images that the head compares with during validation; the finished teacher compares with all."""


class BestUpdate(NamedTuple):
    """The update with the lowest cross-entropy on validation objects so far.

    Attributes:
        row: its row of metrics.
        weights: the network's state.
    """

    row: dict[str, float]
    weights: dict[str, Tensor]


class TeacherValidator:
    """Scores the teacher on validation objects and keeps the weights of the best update.

    Attributes:
        keys: training images that the head compares with, as positions in `job.train_rows`.
        key_rows: the same images as positions in `job.images.ids`.
        history: rows of metrics, one a validation.
        best: known from the first validation on.
    """

    best: BestUpdate

    def __init__(self, job: TeacherJob, training: Training, head: KernelHead) -> None:
        self.job = job
        self.training = training
        self.head = head
        self.triplets = job.triplet_set("validation")

        # The same keys at every validation: scores of two updates differ by the weights alone.
        rng = np.random.default_rng(job.seed)
        self.keys = np.sort(rng.permutation(len(job.train_rows))[:MAX_KEYS])
        self.key_rows = job.train_rows[self.keys]
        self.history: list[dict[str, float]] = []

    def validate(self, figures: dict[str, float]) -> dict[str, float]:
        """Score the teacher as it is now; the row of metrics holds these figures and the score."""
        # Only the images that the score needs are embedded: the keys and the validation objects' images.
        rows = np.union1d(self.key_rows, self.triplets.rows.numpy())
        features = extract_features(self.training, self.job.images, rows)
        head = self.head.subset(self.keys).with_features(features[self.key_rows])
        score = triplet_set.score(head(features), self.triplets, draws=2)

        row = {"step": float(self.training.step), **figures}
        row["accuracy"] = score.accuracy
        row["cross_entropy"] = score.cross_entropy
        self.history.append(row)

        # A copy, since training goes on in the same tensors.
        if len(self.history) == 1 or score.cross_entropy < self.best.row["cross_entropy"]:
            self.best = BestUpdate(row, copy.deepcopy(self.training.model.state_dict()))
        return row


@torch.no_grad()
def extract_features(
    training: Training, images: DecodedImages, rows: Int64[np.ndarray, " n"]
) -> Float[Tensor, "images d"]:
    """Embeddings of images as the network is now; one row for every image, zero for those that are not asked for.

    Args:
        training: holds the network.
        images: all images.
        rows: positions of the images to embed.
    """
    embeddings = training.predict(images.ids[rows], images).embedding.cpu()
    features = torch.zeros(len(images.ids), embeddings.shape[1])
    features[torch.from_numpy(rows)] = embeddings
    return features
