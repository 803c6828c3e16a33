"""Pretrains the base network of a generated world: it knows appearances well, and shapes only faintly.

It is trained to predict an image's colours, textures, place, size and light, where the figure and its edges are, and
the shape traits, on images that belong to no concept. One third of its features predicts the shape and is scaled down
afterwards: appearance then dominates the features' geometry, while shape can still be read from them linearly. This is
the situation that alignment with human judgements is meant to correct.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from alignet_ray.synthetic.render import TEXTURES, TRAITS, Appearance, figure_masks, render, sample_appearance

VERSION = 1
"""Raised by hand when the same recipe gives other weights."""

PLACE = slice(6, 8)
LIGHT = slice(8, 10)
"""Columns of `appearance_targets` that change when the image is flipped or transposed."""

CELL = 4
"""Side in pixels of the cells of the dense targets: the stride of a timm network's second level."""

SHAPE_SHARE = 3
"""One feature in this many predicts the shape."""

SHAPE_SCALE = 0.25
"""Factor on the features that predict the shape, once training is done."""


@dataclass(frozen=True)
class BaseRecipe:
    """How a base network is trained.

    Attributes:
        arch: timm name of a ResNet of basic blocks.
        images: number of training images; each is used flipped and transposed at random.
        steps: updates.
        batch_size: images per update.
        lr: peak learning rate of AdamW (one cycle).
        shape_weight: weight of the squared error of the shape traits; that of all other targets is 1.
        threads: of torch; a fixed number, since the order of sums decides the last bits, and small, since two threads
            that wait for each other on busy cores are slower than one.
    """

    arch: str = "test_resnet"
    images: int = 8000
    steps: int = 1200
    batch_size: int = 64
    lr: float = 1e-2
    shape_weight: float = 4.0
    threads: int = 1


class Targets(NamedTuple):
    """What the network learns to predict of each image, standardised.

    Attributes:
        appearance: columns of `appearance_targets`.
        traits: the shape traits.
        cells: how much of every cell the figure covers, and how much of its edge lies there.
    """

    appearance: Float[Tensor, "b d"]
    traits: Float[Tensor, "b t"]
    cells: Float[Tensor, "b 2 c c"]


class PretrainingLoss(nn.Module):
    """The network with three linear readers and their squared errors.

    Some of the features predict the appearance, the others the shape, and an early layer predicts the figure's cells.
    """

    def __init__(self, network: nn.Module, appearance_width: int, shape_weight: float) -> None:
        super().__init__()
        timm_network: Any = network  # for timm's attributes
        width = int(timm_network.num_features)
        early_level = timm_network.feature_info[1]

        self.network = network
        self.shape_weight = shape_weight
        self.shape_features = width // SHAPE_SHARE
        self.early_output = torch.empty(0)
        self.read_appearance = nn.Linear(width - self.shape_features, appearance_width)
        self.read_traits = nn.Linear(self.shape_features, len(TRAITS))
        self.read_cells = nn.Conv2d(early_level["num_chs"], 2, 1)
        network.get_submodule(early_level["module"]).register_forward_hook(self._keep_output)

    def _keep_output(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Forward hook of the early layer."""
        self.early_output = output

    def forward(self, images: Float[Tensor, "b 3 s s"], targets: Targets) -> Float[Tensor, ""]:
        """Sum of the three mean squared errors."""
        features = self.network(images.contiguous(memory_format=torch.channels_last))
        appearance = self.read_appearance(features[:, self.shape_features :])
        traits = self.read_traits(features[:, : self.shape_features])
        cells = self.read_cells(self.early_output)

        appearance_error = (appearance - targets.appearance).square().mean()
        traits_error = (traits - targets.traits).square().mean()
        cells_error = (cells - targets.cells).square().mean()
        total: Tensor = appearance_error + self.shape_weight * traits_error + cells_error
        return total


def scale_features(network: nn.Module, features: int, factor: float) -> None:
    """Scale the first features of a timm ResNet by a positive factor: exactly, in the last block's normalisation."""
    block = network.get_submodule("layer4")[-1]  # type: ignore[index]
    norms = [block.bn2, *(module for module in block.downsample if isinstance(module, nn.BatchNorm2d))]
    with torch.no_grad():
        # The block ends in relu(a + b), and relu(c * a + c * b) = c * relu(a + b).
        for norm in norms:
            norm.weight[:features] *= factor
            norm.bias[:features] *= factor


def _ignore_step(step: int) -> None:
    """The default of `on_step`."""


def train_base(
    recipe: BaseRecipe, size: int, seed: int, on_step: Callable[[int], None] = _ignore_step
) -> dict[str, Tensor]:
    """Train a timm network and return its weights (`num_classes=0`).

    Args:
        recipe: architecture and training.
        size: side of the images in pixels.
        seed: of everything random.
        on_step: called with the number of finished updates.
    """
    threads_before = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _train(recipe, size, np.random.default_rng(seed), on_step)
    finally:
        torch.set_num_threads(threads_before)


def _train(
    recipe: BaseRecipe, size: int, rng: np.random.Generator, on_step: Callable[[int], None]
) -> dict[str, Tensor]:
    import timm

    traits = random_traits(recipe.images, rng)
    appearance = sample_appearance(recipe.images, rng)
    images = torch.from_numpy(render(traits, appearance, size, rng)).permute(0, 3, 1, 2).contiguous()
    targets = Targets(
        appearance=torch.from_numpy(standardised(appearance_targets(appearance))),
        traits=torch.from_numpy(standardised(traits)),
        cells=torch.from_numpy(cell_targets(traits, appearance, size)),
    )

    network = timm.create_model(recipe.arch, num_classes=0).to(memory_format=torch.channels_last).train()
    loss_module = PretrainingLoss(network, targets.appearance.shape[1], recipe.shape_weight)
    optimizer = torch.optim.AdamW(loss_module.parameters(), lr=recipe.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=recipe.steps, pct_start=0.15)

    # Targets are flipped and transposed with their image, so that augmentation does not make them wrong.
    for step in range(recipe.steps):
        rows = torch.from_numpy(rng.integers(0, recipe.images, recipe.batch_size))
        batch = Targets(targets.appearance[rows], targets.traits[rows], targets.cells[rows])
        pixels, batch = flip_and_transpose(images[rows].float() / 127.5 - 1, batch, rng)

        loss = loss_module(pixels, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        on_step(step + 1)

    scale_features(network, loss_module.shape_features, SHAPE_SCALE)
    return {name: value.detach().contiguous() for name, value in network.state_dict().items()}


def random_traits(count: int, rng: np.random.Generator) -> Float32[np.ndarray, "n 5"]:
    """Shape traits that belong to no concept: each is present or nearly absent, independently of the others."""
    shape = (count, len(TRAITS))
    is_present = rng.random(shape) < 0.45
    return np.where(is_present, rng.uniform(0.45, 1, shape), rng.uniform(0, 0.3, shape)).astype(np.float32)


def appearance_targets(appearance: Appearance) -> Float32[np.ndarray, "n d"]:
    """Appearances as numbers to predict: colours, place, light, texture, frequency, contrast and size."""
    count = len(appearance)
    columns = (
        appearance.colour.reshape(count, -1),
        appearance.place,
        appearance.light,
        np.eye(TEXTURES, dtype=np.float32)[appearance.texture].reshape(count, -1),
        appearance.frequency,
        appearance.depth,
        appearance.scale[:, None],
    )
    return np.concatenate(columns, axis=1).astype(np.float32)


def cell_targets(
    traits: Float32[np.ndarray, "n 5"], appearance: Appearance, size: int
) -> Float32[np.ndarray, "n 2 c c"]:
    """How much of every cell the figure covers, and how much of its edge lies there; both standardised."""
    masks = figure_masks(traits, appearance, size)
    # Edges are where coverage changes from one pixel to the next; a cell holds the mean over its pixels.
    down = np.abs(np.diff(masks, axis=1, append=masks[:, -1:]))
    right = np.abs(np.diff(masks, axis=2, append=masks[:, :, -1:]))
    side = size // CELL
    channels = np.stack([masks, down + right], axis=1)
    cells = channels.reshape(len(traits), 2, side, CELL, side, CELL).mean((3, 5))
    return standardised(cells, axes=(0, 2, 3))


def standardised(values: Float[np.ndarray, "n ..."], axes: tuple[int, ...] = (0,)) -> Float32[np.ndarray, "n ..."]:
    """Mean 0 and variance 1 over the given axes."""
    spread = values.std(axes, keepdims=True)
    return np.asarray((values - values.mean(axes, keepdims=True)) / spread, dtype=np.float32)


def flip_and_transpose(
    images: Float[Tensor, "b 3 s s"], targets: Targets, rng: np.random.Generator
) -> tuple[Float[Tensor, "b 3 s s"], Targets]:
    """A batch flipped and transposed at random, with its cells, and the place and light of its appearance, alike."""
    appearance = targets.appearance.clone()
    cells = targets.cells
    for axis in (0, 1):  # x, y
        if rng.random() < 0.5:
            images = images.flip(3 - axis)
            cells = cells.flip(3 - axis)
            appearance[:, [PLACE.start + axis, LIGHT.start + axis]] *= -1

    # A transposition swaps x and y.
    if rng.random() < 0.5:
        images = images.transpose(2, 3)
        cells = cells.transpose(2, 3)
        appearance[:, PLACE] = appearance[:, PLACE].flip(1)
        appearance[:, LIGHT] = appearance[:, LIGHT].flip(1)
    return images, Targets(appearance, targets.traits, cells)
