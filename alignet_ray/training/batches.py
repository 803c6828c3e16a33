"""Training batches as a pure function of (seed, step), so that a run can resume exactly at any step.

A batch names image ids and triplets of positions among them with the teacher's logits. The number of workers decides
how the images of a batch are split, never which images they are.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from alignet_ray.artifacts.label import IMAGE_COLUMNS, SIMILARITY_COLUMNS, LabelArtifact, Subset
from alignet_ray.artifacts.schemas import column_matrix
from alignet_ray.core import sampling
from alignet_ray.core.gpu import exact_products
from alignet_ray.core.triplets import gram_similarities
from alignet_ray.data.triplet_sampling import require_images
from alignet_ray.store import Artifact


@dataclass(frozen=True)
class Batch:
    """Images and the triplets among them.

    Attributes:
        image_ids: in the order in which the images are forwarded.
        triplets: positions in `image_ids`.
        logits: the teacher's similarities of the pairs (0, 1), (0, 2), (1, 2): logits at temperature 1 of the choices
            that the student is to learn. None: they are dot products of `embeddings`.
        embeddings: the teacher's, of the images, in the stored number format. Their dot products are one matrix
            product, for which a GPU takes no time, and a CPU's thread as long as a training step.
        scale: factor of these dot products.
    """

    image_ids: Int[np.ndarray, " n"]
    triplets: Int[Tensor, "t 3"]
    logits: Float[Tensor, "t 3"] | None
    embeddings: Float[Tensor, "n p"] | None = None
    scale: float = 1.0

    def targets(self, device: str) -> Float[Tensor, "t 3"]:
        """The teacher's similarities of the triplets, on a device."""
        if self.logits is not None:
            return self.logits.to(device)
        assert self.embeddings is not None, "a batch has logits or embeddings"
        # The matrix is stored in half precision; similarities need more.
        rows = self.embeddings.to(device).float()
        with exact_products():
            gram = rows @ rows.T * self.scale
        return gram_similarities(gram, self.triplets.to(device))


Batches = Callable[[int], Batch]
"""The batch of every step."""


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, rows: int) -> Int[np.ndarray, " rows"]:
    return np.random.default_rng([seed, epoch]).permutation(rows)


def epoch_rows(seed: int, step: int, batch_size: int, rows: int) -> Int[np.ndarray, " batch"]:
    """Rows of a step when epochs are random permutations laid end to end: every row once an epoch.

    A batch that spans two epochs may hold a row twice.
    """
    start = step * batch_size
    stop = start + batch_size
    pieces = []
    while start < stop:
        epoch, offset = divmod(start, rows)
        count = min(rows - offset, stop - start)
        pieces.append(_epoch_order(seed, epoch, rows)[offset : offset + count])
        start += count
    return np.concatenate(pieces)


def distinct_rows(seed: int, step: int, batch_size: int, rows: int) -> Int[np.ndarray, " batch"]:
    """Distinct rows of a step: whole batches out of each epoch's permutation, without the remainder.

    Raises:
        UserError: there are fewer rows than a batch holds.
    """
    require_images(batch_size, rows)
    epoch, position = divmod(step, rows // batch_size)
    start = position * batch_size
    return _epoch_order(seed, epoch, rows)[start : start + batch_size]


@dataclass(frozen=True)
class LabelledBatches:
    """The published scheme (Muttenthaler et al. 2025): labelled triplets, three images each.

    Attributes:
        image_ids: images of every labelled triplet.
        similarities: the teacher's, of its pairs.
        batch_size: triplets a step; each step forwards three times as many images.
        seed: of the order of the triplets.
    """

    image_ids: Int[np.ndarray, "rows 3"]
    similarities: Float[np.ndarray, "rows 3"]
    batch_size: int
    seed: int

    def __call__(self, step: int) -> Batch:
        """The batch of a step."""
        rows = epoch_rows(self.seed, step, self.batch_size, len(self.image_ids))
        positions = torch.arange(3 * self.batch_size).view(-1, 3)
        target_logits = torch.from_numpy(self.similarities[rows]).float()
        return Batch(self.image_ids[rows].reshape(-1), positions, target_logits)


class KindInBatch(NamedTuple):
    """A kind of triplets that a batch's images make.

    Attributes:
        sampler: how it is drawn: one of `core.sampling.DRAWS`.
        groups: cluster or class of every image of `InBatchTriplets`.
        weight: its share, relative to the others'.
    """

    sampler: str
    groups: Int[np.ndarray, " n"]
    weight: float


def draw_kinds(
    rng: np.random.Generator, kinds: Sequence[KindInBatch], drawn: Int[np.ndarray, " b"], count: int
) -> Int[Tensor, "t 3"]:
    """Triplets of positions in a batch, of several kinds in proportion to their weights.

    Args:
        rng: of the step.
        kinds: the kinds and their weights. Those that the batch's images do not make (no three of one cluster, say)
            leave their share to the others, and to any three images where there are none.
        drawn: the batch's images, as positions in the kinds' `groups`.
        count: number of triplets; the same one may come twice.
    """
    # Kinds that these images make; their numbers stand for names, by which `shares` divides.
    groups: list[sampling.Groups] = []
    samplers: list[str] = []
    weights: dict[str, float] = {}
    for kind in kinds:
        of_batch = sampling.group_by(kind.groups[drawn])
        if sampling.count(kind.sampler, of_batch):
            weights[str(len(groups))] = kind.weight
            groups.append(of_batch)
            samplers.append(kind.sampler)

    if not groups:
        return draw_triplets(rng, len(drawn), count)

    numbers = sampling.shares(weights, count)
    parts = []
    for index, (sampler, of_batch) in enumerate(zip(samplers, groups, strict=True)):
        parts.append(sampling.DRAWS[sampler](rng, of_batch, numbers[str(index)]))
    return torch.from_numpy(np.concatenate(parts))


@dataclass(frozen=True)
class InBatchTriplets:
    """All triplets inside a batch of distinct images, labelled on the fly by the teacher's embeddings.

    `batch_size` forward passes give up to `max_triplets` triplets, many times more per image than labelled triplets.

    Attributes:
        image_ids: images that may be drawn.
        teacher: the teacher's embeddings; their dot products times `scale` are logits.
        teacher_rows: row in `teacher` of each image.
        batch_size: images a step.
        seed: of all draws.
        scale: factor of the teacher's dot products.
        max_triplets: triplets a step; drawn at random where a batch has more.
        clusters: positions in `image_ids` of each cluster's images. A batch then holds `images_per_cluster` images
            of each of batch_size / images_per_cluster clusters, filled up at random. None: images are drawn uniformly
            (every image once an epoch).
        images_per_cluster: used with `clusters` only.
        kinds: kinds of triplets to draw; none: any three images.
    """

    image_ids: Int[np.ndarray, " n"]
    teacher: Float[np.ndarray, "rows p"]
    teacher_rows: Int[np.ndarray, " n"]
    batch_size: int
    seed: int
    scale: float
    max_triplets: int
    clusters: tuple[np.ndarray, ...] | None
    images_per_cluster: int
    kinds: tuple[KindInBatch, ...] = ()

    def __call__(self, step: int) -> Batch:
        """The batch of a step."""
        rng = np.random.default_rng([self.seed, step, 1])
        drawn = self._draw_images(rng, step)
        if self.kinds:
            count = min(self.max_triplets, math.comb(self.batch_size, 3))
            triplets = draw_kinds(rng, self.kinds, drawn, count)
        elif self.all_triplets is not None:
            triplets = self.all_triplets
        else:
            triplets = draw_triplets(rng, self.batch_size, self.max_triplets)

        embeddings = torch.from_numpy(np.asarray(self.teacher[self.teacher_rows[drawn]]))
        return Batch(self.image_ids[drawn], triplets, None, embeddings, self.scale)

    @cached_property
    def all_triplets(self) -> Tensor | None:
        """All triplets of positions in a batch; None where there are more than `max_triplets`."""
        if math.comb(self.batch_size, 3) > self.max_triplets:
            return None
        return torch.tensor(list(itertools.combinations(range(self.batch_size), 3)))

    def _draw_images(self, rng: np.random.Generator, step: int) -> np.ndarray:
        """Positions in `image_ids` of the images of a batch."""
        if self.clusters is None:
            return distinct_rows(self.seed, step, self.batch_size, len(self.image_ids))

        count = self.batch_size // self.images_per_cluster
        chosen = rng.permutation(len(self.clusters))[:count]
        members = [rng.permutation(self.clusters[cluster])[: self.images_per_cluster] for cluster in chosen]
        drawn = np.concatenate(members)

        # Clusters with fewer images leave places, which random other images take.
        return fill_up(rng, drawn, self.batch_size, len(self.image_ids))


def fill_up(rng: np.random.Generator, drawn: np.ndarray, size: int, images: int) -> Int[np.ndarray, " size"]:
    """Positions that are drawn already, and random other ones below `images` until there are `size` distinct ones.

    Positions are drawn until they are new. To list all that are left would take longer than a training step, where
    there are a million.

    Raises:
        UserError: there are fewer images.
    """
    require_images(size, images)
    taken = dict.fromkeys(drawn.tolist())
    while len(taken) < size:
        for position in rng.integers(0, images, size - len(taken)).tolist():
            taken[position] = None
    return np.fromiter(taken, np.int64, size)


def draw_triplets(rng: np.random.Generator, size: int, count: int) -> Int[Tensor, "t 3"]:
    """Draw `count` triplets of distinct positions below `size`, uniformly."""
    first = rng.integers(0, size, count)
    second = (first + rng.integers(1, size, count)) % size

    # Draw among the size - 2 other positions, then step over the two that are taken, the lower one first.
    low = np.minimum(first, second)
    high = np.maximum(first, second)
    third = rng.integers(0, size - 2, count)
    third = third + (third >= low)
    third = third + (third >= high)
    return torch.from_numpy(np.stack([first, second, third], axis=-1))


def labelled_batches(label: Artifact, batch_size: int, seed: int) -> LabelledBatches:
    """Batches of all training triplets of a label artifact."""
    image_ids, similarities = _triplet_arrays(label, "train")
    return LabelledBatches(image_ids, similarities, batch_size, seed)


def validation_batch(label: Artifact, count: int) -> Batch:
    """The first `count` validation triplets of a label artifact as one batch, in which each image comes once."""
    triplets, similarities = _triplet_arrays(label, "valid")
    image_ids, positions = np.unique(triplets[:count], return_inverse=True)
    return Batch(image_ids, torch.from_numpy(positions.reshape(-1, 3)), torch.from_numpy(similarities[:count]))


def cluster_members(clusters: Int[np.ndarray, " n"]) -> tuple[np.ndarray, ...]:
    """Positions of the images of each cluster, from each image's cluster."""
    order = np.argsort(clusters, kind="stable")
    boundaries = np.flatnonzero(np.diff(clusters[order])) + 1
    return tuple(np.split(order, boundaries))


def _triplet_arrays(label: Artifact, subset: Subset) -> tuple[np.ndarray, np.ndarray]:
    """Image ids and similarities of all labelled triplets of a subset, (n, 3) each."""
    table = pa.concat_tables(LabelArtifact(label).triplets(subset))
    return column_matrix(table, IMAGE_COLUMNS), column_matrix(table, SIMILARITY_COLUMNS)
