"""Quality of a teacher's map: agreement with people (with intervals) and preservation of neighbourhoods."""

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Float32

from alignet_ray.core import scores, similarity
from alignet_ray.core.affine import AffineTransform
from alignet_ray.core.triplet_set import TripletSet, per_triplet

NEIGHBOURS = 10
"""Nearest neighbours of an image that are compared before and after a map."""

COMPARED_IMAGES = 2000
"""Largest number of images whose neighbourhoods are compared."""


def agreement(
    features: Float32[np.ndarray, "n q"], triplet_set: TripletSet, draws: int = 5, seed: int = 0
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """Expected agreement with people and cross-entropy (nats) per triplet, averaged over draws of random images.

    Args:
        features: of all images; similarities are their dot products.
        triplet_set: objects with their images, triplets and human choice probabilities.
        draws: how often one image is drawn for every object.
        seed: of these draws.
    """
    rows = torch.from_numpy(np.ascontiguousarray(features))
    rng = torch.Generator().manual_seed(seed)
    agreements = []
    entropies = []
    for _ in range(draws):
        agreed, cross_entropy = per_triplet(rows[triplet_set.draw(rng)], triplet_set)
        agreements.append(agreed)
        entropies.append(cross_entropy)
    return (
        torch.stack(agreements).mean(dim=0).double().numpy(),
        torch.stack(entropies).mean(dim=0).double().numpy(),
    )


def figures(features: Float32[np.ndarray, "n q"], triplet_set: TripletSet, seed: int = 0) -> dict[str, float]:
    """Accuracy and cross-entropy (nats) with 95 % intervals by resampling objects (`scores.object_bootstrap`)."""
    values = np.stack(agreement(features, triplet_set), axis=1)
    objects = len(triplet_set.counts)
    drawn = scores.object_bootstrap(values, triplet_set.triplets.numpy(), objects, draws=500, seed=seed)

    metrics: dict[str, float] = {}
    for column, name in enumerate(("accuracy", "cross_entropy")):
        low, high = scores.interval(drawn[:, column])
        metrics[name] = float(values[:, column].mean())
        metrics[f"{name}_low"] = low
        metrics[f"{name}_high"] = high
    return metrics


def report(
    split: str, spaces: Mapping[str, Float32[np.ndarray, "n _"]], triplet_set: TripletSet, seed: int
) -> dict[str, float]:
    """`figures` of several spaces on one split, named `<split>_<space>_<figure>`, and the noise ceiling beside them."""
    metrics: dict[str, float] = {}
    for space, features in spaces.items():
        for name, value in figures(features, triplet_set, seed).items():
            metrics[f"{split}_{space}_{name}"] = value
    metrics[f"{split}_ceiling"] = float(triplet_set.targets.max(dim=1).values.mean())
    return metrics


def neighbours_kept(features: Float32[np.ndarray, "n p"], transform: AffineTransform, seed: int = 0) -> float:
    """Share of each image's ten nearest neighbours (by cosine) that are still among its ten nearest after the map."""
    return overlap(features, transform(features), seed)


def overlap(before: Float32[np.ndarray, "n p"], after: Float32[np.ndarray, "n q"], seed: int = 0) -> float:
    """Share of each row's ten nearest rows (by cosine) before that are still among its ten nearest after."""
    # A sample: comparing all pairs of images grows with the square of their number.
    rows = np.sort(np.random.default_rng(seed).permutation(len(before))[:COMPARED_IMAGES])
    neighbours = min(NEIGHBOURS, len(rows) - 1)
    cosines_before = similarity.similarity_matrix(before[rows])
    cosines_after = similarity.similarity_matrix(after[rows])
    return float(similarity.neighbour_overlap(cosines_before, cosines_after, neighbours).mean())


def checksum(features: Float32[np.ndarray, "n p"]) -> str:
    """Hash of features: tells whether a map is applied to the features that it was fitted on."""
    return hashlib.sha256(np.ascontiguousarray(features).tobytes()).hexdigest()[:16]
