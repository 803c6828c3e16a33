"""Features that mix what people judge by with what they ignore: for tests of the fit of a map."""

import numpy as np

from alignet_ray.core import triplet_set


def world(
    seed: int = 0, objects: int = 40, images: int = 2
) -> tuple[np.ndarray, triplet_set.HumanModel, dict[int, np.ndarray]]:
    """Features that mix meaning (which people judge by) with a stronger appearance (which they ignore)."""
    rng = np.random.default_rng(seed)
    truth = np.abs(rng.normal(size=(objects, 4))).astype(np.float32)
    appearance = 2 * rng.normal(size=(objects * images, 6))
    x = np.concatenate([appearance, np.repeat(truth, images, axis=0)], axis=1) @ rng.normal(size=(10, 24))
    rows = {o: np.arange(images * o, images * (o + 1)) for o in range(objects)}
    return x.astype(np.float32), triplet_set.HumanModel(truth, 0 * truth, 1, 0), rows
