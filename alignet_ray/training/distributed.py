"""One process or several: who is who, and outputs gathered from all with their gradients."""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


def world() -> int:
    """Number of training processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number."""
    return dist.get_rank() if dist.is_initialized() else 0


def gather(z: Float[Tensor, "b d"]) -> Float[Tensor, "n d"]:
    """Rows of all processes in order; gradients flow into this process's own."""
    if world() == 1:
        return z
    parts = [torch.empty_like(z) for _ in range(world())]
    dist.all_gather(parts, z.detach().contiguous())
    parts[rank()] = z
    return torch.cat(parts)
