"""What evaluations read: the spaces to be judged, and the objects with what people think of them."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from alignet_ray.core import scores, similarity, vice
from alignet_ray.errors import UserError

NAMES = {
    "base": "base",
    "teacher": "teacher",
    "student": "aligned student",
    "control": "unaligned control",
    "human": "ceiling",
}
"""Models of the scores table -> what people read, in the order of the columns."""


@dataclass(frozen=True)
class Space:
    """Embeddings of images by one layer of one model.

    Attributes:
        model, layer: names in the scores table.
        ids: image_ids, ascending.
        x: one row per id.
        kind: the similarity that belongs to the space.
    """

    model: str
    layer: str
    ids: Int[np.ndarray, " n"]
    x: Float[np.ndarray, "n d"]
    kind: Literal["cosine", "dot"] = "cosine"

    def rows(self, image_ids: Int[np.ndarray, "*s"]) -> Float[np.ndarray, "*s d"]:
        """Embeddings of images, which must all be there, in float32."""
        position = np.minimum(np.searchsorted(self.ids, image_ids), len(self.ids) - 1)
        assert (self.ids[position] == image_ids).all(), f"{self.model} {self.layer} lacks images"
        return self.x[position].astype(np.float32)

    def features(self, image_ids: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n d"]:
        """As `rows`, scaled so that dot products are the space's similarities."""
        x = self.rows(image_ids)
        return similarity.unit(x) if self.kind == "cosine" else x


@dataclass(frozen=True)
class AnnotatedObjects:
    """Objects that people judged, with their images and the model of human choices.

    Attributes:
        objects: rows of the human data.
        names, categories: for people; "" where unknown.
        images: image_ids of every object.
        mu, sigma: the human model's rows of these objects.
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
        """Some of the objects."""
        return AnnotatedObjects(
            self.objects[rows],
            [self.names[r] for r in rows],
            [self.categories[r] for r in rows],
            [self.images[r] for r in rows],
            self.mu[rows],
            self.sigma[rows],
        )

    def seen_by(self, spaces: list[Space]) -> "AnnotatedObjects":
        """Only images that every space holds, and only objects that have one.

        Raises:
            UserError: if fewer than three objects are left.
        """
        seen = self.shown(spaces)
        if len(seen) < 3:
            raise UserError(
                f"{len(seen)} test objects have readable images; at least 3 are needed to score triplets: "
                "name more objects in objects.table"
            )
        return seen

    def shown(self, spaces: list[Space]) -> "AnnotatedObjects":
        """As `seen_by`, but for uses that can do without: few objects, or none, are no mistake."""
        shared = _shared_ids(spaces)
        images = [ids[np.isin(ids, shared)] for ids in self.images]
        kept = np.array([row for row, ids in enumerate(images) if len(ids)], dtype=np.int64)
        return replace(self, images=images).take(kept)

    def all_images(self) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """image_ids of all objects, and the row of the object each belongs to."""
        owner = np.repeat(np.arange(len(self)), [len(ids) for ids in self.images])
        return np.concatenate([np.empty(0, np.int64), *self.images]), owner

    def picks(self, draws: int, seed: int) -> Int[np.ndarray, "draws m"]:
        """One random image per object and draw; a single draw where every object has one image."""
        if all(len(ids) == 1 for ids in self.images):
            draws = 1
        rng = np.random.default_rng(seed)
        return np.stack([rng.choice(ids, draws) for ids in self.images], axis=1)

    def human_similarity(self) -> Float[np.ndarray, "m m"]:
        """Dot products of the human model's (non-negative) embedding."""
        x = np.maximum(self.mu, 0) if self.sigma.any() else self.mu
        return np.asarray(x @ x.T)


def _shared_ids(spaces: list[Space]) -> Int[np.ndarray, " n"]:
    shared = spaces[0].ids
    for space in spaces[1:]:
        shared = np.intersect1d(shared, space.ids)
    return shared


@dataclass(frozen=True)
class Trials:
    """Triplets of judged objects (as row numbers) and the probabilities that people choose each pair."""

    triplets: Int[np.ndarray, "t 3"]
    probabilities: Float[np.ndarray, "t 3"]

    @classmethod
    def of(cls, judged: AnnotatedObjects, limit: int, draws: int, seed: int) -> "Trials":
        """All triplets of the objects (at most `limit`), judged by the human model."""
        triplets = scores.all_triplets(len(judged), limit, seed)
        return cls(triplets, vice.choice_probabilities(judged.mu, judged.sigma, triplets, draws, seed))
