"""Answers of both kinds in one table, the chosen pair first, and which pairs of a question compete."""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class AnswerBatch(NamedTuple):
    """Some answers.

    Attributes:
        rows: objects; in each row the pair of the first two was chosen.
        is_comparison: rows that are reference comparisons (reference, chosen, other); None: no row is.
    """

    rows: Int[Tensor, "b 3"]
    is_comparison: Bool[Tensor, " b"] | None


class AnswerRows:
    """Odd-one-out responses and reference comparisons in one table.

    Attributes:
        all: every answer, responses first.
    """

    def __init__(self, triplets: Int[np.ndarray, "n 3"], comparisons: Int[np.ndarray, "c 3"] | None = None) -> None:
        """Put answers into one table.

        Args:
            triplets: rows (pair, pair, odd) of object numbers.
            comparisons: rows (reference, chosen, other), one for each person's answer.
        """
        rows = torch.from_numpy(np.ascontiguousarray(triplets, dtype=np.int64))
        is_comparison = None
        if comparisons is not None and len(comparisons):
            asked = torch.from_numpy(np.ascontiguousarray(comparisons, dtype=np.int64))
            rows = torch.cat([rows, asked])
            is_comparison = torch.arange(len(rows)) >= len(triplets)
        self.all = AnswerBatch(rows, is_comparison)

    def __len__(self) -> int:
        return len(self.all.rows)

    def draw(self, count: int, rng: torch.Generator, device: str) -> AnswerBatch:
        """Random answers, with replacement."""
        drawn = torch.randint(len(self), (count,), generator=rng)
        rows = self.all.rows[drawn].to(device)
        if self.all.is_comparison is None:
            return AnswerBatch(rows, None)
        return AnswerBatch(rows, self.all.is_comparison[drawn].to(device))


def competing(similarities: Float[Tensor, "b 3"], is_comparison: Bool[Tensor, " b"] | None) -> Float[Tensor, "b 3"]:
    """Similarities of the three pairs of each answer, of which the softmax is people's choice.

    In a reference comparison nobody could choose the pair without the reference: at minus infinity, its probability and
    its gradient are 0.

    Args:
        similarities: of all three pairs.
        is_comparison: as in `AnswerBatch`.
    """
    if is_comparison is None:
        return similarities
    never = is_comparison[:, None] & torch.tensor([False, False, True], device=similarities.device)
    return similarities.masked_fill(never, -math.inf)
