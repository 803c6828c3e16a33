"""How a GPU multiplies, and what fits into its memory: settings and figures, without a GPU."""

import subprocess
import sys

import pytest
import torch

from alignet_ray.core import gpu


@pytest.mark.parametrize(("there", "device"), [(True, "cuda"), (False, "cpu")])
def test_the_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch, there: bool, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert gpu.best_device() == device


@pytest.mark.parametrize("on", [True, False])
def test_products_and_convolutions_are_set_together(on: bool, tf32: None) -> None:
    gpu.set_tf32(not on)
    gpu.set_tf32(on)
    assert torch.backends.cuda.matmul.allow_tf32 is on
    assert torch.backends.cudnn.allow_tf32 is on


def test_exact_products_are_exact_only_within(tf32: None) -> None:
    gpu.set_tf32(True)
    with pytest.raises(ValueError, match="inside"), gpu.exact_products():  # noqa: PT012
        assert not torch.backends.cuda.matmul.allow_tf32
        raise ValueError("inside")
    assert torch.backends.cuda.matmul.allow_tf32


def test_a_variable_of_the_environment_does_not_make_products_inexact() -> None:
    """Some images set it for all programs; resizing would no longer equal Pillow's, in silence."""
    code = """
import torch
from alignet_ray.core import gpu
print(torch.backends.cuda.matmul.allow_tf32)
with gpu.exact_products():
    print(torch.backends.cuda.matmul.allow_tf32)
gpu.set_tf32(False)
print(torch.backends.cuda.matmul.allow_tf32)
"""
    environment = {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "False"]


def test_a_matrix_fits_if_it_leaves_room_for_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1_000, 8_000))
    assert gpu.fits(700)
    assert not gpu.fits(701)
