"""Losses over triplet similarities: pure functions, everything in log space, one value a triplet.

The formulas of Muttenthaler et al. 2025 (AligNet), whose released code takes `softmax` and then `log`: inf with NaN
gradients at logits of +-300. These stay finite. Similarities come in the order of `core.triplets.PAIRS`; a teacher's
similarities are logits at temperature 1, and `tau` divides the student's alone.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def contrastive(student: Float[Tensor, "*b 3"], tau: float) -> Float[Tensor, "*b"]:
    """-log of the student's probability of pair (0, 1), in nats."""
    return -(student / tau).log_softmax(-1)[..., 0]


def kl_to_choices(similarities: Float[Tensor, "*b 3"], choices: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b"]:
    """KL(choices || softmax(similarities)) in nats for probabilities `choices`: uncertainty distillation."""
    return (torch.xlogy(choices, choices) - choices * similarities.log_softmax(-1)).sum(-1)


def kld(student: Float[Tensor, "*b 3"], teacher: Float[Tensor, "*b 3"], tau: float) -> Float[Tensor, "*b"]:
    """KL(teacher || student) in nats."""
    return _kl(teacher.log_softmax(-1), (student / tau).log_softmax(-1))


def jsd(student: Float[Tensor, "*b 3"], teacher: Float[Tensor, "*b 3"], tau: float) -> Float[Tensor, "*b"]:
    """Jensen-Shannon divergence of teacher and student: in nats, symmetric, at most ln 2."""
    p, q = teacher.log_softmax(-1), (student / tau).log_softmax(-1)
    mean = torch.logaddexp(p, q) - math.log(2)
    return 0.5 * (_kl(p, mean) + _kl(q, mean))


def locality(
    before: Float[Tensor, "n d"], after: Float[Tensor, "n e"], tau_before: float, tau_after: float
) -> Float[Tensor, ""]:
    """gLocal's local term: cross-entropy between each row's neighbour distributions before and after a change.

    Neighbour distributions are softmaxes of cosine similarities to the other rows of the batch (Muttenthaler et al.
    2023). Its least value is the mean entropy of the distributions before.
    """
    target, now = _neighbours(before, tau_before), _neighbours(after, tau_after)
    return -(target.exp() * now).sum(-1).mean()


def pull_to_identity(weights: Float[Tensor, "p p"]) -> Float[Tensor, ""]:
    """||W - mean(diag W) I||_F^2: the distance to the nearest scaled identity; the bias is free (gLocal)."""
    scale = weights.diagonal().mean()
    return (weights - scale * torch.eye(len(weights), dtype=weights.dtype, device=weights.device)).square().sum()


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL of two log distributions."""
    return (p.exp() * (p - q)).sum(-1)


def _neighbours(x: Tensor, tau: float) -> Tensor:
    """(n, n - 1) log softmax over the other rows' cosine similarities."""
    unit = torch.nn.functional.normalize(x, dim=-1)
    n = len(x)
    others = (unit @ unit.T).flatten()[1:].view(n - 1, n + 1)[:, :-1].reshape(n, n - 1)  # the diagonal left out
    return (others / tau).log_softmax(-1)
