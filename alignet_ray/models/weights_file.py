"""Reads the weights of a network from a checkpoint, in whatever wrapping and under whatever prefix they were left."""

import warnings
from argparse import Namespace
from collections.abc import Collection, Mapping
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignet_ray.errors import UserError, first_line, require_regular

PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.", "backbone.", "encoder.")
"""Prefixes of all names: DataParallel's, torch.compile's, and those of the attributes that hold a network."""

AVERAGED = ("state_dict_ema", "state_dict")
"""timm's pair of averaged and plain weights of one network: the averaged ones are the result of the training."""

SCALAR: Any = np.float64(0).__reduce__()[0]
"""The function by which pickles make NumPy's numbers."""

SETTINGS: tuple[Any, ...] = (
    *(Namespace, PosixPath, (PosixPath, "pathlib._local.PosixPath")),
    *(np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType, np.dtypes.BoolDType),
    *((SCALAR, "numpy._core.multiarray.scalar"), (SCALAR, "numpy.core.multiarray.scalar")),
)
"""What stands beside the weights in the checkpoints of timm, DINO and others: options, paths and best scores.

They hold values and run nothing, so that a file may be read that has them; whatever else is no tensor is still refused.
"""

MAX_NAMES = 6
"""Names that a message lists."""


def read_weights(file: Path, key: str = "") -> dict[str, Tensor]:
    """State dict of a .safetensors or torch file (read without unpickling code); wrappers and prefixes are removed.

    Args:
        file: the checkpoint.
        key: which of several networks in it: the name of a wrapper, or a prefix of names.

    Raises:
        UserError: missing or unreadable file, no weights in it, or several networks and no key.
    """
    # Reading a named pipe would wait for a writer for ever.
    require_regular(file)
    if not file.is_file():
        raise UserError(f"weights file {file} does not exist")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(file)
        else:
            content = _load_tensors(file)
    except Exception as error:  # both libraries raise errors of many types on damaged files
        raise UserError(f"{file} is not a readable weights file: {_why_unreadable(error)}") from error

    # Among the weights may stand counters and settings, which are no tensors.
    weights: dict[str, Tensor] = {}
    for name, value in _unwrapped(content, file, key).items():
        if isinstance(value, Tensor):
            weights[str(name)] = value
    if not weights:
        raise UserError(f"{file} holds no weights: it is a {type(content).__name__} without tensors by name")

    # A diverged training is told here, where its file is known, and not by embeddings that are all refused.
    for name, value in weights.items():
        if value.is_meta or value.is_quantized or value.layout != torch.strided:
            raise UserError(f"{file}: {name} is no plain tensor (without content, quantised or sparse): save it dense")
        if value.is_floating_point() and not bool(torch.isfinite(value.float()).all()):
            raise UserError(f"{file}: {name} is not finite (NaN or infinity): did the training diverge?")
    return _without_common_prefixes(weights)


def select_network(weights: dict[str, Tensor], expected: Collection[str], name: str) -> dict[str, Tensor]:
    """The weights under the prefix below which a network's names all stand; as they are where there is none.

    Args:
        weights: names -> values.
        expected: names of the network's tensors.
        name: of the model, for messages.

    Raises:
        UserError: several prefixes fit.
    """
    expected = set(expected)
    if not expected or expected <= weights.keys():
        return weights

    # Every prefix that fits stands before each of the names, so any one of them finds all candidates.
    probe = min(expected)
    fitting: dict[str, dict[str, Tensor]] = {}
    for key in weights:
        if not key.endswith(f".{probe}"):
            continue
        prefix = key.removesuffix(probe)
        candidate = _below(weights, prefix)
        if expected <= candidate.keys():
            fitting[prefix.rstrip(".")] = candidate

    if len(fitting) > 1:
        raise UserError(_which(name, list(fitting)))
    if not fitting:
        return weights
    return next(iter(fitting.values()))


def _load_tensors(file: Path) -> Any:
    """Content of a torch file without running code in it."""
    # torch warns of what is refused below anyway: TorchScript, and sparse tensors.
    with torch.serialization.safe_globals(list(SETTINGS)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(file, map_location="cpu", weights_only=True)


def _why_unreadable(error: Exception) -> str:
    # torch's own advice at these errors is to switch the protection off.
    for sign in ("Weights only load failed", "TorchScript"):
        if sign in str(error):
            return "it holds code or Python objects, which are not loaded: save the network's state_dict()"
    return first_line(error)


def _unwrapped(content: Any, file: Path, key: str) -> Mapping[Any, Any]:
    """The state dict in what a file holds."""
    if key and isinstance(content, Mapping):
        below = _below(content, f"{key}.")
        if key not in content and not below:
            known = [str(name) for name in content if isinstance(content[name], Mapping)]
            listed = ", ".join(known[:MAX_NAMES]) or "one network"
            raise UserError(f"{file} has no network {key!r}: it holds {listed}")
        content = content.get(key, below)

    # Wrappers may lie in each other, as in {"model": {"state_dict": ...}}.
    while isinstance(content, Mapping):
        wrapped = [name for name, value in content.items() if _holds_weights(value)]
        if set(wrapped) == set(AVERAGED):
            wrapped = list(AVERAGED[:1])
        if len(wrapped) > 1:
            raise UserError(_which(str(file), list(map(str, wrapped))))
        if not wrapped:
            return content
        content = content[wrapped[0]]
    raise UserError(f"{file} holds no weights by name: it is a {type(content).__name__}")


def _holds_weights(value: Any) -> bool:
    """Whether a value of a checkpoint is a state dict or a wrapper of one; an optimiser's state has numbers as keys."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        return False
    return any(isinstance(inner, Tensor) or _holds_weights(inner) for inner in value.values())


def _without_common_prefixes(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove prefixes that all names share, one inside the other."""
    # The order is not known ("module.model." or "model.module."), and each removed one may uncover another.
    for _ in PREFIXES:
        for prefix in PREFIXES:
            if all(name.startswith(prefix) for name in weights):
                weights = _below(weights, prefix)
    return weights


def _below(weights: Mapping[Any, Any], prefix: str) -> dict[str, Any]:
    """Entries whose names begin with a prefix, without it."""
    found: dict[str, Any] = {}
    for name, value in weights.items():
        if isinstance(name, str) and name.startswith(prefix):
            found[name.removeprefix(prefix)] = value
    return found


def _which(name: str, keys: list[str]) -> str:
    """The message that asks which of several networks is meant."""
    listed = ", ".join(keys[:MAX_NAMES])
    return f"{name} holds several networks ({listed}): say which one, as in NAME@FILE#{keys[0]}"
