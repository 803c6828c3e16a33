"""Light augmentation of a batch on its device: a random crop and a flip, a pure function of a seed."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn


def draw_crops(seed: list[int], n: int, least: float) -> Float[Tensor, "n 2 3"]:
    """Affine maps of random crops (sides `least` to 1 of the image's) and flips of every second image on average."""
    rng = np.random.default_rng([*seed, 2])
    side = rng.uniform(least, 1, n)
    flip = rng.choice([-1.0, 1.0], n)
    shift = rng.uniform(-1, 1, (n, 2)) * (1 - side)[:, None]
    zero = np.zeros(n)
    rows = [[side * flip, zero, shift[:, 0]], [zero, side, shift[:, 1]]]
    return torch.from_numpy(np.array(rows).transpose(2, 0, 1)).float()


def crop(x: Float[Tensor, "n 3 s s"], place: Float[Tensor, "n 2 3"]) -> Float[Tensor, "n 3 s s"]:
    """Crop, flip and resize to the same size in one bilinear sampling."""
    grid = nn.functional.affine_grid(place, list(x.shape), align_corners=False)
    return nn.functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
