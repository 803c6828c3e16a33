"""Reads the next batches' images in a thread while the current one trains."""

import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from alignet_ray.training.batches import Batch, Batches
from alignet_ray.training.distributed import local_slice

ImageReader = Callable[[np.ndarray], Tensor]
"""Image ids -> (b, 3, s, s) uint8 pixels."""

AHEAD = 2
"""Batches that are read ahead."""


class LoadedBatch(NamedTuple):
    """A batch with its pixels.

    Attributes:
        batch: of all processes.
        pixels: this process's share of its images.
        waited: seconds that training waited for them.
    """

    batch: Batch
    pixels: UInt8[Tensor, "b 3 s s"]
    waited: float


def prefetch(batches: Batches, images: ImageReader, start: int, stop: int, pin: bool = False) -> Generator[LoadedBatch]:
    """Batches of the steps from `start` to `stop`, read two steps ahead in threads.

    To be used with `contextlib.closing`, as the one in models/features.py.

    Args:
        batches: the batch of every step.
        images: reads pixels.
        start, stop: the steps.
        pin: for a GPU: pixels in pinned memory, from which they are copied while it computes, and two threads, as it
            takes a batch in less time than one thread reads it. (A CPU needs its threads for training.)
    """

    def read(step: int) -> tuple[Batch, Tensor]:
        batch = batches(step)
        pixels = images(batch.image_ids[local_slice(len(batch.image_ids))])
        if pin:
            pixels = pixels.pin_memory()
        return batch, pixels

    pending: deque[Future[tuple[Batch, Tensor]]] = deque()
    threads = AHEAD if pin else 1
    with ThreadPoolExecutor(threads) as pool:
        _compute_on_one_thread(pool, threads)
        for step in range(start, stop):
            while len(pending) < min(AHEAD, stop - step):
                pending.append(pool.submit(read, step + len(pending)))

            begin = time.monotonic()
            batch, pixels = pending.popleft().result()
            yield LoadedBatch(batch, pixels, time.monotonic() - begin)


def _compute_on_one_thread(pool: ThreadPoolExecutor, readers: int) -> None:
    """Keep the readers from starting OpenMP threads of their own.

    A second team of OpenMP threads on the same cores delays the training's own between any two operations.
    """
    threads = torch.get_num_threads()
    # Every reader takes one of these tasks, since none of them ends before all have begun.
    all_there = Barrier(readers)

    def begin() -> None:
        all_there.wait()
        torch.set_num_threads(1)
        # A thread takes over the process's number at its first torch operation, so that must come before it changes
        # back.
        torch.get_num_threads()

    for begun in [pool.submit(begin) for _ in range(readers)]:
        begun.result()
    torch.set_num_threads(threads)
