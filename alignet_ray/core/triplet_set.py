"""Judged objects on one side of a split: their images, triplets, what people say, and how well a map agrees."""

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
    """The model of human choices: posterior of the objects' embedding, and how it is drawn from.

    Attributes:
        mu, sigma: (m, d).
        draws, seed: of the posterior.
    """

    mu: Float32[np.ndarray, "m d"]
    sigma: Float32[np.ndarray, "m d"]
    draws: int
    seed: int

    def probabilities(self, triplets: Int64[np.ndarray, "t 3"]) -> Float32[np.ndarray, "t 3"]:
        """Choice probabilities of the pairs 01, 02, 12 of triplets of objects."""
        return vice.choice_probabilities(self.mu, self.sigma, triplets, self.draws, self.seed)

    def dimensions(self) -> Float32[np.ndarray, "m d"]:
        """The objects' expected dimensions, whose dot products are logits of choices."""
        return vice.expected(self.mu, self.sigma)


@dataclass(frozen=True)
class TripletSet:
    """Some objects with their images, and triplets among them.

    Attributes:
        rows: feature rows of every object, padded by repetition, (n, most images).
        counts: how many of them are real, (n,).
        triplets: positions 0..n-1 of (pair, pair, odd) or of any three, (t, 3).
        targets: probabilities of the pairs 01, 02, 12, (t, 3).
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
        """From one array of feature rows an object."""
        counts = np.array([len(i) for i in images])
        rows = np.stack([np.resize(i, counts.max()) for i in images])
        return cls(*(torch.from_numpy(np.ascontiguousarray(a)) for a in (rows, counts, triplets, np.float32(targets))))

    def compact(self) -> tuple[Int[Tensor, " k"], "TripletSet"]:
        """The feature rows that occur, ascending, and the same side over features of these rows alone."""
        used, rows = torch.unique(self.rows, return_inverse=True)
        return used, replace(self, rows=rows)

    def draw(self, rng: torch.Generator) -> Int[Tensor, " n"]:
        """The feature row of one random image of every object."""
        column = (torch.rand(len(self.counts), generator=rng) * self.counts).long()
        return self.rows.gather(1, column[:, None])[:, 0]


@dataclass(frozen=True)
class ChoiceScore:
    """Agreement with people (expected share of choices, ties are wrong) and cross-entropy (nats): means."""

    accuracy: float
    cross_entropy: float


def soft_targets(
    objects: Sequence[int], images: Mapping[int, Int64[np.ndarray, " _"]], human: HumanModel, limit: int
) -> TripletSet:
    """All triplets among these objects (or `limit` random ones) with the human model's probabilities.

    Args:
        objects: at least three object numbers.
        images: feature rows of every object.
        human: says what people would choose.
        limit: largest number of triplets.
    """
    triplets = scores.all_triplets(len(objects), limit, human.seed)
    return TripletSet.of([images[o] for o in objects], triplets, human.probabilities(np.array(objects)[triplets]))


def hard_targets(
    objects: Sequence[int], images: Mapping[int, Int64[np.ndarray, " _"]], answers: Int64[np.ndarray, "n 3"]
) -> TripletSet:
    """The answers (pair, pair, odd) that speak of these objects alone, as certain choices; there may be none."""
    position = np.full(int(max(answers.max(initial=0), *objects)) + 1, -1)
    position[np.array(objects)] = np.arange(len(objects))
    rows = position[answers]
    rows = rows[(rows >= 0).all(axis=1)]
    return TripletSet.of([images[o] for o in objects], rows, np.tile(np.array([1, 0, 0], np.float32), (len(rows), 1)))


def score(y: Float[Tensor, "n r"], side: TripletSet, draws: int = 5, seed: int = 0) -> ChoiceScore:
    """Expected agreement with people and soft cross-entropy, over random images of the objects.

    Args:
        y: mapped features of all images; similarities are dot products.
        side: objects, triplets and human probabilities.
        draws: how often an image is drawn for every object (once is enough if each has one).
        seed: of these draws.
    """
    rng = torch.Generator().manual_seed(seed)
    draws = draws if int(side.counts.max()) > 1 else 1
    accuracy = cross_entropy = 0.0
    for _ in range(draws):
        agreed, entropy = per_triplet(y[side.draw(rng)], side)
        accuracy += float(agreed.mean()) / draws
        cross_entropy += float(entropy.mean()) / draws
    return ChoiceScore(accuracy, cross_entropy)


def per_triplet(y: Float[Tensor, "n r"], side: TripletSet) -> tuple[Float[Tensor, " t"], Float[Tensor, " t"]]:
    """Of every triplet: probability that people choose the model's best pair (0 for a tie), and cross-entropy, nats."""
    logits = gram_similarities(y @ y.T, side.triplets)
    agreement = expected_agreement(choices(logits), side.targets)
    return agreement, losses.cross_entropy(logits, side.targets)
