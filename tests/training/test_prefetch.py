import numpy as np
import torch
from support.training import make_batches

from alignet_ray.training.prefetch import prefetch


def test_reading_ahead_computes_alone_and_leaves_the_trainings_threads() -> None:
    before, seen = torch.get_num_threads(), []

    def images(ids: np.ndarray) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return torch.zeros(len(ids), 3, 8, 8, dtype=torch.uint8)

    torch.set_num_threads(2)
    try:
        batches = make_batches(np.arange(9), np.eye(9, dtype=np.float32), np.arange(9), 6)
        during = [torch.get_num_threads() for _ in prefetch(batches, images, 0, 3)]
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1, 1]
    assert during == [2, 2, 2]
