"""The base network of a generated world: trained on looks, on pictures that belong to no concept.

It learns to say a picture's colours, textures, place, size and light, and the numbers of its form. Looks are most of
what it learns, so they dominate the geometry of its features; form is in there all the same, linearly.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from alignet_ray.data.world_drawing import TEXTURES, TRAITS, Looks, draw, draw_looks

PLACE = slice(6, 8)
LIGHT = slice(8, 10)
"""Columns of `look_numbers` that turn with the picture."""

THREADS = 2
"""Torch threads of the training: a fixed number, since the order of sums decides the last bits."""


def train_base(
    arch: str,
    size: int,
    pictures: int,
    steps: int,
    batch: int,
    lr: float,
    form_weight: float,
    seed: int,
    tell: Callable[[int], None] = lambda step: None,
) -> dict[str, Tensor]:
    """Train a timm network on looks and return its weights (`num_classes=0`).

    Args:
        arch: timm name.
        size: side of the pictures in pixels.
        pictures: how many are drawn; each is used flipped and transposed at random.
        steps: updates.
        batch: pictures an update.
        lr: peak learning rate of AdamW (one cycle).
        form_weight: weight of the form's mean squared error beside that of the looks.
        seed: of everything random.
        tell: called with the number of finished updates.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _train(arch, size, pictures, steps, batch, lr, form_weight, np.random.default_rng(seed), tell)
    finally:
        torch.set_num_threads(threads)


def _train(
    arch: str,
    size: int,
    pictures: int,
    steps: int,
    batch: int,
    lr: float,
    form_weight: float,
    rng: np.random.Generator,
    tell: Callable[[int], None],
) -> dict[str, Tensor]:
    import timm

    form, looks = random_form(pictures, rng), draw_looks(pictures, rng)
    pixels = torch.from_numpy(draw(form, looks, size, rng)).permute(0, 3, 1, 2).contiguous()
    numbers = [torch.from_numpy(standardised(values)) for values in (look_numbers(looks), form)]
    net = timm.create_model(arch, num_classes=0).to(memory_format=torch.channels_last).train()
    head = nn.Linear(int(net.num_features), sum(values.shape[1] for values in numbers))
    optimizer = torch.optim.AdamW([*net.parameters(), *head.parameters()], lr=lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.15)
    for step in range(steps):
        rows = torch.from_numpy(rng.integers(0, pictures, batch))
        x, look = turned(pixels[rows].float() / 127.5 - 1, numbers[0][rows], rng)
        said = head(net(x.contiguous(memory_format=torch.channels_last)))
        wide = look.shape[1]
        loss = (said[:, :wide] - look).square().mean() + form_weight * (
            said[:, wide:] - numbers[1][rows]
        ).square().mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        tell(step + 1)
    return {name: value.detach().contiguous() for name, value in net.state_dict().items()}


def random_form(n: int, rng: np.random.Generator) -> Float32[np.ndarray, "n 6"]:
    """Forms at random that belong to no concept: each trait is present or nearly absent, whatever the others are."""
    shape = (n, len(TRAITS))
    present = rng.random(shape) < 0.45
    return np.where(present, rng.uniform(0.45, 1, shape), rng.uniform(0, 0.3, shape)).astype(np.float32)


def look_numbers(looks: Looks) -> Float32[np.ndarray, "n d"]:
    """Looks as numbers to predict: colours, place, light, texture, frequency, contrast and size."""
    n = len(looks)
    texture = np.eye(TEXTURES, dtype=np.float32)[looks.texture].reshape(n, -1)
    columns = (
        looks.colour.reshape(n, -1),
        looks.place,
        looks.light,
        texture,
        looks.frequency,
        looks.depth,
        looks.scale[:, None],
    )
    return np.concatenate(columns, axis=1).astype(np.float32)


def standardised(values: Float[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Columns of mean 0 and variance 1."""
    return ((values - values.mean(0)) / values.std(0)).astype(np.float32)


def turned(
    x: Float[Tensor, "b 3 s s"], look: Float[Tensor, "b d"], rng: np.random.Generator
) -> tuple[Float[Tensor, "b 3 s s"], Float[Tensor, "b d"]]:
    """A batch flipped and transposed at random, and its looks with place and light turned alike."""
    look = look.clone()
    for axis in (0, 1):
        if rng.random() < 0.5:
            x = x.flip(3 - axis)
            look[:, [PLACE.start + axis, LIGHT.start + axis]] *= -1
    if rng.random() < 0.5:
        x = x.transpose(2, 3)
        look[:, PLACE], look[:, LIGHT] = look[:, PLACE].flip(1), look[:, LIGHT].flip(1)
    return x, look
