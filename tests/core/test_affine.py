import numpy as np

from alignet_ray.core.affine import AffineTransform


def test_affine_transform_is_its_formula_and_works_in_chunks() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, size=(50, 6)).astype(np.float32)
    w, b = rng.normal(size=(6, 6)).astype(np.float32), rng.normal(size=6).astype(np.float32)
    transform = AffineTransform(1.5, 2.5, w, b)
    expected = ((x - 1.5) / 2.5) @ w + b
    np.testing.assert_allclose(transform(x), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        transform.apply(x, np.empty((50, 6), np.float32), chunk=7), expected, rtol=1e-4, atol=1e-4
    )
    assert transform(x.astype(np.float16)).dtype == np.float32
