"""Splits and folds of the objects. An object's split depends on the seed and on its own number alone."""

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np

Split = Literal["train", "validation", "test"]


def split_of(seed: int, item: int) -> Split:
    """train (60 %), validation (20 %) or test (20 %), by the SHA-256 hash of "seed:object"."""
    digest = hashlib.sha256(f"{seed}:{item}".encode()).digest()
    fraction = int.from_bytes(digest[:8], "big") / 2**64
    if fraction < 0.6:
        return "train"
    if fraction < 0.8:
        return "validation"
    return "test"


def folds(items: Sequence[int], k: int, seed: int) -> list[list[int]]:
    """k random disjoint groups of near-equal size that together hold all items.

    Args:
        items: distinct numbers, at least k of them.
        k: number of groups.
        seed: of the shuffling.
    """
    assert 1 <= k <= len(items), f"{len(items)} items do not make {k} folds"
    shuffled = np.random.default_rng(seed).permutation(np.array(sorted(items)))
    return [sorted(part.tolist()) for part in np.array_split(shuffled, k)]
