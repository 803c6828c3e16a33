"""Parts of the optimisation that PyTorch lacks: decay to the initial weights (L2-SP), the schedule, an EMA of weights.

L2-SP: Li et al., "Explicit inductive bias for transfer learning with convolutional networks" (ICML 2018).
"""

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
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return 0.5 * lr * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def decay_to_init(parameters: Sequence[Tensor], initial: Sequence[Tensor], rate: float) -> None:
    """Decoupled decay to the initial weights: theta <- theta - rate * (theta - theta_0), in place.

    Call it with rate = lr * strength just before Adam's step. The whole update is then
    -lr * (adam(g) + strength * (theta - theta_0)), on every parameter, biases and head included (AligNet's released
    recipe). AdamW, which decays to zero, is another method.
    """
    if rate:
        torch._foreach_lerp_(list(parameters), list(initial), rate)


@torch.no_grad()
def l2_to_init(parameters: Sequence[Tensor], initial: Sequence[Tensor], strength: float) -> None:
    """Add the gradient of strength / 2 * sum ||theta - theta_0||^2 to `.grad`: L2-SP as a part of the loss.

    Adam then scales it like any other gradient, so that it weighs less where gradients are large (Loshchilov and
    Hutter, "Decoupled weight decay regularization", ICLR 2019): another method than `decay_to_init`.
    """
    if not strength:
        return
    for parameter, start in zip(parameters, initial, strict=True):
        if parameter.grad is not None:
            parameter.grad.add_(parameter - start, alpha=strength)


@torch.no_grad()
def update_mean(mean: Sequence[Tensor], parameters: Sequence[Tensor], decay: float) -> None:
    """Exponential moving average of weights, in place: mean <- decay * mean + (1 - decay) * theta."""
    torch._foreach_lerp_(list(mean), list(parameters), 1 - decay)
