"""Several training processes on this machine, as Ray Train would start them: a process group, and nothing of Ray."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def _member(rank: int, world: int, folder: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    try:
        torch.save(work(*arguments), Path(folder) / f"result-{rank}.pt")
    finally:
        dist.destroy_process_group()


def in_processes(world: int, folder: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What a function of a module returns in each of `world` processes, by rank."""
    folder.mkdir()
    # Forked from a process that has imported torch and computed nothing: starting takes no time, and is safe.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "timm", "alignet_ray.training.loop"])
    shared = (world, str(folder), work, arguments)
    members = [context.Process(target=_member, args=(rank, *shared)) for rank in range(world)]
    for member in members:
        member.start()
    for member in members:
        member.join(timeout=120)
    assert [member.exitcode for member in members] == [0] * world
    return [torch.load(folder / f"result-{rank}.pt", weights_only=True) for rank in range(world)]
