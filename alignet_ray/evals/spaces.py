"""Embedding spaces: the embeddings of images by one layer of one model, which is what evaluations compare."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import Float, Int

from alignet_ray.artifacts.schemas import positions_of
from alignet_ray.core import similarity

Result = TypeVar("Result")

Kind = Literal["cosine", "dot"]
"""Similarity of the embeddings of a space."""

MODEL_TITLES = {
    "base": "base",
    "teacher": "teacher",
    "student": "aligned student",
    "control": "unaligned control",
    "human": "ceiling",
}
"""Models of the scores table -> the names that people read, in the order of tables."""


@dataclass(frozen=True)
class EmbeddingSpace:
    """Embeddings of images by one layer of one model.

    Attributes:
        model, layer: names in the scores table.
        ids: image_ids, ascending.
        embeddings: one row per image.
        kind: the similarity that belongs to the space.
    """

    model: str
    layer: str
    ids: Int[np.ndarray, " n"]
    embeddings: Float[np.ndarray, "n d"]
    kind: Kind = "cosine"

    @property
    def name(self) -> tuple[str, str]:
        """(model, layer), which no two spaces of a run share."""
        return self.model, self.layer

    def rows(self, image_ids: Int[np.ndarray, "*s"]) -> Float[np.ndarray, "*s d"]:
        """Embeddings of images, which must all be there, in float32."""
        return np.asarray(self.embeddings[positions_of(self.ids, image_ids)], dtype=np.float32)

    def features(self, image_ids: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n d"]:
        """As `rows`, scaled so that dot products are the similarities of the space."""
        embeddings = self.rows(image_ids)
        if self.kind == "cosine":
            return similarity.unit_rows(embeddings)
        return embeddings


def each_space(evaluate: Callable[[EmbeddingSpace], Result], spaces: Sequence[EmbeddingSpace]) -> list[Result]:
    """The results of a function for every space, computed in parallel threads."""
    # Threads, not processes: numpy lets go of Python's lock while it computes, and nothing has to be copied.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(evaluate, spaces))


def shared_ids(spaces: list[EmbeddingSpace]) -> Int[np.ndarray, " n"]:
    """image_ids that every space holds, ascending."""
    shared = spaces[0].ids
    for space in spaces[1:]:
        shared = np.intersect1d(shared, space.ids)
    return shared
