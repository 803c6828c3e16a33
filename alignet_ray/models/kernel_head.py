"""A head that learns nothing: what people said of the judged images nearest to an image, averaged.

    y(z) = sum_j a_j m_j,    a = softmax_j( cos((z - c) G, (z_j - c) G) / T + log w_j )

z_j are features of judged images, m_j people's dimensions of what these show (dot products of dimensions are logits of
choices), w_j shares that make every object weigh the same. It is the kernel regression of Nadaraya and Watson (1964),
or one layer of attention with judged images as keys. G is how the network's own classifier weighs features, where its
weights came with one: then it does for people's dimensions what convex combination of semantic embeddings does for
words (Norouzi et al., ICLR 2014). An average of objects cannot leave the space that people's objects span, which is why
it carries further to new objects than any map that is fitted to as few.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import normalize

TEMPERATURES = tuple(float(t) for t in np.geomspace(0.01, 0.5, 24))
"""Temperatures that are tried."""

ROWS = 2048
"""Images whose neighbours are looked up at once."""


class KernelHead(nn.Module):
    """The head. It has no parameters, only buffers.

    Attributes:
        centre: mean feature of the judged images, (d,).
        metric: G, (d, r); None: features as they are, r = d.
        keys: the judged images' directions, unit rows (n, r).
        shares: 1 / (images of the same object), (n,).
        values: people's dimensions of the judged images' objects, (n, k).
        temperature: T, ().
    """

    centre: Tensor
    metric: Tensor | None
    keys: Tensor
    shares: Tensor
    values: Tensor
    temperature: Tensor

    def __init__(
        self,
        centre: Float[Tensor, " d"],
        metric: Float[Tensor, "d r"] | None,
        keys: Float[Tensor, "n r"],
        shares: Float[Tensor, " n"],
        values: Float[Tensor, "n k"],
        temperature: Float[Tensor, ""],
    ) -> None:
        super().__init__()
        self.register_buffer("centre", centre)
        self.register_buffer("metric", metric)
        self.register_buffer("keys", keys)
        self.register_buffer("shares", shares)
        self.register_buffer("values", values)
        self.register_buffer("temperature", temperature)

    @classmethod
    def empty(cls, width: int, outputs: int, keys: int, rank: int | None) -> "KernelHead":
        """A head of this shape, to load a state dict into; `rank` None: without a metric."""
        metric = None if rank is None else torch.zeros(width, rank)
        rows = torch.zeros(keys, rank or width)
        return cls(torch.zeros(width), metric, rows, torch.ones(keys), torch.zeros(keys, outputs), torch.ones(()))

    @classmethod
    def of(
        cls,
        z: Float[Tensor, "n d"],
        objects: Int64[np.ndarray, " n"],
        values: Float[Tensor, "n k"],
        metric: Float[Tensor, "d r"] | None,
    ) -> "KernelHead":
        """From judged images' features and the objects that they show; the temperature is still 1."""
        _, place, counts = np.unique(objects, return_inverse=True, return_counts=True)
        shares = torch.from_numpy(1 / counts[place].astype(np.float32)).to(z.device)
        centre = z.mean(0)
        return cls(centre, metric, directions(z, centre, metric), shares, values, torch.ones((), device=z.device))

    @property
    def out_features(self) -> int:
        """People's dimensions."""
        return self.values.shape[1]

    def renew(self, z: Float[Tensor, "n d"]) -> "KernelHead":
        """The same head over new features of its images, as the network sees them now."""
        return KernelHead(self.centre, self.metric, self.directions(z), self.shares, self.values, self.temperature)

    def pick(self, rows: Int64[np.ndarray, " m"]) -> "KernelHead":
        """The same head over some of its images."""
        at = torch.from_numpy(rows).to(self.keys.device)
        keys, shares, values = self.keys[at], self.shares[at], self.values[at]
        return KernelHead(self.centre, self.metric, keys, shares, values, self.temperature)

    def directions(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b r"]:
        """Unit rows whose dot products are the kernel's cosines."""
        return directions(z.float(), self.centre, self.metric)

    def forward(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """People's dimensions of images, from their features."""
        parts = torch.split(self.directions(z), ROWS)
        return torch.cat([average(q @ self.keys.T / self.temperature, self.values, self.shares) for q in parts])

    def among(self, z: Float[Tensor, "b d"], values: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """People's dimensions of every image from the *others* of a batch, which show one object each.

        What a new object will be: none of the images that it is compared with shows it.
        """
        q = self.directions(z)
        own = torch.eye(len(q), dtype=torch.bool, device=q.device)
        return average(q @ q.T / self.temperature, values, torch.ones_like(q[:, 0]), own)

    def choose_temperature(
        self, objects: Int64[np.ndarray, " n"], worse: Callable[[Float[Tensor, "n k"]], float]
    ) -> None:
        """Set the temperature at which the judged images' objects predict each other best.

        Args:
            objects: what its images show.
            worse: of people's dimensions of its images, each described by the others' objects: how wrong they are.
        """
        found = []
        number = torch.from_numpy(objects)
        for t in TEMPERATURES:
            parts = [
                average(q @ self.keys.T / t, self.values, self.shares, number[start : start + len(q), None] == number)
                for start, q in zip(range(0, len(self.keys), ROWS), torch.split(self.keys, ROWS), strict=True)
            ]
            found.append(worse(torch.cat(parts)))
        self.temperature = torch.tensor(TEMPERATURES[int(np.argmin(found))], device=self.keys.device)


def directions(
    z: Float[Tensor, "n d"], centre: Float[Tensor, " d"], metric: Float[Tensor, "d r"] | None
) -> Float[Tensor, "n r"]:
    """Unit rows of (z - c) G."""
    z = z - centre
    return normalize(z if metric is None else z @ metric, dim=1)


def average(
    logits: Float[Tensor, "b n"],
    values: Float[Tensor, "n k"],
    shares: Float[Tensor, " n"],
    hidden: Bool[Tensor, "b n"] | None = None,
) -> Float[Tensor, "b k"]:
    """Means of values, weighted by shares and the softmax of logits; hidden ones do not count."""
    logits = logits + shares.log()
    if hidden is not None:
        logits = logits.masked_fill(hidden, -torch.inf)
    means: Tensor = logits.softmax(dim=1) @ values
    return means


def class_metric(weights: Float[Tensor, "c d"]) -> Float[Tensor, "d r"]:
    """G for which (z G) . (z' G) is the dot product of two images' class logits, each without its mean over classes.

    Args:
        weights: of a linear classifier.
    """
    centred = (weights - weights.mean(dim=0)).double()
    values, axes = torch.linalg.eigh(centred.T @ centred)
    kept = values > values.max() * 1e-9
    metric: Tensor = (axes[:, kept] * values[kept].sqrt()).float()
    return metric


def positions(rows: Sequence[Int64[np.ndarray, " _"]]) -> list[Int64[np.ndarray, " _"]]:
    """0, 1, 2, ... in groups as long as these."""
    ends = np.cumsum([len(r) for r in rows])
    return [np.arange(end - len(r), end) for r, end in zip(rows, ends, strict=True)]
