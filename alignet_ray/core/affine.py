"""The affine map from a teacher's embedding space to one whose dot products are logits of human choices."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32


@dataclass(frozen=True)
class AffineTransform:
    """y = ((x - mean) / std) @ weights + bias, one item a row.

    `mean` and `std` are one scalar each, over the whole feature matrix (gLocal, Muttenthaler et al., NeurIPS 2023).

    Attributes:
        mean: mean of all features.
        std: standard deviation of all features.
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

    def __call__(self, features: Float[np.ndarray, "n p"]) -> Float32[np.ndarray, "n q"]:
        """Map n rows of features."""
        # The standardisation is folded into the product, so that float16 rows are widened only once.
        scaled = self.weights / np.float32(self.std)
        offset = self.bias - np.float32(self.mean) * scaled.sum(axis=0)
        return np.asarray(features.astype(np.float32, copy=False) @ scaled + offset, dtype=np.float32)

    def apply(
        self, features: Float[np.ndarray, "n p"], out: Float[np.ndarray, "n q"], chunk: int = 8192
    ) -> Float[np.ndarray, "n q"]:
        """Map many rows (for example of a memory map) into `out`, `chunk` rows at a time; returns `out`."""
        for start in range(0, len(features), chunk):
            out[start : start + chunk] = self(np.asarray(features[start : start + chunk]))
        return out
