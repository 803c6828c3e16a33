"""The objective of training over triplets of a batch, and figures that describe a batch's outputs."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from alignet_ray.core import losses
from alignet_ray.core.triplets import gram_similarities, pair_similarities


def divergence(
    objective: Literal["jsd", "kld", "contrastive"],
    student: Float[Tensor, "t 3"],
    teacher: Float[Tensor, "t 3"],
    tau: float,
) -> Float[Tensor, " t"]:
    """Divergence between the teacher's and the student's choices, one value a triplet.

    Args:
        objective: Jensen-Shannon, KL(teacher || student), or cross-entropy with the teacher's most similar pair.
        student: similarities, divided by `tau`.
        teacher: logits at temperature 1.
        tau: the student's temperature.
    """
    functions = {"jsd": losses.jsd, "kld": losses.kld, "contrastive": losses.contrastive}
    return functions[objective](student, teacher, tau)


def mean_of_hardest(values: Float[Tensor, " t"], fraction: float) -> Float[Tensor, ""]:
    """Mean of the largest values, the given fraction of them (online hard example mining)."""
    if fraction < 1:
        count = max(1, round(fraction * len(values)))
        values = values.topk(count, sorted=False).values
    return values.mean()


def triplet_similarities(embeddings: Float[Tensor, "n d"], triplets: Int[Tensor, "t 3"]) -> Float[Tensor, "t 3"]:
    """Dot products of the pairs of triplets of rows.

    From the Gram matrix where triplets share rows (many triplets in a batch), directly where they do not.
    """
    if 3 * len(triplets) <= len(embeddings):
        # The backward pass of `embedding` adds up in a fixed order, that of an index does not.
        return pair_similarities(nn.functional.embedding(triplets, embeddings))
    return gram_similarities(embeddings @ embeddings.T, triplets)


def spread(similarities: Float[Tensor, "t 3"]) -> Float[Tensor, ""]:
    """Root mean square deviation of similarities from their triplet's mean: the part that a softmax sees."""
    centred = similarities - similarities.mean(-1, keepdim=True)
    return centred.square().mean().sqrt()


def effective_rank(embeddings: Float[Tensor, "n d"]) -> float:
    """Exponential of the entropy of the centred Gram matrix's eigenvalue shares; near 1 after a collapse.

    Roy and Vetterli, "The effective rank", EUSIPCO 2007, with squared singular values.
    """
    # Squared singular values of the rows are the Gram matrix's eigenvalues, without forming it.
    centred = embeddings - embeddings.mean(0)
    eigenvalues = torch.linalg.svdvals(centred).square()
    shares = eigenvalues / eigenvalues.sum().clamp_min(1e-30)
    return float(torch.special.entr(shares).sum().exp())
