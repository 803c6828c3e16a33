"""Data that the network teacher trains on: annotated objects' images, and what people say about their triplets."""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from alignet_ray.artifacts.student_files import Provenance
from alignet_ray.config import Network
from alignet_ray.core import scores, triplet_set
from alignet_ray.human.dataset import SCORED_TRIPLETS
from alignet_ray.images.cache import DecodedImages
from alignet_ray.store import Draft
from alignet_ray.training.batches import Batch

POSTERIOR_DRAWS = 10
"""Largest number of posterior draws that a batch's choice probabilities are averaged over."""

MAX_TRIPLETS = 16_384
"""Triplets a step; drawn at random where a batch has more."""


@dataclass(frozen=True)
class AnnotatedBatch(Batch):
    """A batch of images that show annotated objects.

    Attributes:
        dimensions: human dimensions of the object that each image shows.
    """

    dimensions: Float[Tensor, "n k"] = field(kw_only=True)


@dataclass(frozen=True)
class HumanBatches:
    """Batches with the model of human choices as the teacher: its log probabilities are the target logits.

    Attributes:
        image_ids: images that may be drawn.
        object_images: positions in `image_ids` of every object's images.
        human: the model of human choices, for these objects in this order.
        batch_size: objects a step, one random image each.
        seed: of all draws.
    """

    image_ids: Int64[np.ndarray, " n"]
    object_images: tuple[Int64[np.ndarray, " _"], ...]
    human: triplet_set.HumanModel
    batch_size: int
    seed: int

    def __call__(self, step: int) -> AnnotatedBatch:
        """The batch of a step: distinct objects, all of them equally often."""
        # A generator for each step makes the batch a function of the step: all processes draw the same one.
        rng = np.random.default_rng([self.seed, step])
        drawn = rng.permutation(len(self.object_images))[: self.batch_size]
        rows = np.array([rng.choice(self.object_images[number]) for number in drawn])
        triplets = scores.all_triplets(len(drawn), MAX_TRIPLETS, int(rng.integers(2**31)))

        # A few posterior draws, other ones in each step: noise averages out over the updates.
        draws = min(self.human.draws, POSTERIOR_DRAWS)
        human = triplet_set.HumanModel(self.human.mu[drawn], self.human.sigma[drawn], draws, step)
        return AnnotatedBatch(
            image_ids=self.image_ids[rows],
            triplets=torch.from_numpy(triplets),
            logits=log_probabilities(human.probabilities(triplets)),
            dimensions=torch.from_numpy(human.dimensions()),
        )


def log_probabilities(probabilities: Float32[np.ndarray, "t 3"]) -> Float[Tensor, "t 3"]:
    """Probabilities as logits at temperature 1: their softmax gives the probabilities back."""
    # Probabilities estimated from few draws can be zero, whose logarithm is not finite.
    return torch.from_numpy(probabilities).clamp_min(1e-6).log()


@dataclass(frozen=True)
class TeacherJob:
    """What every training process gets.

    Attributes:
        settings: the config section.
        model: name of the pretrained network.
        size: side of its square input in pixels; None: the model's own.
        seed: of batches and augmentation.
        out: where the teacher goes.
        human: the model of human choices.
        split: for each split, object -> positions of its images in `images.ids`.
        images: of all annotated objects.
        threads: CPU threads of each process.
        provenance: what model.json says of the teacher's origin.
    """

    settings: Network
    model: str
    size: int | None
    seed: int
    out: Draft
    human: triplet_set.HumanModel
    split: dict[str, dict[int, Int64[np.ndarray, " _"]]]
    images: DecodedImages
    threads: int
    provenance: Provenance

    @property
    def train_rows(self) -> Int64[np.ndarray, " n"]:
        """Positions of the training objects' images, object by object."""
        return np.concatenate(list(self.split["train"].values()))

    def batches(self, batch_size: int) -> HumanBatches:
        """Batches of training objects."""
        members = self.split["train"]
        objects = np.array(list(members))
        human = triplet_set.HumanModel(self.human.mu[objects], self.human.sigma[objects], self.human.draws, self.seed)
        return HumanBatches(self.images.ids, tuple(members.values()), human, batch_size, self.seed)

    def triplet_set(self, split: str) -> triplet_set.TripletSet:
        """All triplets among the objects of a split, with human choice probabilities."""
        members = self.split[split]
        return triplet_set.soft_targets(list(members), members, self.human, SCORED_TRIPLETS)
