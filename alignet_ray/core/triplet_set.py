"""Objects of one split with their images, triplets and human choices; and how well similarities agree with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor

from alignet_ray.core import losses, scores, vice
from alignet_ray.core.triplets import choices, expected_agreement, gram_similarities


@dataclass(frozen=True)
class HumanModel:
    """The model of human choices: posterior of the objects' embedding, and how it is sampled.

    Attributes:
        mu, sigma: posterior mean and standard deviation, (m, d).
        draws, seed: number and seed of posterior samples.
    """

    mu: Float32[np.ndarray, "m d"]
    sigma: Float32[np.ndarray, "m d"]
    draws: int
    seed: int

    def probabilities(self, triplets: Int64[np.ndarray, "t 3"]) -> Float32[np.ndarray, "t 3"]:
        """Probabilities that people choose the pairs 01, 02, 12 of triplets of objects."""
        return vice.choice_probabilities(self.mu, self.sigma, triplets, self.draws, self.seed)

    def dimensions(self) -> Float32[np.ndarray, "m d"]:
        """The objects' expected dimensions, whose dot products are logits of choices."""
        return vice.expected(self.mu, self.sigma)


@dataclass(frozen=True)
class TripletSet:
    """Objects with their images, triplets of these objects, and what people choose.

    Attributes:
        rows: feature rows of every object's images, padded by repetition, (n, images of the object with most).
        counts: how many of them are real, (n,).
        triplets: positions 0..n-1 of (pair, pair, odd) or of any three objects, (t, 3).
        targets: probabilities that people choose the pairs 01, 02, 12, (t, 3).
    """

    rows: Int[Tensor, "n w"]
    counts: Int[Tensor, " n"]
    triplets: Int[Tensor, "t 3"]
    targets: Float[Tensor, "t 3"]

    @classmethod
    def of(
        cls,
        images: list[Int64[np.ndarray, " _"]],
        triplets: Int64[np.ndarray, "t 3"],
        targets: Float[np.ndarray, "t 3"],
    ) -> "TripletSet":
        """From one array of feature rows per object."""
        counts = np.array([len(rows) for rows in images])
        padded = np.stack([np.resize(rows, counts.max()) for rows in images])
        return cls(
            torch.from_numpy(padded),
            torch.from_numpy(counts),
            torch.from_numpy(np.ascontiguousarray(triplets)),
            torch.from_numpy(np.ascontiguousarray(targets, dtype=np.float32)),
        )

    def on(self, device: str) -> "TripletSet":
        """The same with triplets and targets on a device. Images stay on the CPU, where they are drawn."""
        return replace(self, triplets=self.triplets.to(device), targets=self.targets.to(device))

    def compact(self) -> tuple[Int[Tensor, " k"], "TripletSet"]:
        """The feature rows that occur, ascending, and the same triplet set over features of these rows alone."""
        used, rows = torch.unique(self.rows, return_inverse=True)
        return used, replace(self, rows=rows)

    def draw(self, rng: torch.Generator) -> Int[Tensor, " n"]:
        """The feature row of one random image of every object."""
        # Columns beyond an object's own images are padding and never drawn.
        column = (torch.rand(len(self.counts), generator=rng) * self.counts).long()
        return self.rows.gather(1, column[:, None])[:, 0]


@dataclass(frozen=True)
class ChoiceScore:
    """Agreement with people (expected share of equal choices, ties are wrong) and cross-entropy (nats): means."""

    accuracy: float
    cross_entropy: float


def soft_targets(
    objects: Sequence[int], images: Mapping[int, Int64[np.ndarray, " _"]], human: HumanModel, limit: int
) -> TripletSet:
    """All triplets among these objects (or `limit` random ones) with the human model's probabilities.

    Args:
        objects: at least three object numbers.
        images: feature rows of every object.
        human: the model of human choices.
        limit: largest number of triplets.
    """
    triplets = scores.all_triplets(len(objects), limit, human.seed)
    probabilities = human.probabilities(np.array(objects)[triplets])
    return TripletSet.of([images[number] for number in objects], triplets, probabilities)


def hard_targets(
    objects: Sequence[int], images: Mapping[int, Int64[np.ndarray, " _"]], answers: Int64[np.ndarray, "n 3"]
) -> TripletSet:
    """The responses (pair, pair, odd) about these objects alone, as certain choices; there may be none."""
    # Object number -> position in `objects`, or -1 for all others.
    position = np.full(int(max(answers.max(initial=0), *objects)) + 1, -1)
    position[np.array(objects)] = np.arange(len(objects))

    # A response about an object without images, or of another split, says nothing about these objects alone.
    triplets = position[answers]
    triplets = triplets[(triplets >= 0).all(axis=1)]
    certain = np.tile(np.array([1, 0, 0], np.float32), (len(triplets), 1))
    return TripletSet.of([images[number] for number in objects], triplets, certain)


def score(features: Float[Tensor, "n r"], triplet_set: TripletSet, draws: int = 5, seed: int = 0) -> ChoiceScore:
    """Expected agreement with people and cross-entropy, averaged over random images of the objects.

    Args:
        features: mapped features of all images; similarities are their dot products.
        triplet_set: objects, triplets and human probabilities.
        draws: how often an image is drawn for every object (once is enough if each has one).
        seed: of these draws.
    """
    # A fixed seed: all evaluations of a fit see the same images and can be compared.
    rng = torch.Generator().manual_seed(seed)
    if int(triplet_set.counts.max()) == 1:
        draws = 1

    accuracy = 0.0
    cross_entropy = 0.0
    for _ in range(draws):
        agreed, entropies = per_triplet(features[triplet_set.draw(rng)], triplet_set)
        accuracy += float(agreed.mean()) / draws
        cross_entropy += float(entropies.mean()) / draws
    return ChoiceScore(accuracy, cross_entropy)


def per_triplet(
    features: Float[Tensor, "n r"], triplet_set: TripletSet
) -> tuple[Float[Tensor, " t"], Float[Tensor, " t"]]:
    """Expected agreement with people (0 for a tie) and cross-entropy in nats of every triplet.

    Args:
        features: one row per object.
        triplet_set: triplets and human probabilities.
    """
    logits = gram_similarities(features @ features.T, triplet_set.triplets)
    agreement = expected_agreement(choices(logits), triplet_set.targets)
    return agreement, losses.cross_entropy(logits, triplet_set.targets)
