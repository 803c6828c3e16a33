"""Triplets: the order of their pairs, similarities, choices, and the tie rule. Stated here once, used everywhere."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

PAIRS = ((0, 1), (0, 2), (1, 2))
"""Order of the three pairs of a triplet: s01, s02, s12. The most similar pair is (0, 1), so image 2 is the odd one."""


def pair_similarities(z: Float[Tensor, "*b 3 d"]) -> Float[Tensor, "*b 3"]:
    """Dot products of the three pairs of each triplet, in the order of `PAIRS`."""
    return torch.stack([(z[..., a, :] * z[..., b, :]).sum(-1) for a, b in PAIRS], dim=-1)


def gram_similarities(gram: Float[Tensor, "n n"], triplets: Tensor) -> Float[Tensor, "t 3"]:
    """The three similarities of triplets of rows (int64, t x 3), read from a matrix of all similarities."""
    return torch.stack([gram[triplets[:, a], triplets[:, b]] for a, b in PAIRS], dim=-1)


def choice_probabilities(s: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3"]:
    """Probability that each pair is chosen as the most similar one: softmax at temperature 1."""
    return s.softmax(dim=-1)


def agreement(s: Float[Tensor, "*b 3"]) -> Bool[Tensor, "*b"]:
    """Whether pair (0, 1) is the strict maximum.

    Ties are wrong: a collapsed network, whose similarities are all equal, must not score 1.
    """
    return s[..., 0] > s[..., 1:].amax(dim=-1)


def choice_agreement(s: Float[Tensor, "*b 3"], t: Float[Tensor, "*b 3"]) -> Bool[Tensor, "*b"]:
    """Whether `s` has its strict maximum at the pair where `t` is largest; ties in `s` are wrong."""
    best = t.argmax(dim=-1, keepdim=True)
    others = s.scatter(-1, best, float("-inf")).amax(dim=-1)
    return s.gather(-1, best).squeeze(-1) > others
