"""Reads the next batches' images in a thread while the current one trains."""

import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
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


def prefetch(batches: Batches, images: ImageReader, start: int, stop: int) -> Generator[LoadedBatch]:
    """Batches of the steps from `start` to `stop`, read two steps ahead in a thread.

    To be used with `contextlib.closing`, as the one in models/features.py.
    """

    def read(step: int) -> tuple[Batch, Tensor]:
        batch = batches(step)
        return batch, images(batch.image_ids[local_slice(len(batch.image_ids))])

    pending: deque[Future[tuple[Batch, Tensor]]] = deque()
    with ThreadPoolExecutor(1) as pool:
        _compute_on_one_thread(pool)
        for step in range(start, stop):
            while len(pending) < min(AHEAD, stop - step):
                pending.append(pool.submit(read, step + len(pending)))

            begin = time.monotonic()
            batch, pixels = pending.popleft().result()
            yield LoadedBatch(batch, pixels, time.monotonic() - begin)


def _compute_on_one_thread(pool: ThreadPoolExecutor) -> None:
    """Keep the reader from starting OpenMP threads of its own.

    A second team of OpenMP threads on the same cores delays the training's own between any two operations.
    """
    threads = torch.get_num_threads()
    pool.submit(torch.set_num_threads, 1).result()

    # A thread takes over the process's number at its first torch operation, so that must come before it changes back.
    pool.submit(torch.get_num_threads).result()
    torch.set_num_threads(threads)
