"""The split of objects: by a hash, so that an object's side depends on nothing but the seed and its number."""

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np

Split = Literal["train", "validation", "test"]


def split_of(seed: int, item: int) -> Split:
    """train (60 %), validation (20 %) or test (20 %), by sha256 of "seed:object"."""
    value = int.from_bytes(hashlib.sha256(f"{seed}:{item}".encode()).digest()[:8], "big") / 2**64
    return "train" if value < 0.6 else "validation" if value < 0.8 else "test"


def folds(items: Sequence[int], k: int, seed: int) -> list[list[int]]:
    """k disjoint groups of near-equal size that hold all items, at random.

    Args:
        items: distinct numbers, at least k of them.
        k: number of groups.
        seed: of the shuffling.
    """
    assert 1 <= k <= len(items), f"{len(items)} items do not make {k} folds"
    order = np.random.default_rng(seed).permutation(np.array(sorted(items)))
    return [sorted(int(i) for i in part) for part in np.array_split(order, k)]
