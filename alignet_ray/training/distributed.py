"""Process-group helpers for one process or several: rank, world size, shares of a batch, gathering with gradients."""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


def world_size() -> int:
    """Number of training processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main_process() -> bool:
    """Whether this process writes files and metrics for all of them."""
    return rank() == 0


def local_slice(count: int) -> slice:
    """This process's share of `count` rows, which are split evenly."""
    share = count // world_size()
    start = rank() * share
    return slice(start, start + share)


def gather_rows(rows: Float[Tensor, "b d"]) -> Float[Tensor, "n d"]:
    """Rows of all processes in order of rank; gradients flow into this process's own."""
    if world_size() == 1:
        return rows

    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.detach().contiguous())

    # `all_gather` returns copies without a graph: put the original back where this process's rows lie.
    parts[rank()] = rows
    return torch.cat(parts)
