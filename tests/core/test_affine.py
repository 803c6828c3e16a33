import numpy as np
import pytest

from alignet_ray.core.affine import AffineTransform


@pytest.fixture
def low_rank() -> AffineTransform:
    """Rank 3 on 12 features, with an offset."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(12, 3)))[0]
    weights = (axes @ rng.normal(size=(3, 3)) @ axes.T).astype(np.float32)
    return AffineTransform(0.3, 1.7, weights, rng.normal(size=12).astype(np.float32))


@pytest.mark.parametrize("width", [4, 7, 40])
def test_a_layer_has_the_maps_dot_products(low_rank: AffineTransform, width: int) -> None:
    x = np.random.default_rng(1).normal(size=(20, 12)).astype(np.float32)
    weights, bias = low_rank.layer(width, seed=2)
    assert weights.shape == (12, width)
    y, expected = x @ weights + bias, low_rank(x)
    np.testing.assert_allclose(y @ y.T, expected @ expected.T, rtol=1e-4, atol=1e-3)
    assert (np.abs(y).max(axis=0) > 0.01).all(), "an output is idle"


def test_a_narrow_layer_keeps_the_strongest_directions(low_rank: AffineTransform) -> None:
    weights, bias = low_rank.layer(2, seed=0)
    both = np.vstack(
        [low_rank.weights / low_rank.std, low_rank.bias - low_rank.mean * low_rank.weights.sum(0) / low_rank.std]
    )
    u, s, _ = np.linalg.svd(both)
    best = (u[:, :2] * s[:2]) @ (u[:, :2] * s[:2]).T
    own = np.vstack([weights, bias])
    np.testing.assert_allclose(own @ own.T, best, atol=1e-4)
