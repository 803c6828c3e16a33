"""Triplets as rows of numbers: the order of their pairs, the odd item last, and one key for each set of three.

Without torch, as every command reads rows of triplets and few compute with tensors.
"""

import numpy as np
from jaxtyping import Int, Integer

PAIRS = ((0, 1), (0, 2), (1, 2))
"""Order of the three pairs of a triplet: s01, s02, s12. If pair (0, 1) is the most similar one, image 2 is odd."""

ODD_LAST = ((0, 1, 2), (0, 2, 1), (1, 2, 0))
"""For each pair in the order of `PAIRS`: the columns that put this pair first and the odd image last."""

TIE = -1
"""The choice of a model whose largest similarity is shared by two pairs."""

EXACT_KEYS = 1 << 21
"""Number of images up to which `set_keys` packs three image numbers into one integer without loss."""

KEY_BLOCK = 1 << 15
"""Triplets whose keys are computed at once."""


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
