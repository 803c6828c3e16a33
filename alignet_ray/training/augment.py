"""Light augmentation on the device: random crops and flips, as a pure function of a seed."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn


def draw_crops(seed: list[int], count: int, min_side: float) -> Float[Tensor, "n 2 3"]:
    """Random crops, half of them flipped, as affine maps for `apply_crops`.

    Args:
        seed: numbers that fix the draw, such as the run's seed and the step.
        count: number of images.
        min_side: smallest side of a crop as a share of the image's side.
    """
    rng = np.random.default_rng([*seed, 2])
    side = rng.uniform(min_side, 1, count)
    flip = rng.choice([-1.0, 1.0], count)
    offset = rng.uniform(-1, 1, (count, 2)) * (1 - side)[:, None]

    # Coordinates of `affine_grid` run from -1 to 1 over the image, so an offset of 1 - side reaches its border.
    affine = np.zeros((count, 2, 3))
    affine[:, 0, 0] = side * flip
    affine[:, 1, 1] = side
    affine[:, :, 2] = offset
    return torch.from_numpy(affine).float()


def apply_crops(images: Float[Tensor, "n 3 s s"], affine: Float[Tensor, "n 2 3"]) -> Float[Tensor, "n 3 s s"]:
    """Crop, flip and resize images to their old size by one bilinear sampling."""
    grid = nn.functional.affine_grid(affine, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
