"""Non-parametric head: Nadaraya-Watson regression from image features to human dimensions.

    y(z) = sum_j a_j m_j,    a = softmax_j( cos((z - c) G, (z_j - c) G) / T + log w_j )

z_j are features of annotated images, m_j the human dimensions of the objects they show (dot products of dimensions are
logits of choices), w_j weights that make every object count the same. It is the kernel regression of Nadaraya and
Watson (1964), or one layer of attention with annotated images as keys. G weighs features as the network's own
classifier does, where its weights came with one: this does for human dimensions what convex combination of semantic
embeddings does for words (Norouzi et al., ICLR 2014). An average of objects stays in the space that the annotated
objects span.

Such averages of similar images are much the same, and single images are told apart badly. The own direction of an
image, (z - c) G at the length sqrt(b), can stand beside its dimensions:

    y'(z) . y'(x) = y(z) . y(x) + b cos((z - c) G, (x - c) G)
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import normalize

TEMPERATURES: tuple[float, ...] = tuple(np.geomspace(0.01, 0.5, 24).tolist())
"""Candidates for the kernel's temperature."""

CHUNK_ROWS = 2048
"""Images whose neighbours are looked up at once."""


class KernelHead(nn.Module):
    """Predicts human dimensions as a weighted mean over annotated images. It has no parameters, only buffers.

    Attributes:
        centre: mean feature of the annotated images, (d,).
        metric: G of the formula above, (d, r); None: features as they are, r = d.
        keys: directions of the annotated images, unit rows (n, r).
        shares: 1 / (images of the same object), (n,); in a `subset` still those of the whole head.
        values: human dimensions of the annotated images' objects, (n, k).
        temperature: T, ().
        own_weight: weight of an image's own direction beside its dimensions, (); 0: dimensions alone.
    """

    centre: Tensor
    metric: Tensor | None
    keys: Tensor
    shares: Tensor
    values: Tensor
    temperature: Tensor
    own_weight: Tensor

    def __init__(
        self,
        centre: Float[Tensor, " d"],
        metric: Float[Tensor, "d r"] | None,
        keys: Float[Tensor, "n r"],
        shares: Float[Tensor, " n"],
        values: Float[Tensor, "n k"],
        temperature: Float[Tensor, ""],
        own_weight: Float[Tensor, ""],
    ) -> None:
        super().__init__()
        # Buffers are saved and moved with the network, and no optimiser finds them.
        self.register_buffer("centre", centre)
        self.register_buffer("metric", metric)
        self.register_buffer("keys", keys)
        self.register_buffer("shares", shares)
        self.register_buffer("values", values)
        self.register_buffer("temperature", temperature)
        self.register_buffer("own_weight", own_weight)
        self.has_own_direction = bool(own_weight > 0)

    @classmethod
    def empty(cls, width: int, dimensions: int, keys: int, rank: int | None, own_direction: bool) -> "KernelHead":
        """A head of this shape, to load a state dict into; `rank` None: without a metric."""
        metric = None
        if rank is not None:
            metric = torch.zeros(width, rank)
        return cls(
            centre=torch.zeros(width),
            metric=metric,
            keys=torch.zeros(keys, rank or width),
            shares=torch.ones(keys),
            values=torch.zeros(keys, dimensions),
            temperature=torch.ones(()),
            own_weight=torch.tensor(float(own_direction)),
        )

    @classmethod
    def from_images(
        cls,
        features: Float[Tensor, "n d"],
        objects: Int64[np.ndarray, " n"],
        values: Float[Tensor, "n k"],
        metric: Float[Tensor, "d r"] | None,
        own_weight: float = 0.0,
    ) -> "KernelHead":
        """A head over annotated images with temperature 1.

        Args:
            features: of the images.
            objects: number of the object that each image shows.
            values: human dimensions of these objects.
            metric: G.
            own_weight: of an image's own direction beside its dimensions.
        """
        # An object with many images would otherwise draw all predictions to itself.
        _, object_rows, counts = np.unique(objects, return_inverse=True, return_counts=True)
        shares = torch.from_numpy(1 / counts[object_rows].astype(np.float32)).to(features.device)

        # Features of a network share a large mean; without it their cosines tell images apart better.
        centre = features.mean(0)
        keys = directions(features, centre, metric)
        device = features.device
        temperature = torch.ones((), device=device)
        return cls(centre, metric, keys, shares, values, temperature, torch.tensor(own_weight, device=device))

    @property
    def out_features(self) -> int:
        """Number of human dimensions, and of the columns of the own direction."""
        if self.has_own_direction:
            return self.values.shape[1] + self.keys.shape[1]
        return self.values.shape[1]

    def with_features(self, features: Float[Tensor, "n d"]) -> "KernelHead":
        """The same head over new features of its images, after the network has changed; only the keys are made anew."""
        keys = self.directions(features)
        return KernelHead(self.centre, self.metric, keys, self.shares, self.values, self.temperature, self.own_weight)

    def subset(self, rows: Int64[np.ndarray, " m"]) -> "KernelHead":
        """The same head over some of its images."""
        kept = torch.from_numpy(rows).to(self.keys.device)
        return KernelHead(
            self.centre,
            self.metric,
            self.keys[kept],
            self.shares[kept],
            self.values[kept],
            self.temperature,
            self.own_weight,
        )

    def directions(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b r"]:
        """Unit rows whose dot products are the kernel's cosines."""
        return directions(features.float(), self.centre, self.metric)

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b o"]:
        """Human dimensions of images; beside them, where it has a weight, their own direction at length sqrt(b)."""
        # Queries times keys would be too large a matrix for all images of a corpus at once.
        predictions = []
        for queries in torch.split(self.directions(features), CHUNK_ROWS):
            logits = queries @ self.keys.T / self.temperature
            predicted = weighted_mean(logits, self.values, self.shares)
            if self.has_own_direction:
                predicted = torch.cat([predicted, self.own_weight.sqrt() * queries], dim=1)
            predictions.append(predicted)
        return torch.cat(predictions)

    def leave_one_out(self, features: Float[Tensor, "b d"], values: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """Human dimensions of every image, predicted from the *other* images of a batch, which show one object each.

        This imitates a new object: none of the images that it is compared with shows it. The own direction is left out,
        as it predicts nothing.
        """
        queries = self.directions(features)
        # One image an object: the image itself is all that would give the answer away, and shares are equal.
        is_same = torch.eye(len(queries), dtype=torch.bool, device=queries.device)
        logits = queries @ queries.T / self.temperature
        return weighted_mean(logits, values, torch.ones_like(queries[:, 0]), is_same)

    def choose_temperature(
        self, objects: Int64[np.ndarray, " n"], loss: Callable[[Float[Tensor, "n k"]], float]
    ) -> None:
        """Set the temperature at which the annotated objects predict each other best (leave-one-object-out).

        Args:
            objects: number of the object that each of its images shows.
            loss: of the choices that predicted human dimensions give for triplets of its images; less is better.
        """
        # Images of the same object are excluded as well: a new object has none among the keys.
        object_numbers = torch.from_numpy(objects).to(self.keys.device)

        # For one parameter a grid is enough, and it has no learning rate to choose.
        losses = []
        for temperature in TEMPERATURES:
            predictions = []
            for start in range(0, len(self.keys), CHUNK_ROWS):
                queries = self.keys[start : start + CHUNK_ROWS]
                is_same_object = object_numbers[start : start + len(queries), None] == object_numbers
                logits = queries @ self.keys.T / temperature
                predictions.append(weighted_mean(logits, self.values, self.shares, is_same_object))
            losses.append(loss(torch.cat(predictions)))

        self.temperature = torch.tensor(TEMPERATURES[int(np.argmin(losses))], device=self.keys.device)


def directions(
    features: Float[Tensor, "n d"], centre: Float[Tensor, " d"], metric: Float[Tensor, "d r"] | None
) -> Float[Tensor, "n r"]:
    """Unit rows of (z - c) G."""
    centred = features - centre
    if metric is not None:
        centred = centred @ metric
    return normalize(centred, dim=1)


def weighted_mean(
    logits: Float[Tensor, "b n"],
    values: Float[Tensor, "n k"],
    shares: Float[Tensor, " n"],
    excluded: Bool[Tensor, "b n"] | None = None,
) -> Float[Tensor, "b k"]:
    """Means of values, weighted by shares and the softmax of logits; excluded pairs have weight zero."""
    # Added as logarithms, the shares multiply the softmax' weights.
    logits = logits + shares.log()
    if excluded is not None:
        logits = logits.masked_fill(excluded, -torch.inf)
    means: Tensor = logits.softmax(dim=1) @ values
    return means


def class_metric(weights: Float[Tensor, "c d"]) -> Float[Tensor, "d r"]:
    """G for which (z G) . (z' G) is the dot product of two images' class logits, each without its mean over classes.

    Args:
        weights: of a linear classifier.
    """
    centred = (weights - weights.mean(dim=0)).double()
    # The square root of W^T W by its eigenvectors: at most d columns, however many classes there are.
    eigenvalues, axes = torch.linalg.eigh(centred.T @ centred)
    # Directions that tell no classes apart have eigenvalues of rounding errors, which may even be negative.
    kept = eigenvalues > eigenvalues.max() * 1e-9
    metric: Tensor = (axes[:, kept] * eigenvalues[kept].sqrt()).float()
    return metric


def group_positions(groups: Sequence[Int64[np.ndarray, " _"]]) -> list[Int64[np.ndarray, " _"]]:
    """Positions 0, 1, 2, ... of the groups' members once the groups are concatenated, split into groups again."""
    positions = []
    start = 0
    for group in groups:
        end = start + len(group)
        positions.append(np.arange(start, end))
        start = end
    return positions
