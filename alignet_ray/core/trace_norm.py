"""A model of people for few answers: vectors with a normal prior, which amounts to a trace norm on similarities.

Every object is a vector; the three pairs of a triplet compete in a softmax over their dot products, as everywhere in
this package, and in a reference comparison the two pairs with the reference. The prior on the vectors is a trace norm
on the matrix of similarities (Srebro et al., 2004): dimensions for which there is no evidence vanish, so that a few
answers already predict others. VICE's spike and slab need more answers to say as much. The posterior is approximated
around its mode (Laplace), object by object.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from alignet_ray.core.answer_rows import AnswerRows, competing
from alignet_ray.core.optim import cosine_to_twentieth
from alignet_ray.core.triplet_rows import PAIRS
from alignet_ray.core.triplets import gram_similarities, pair_similarities

DIMS = 12
"""Dimensions of the vectors, at most."""

PRECISION = 5.0
"""Precision (1 / variance) of the prior of every entry."""

SCRATCH_STEPS = 200
WARM_STEPS = 60
"""Optimiser steps of a fit from scratch, and of one that starts from the last."""

LR = 0.05
WARM_LR = 0.02
"""Adam's step size at its peak; it falls to a twentieth along a cosine."""

START = 0.3
"""Standard deviation of the vectors' entries before the first step."""

WARM_FROM = 2000
"""Answers from which on a fit may start from the last: fewer leave dimensions at zero, where gradients vanish."""

GRAM_ENTRIES = 1_000_000
"""Similarities of all pairs of objects are computed at once up to so many."""

NOISE = 0.05
"""Standard deviation of what is added to the last fit, so that a dimension can leave zero."""


@dataclass(frozen=True)
class PeopleModel:
    """Posterior of the objects' vectors: a normal distribution for each object.

    Attributes:
        mean: the mode.
        covariance: of each object's vector, all others at their mode.
        answers: how many answers it was fitted to.
    """

    mean: Float32[np.ndarray, "m d"]
    covariance: Float32[np.ndarray, "m d d"]
    answers: int

    def samples(self, count: int, rng: np.random.Generator) -> Float32[np.ndarray, "s m d"]:
        """Samples of all vectors."""
        factors = np.linalg.cholesky(self.covariance)
        noise = rng.standard_normal((count, *self.mean.shape), dtype=np.float32)
        return np.asarray(self.mean + np.einsum("mij,smj->smi", factors, noise), dtype=np.float32)

    def choices(self, triplets: Int64[np.ndarray, "n 3"], pairs: int = len(PAIRS)) -> Int64[np.ndarray, " n"]:
        """The pair (an index into `PAIRS`) that people are most likely to choose in each triplet.

        Args:
            triplets: three objects a row.
            pairs: how many of `PAIRS` can be chosen, the first ones: all, or the two with the reference.
        """
        similarities = gram_similarities(self.mean @ self.mean.T, triplets)[:, :pairs]
        return np.asarray(similarities.argmax(axis=1))


def fit(
    answers: AnswerRows, objects: int, seed: int, before: PeopleModel | None = None, dims: int = DIMS
) -> PeopleModel:
    """Fit the model to answers: the mode by gradients over all answers, then the curvature around it.

    Args:
        answers: odd-one-out responses and reference comparisons.
        objects: number of objects.
        seed: of the initial values.
        before: an earlier fit to start from, of the same objects; None, or one to few answers: from scratch.
        dims: dimensions of the vectors, at most; an earlier fit keeps its own.
    """
    rows, is_comparison = answers.all
    rng = torch.Generator().manual_seed(seed)
    if before is None or before.answers < WARM_FROM:
        vectors = START * torch.randn(objects, dims, generator=rng)
        steps, peak = SCRATCH_STEPS, LR
    else:
        mean = torch.from_numpy(before.mean)
        vectors = mean + NOISE * torch.randn(mean.shape, generator=rng)
        steps, peak = WARM_STEPS, WARM_LR
    vectors.requires_grad_()

    optimizer = torch.optim.Adam([vectors], lr=peak)
    for step in range(steps):
        similarities = competing(_similarities(vectors, rows), is_comparison)
        log_probabilities = torch.log_softmax(similarities, dim=1)
        loss = (PRECISION / 2 * vectors.square().sum() - log_probabilities[:, 0].sum()) / len(answers)
        optimizer.param_groups[0]["lr"] = peak * cosine_to_twentieth(step / steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    # Laplace's approximation: a normal distribution with the curvature at the mode.
    mode = vectors.detach()
    covariance = torch.linalg.inv(_precision(rows, mode, is_comparison))
    return PeopleModel(mode.numpy().copy(), covariance.numpy(), len(answers))


def _similarities(vectors: Float[Tensor, "m d"], rows: Int64[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Dot products of the pairs of each row."""
    # All pairs at once are two to four times faster than the vectors of every row, while they fit into a cache.
    if len(vectors) ** 2 <= GRAM_ENTRIES:
        return gram_similarities(vectors @ vectors.T, rows)
    return pair_similarities(torch.nn.functional.embedding(rows, vectors))


def _precision(
    rows: Int64[Tensor, "n 3"], vectors: Float[Tensor, "m d"], is_comparison: Bool[Tensor, " n"] | None
) -> Float[Tensor, "m d d"]:
    """Curvature of the negative log posterior in every object's vector (its Fisher information, plus the prior)."""
    objects, dims = vectors.shape
    members = torch.nn.functional.embedding(rows, vectors)
    probabilities = torch.softmax(competing(pair_similarities(members), is_comparison), dim=1)
    # Covariance of the choice: the curvature of a softmax in its logits.
    fisher = torch.diag_embed(probabilities) - probabilities[:, :, None] * probabilities[:, None, :]

    precision = PRECISION * torch.eye(dims).repeat(objects, 1, 1)
    for place in range(3):
        # An object takes part in two pairs; the gradient of each similarity is the other object's vector.
        own = [pair for pair, members_of in enumerate(PAIRS) if place in members_of]
        partners = [sum(PAIRS[pair]) - place for pair in own]
        gradients = members[:, partners]
        part = fisher[:, own][:, :, own]
        blocks = torch.einsum("npi,npq,nqj->nij", gradients, part, gradients)
        precision.index_add_(0, rows[:, place], blocks)
    return precision
