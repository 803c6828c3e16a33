"""The triplet kernel: similarities of the pairs, choices and the rule for ties, for PyTorch and NumPy alike.

A triplet names three images (or objects), which form three pairs. A model chooses the pair with the largest similarity;
the image that is left over is the odd one out.
"""

from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alignet_ray.core.triplet_rows import PAIRS, TIE

Array = TypeVar("Array", Tensor, np.ndarray)

LEFT = [left for left, _ in PAIRS]
RIGHT = [right for _, right in PAIRS]


def pair_similarities(embeddings: Float[Tensor, "*b 3 d"]) -> Float[Tensor, "*b 3"]:
    """Dot products of the three pairs of each triplet of embeddings, in the order of `PAIRS`."""
    # One unbind for all pairs: its backward pass costs half of that of six separate selections.
    images = embeddings.unbind(dim=-2)
    return torch.stack([(images[left] * images[right]).sum(dim=-1) for left, right in PAIRS], dim=-1)


def gram_similarities(gram: Float[Array, "n n"], triplets: Int[Array, "t 3"]) -> Float[Array, "t 3"]:
    """The three similarities of triplets of rows, read from the symmetric matrix of all similarities."""
    # Indexing the flattened matrix is faster than indexing rows and columns, in both libraries.
    positions = triplets[:, LEFT] * gram.shape[0] + triplets[:, RIGHT]
    flat = gram.reshape(-1)
    similarities: Array
    if isinstance(flat, Tensor) and flat.device.type == "cpu":
        # The backward pass of an index adds gradients up in the order in which CPU threads arrive, so that two runs
        # differ in the last bits. That of `index_select` has a fixed order. (On a GPU it is the other way round.)
        similarities = flat.index_select(0, positions.reshape(-1)).reshape(positions.shape)
    else:
        similarities = flat[positions]
    return similarities


def choice_probabilities(similarities: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3"]:
    """Probability that each pair is chosen as the most similar one: softmax at temperature 1."""
    return similarities.softmax(dim=-1)


def choices(similarities: Float[Array, "*b 3"]) -> Int[Array, "*b"]:
    """Index (0, 1, 2) of the pair with the strictly largest similarity of each triplet.

    Where two pairs share the maximum, or a value is NaN, there is no choice: the result is `TIE`, which counts as
    wrong everywhere. A collapsed network, whose similarities are all equal, must not score above zero.
    """
    s01 = similarities[..., 0]
    s02 = similarities[..., 1]
    s12 = similarities[..., 2]

    first = (s01 > s02) & (s01 > s12)
    second = (s02 > s01) & (s02 > s12)
    third = (s12 > s01) & (s12 > s02)

    # At most one of the three is true, so this is 0, 1, 2 or, where none is, -1.
    choice: Array = TIE + 1 * first + 2 * second + 3 * third
    return choice


def choice_agreement(student: Float[Array, "*b 3"], teacher: Float[Array, "*b 3"]) -> Bool[Array, "*b"]:
    """Whether the student chooses the pair that is most similar for the teacher; a tie of the student is wrong."""
    agrees: Array = choices(student) == teacher.argmax(-1)
    return agrees


def expected_agreement(choice: Int[Array, "*b"], probabilities: Float[Array, "*b 3"]) -> Float[Array, "*b"]:
    """Probability that a person chooses the same pair, per triplet; zero for a tie.

    This is what a model's accuracy would be over endlessly many responses to the triplet.
    """
    agreement: Array = probabilities[..., 0] * (choice == 0)
    agreement = agreement + probabilities[..., 1] * (choice == 1)
    agreement = agreement + probabilities[..., 2] * (choice == 2)
    return agreement
