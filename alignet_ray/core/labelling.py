"""The teacher's judgement of image triplets: three dot products, the most similar pair first and the odd one last."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alignet_ray.core.triplets import PAIRS, pair_similarities

GATHER = 48
"""Triplets per gather: their rows, in float16 and float32, stay in a core's second-level cache."""


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


def similarities(x: Float[np.ndarray, "m p"], triplets: Int[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Dot products (01, 02, 12) of rows of `x`, float32 (accumulated in float32).

    Works on GATHER triplets at a time in two small buffers, so that widening a row costs no trip to memory: what takes
    the time are the random reads.
    """
    stored = np.empty((3 * GATHER, x.shape[1]), dtype=x.dtype)
    half, wide = torch.from_numpy(stored), torch.empty(3 * GATHER, x.shape[1])
    rows = wide.numpy().reshape(GATHER, 3, -1)
    result = np.empty((len(triplets), 3), dtype=np.float32)
    for start in range(0, len(triplets), GATHER):
        n = min(GATHER, len(triplets) - start)
        np.take(x, triplets[start : start + n].reshape(-1), axis=0, out=stored[: 3 * n], mode="clip")
        wide[: 3 * n].copy_(half[: 3 * n])
        block, out = rows[:n], result[start : start + n]
        for column, (left, right) in enumerate(PAIRS):
            np.vecdot(block[:, left], block[:, right], out=out[:, column])
    return result


def resident_similarities(
    x: Float[Tensor, "m p"], triplets: Int[np.ndarray, "n 3"], chunk: int = 1 << 14
) -> Float[Tensor, "n 3"]:
    """The same where the whole matrix lies in a GPU's memory, as do the results: large gathers, float32 products."""
    rows = torch.from_numpy(np.ascontiguousarray(triplets)).to(x.device)
    result = torch.empty(rows.shape, device=x.device)
    for start in range(0, len(rows), chunk):
        result[start : start + chunk] = pair_similarities(x[rows[start : start + chunk]].float())
    return result


def odd_last(triplets: Int[np.ndarray, "n 3"], sims: Float[np.ndarray, "n 3"] | Float[Tensor, "n 3"]) -> Labelled:
    """Images and similarities permuted together, so that s01 >= s02 >= s12.

    The image that the two larger similarities share comes first, the one that the two smaller ones share is the odd
    one. Among equal similarities the earlier pair counts as the larger. Sorted where the similarities lie.
    """
    ranked, order = torch.as_tensor(sims).sort(dim=1, descending=True, stable=True)
    odd, first = 2 - order[:, 0], 2 - order[:, 2]
    columns = torch.stack([first, 3 - first - odd, odd], dim=1).cpu().numpy()
    values = ranked.cpu().numpy()
    images = np.take_along_axis(triplets, columns, axis=1)
    return Labelled(images, values, columns[:, 2], values[:, 0] == values[:, 1])


def entropy(sims: Float[np.ndarray, "n 3"], scale: float = 1.0) -> Float[np.ndarray, " n"]:
    """Entropy in nats (0 .. ln 3) of the choice probabilities softmax(scale * sims)."""
    logits = scale * sims.astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    weights = np.exp(logits)
    total = weights.sum(axis=1)
    found: Float[np.ndarray, " n"] = np.log(total) - (weights * logits).sum(axis=1) / total
    return found


def matching_scale(sims: Float[np.ndarray, "n 3"], target: float) -> float:
    """The factor on `sims` that makes their mean choice entropy equal to `target` (nats), by bisection.

    Mean entropy falls from ln 3 towards 0 as the factor grows; a target out of reach gives the nearest end.
    """
    low, high = -12.0, 12.0
    for _ in range(60):
        middle = (low + high) / 2
        if entropy(sims, float(np.exp(middle))).mean() > target:
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2))


BINS = 40
"""Bins of the histograms of entropy (0 .. ln 3) and margin (0 .. 1)."""


def describe(sims: Float[np.ndarray, "n 3"]) -> dict[str, Any]:
    """Sums and histograms over labelled triplets, which add up over parts; `averages` turns them into figures.

    The margin is the probability of the first pair less that of the second.
    """
    ranked = sims.astype(np.float64)
    weights = np.exp(ranked - ranked[:, :1])
    margin = (weights[:, 0] - weights[:, 1]) / weights.sum(axis=1)
    uncertainty = entropy(sims)
    return {
        "triplets": np.array(len(sims)),
        "ties": np.array(int((sims[:, 0] == sims[:, 1]).sum())),
        "entropy": uncertainty.sum(),
        "margin": margin.sum(),
        "entropy_histogram": np.histogram(uncertainty, BINS, (0, np.log(3)))[0],
        "margin_histogram": np.histogram(margin, BINS, (0, 1))[0],
    }


def averages(total: dict[str, Any]) -> dict[str, object]:
    """JSON-able figures of summed descriptions: counts and histograms as they are, everything else as means."""
    n = int(total["triplets"])
    kept = ("triplets", "ties")
    return {
        name: value.tolist() if np.ndim(value) else int(value) if name in kept else float(value) / n
        for name, value in total.items()
    }
