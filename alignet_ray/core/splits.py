"""The split of objects: by a hash, so that an object's side depends on nothing but the seed and its number."""

import hashlib
from typing import Literal

Split = Literal["train", "validation", "test"]


def split_of(seed: int, item: int) -> Split:
    """train (60 %), validation (20 %) or test (20 %), by sha256 of "seed:object"."""
    value = int.from_bytes(hashlib.sha256(f"{seed}:{item}".encode()).digest()[:8], "big") / 2**64
    return "train" if value < 0.6 else "validation" if value < 0.8 else "test"
