"""What a GPU is told and asked: whether there is one, how it multiplies, and whether a matrix fits into its memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

RESIDENT_SHARE = 0.7
"""Share of a GPU's free memory that a matrix may take to stay there; the rest is for products with it."""


def best_device() -> str:
    """Where this process computes what is worth a GPU: on its GPU, if it has one."""
    if torch.cuda.is_available():
        return "cuda"
    return "cpu"


def set_tf32(on: bool) -> None:
    """Whether this process's GPU rounds the factors of products to TF32 (11 binary digits); sums stay float32.

    Matrix products and convolutions are both set: torch's own defaults differ, and a variable of the environment
    changes one of them. A CPU is not concerned.
    """
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on


@contextmanager
def exact_products() -> Iterator[None]:
    """Within it matrix products keep all digits of float32, whatever is set for the process."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def fits(size: int) -> bool:
    """Whether so many bytes fit into the GPU's memory, with room for products."""
    free, _ = torch.cuda.mem_get_info()
    return size <= RESIDENT_SHARE * free
