"""Splits and folds of the objects. An object's split depends on the seed, the fold and its own number alone."""

import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

Split = Literal["train", "validation", "test"]


class Fold(NamedTuple):
    """Fold `number` (from 0) of `folds`: over all numbers, every object is a test object once."""

    number: int
    folds: int


def split_of(seed: int, item: int, fold: Fold | None = None) -> Split:
    """The split of an object, by the SHA-256 hash of "seed:object".

    Args:
        seed: of the split.
        item: the object's number.
        fold: test objects are those whose hash falls into this fold, validation objects those of the next one, and the
            rest is for training. None: train (60 %), validation (20 %), test (20 %).
    """
    digest = hashlib.sha256(f"{seed}:{item}".encode()).digest()
    fraction = int.from_bytes(digest[:8], "big") / 2**64
    if fold is not None:
        own_fold = int(fraction * fold.folds)
        if own_fold == fold.number:
            return "test"
        # The fold after the last one is the first.
        if own_fold == (fold.number + 1) % fold.folds:
            return "validation"
        return "train"

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
