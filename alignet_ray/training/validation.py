"""Human agreement on held-out objects during training."""

import os
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from alignet_ray.artifacts.soften import SoftenArtifact
from alignet_ray.core import triplet_set
from alignet_ray.human.dataset import split_images
from alignet_ray.images.cache import DecodedImages
from alignet_ray.images.listing import list_images
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
        images_per_object: the first ones of each object; one is enough for triplets, which are of objects.
    """
    split = split_images(soften, images.ids)
    first_rows = {number: rows[:images_per_object] for number, rows in split["validation"].items()}

    # An image may show several objects; a decoder wants each id once, ascending.
    kept = np.unique(np.concatenate(list(first_rows.values())))
    paths = tuple(images.paths[row] for row in kept)
    shown = replace(images, ids=images.ids[kept], paths=paths)

    rows = {number: np.searchsorted(kept, own) for number, own in first_rows.items()}
    triplets = triplet_set.soft_targets(list(rows), rows, human, MAX_TRIPLETS)
    return HumanValidation(shown, list(rows.values()), triplets)


def object_images(soften: Artifact, uri: str, view: PixelTransform) -> DecodedImages:
    """The annotated objects' images, as a network sees them.

    Args:
        soften: says which images show objects.
        uri: the folder of the images.
        view: the network's resizing and cropping.
    """
    ids = SoftenArtifact(soften).annotated_image_ids()
    listed = list_images(uri)["path"]
    paths = tuple(listed[int(image_id)].as_py() for image_id in ids)  # an image's id is its row
    threads = max(1, (os.cpu_count() or 2) // 2)
    return DecodedImages(uri, ids, paths, view, threads)
