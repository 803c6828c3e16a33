"""The base network of a generated world: trained on looks, on pictures that belong to no concept.

It learns to say a picture's colours, textures, place, size and light, where the figure and its edges are, and the
numbers of its form. A third of its features speak of the form, and are made quiet afterwards: so looks dominate the
features' geometry, and form is in them all the same, linearly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from alignet_ray.synthetic.render import TEXTURES, TRAITS, Looks, cover, draw, draw_looks

PLACE = slice(6, 8)
LIGHT = slice(8, 10)
"""Columns of `look_numbers` that turn with the picture."""

CELL = 4
"""Side in pixels of the cells that the dense aim speaks of: the stride of a timm network's second level."""


FORM_SHARE = 3
"""One feature in this many speaks of the form."""

QUIET = 0.25
"""What the features that speak of the form are multiplied by in the end."""


@dataclass(frozen=True)
class Base:
    """How a base network is trained.

    Attributes:
        arch: timm name of a ResNet of basic blocks.
        pictures: how many are drawn; each is used flipped and transposed at random.
        steps, batch: updates, and pictures an update.
        lr: peak learning rate of AdamW (one cycle).
        form_weight: weight of the form's mean squared error; that of the looks, and of figure and edges, is 1.
        threads: of torch; a fixed number, since the order of sums decides the last bits, and small, since two threads
            that wait for each other on busy cores are slower than one.
    """

    arch: str = "test_resnet"
    pictures: int = 8000
    steps: int = 1200
    batch: int = 64
    lr: float = 1e-2
    form_weight: float = 4.0
    threads: int = 1


class Aims(nn.Module):
    """What the network is asked, and how well it answers: looks by some features, form by the others, and the figure
    and its edges by an early layer, each read by a linear layer."""

    def __init__(self, net: nn.Module, looks: int, form_weight: float) -> None:
        super().__init__()
        known: Any = net  # timm's attributes
        width, level = int(known.num_features), known.feature_info[1]
        self.net, self.form_weight, self.early, self.forms = net, form_weight, torch.empty(0), width // FORM_SHARE
        self.look = nn.Linear(width - self.forms, looks)
        self.form = nn.Linear(self.forms, len(TRAITS))
        self.cells = nn.Conv2d(level["num_chs"], 2, 1)
        net.get_submodule(level["module"]).register_forward_hook(self.keep)

    def keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Forward hook: remember what the early layer said."""
        self.early = output

    def forward(
        self,
        x: Float[Tensor, "b 3 s s"],
        look: Float[Tensor, "b d"],
        form: Float[Tensor, "b t"],
        cells: Float[Tensor, "b 2 c c"],
    ) -> Float[Tensor, ""]:
        """Sum of the three mean squared errors; all aims are standardised."""
        features = self.net(x.contiguous(memory_format=torch.channels_last))
        said = self.look(features[:, self.forms :]), self.form(features[:, : self.forms]), self.cells(self.early)
        errors = [(a - b).square().mean() for a, b in zip(said, (look, form, cells), strict=True)]
        total: Tensor = errors[0] + self.form_weight * errors[1] + errors[2]
        return total


def quieten(net: nn.Module, features: int, factor: float) -> None:
    """Scale the first features of a timm ResNet by a positive factor: exactly, in the last block's normalisation."""
    block = net.get_submodule("layer4")[-1]  # type: ignore[index]
    norms = [block.bn2, *(m for m in block.downsample if isinstance(m, nn.BatchNorm2d))]
    with torch.no_grad():
        for norm in norms:  # relu(c * a + c * b) = c * relu(a + b)
            norm.weight[:features] *= factor
            norm.bias[:features] *= factor


def train_base(
    recipe: Base, size: int, seed: int, tell: Callable[[int], None] = lambda step: None
) -> dict[str, Tensor]:
    """Train a timm network on looks and return its weights (`num_classes=0`).

    Args:
        recipe: architecture and training.
        size: side of the pictures in pixels.
        seed: of everything random.
        tell: called with the number of finished updates.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _train(recipe, size, np.random.default_rng(seed), tell)
    finally:
        torch.set_num_threads(before)


def _train(recipe: Base, size: int, rng: np.random.Generator, tell: Callable[[int], None]) -> dict[str, Tensor]:
    import timm

    form, looks = random_form(recipe.pictures, rng), draw_looks(recipe.pictures, rng)
    pixels = torch.from_numpy(draw(form, looks, size, rng)).permute(0, 3, 1, 2).contiguous()
    cells = torch.from_numpy(figure_cells(form, looks, size))
    look, form_aim = torch.from_numpy(standardised(look_numbers(looks))), torch.from_numpy(standardised(form))
    net = timm.create_model(recipe.arch, num_classes=0).to(memory_format=torch.channels_last).train()
    aims = Aims(net, look.shape[1], recipe.form_weight)
    optimizer = torch.optim.AdamW(aims.parameters(), lr=recipe.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=recipe.steps, pct_start=0.15)
    for step in range(recipe.steps):
        rows = torch.from_numpy(rng.integers(0, recipe.pictures, recipe.batch))
        x, where, said = turned(pixels[rows].float() / 127.5 - 1, cells[rows], look[rows], rng)
        loss = aims(x, said, form_aim[rows], where)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        tell(step + 1)
    quieten(net, aims.forms, QUIET)
    return {name: value.detach().contiguous() for name, value in net.state_dict().items()}


def random_form(n: int, rng: np.random.Generator) -> Float32[np.ndarray, "n 5"]:
    """Forms at random that belong to no concept: each trait is present or nearly absent, whatever the others are."""
    shape = (n, len(TRAITS))
    present = rng.random(shape) < 0.45
    return np.where(present, rng.uniform(0.45, 1, shape), rng.uniform(0, 0.3, shape)).astype(np.float32)


def look_numbers(looks: Looks) -> Float32[np.ndarray, "n d"]:
    """Looks as numbers to predict: colours, place, light, texture, frequency, contrast and size."""
    n = len(looks)
    texture = np.eye(TEXTURES, dtype=np.float32)[looks.texture].reshape(n, -1)
    columns = (looks.colour.reshape(n, -1), looks.place, looks.light, texture, looks.frequency, looks.depth)
    return np.concatenate([*columns, looks.scale[:, None]], axis=1).astype(np.float32)


def figure_cells(form: Float32[np.ndarray, "n 5"], looks: Looks, size: int) -> Float32[np.ndarray, "n 2 c c"]:
    """How much of every cell the figure covers, and how much of its edge runs there; both standardised."""
    figure = cover(form, looks, size)
    down = np.abs(np.diff(figure, axis=1, append=figure[:, -1:]))
    right = np.abs(np.diff(figure, axis=2, append=figure[:, :, -1:]))
    side = size // CELL
    cells = np.stack([figure, down + right], axis=1).reshape(len(form), 2, side, CELL, side, CELL).mean((3, 5))
    return standardised(cells, axes=(0, 2, 3))


def standardised(values: Float[np.ndarray, "n ..."], axes: tuple[int, ...] = (0,)) -> Float32[np.ndarray, "n ..."]:
    """Mean 0 and variance 1 over the given axes."""
    spread = values.std(axes, keepdims=True)
    return np.asarray((values - values.mean(axes, keepdims=True)) / spread, dtype=np.float32)


def turned(
    x: Float[Tensor, "b 3 s s"], cells: Float[Tensor, "b 2 c c"], look: Float[Tensor, "b d"], rng: np.random.Generator
) -> tuple[Float[Tensor, "b 3 s s"], Float[Tensor, "b 2 c c"], Float[Tensor, "b d"]]:
    """A batch flipped and transposed at random, and its cells and its looks' place and light turned alike."""
    look = look.clone()
    for axis in (0, 1):
        if rng.random() < 0.5:
            x, cells = x.flip(3 - axis), cells.flip(3 - axis)
            look[:, [PLACE.start + axis, LIGHT.start + axis]] *= -1
    if rng.random() < 0.5:
        x, cells = x.transpose(2, 3), cells.transpose(2, 3)
        look[:, PLACE], look[:, LIGHT] = look[:, PLACE].flip(1), look[:, LIGHT].flip(1)
    return x, cells, look
