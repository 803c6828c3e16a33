"""Optimisation that PyTorch lacks: learning-rate schedule, decay to the initial weights, moving average of weights."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def warmup_cosine(step: int, steps: int, warmup_steps: int, lr: float) -> float:
    """Learning rate of an update: linear from 0 to `lr` over the warm-up, then a cosine to 0 at `steps`.

    Equals optax's `warmup_cosine_decay_schedule(0, lr, warmup_steps, steps)`, and timm's
    `CosineLRScheduler(t_initial=steps - warmup_steps, warmup_t=warmup_steps, warmup_prefix=True)`.

    Args:
        step: number of the update, from 0.
        steps: all updates, those of the warm-up included.
        warmup_steps: updates of the warm-up.
        lr: peak learning rate.
    """
    if step < warmup_steps:
        return lr * step / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.5 * lr * (1 + math.cos(math.pi * min(1.0, progress)))


def cosine_to_twentieth(progress: float) -> float:
    """Factor of a learning rate: from 1 down to a twentieth along half a cosine.

    Args:
        progress: share of the updates that are done, from 0 to 1.
    """
    return 0.05 + 0.95 * (1 + math.cos(math.pi * progress)) / 2


@torch.no_grad()
def decay_to_init(parameters: Sequence[Tensor], initial: Sequence[Tensor], rate: float) -> None:
    """Decoupled decay to the initial weights: theta <- theta - rate * (theta - theta_0), in place.

    Called with rate = lr * strength just before Adam's step, the whole update is
    -lr * (adam(g) + strength * (theta - theta_0)), on every parameter, biases and head included (AligNet's released
    recipe). AdamW's decay is the same with theta_0 = 0.
    """
    if rate:
        torch._foreach_lerp_(list(parameters), list(initial), rate)


@torch.no_grad()
def l2_to_init(parameters: Sequence[Tensor], initial: Sequence[Tensor], strength: float) -> None:
    """L2-SP (Li et al., ICML 2018): add the gradient of strength / 2 * sum ||theta - theta_0||^2 to `.grad`.

    Adam then rescales it like any gradient, so that it weighs less where gradients are large (Loshchilov and Hutter,
    "Decoupled weight decay regularization", ICLR 2019): another method than `decay_to_init`.
    """
    if not strength:
        return
    for parameter, start in zip(parameters, initial, strict=True):
        if parameter.grad is not None:
            parameter.grad.add_(parameter - start, alpha=strength)


@torch.no_grad()
def update_ema(average: Sequence[Tensor], parameters: Sequence[Tensor], decay: float) -> None:
    """Exponential moving average of weights: average <- decay * average + (1 - decay) * theta, in place."""
    torch._foreach_lerp_(list(average), list(parameters), 1 - decay)
