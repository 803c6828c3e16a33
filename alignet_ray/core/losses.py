"""The losses of the project, over the three similarities of each triplet: pure functions in log space.

The divergences are those of Muttenthaler et al., "Aligning machine and human visual representations across abstraction
levels" (Nature 2025). Their released code takes `softmax` and then `log`, which gives infinities and NaN gradients at
logits of +-300; these stay finite.

Similarities come in the order of `core.triplet_rows.PAIRS`. A teacher's similarities are logits at temperature 1; `tau`
divides the student's alone. Unless it says "mean", a loss has one value per triplet.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize


def contrastive(student: Float[Tensor, "*b 3"], teacher: Float[Tensor, "*b 3"], tau: float) -> Float[Tensor, "*b"]:
    """Cross-entropy with the pair that is most similar for the teacher, as a hard label, in nats."""
    chosen = teacher.argmax(dim=-1, keepdim=True)
    log_probabilities = (student / tau).log_softmax(dim=-1)
    return -log_probabilities.gather(-1, chosen).squeeze(-1)


def kld(student: Float[Tensor, "*b 3"], teacher: Float[Tensor, "*b 3"], tau: float) -> Float[Tensor, "*b"]:
    """Kullback-Leibler divergence KL(teacher || student), in nats."""
    return _kl(teacher.log_softmax(dim=-1), (student / tau).log_softmax(dim=-1))


def jsd(student: Float[Tensor, "*b 3"], teacher: Float[Tensor, "*b 3"], tau: float) -> Float[Tensor, "*b"]:
    """Jensen-Shannon divergence of teacher and student, in nats: symmetric, at most ln 2."""
    log_teacher = teacher.log_softmax(dim=-1)
    log_student = (student / tau).log_softmax(dim=-1)
    log_mixture = torch.logaddexp(log_teacher, log_student) - math.log(2)
    return 0.5 * (_kl(log_teacher, log_mixture) + _kl(log_student, log_mixture))


def kl_to_choices(similarities: Float[Tensor, "*b 3"], choices: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b"]:
    """KL(choices || softmax(similarities)) in nats: the loss of uncertainty distillation.

    Args:
        similarities: logits at temperature 1.
        choices: probabilities that people choose each pair. For one-hot rows this is the cross-entropy.
    """
    negative_entropy = torch.xlogy(choices, choices)
    return (negative_entropy - choices * similarities.log_softmax(dim=-1)).sum(dim=-1)


def cross_entropy(similarities: Float[Tensor, "*b 3"], choices: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b"]:
    """Cross-entropy of softmax(similarities) with choice probabilities, in nats; arguments as in `kl_to_choices`."""
    return -(choices * similarities.log_softmax(dim=-1)).sum(dim=-1)


def locality(before: Float[Tensor, "n d"], after: Float[Tensor, "n e"], tau: float) -> Float[Tensor, ""]:
    """gLocal's local term: mean cross-entropy between each row's neighbour distributions before and after a change.

    A row's neighbour distribution is the softmax of its cosine similarities to all other rows, divided by `tau`. The
    smallest possible value is the mean entropy of the distributions before, not zero. Muttenthaler et al., "Improving
    neural network representations using human similarity judgments" (NeurIPS 2023).
    """
    target = _log_neighbours(before, tau).exp()
    log_neighbours = _log_neighbours(after, tau)

    # A row is no neighbour of itself: 0 * log 0 counts as 0.
    itself = torch.eye(len(after), dtype=torch.bool, device=after.device)
    return -(target * log_neighbours.masked_fill(itself, 0)).sum(dim=-1).mean()


def class_retention(before: Float[Tensor, "n c"], after: Float[Tensor, "n c"]) -> Float[Tensor, ""]:
    """Mean KL(before || after) of class probabilities, in nats: zero where a network tells classes as it did.

    Learning without forgetting, at temperature 1 (Li and Hoiem, ECCV 2016).

    Args:
        before: class logits of each image before training.
        after: the same classifier's logits now.
    """
    return _kl(before.log_softmax(dim=-1), after.log_softmax(dim=-1)).mean()


def identity_penalty(weights: Float[Tensor, "p p"]) -> Float[Tensor, ""]:
    """gLocal's R_eye = ||W - mean(diag W) I||_F^2: squared distance to the nearest multiple of the identity."""
    identity = torch.eye(len(weights), dtype=weights.dtype, device=weights.device)
    return (weights - weights.diagonal().mean() * identity).square().sum()


def _kl(log_p: Float[Tensor, "*b c"], log_q: Float[Tensor, "*b c"]) -> Float[Tensor, "*b"]:
    """KL(p || q) of two distributions given by their logarithms."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def _log_neighbours(features: Float[Tensor, "n d"], tau: float) -> Float[Tensor, "n n"]:
    """Log softmax of each row's cosine similarities to the other rows; -inf on the diagonal."""
    directions = normalize(features, dim=-1)
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    logits = (directions @ directions.T / tau).masked_fill(itself, -torch.inf)
    return logits.log_softmax(dim=-1)
