"""The triplet kernel: order of the pairs, similarities, choices and the rule for ties, for PyTorch and NumPy alike.

A triplet names three images (or objects), which form three pairs. A model chooses the pair with the largest similarity;
the image that is left over is the odd one out.
"""

from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

Array = TypeVar("Array", Tensor, np.ndarray)

PAIRS = ((0, 1), (0, 2), (1, 2))
"""Order of the three pairs of a triplet: s01, s02, s12. If pair (0, 1) is the most similar one, image 2 is odd."""

LEFT = [left for left, _ in PAIRS]
RIGHT = [right for _, right in PAIRS]

ODD_LAST = ((0, 1, 2), (0, 2, 1), (1, 2, 0))
"""For each pair in the order of `PAIRS`: the columns that put this pair first and the odd image last."""

TIE = -1
"""The choice of a model whose largest similarity is shared by two pairs."""

EXACT_KEYS = 1 << 21
"""Number of images up to which `set_keys` packs three image numbers into one integer without loss."""

KEY_BLOCK = 1 << 15
"""Triplets whose keys are computed at once."""


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


def odd_last(triplets: Int[np.ndarray, "n 3"], pair: Int[np.ndarray, " n"]) -> Int[np.ndarray, "n 3"]:
    """Rows rearranged as (pair, pair, odd).

    Args:
        triplets: three items a row.
        pair: which pair of each row is the most similar one, as an index into `PAIRS`.
    """
    return np.take_along_axis(triplets, np.array(ODD_LAST)[pair], axis=1)


def set_keys(triplets: Int[np.ndarray, "n 3"], size: int = EXACT_KEYS) -> Int[np.ndarray, " n"]:
    """One integer per set of three images: equal for equal sets, whatever their order.

    Exact up to two million images. Above, it is a 64-bit hash: among 10 million triplets, two different ones share a
    key with probability 3e-6.

    Args:
        triplets: image numbers.
        size: number of images; all keys that are compared with each other need the same.
    """
    keys = np.empty(len(triplets), dtype=np.int64)
    # In blocks that stay in the processor's cache: ten million rows at once would take half a gigabyte in between.
    for start in range(0, len(triplets), KEY_BLOCK):
        first, second, third = triplets[start : start + KEY_BLOCK].astype(np.uint64).T
        low = np.minimum(np.minimum(first, second), third)
        high = np.maximum(np.maximum(first, second), third)
        middle = first + second + third - low - high

        if size <= EXACT_KEYS:
            packed = (low << np.uint64(42)) | (middle << np.uint64(21)) | high
        else:
            packed = scramble(scramble(scramble(low) ^ middle) ^ high)
        keys[start : start + KEY_BLOCK] = packed.view(np.int64)
    return keys


def scramble(values: Integer[np.ndarray, " n"]) -> Integer[np.ndarray, " n"]:
    """A fixed bijective 64-bit mixing of unsigned integers: the finaliser of SplitMix64 (Steele et al., 2014)."""
    mixed = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))
