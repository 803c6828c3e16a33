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

    def layer(self, width: int, seed: int) -> tuple[Float32[np.ndarray, "p k"], Float32[np.ndarray, " k"]]:
        """Weights and bias of a linear layer x @ weights + bias whose outputs have the map's dot products.

        A layer that is narrower than the map's rank keeps the strongest directions; a wider one spreads them over all
        of its outputs, so that none of them is idle.

        Args:
            width: k, outputs of the layer.
            seed: of the rotation, which dot products do not see.
        """
        scaled = self.weights.astype(np.float64) / self.std
        u, values, _ = np.linalg.svd(np.vstack([scaled, self.bias - self.mean * scaled.sum(axis=0)]), False)
        rank = min(width, max(1, int((values > values[0] * 1e-6).sum())))
        turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, rank)))[0].T
        both = (u[:, :rank] * values[:rank] @ turn).astype(np.float32)
        return both[:-1], both[-1]
