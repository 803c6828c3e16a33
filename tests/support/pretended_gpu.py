"""A GPU where there is none: tensors that compute on the CPU but may not meet tensors of the CPU.

What a GPU would refuse is refused here, too: an operation over both devices, and NumPy's view of a tensor of the GPU.
So the parts of the code that choose the device are run to their end on any machine, and their figures are those of the
CPU. Not pretended: memory, streams, kernels of less precision, compiled networks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")
INDEXING = ("index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_")
"""Operations whose indices may lie on the CPU."""


class There(Tensor):
    """A tensor of the pretended GPU; `inner` holds its numbers. (To the C++ side it lies on the CPU, as autograd there
    would ask a driver for its stream.)"""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "There":
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.size(), **layout, device=CPU)
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inner.__reduce_ex__(protocol)  # torch.save: what is loaded lies where `map_location` says


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One operation: refuse it over both devices (single numbers of the CPU are welcome), else do it on the CPU."""
    name = func._schema.name.split("::")[1]
    tensors = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
    there = any(isinstance(a, There) for a in tensors)
    here = [a for a in tensors if not isinstance(a, There) and a.dim() and not (name in INDEXING and a is not args[0])]
    if there and here and name not in ("_to_copy", "copy_"):
        raise RuntimeError(f"{func}: expected all tensors on one device, found {GPU} and {CPU} {here[0].shape}")
    plain, options = tree_map(lambda a: a.inner if isinstance(a, There) else a, (args, kwargs))
    wanted = torch.device(options["device"]).type if options.get("device") else None
    if wanted == "cuda":
        options["device"] = CPU
    out = func(*plain, **options)
    if name == "copy_":
        there = isinstance(args[0], There)
    elif name == "_to_copy" and wanted == "cpu":
        there = False
    if not there and wanted != "cuda":
        return out
    moved = tree_map(lambda t: There(t) if isinstance(t, Tensor) and not isinstance(t, There) else t, out)
    return (
        return_and_correct_aliasing(func, args, kwargs, moved) if any(isinstance(a, There) for a in tensors) else moved
    )


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE  # torch then does not look for a driver by itself

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Spelling(TorchFunctionMode):
    """What Python says of devices: `x.device`, `x.cuda()`, `x.to("cuda")`, `torch.zeros(3, device="cuda")`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        x, options = args[0] if args else None, dict(kwargs or {})
        if isinstance(x, There):
            if func == Tensor.device.__get__:
                return GPU
            if func == Tensor.is_cuda.__get__:
                return True
            if func is Tensor.numpy:
                raise TypeError(f"can't convert {GPU} device type tensor to numpy")
        args = tuple(_full(a) for a in args)
        if "device" in options:
            options["device"] = _full(options["device"])
        if func is Tensor.cuda:
            return x.to(GPU)
        if isinstance(x, There) and (
            func is Tensor.cpu or (func is Tensor.to and CPU in (*args, options.get("device")))
        ):
            return torch.ops.aten._to_copy.default(x, device=CPU)
        if func is torch.tensor and options.get("device"):
            device = options.pop("device")
            return func(*args, **options).to(device)
        return func(*args, **options)


def _full(a: Any) -> Any:
    """A device with its number, whichever way it was written."""
    if isinstance(a, str) and a in ("cuda", "cpu"):
        a = torch.device(a)
    return GPU if isinstance(a, torch.device) and a.type == "cuda" else a


PINNED: list[torch.Size] = []
"""Shapes of the tensors that were pinned."""


def _pin(tensor: Tensor) -> Tensor:
    PINNED.append(tensor.shape)
    return tensor


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """In here, there is a GPU: `cuda`."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    pin_memory = Tensor.pin_memory
    # Set for all threads: a mode holds in its own thread alone, and readers pin what they have read.
    Tensor.pin_memory = _pin  # type: ignore[method-assign,assignment]
    try:
        with _Operations(), _Spelling():
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        Tensor.pin_memory = pin_memory  # type: ignore[method-assign]
