"""Human agreement on held-out objects during training."""

import os
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int, Int64
from torch import Tensor

from alignet_ray.artifacts.soften import SoftenArtifact
from alignet_ray.core import triplet_set
from alignet_ray.human.dataset import split_images
from alignet_ray.images.cache import DecodedImages
from alignet_ray.images.listings import Listings
from alignet_ray.images.transform import PixelTransform
from alignet_ray.store import Artifact
from alignet_ray.training.batches import Batch
from alignet_ray.training.loop import Training

MAX_TRIPLETS = 20_000
"""Largest number of triplets of a validation."""


@dataclass(frozen=True)
class HumanValidation:
    """Validation objects with their images, and what people say about their triplets.

    Attributes:
        images: the objects' images, as the student sees them.
        rows: positions in `images.ids` of every object's images.
        triplets: its `rows` are the same, padded.
    """

    images: DecodedImages
    rows: list[Int64[np.ndarray, " _"]]
    triplets: triplet_set.TripletSet

    def image_ids(self) -> list[Int64[np.ndarray, " _"]]:
        """image_ids of every object."""
        return [self.images.ids[rows] for rows in self.rows]

    def one_image_each(self) -> "HumanValidation":
        """The same objects and triplets with the first image of each object alone."""
        rows = [own[:1] for own in self.rows]
        return HumanValidation.of(self.images, rows, self.triplets.triplets, self.triplets.targets)

    @classmethod
    def of(
        cls,
        images: DecodedImages,
        rows: list[Int64[np.ndarray, " _"]],
        triplets: Int[Tensor, "t 3"],
        targets: Float[Tensor, "t 3"],
    ) -> "HumanValidation":
        """Of these rows of `images` alone."""
        # An image may show several objects; a decoder wants each id once, ascending.
        kept = np.unique(np.concatenate(rows))
        places = [np.searchsorted(kept, own) for own in rows]
        return cls(images.chosen(kept), places, triplet_set.TripletSet.of(places, triplets.numpy(), targets.numpy()))

    def agreement(self, training: Training) -> float:
        """Expected share of human choices that the cosines of the embeddings make; the same in all processes."""
        batch = Batch(self.images.ids, self.triplets.triplets, self.triplets.targets)
        output = training.predict_distributed(self.images.ids, self.images)
        _, embeddings = training.representations(output, batch)
        return triplet_set.score(embeddings.cpu(), self.triplets).accuracy


def human_validation(
    soften: Artifact, human: triplet_set.HumanModel, images: DecodedImages, images_per_object: int = 1
) -> HumanValidation:
    """Images of each validation object, with all triplets among these objects.

    Args:
        soften: the split of the objects.
        human: the model of human choices.
        images: of all annotated objects.
        images_per_object: the first ones of each object, without those that cannot be read.

    Raises:
        UserError: fewer than three objects have images that can be read.
    """
    split = split_images(soften, images.ids)
    first = np.unique(np.concatenate([rows[:images_per_object] for rows in split["validation"].values()]))
    shown, _ = images.chosen(first).readable()

    rows = split_images(soften, shown.ids, ("validation",))["validation"]
    triplets = triplet_set.soft_targets(list(rows), rows, human, MAX_TRIPLETS)
    return HumanValidation.of(shown, list(rows.values()), triplets.triplets, triplets.targets)


def object_images(soften: Artifact, uri: str, listings: Listings, view: PixelTransform) -> DecodedImages:
    """The annotated objects' images, as a network sees them.

    Args:
        soften: says which images show objects.
        uri: the folder of the images.
        listings: of the run's folders.
        view: the network's resizing and cropping.
    """
    ids = SoftenArtifact(soften).annotated_image_ids()
    paths = pa.array(listings.paths(uri, ids), pa.string())
    threads = max(1, (os.cpu_count() or 2) // 2)
    return DecodedImages(uri, ids, paths, view, threads)
