"""Human agreement on held-out objects during training."""

import os
from dataclasses import dataclass, replace

import numpy as np

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
    """Validation objects, one image each, and what people say about their triplets.

    Attributes:
        images: the objects' images, as the student sees them.
        triplets: rows are positions in `images.ids`.
    """

    images: DecodedImages
    triplets: triplet_set.TripletSet

    def agreement(self, training: Training) -> float:
        """Expected share of human choices that the cosines of the embeddings make; the same in all processes."""
        batch = Batch(self.images.ids, self.triplets.triplets, self.triplets.targets)
        output = training.predict_distributed(self.images.ids, self.images)
        _, embeddings = training.representations(output, batch)
        return triplet_set.score(embeddings.cpu(), self.triplets).accuracy


def human_validation(soften: Artifact, human: triplet_set.HumanModel, images: DecodedImages) -> HumanValidation:
    """One image of each validation object, with all triplets among these objects.

    Args:
        soften: the split of the objects.
        human: the model of human choices.
        images: of all annotated objects.
    """
    # One image an object: validation runs often, and its triplets are of objects.
    split = split_images(soften, images.ids)
    first_rows = {number: int(rows[0]) for number, rows in split["validation"].items()}

    # An image may show several objects; a decoder wants each id once, ascending.
    kept = np.unique(list(first_rows.values()))
    paths = tuple(images.paths[row] for row in kept)
    shown = replace(images, ids=images.ids[kept], paths=paths)

    rows = {number: np.searchsorted(kept, [row]) for number, row in first_rows.items()}
    return HumanValidation(shown, triplet_set.soft_targets(list(rows), rows, human, MAX_TRIPLETS))


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
