"""Process-group helpers for one process or several: rank, world size, shares of a batch, gathering with gradients."""

import math

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
    """This process's share of `count` rows; shares differ by one row at most, for any number of processes."""
    start = rank() * count // world_size()
    stop = (rank() + 1) * count // world_size()
    return slice(start, stop)


def gather_rows(rows: Float[Tensor, "b d"], count: int) -> Float[Tensor, "n d"]:
    """All `count` rows in order of rank, from each process its share; gradients flow into this process's own."""
    if world_size() == 1:
        return rows

    # `all_gather` wants shares of one size: the smaller ones are filled up, and cut again below.
    largest = math.ceil(count / world_size())
    padded = rows.new_zeros(largest, *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in range(world_size())]
    dist.all_gather(parts, padded)

    # It returns copies without a graph: put the original back where this process's rows lie.
    gathered = []
    for number, part in enumerate(parts):
        share = (number + 1) * count // world_size() - number * count // world_size()
        gathered.append(part[:share])
    gathered[rank()] = rows
    return torch.cat(gathered)
