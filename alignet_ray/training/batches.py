"""What a training step sees: a pure function of (seed, step), read by index, so that resume is exact.

A batch names image ids and triplets of positions among them with the teacher's similarities. The number of workers only
splits the images of a batch; it never changes which ones they are.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from alignet_ray.artifacts.schemas import TRIPLETS
from alignet_ray.core.triplets import gram_similarities
from alignet_ray.errors import UserError
from alignet_ray.store import Artifact


@dataclass(frozen=True)
class Batch:
    """Images and the triplets among them.

    Attributes:
        ids: image ids, in the order in which they are forwarded.
        triplets: positions in `ids`, in the order of the similarities.
        similarities: the teacher's similarities of pairs (0, 1), (0, 2), (1, 2): logits at temperature 1.
    """

    ids: Int[np.ndarray, " n"]
    triplets: Int[Tensor, "t 3"]
    similarities: Float[Tensor, "t 3"]


Batches = Callable[[int], Batch]
"""A batch for every step."""


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, rows: int) -> Int[np.ndarray, " rows"]:
    return np.random.default_rng([seed, epoch]).permutation(rows)


def epoch_rows(seed: int, step: int, batch: int, rows: int) -> Int[np.ndarray, " batch"]:
    """Rows of a step when epochs are random permutations laid end to end: every row once an epoch.

    A batch that spans two epochs may hold a row twice.
    """
    start = step * batch
    pieces = []
    while start < (step + 1) * batch:
        epoch, offset = divmod(start, rows)
        taken = min(rows - offset, (step + 1) * batch - start)
        pieces.append(_order(seed, epoch, rows)[offset : offset + taken])
        start += taken
    return np.concatenate(pieces)


@dataclass(frozen=True)
class LabelledBatches:
    """The published scheme: `batch` labelled triplets a step, three images each (3 * batch forward passes)."""

    ids: Int[np.ndarray, "rows 3"]
    similarities: Float[np.ndarray, "rows 3"]
    batch: int
    seed: int

    def __call__(self, step: int) -> Batch:
        """The batch of a step."""
        rows = epoch_rows(self.seed, step, self.batch, len(self.ids))
        positions = torch.arange(3 * self.batch).view(-1, 3)
        return Batch(self.ids[rows].reshape(-1), positions, torch.from_numpy(self.similarities[rows]).float())


@dataclass(frozen=True)
class InBatch:
    """All triplets inside a batch of distinct images, with the teacher's similarities from its embeddings.

    `batch` forward passes a step feed up to `most` triplets: several times more signal from each image.

    Attributes:
        ids: image ids that may be drawn.
        teacher: the teacher's embeddings; their dot products, times `scale`, are logits.
        rows: row in `teacher` of each image.
        batch: images a step.
        most: triplets a step, drawn at random if there are more.
        groups: None to draw images uniformly (every image once an epoch), or one array of positions in `ids` per
            cluster: a batch is then `per_group` images from each of batch / per_group clusters, filled up at random.
    """

    ids: Int[np.ndarray, " n"]
    teacher: Float[np.ndarray, "rows p"]
    rows: Int[np.ndarray, " n"]
    batch: int
    seed: int
    scale: float = 1.0
    most: int = 16384
    groups: tuple[np.ndarray, ...] | None = None
    per_group: int = 4
    _every: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        n = self.batch
        if n * (n - 1) * (n - 2) // 6 <= self.most:
            every = torch.tensor(list(itertools.combinations(range(n), 3)))
            object.__setattr__(self, "_every", every)

    def __call__(self, step: int) -> Batch:
        """The batch of a step."""
        rng = np.random.default_rng([self.seed, step, 1])
        drawn = self._draw(rng, step)
        z = torch.from_numpy(np.asarray(self.teacher[self.rows[drawn]], dtype=np.float32))
        triplets = self._every if self._every is not None else draw_triplets(rng, self.batch, self.most)
        return Batch(self.ids[drawn], triplets, gram_similarities(z @ z.T * self.scale, triplets))

    def _draw(self, rng: np.random.Generator, step: int) -> np.ndarray:
        if self.groups is None:
            return distinct_rows(self.seed, step, self.batch, len(self.ids))
        chosen = rng.permutation(len(self.groups))[: self.batch // self.per_group]
        rows = np.concatenate([rng.permutation(self.groups[c])[: self.per_group] for c in chosen])
        rest = np.setdiff1d(np.arange(len(self.ids)), rows)
        return np.concatenate([rows, rng.permutation(rest)[: self.batch - len(rows)]])


def repeat(batch: Batch) -> Batches:
    """The same batch at every step."""
    return lambda step: batch


def distinct_rows(seed: int, step: int, batch: int, rows: int) -> Int[np.ndarray, " batch"]:
    """Distinct rows of a step: whole batches out of each epoch's permutation, the remainder left out.

    Raises:
        UserError: if there are fewer rows than a batch holds.
    """
    if batch > rows:
        raise UserError(
            f"a batch of {batch} distinct images, but only {rows} to train on: set a smaller --distill.batch-size"
        )
    epoch, position = divmod(step, rows // batch)
    return _order(seed, epoch, rows)[position * batch : (position + 1) * batch]


def draw_triplets(rng: np.random.Generator, n: int, count: int) -> Int[Tensor, "t 3"]:
    """`count` triplets of distinct positions below `n`, drawn uniformly."""
    i = rng.integers(0, n, count)
    j = (i + rng.integers(1, n, count)) % n
    low, high = np.minimum(i, j), np.maximum(i, j)
    k = rng.integers(0, n - 2, count)
    k = k + (k >= low)
    k = k + (k >= high)
    return torch.from_numpy(np.stack([i, j, k], -1))


def labelled(label: Artifact, batch: int, seed: int) -> LabelledBatches:
    """The published scheme over all training triplets of a label artifact."""
    return LabelledBatches(*_arrays(label.read_parts("train")), batch, seed)


def held_out(label: Artifact, most: int) -> Batch:
    """The first `most` validation triplets of a label artifact as one batch, each image once."""
    triplets, similarities = _arrays(label.read_parts("valid").slice(0, most))
    ids, positions = np.unique(triplets, return_inverse=True)
    return Batch(ids, torch.from_numpy(positions.reshape(-1, 3)), torch.from_numpy(similarities))


def by_cluster(clusters: Int[np.ndarray, " n"]) -> tuple[np.ndarray, ...]:
    """Positions of the images of each cluster."""
    order = np.argsort(clusters, kind="stable")
    return tuple(np.split(order, np.flatnonzero(np.diff(clusters[order])) + 1))


def _arrays(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Image ids and similarities of a TRIPLETS table, (n, 3) each."""
    return tuple(np.stack([table[c].to_numpy() for c in TRIPLETS.names[k : k + 3]], -1) for k in (0, 3))  # type: ignore[return-value]
