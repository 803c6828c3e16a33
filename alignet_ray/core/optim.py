"""What PyTorch lacks for the optimisation: the pull to the initial weights, the schedule, a running mean of weights."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def warmup_cosine(step: int, steps: int, warmup: int, lr: float) -> float:
    """Learning rate of update number `step` (from 0): linear from 0 to `lr` over `warmup`, then cosine to 0 at `steps`.

    The warm-up counts in `steps`. Equals optax's `warmup_cosine_decay_schedule(0, lr, warmup, steps)`, and timm's
    `CosineLRScheduler(t_initial=steps - warmup, warmup_t=warmup, warmup_prefix=True)`.
    """
    if step < warmup:
        return lr * step / warmup
    return 0.5 * lr * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


@torch.no_grad()
def decay_to_init(parameters: Sequence[Tensor], initial: Sequence[Tensor], rate: float) -> None:
    """theta <- theta - rate * (theta - theta_0), in place; call it with rate = lr * strength just before Adam's step.

    With Adam's step after it the update is -lr * (adam(g) + strength * (theta - theta_0)): decoupled, on every
    parameter, biases and head included (AligNet's released recipe). AdamW, which pulls to zero, is another method.
    """
    if rate:
        torch._foreach_lerp_(list(parameters), list(initial), rate)


@torch.no_grad()
def l2_to_init(parameters: Sequence[Tensor], initial: Sequence[Tensor], strength: float) -> None:
    """The gradient of strength / 2 * sum ||theta - theta_0||^2 on top of `.grad`: the pull as a part of the loss.

    Adam then scales it like any gradient, so that it means less where gradients are large (Loshchilov and Hutter,
    "Decoupled weight decay regularization", 2019): another method than `decay_to_init`.
    """
    if strength:
        for p, first in zip(parameters, initial, strict=True):
            if p.grad is not None:
                p.grad.add_(p - first, alpha=strength)


@torch.no_grad()
def update_mean(mean: Sequence[Tensor], parameters: Sequence[Tensor], decay: float) -> None:
    """mean <- decay * mean + (1 - decay) * theta, in place (exponential moving average of weights)."""
    torch._foreach_lerp_(list(mean), list(parameters), 1 - decay)
