"""The affine map between a teacher's embedding space and one whose dot products are logits of human choices."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32


@dataclass(frozen=True)
class AffineTransform:
    """y = ((x - mean) / std) @ weights + bias, rows as items.

    `mean` and `std` are one scalar each, over the whole feature matrix (gLocal, Muttenthaler et al., NeurIPS 2023).

    Attributes:
        mean, std: scalars that standardise the features.
        weights: (p, p).
        bias: (p,).
    """

    mean: float
    std: float
    weights: Float32[np.ndarray, "p q"]
    bias: Float32[np.ndarray, " q"]

    @property
    def width(self) -> int:
        """p, the width of the features that the map takes."""
        return int(self.weights.shape[0])

    def __call__(self, x: Float[np.ndarray, "n p"]) -> Float32[np.ndarray, "n q"]:
        """Map n rows; the standardisation is folded into the product, so that float16 rows are widened once."""
        scaled = self.weights / np.float32(self.std)
        offset = self.bias - np.float32(self.mean) * scaled.sum(axis=0)
        return np.asarray(x.astype(np.float32, copy=False) @ scaled + offset, dtype=np.float32)

    def apply(
        self, x: Float[np.ndarray, "n p"], out: Float[np.ndarray, "n q"], chunk: int = 8192
    ) -> Float[np.ndarray, "n q"]:
        """Map many rows (a memory map, say) into `out`, `chunk` rows at a time; returns `out`."""
        for start in range(0, len(x), chunk):
            out[start : start + chunk] = self(np.asarray(x[start : start + chunk]))
        return out
