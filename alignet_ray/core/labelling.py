"""The teacher's labels of image triplets: three dot products, the most similar pair first and the odd image last."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.special import softmax
from torch import Tensor

from alignet_ray.core import calibration
from alignet_ray.core.triplet_rows import PAIRS
from alignet_ray.core.triplets import pair_similarities

GATHER = 48
"""Triplets per gather: their rows, in float16 and float32, fit into a core's second-level cache."""

BINS = 40
"""Bins of the histograms of entropy (0 .. ln 3) and margin (0 .. 1)."""


class Labelled(NamedTuple):
    """Triplets in the project's order.

    Attributes:
        triplets: images (pair, pair, odd); of the pair, the first is the one more similar to the odd image.
        similarities: s01 >= s02 >= s12.
        odd: position (0..2) that the odd image had before.
        tied: whether two pairs share the largest similarity.
    """

    triplets: Int[np.ndarray, "n 3"]
    similarities: Float[np.ndarray, "n 3"]
    odd: Int[np.ndarray, " n"]
    tied: Bool[np.ndarray, " n"]


def similarities(features: Float[np.ndarray, "m p"], triplets: Int[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Dot products of the pairs (01, 02, 12) of triplets of rows, in float32, for a matrix in memory or on disk.

    It works on GATHER triplets at a time in two small buffers: random reads take most of the time, and this way
    widening a row to float32 costs no second trip to memory.
    """
    stored = np.empty((3 * GATHER, features.shape[1]), dtype=features.dtype)
    narrow = torch.from_numpy(stored)
    wide = torch.empty(3 * GATHER, features.shape[1])
    images = wide.numpy().reshape(GATHER, 3, -1)

    result = np.empty((len(triplets), 3), dtype=np.float32)
    for start in range(0, len(triplets), GATHER):
        part = triplets[start : start + GATHER]
        used = 3 * len(part)
        # With mode "raise" NumPy would gather into a buffer of its own first; all indices are valid.
        np.take(features, part.reshape(-1), axis=0, out=stored[:used], mode="clip")
        wide[:used].copy_(narrow[:used])

        for column, (left, right) in enumerate(PAIRS):
            out = result[start : start + GATHER, column]
            np.vecdot(images[: len(part), left], images[: len(part), right], out=out)
    return result


def resident_similarities(
    features: Float[Tensor, "m p"], triplets: Int[np.ndarray, "n 3"], chunk: int = 1 << 14
) -> Float[Tensor, "n 3"]:
    """As `similarities`, for a matrix that lies in a GPU's memory, as do the results: large gathers."""
    rows = torch.from_numpy(np.ascontiguousarray(triplets)).to(features.device)
    result = torch.empty(rows.shape, device=features.device)
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        result[start : start + chunk] = pair_similarities(features[part].float())
    return result


def odd_last(triplets: Int[np.ndarray, "n 3"], sims: Float[np.ndarray, "n 3"] | Float[Tensor, "n 3"]) -> Labelled:
    """Sort images and similarities together, so that s01 >= s02 >= s12.

    The image that the two larger similarities share comes first; the one that the two smaller ones share is the odd
    one. Among equal similarities the earlier pair counts as the larger. Sorting runs on the device of the similarities.
    """
    ranked, order = torch.as_tensor(sims).sort(dim=1, descending=True, stable=True)

    # Pair number p leaves out image 2 - p: the most similar pair the odd image, the least similar one the first.
    odd = 2 - order[:, 0]
    first = 2 - order[:, 2]
    second = 3 - first - odd
    columns = torch.stack([first, second, odd], dim=1).cpu().numpy()

    values = ranked.cpu().numpy()
    images = np.take_along_axis(triplets, columns, axis=1)
    return Labelled(images, values, columns[:, 2], values[:, 0] == values[:, 1])


def entropy(sims: Float[np.ndarray, "n 3"], scale: float = 1.0) -> Float[np.ndarray, " n"]:
    """Entropy in nats (0 .. ln 3) of the choice probabilities softmax(scale * sims)."""
    return calibration.entropy(softmax(scale * sims.astype(np.float64), axis=1))


def matching_scale(sims: Float[np.ndarray, "n 3"], target: float) -> float:
    """The factor on `sims` that makes their mean choice entropy equal to `target` (nats), by bisection.

    Mean entropy falls from ln 3 towards 0 as the factor grows; a target out of reach gives the nearest end.
    """
    # Bisect the logarithm, since a factor may be right at any order of magnitude.
    low = -12.0
    high = 12.0
    for _ in range(60):
        middle = (low + high) / 2
        if entropy(sims, float(np.exp(middle))).mean() > target:
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2))


@dataclass(frozen=True)
class LabelSums:
    """Sums and histograms over labelled triplets; those of two parts add up to those of both.

    Attributes:
        triplets, ties: counts; a tie is a triplet whose two largest similarities are equal.
        entropy: sum of the entropies of the choice probabilities (nats).
        margin: sum of the margins; a margin is the probability of the first pair less that of the second.
        entropy_histogram, margin_histogram: counts in BINS equal bins over their ranges.
        border: triplets with two images of one cluster and one of another; None where clusters are not known.
        odd_is_the_other: those of them whose odd one is the image of the other cluster.
        agreement: triplets with the odd one of earlier labels; None where there are none to compare with.
    """

    triplets: int
    ties: int
    entropy: float
    margin: float
    entropy_histogram: Int[np.ndarray, " b"]
    margin_histogram: Int[np.ndarray, " b"]
    border: int | None = None
    odd_is_the_other: int | None = None
    agreement: int | None = None

    def __add__(self, other: "LabelSums") -> "LabelSums":
        """The sums over both parts, which know the same counts."""
        return LabelSums(
            triplets=self.triplets + other.triplets,
            ties=self.ties + other.ties,
            entropy=self.entropy + other.entropy,
            margin=self.margin + other.margin,
            entropy_histogram=self.entropy_histogram + other.entropy_histogram,
            margin_histogram=self.margin_histogram + other.margin_histogram,
            border=_add_known(self.border, other.border),
            odd_is_the_other=_add_known(self.odd_is_the_other, other.odd_is_the_other),
            agreement=_add_known(self.agreement, other.agreement),
        )


def _add_known(count: int | None, other: int | None) -> int | None:
    """The sum of two counts; None if either is unknown."""
    if count is None or other is None:
        return None
    return count + other


def describe(sims: Float[np.ndarray, "n 3"]) -> LabelSums:
    """The sums over some labelled triplets, as far as their similarities alone tell."""
    probabilities = softmax(sims.astype(np.float64), axis=1)
    margin = probabilities[:, 0] - probabilities[:, 1]
    choice_entropy = entropy(sims)
    return LabelSums(
        triplets=len(sims),
        ties=int((sims[:, 0] == sims[:, 1]).sum()),
        entropy=float(choice_entropy.sum()),
        margin=float(margin.sum()),
        entropy_histogram=np.histogram(choice_entropy, BINS, (0, np.log(3)))[0],
        margin_histogram=np.histogram(margin, BINS, (0, 1))[0],
    )
