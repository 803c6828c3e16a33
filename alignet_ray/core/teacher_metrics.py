"""What a teacher's map brought and what it cost: agreement with people with intervals, and neighbourhoods kept."""

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Float32

from alignet_ray.core import scores, similarity, triplet_set
from alignet_ray.core.affine import AffineTransform

NEIGHBOURS = 10
LARGEST = 2000
"""Images whose neighbourhoods are compared."""


def agreement(
    y: Float32[np.ndarray, "n q"], side: triplet_set.TripletSet, draws: int = 5, seed: int = 0
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """Per triplet of a side: expected agreement with people and cross-entropy, means over random images."""
    features = torch.from_numpy(np.ascontiguousarray(y))
    rng = torch.Generator().manual_seed(seed)
    found = [triplet_set.per_triplet(features[side.draw(rng)], side) for _ in range(draws)]
    agreed, entropy = (torch.stack(column).mean(dim=0).double().numpy() for column in zip(*found, strict=True))
    return agreed, entropy


def figures(y: Float32[np.ndarray, "n q"], side: triplet_set.TripletSet, seed: int = 0) -> dict[str, float]:
    """Accuracy and cross-entropy (nats) with 95 % intervals by resampling objects (scores.object_bootstrap)."""
    values = np.stack(agreement(y, side), axis=1)
    drawn = scores.object_bootstrap(values, side.triplets.numpy(), len(side.counts), draws=500, seed=seed)
    found: dict[str, float] = {}
    for column, name in enumerate(("accuracy", "cross_entropy")):
        low, high = scores.interval(drawn[:, column])
        found |= {name: float(values[:, column].mean()), f"{name}_low": low, f"{name}_high": high}
    return found


def report(
    split: str, spaces: Mapping[str, Float32[np.ndarray, "n _"]], side: triplet_set.TripletSet, seed: int
) -> dict[str, float]:
    """`figures` of several spaces on one side, as `<split>_<space>_<figure>`, and the ceiling beside them."""
    found = {
        f"{split}_{space}_{name}": value
        for space, y in spaces.items()
        for name, value in figures(y, side, seed).items()
    }
    return found | {f"{split}_ceiling": float(side.targets.max(dim=1).values.mean())}


def neighbours_kept(x: Float32[np.ndarray, "n p"], transform: AffineTransform, seed: int = 0) -> float:
    """Share of each image's ten nearest neighbours (by cosine) that are still among its ten nearest after the map."""
    return overlap(x, transform(x), seed)


def overlap(before: Float32[np.ndarray, "n p"], after: Float32[np.ndarray, "n q"], seed: int = 0) -> float:
    """Share of each row's ten nearest rows (by cosine) before that are still among its ten nearest after."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(before))[:LARGEST])
    a, b = similarity.unit_rows(before[rows]), similarity.unit_rows(after[rows])
    return float(similarity.neighbour_overlap(a @ a.T, b @ b.T, min(NEIGHBOURS, len(rows) - 1)).mean())


def checksum(x: Float32[np.ndarray, "n p"]) -> str:
    """Hash of features: tells whether a map is applied to what it was fitted on."""
    return hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()[:16]
