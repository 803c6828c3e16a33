"""Annotated objects with their images and the model of human choices, and odd-one-out trials on them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from alignet_ray.core import scores, vice
from alignet_ray.errors import UserError
from alignet_ray.evals.spaces import EmbeddingSpace, shared_ids

MIN_OBJECTS = 3
"""Objects that make a triplet."""


@dataclass(frozen=True)
class AnnotatedObjects:
    """Objects with human annotations: their images, and their rows in the model of human choices.

    Attributes:
        objects: object numbers in the human data.
        names, categories: for people; "" where unknown.
        images: image_ids of every object.
        mu, sigma: mean and standard deviation of every object's embedding in the human model (VICE).
    """

    objects: Int[np.ndarray, " m"]
    names: list[str]
    categories: list[str]
    images: list[Int[np.ndarray, " _"]]
    mu: Float[np.ndarray, "m d"]
    sigma: Float[np.ndarray, "m d"]

    def __len__(self) -> int:
        return len(self.objects)

    def take(self, rows: Int[np.ndarray, " k"]) -> "AnnotatedObjects":
        """The objects in these rows."""
        return AnnotatedObjects(
            self.objects[rows],
            [self.names[row] for row in rows],
            [self.categories[row] for row in rows],
            [self.images[row] for row in rows],
            self.mu[rows],
            self.sigma[rows],
        )

    def embedded_in(self, spaces: list[EmbeddingSpace]) -> "AnnotatedObjects":
        """Only images that every space holds, and only objects that have one; possibly none."""
        # An image that one model could not read is left out for all, so that every model is asked the same.
        shared = shared_ids(spaces)
        images = []
        rows_with_images = []
        for row, image_ids in enumerate(self.images):
            embedded = image_ids[np.isin(image_ids, shared)]
            images.append(embedded)
            if len(embedded):
                rows_with_images.append(row)
        return replace(self, images=images).take(np.array(rows_with_images, dtype=np.int64))

    def enough_embedded_in(self, spaces: list[EmbeddingSpace]) -> "AnnotatedObjects":
        """As `embedded_in`, for the test objects, which must make at least one triplet.

        Raises:
            UserError: fewer than three objects are left.
        """
        embedded = self.embedded_in(spaces)
        if len(embedded) < MIN_OBJECTS:
            raise UserError(
                f"{len(embedded)} test objects have readable images; at least {MIN_OBJECTS} are needed to score "
                "triplets: name more objects in objects.table"
            )
        return embedded

    def all_images(self) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """image_ids of all objects, and the row of the object that each belongs to."""
        owner = np.repeat(np.arange(len(self)), [len(image_ids) for image_ids in self.images])
        # The empty array gives no objects a type, too.
        return np.concatenate([np.empty(0, np.int64), *self.images]), owner

    def draw_images(self, draws: int, seed: int) -> Int[np.ndarray, "draws m"]:
        """A random image_id for each object and draw; a single draw where every object has one image."""
        # Without a choice every draw would be the same.
        if all(len(image_ids) == 1 for image_ids in self.images):
            draws = 1
        rng = np.random.default_rng(seed)
        return np.stack([rng.choice(image_ids, draws) for image_ids in self.images], axis=1)

    def human_similarity(self) -> Float[np.ndarray, "m m"]:
        """Dot products of the objects' embeddings in the human model.

        A fitted model goes through its ReLU; a published embedding (without sigma) is taken as it is.
        """
        embeddings = self.mu
        if self.sigma.any():
            embeddings = np.maximum(self.mu, 0)
        return np.asarray(embeddings @ embeddings.T)


def joined(parts: Sequence[AnnotatedObjects]) -> AnnotatedObjects:
    """The objects of all parts, one part after the other."""
    names: list[str] = []
    categories: list[str] = []
    images: list[Int[np.ndarray, " _"]] = []
    for part in parts:
        names += part.names
        categories += part.categories
        images += part.images
    return AnnotatedObjects(
        np.concatenate([part.objects for part in parts]),
        names,
        categories,
        images,
        np.concatenate([part.mu for part in parts]),
        np.concatenate([part.sigma for part in parts]),
    )


@dataclass(frozen=True)
class TripletTrials:
    """Odd-one-out trials: triplets of annotated objects (row numbers), and how likely people choose each pair."""

    triplets: Int[np.ndarray, "t 3"]
    probabilities: Float[np.ndarray, "t 3"]

    @classmethod
    def of(cls, annotated: AnnotatedObjects, limit: int, draws: int, seed: int) -> "TripletTrials":
        """All triplets of the objects (at most `limit`), with the choices of the human model (`draws` of it)."""
        triplets = scores.all_triplets(len(annotated), limit, seed)
        probabilities = vice.choice_probabilities(annotated.mu, annotated.sigma, triplets, draws, seed)
        return cls(triplets, probabilities)

    def __len__(self) -> int:
        return len(self.triplets)
