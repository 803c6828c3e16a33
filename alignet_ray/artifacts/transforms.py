"""Affine transforms as files, in the layout of gLocal and thingsvision (transform.npz) or as safetensors.

transform.npz holds `weights` (p, p) float32, scalars `mean` and `std`, and optionally `bias` (p,):
y = ((x - mean) / std) @ weights + bias. Published files do not say which model they belong to, so ours carry a
`provenance` beside these arrays (JSON text in the .npz, metadata in the .safetensors).
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from alignet_ray.artifacts.student_files import MODEL_FILE
from alignet_ray.core.affine import AffineTransform
from alignet_ray.errors import MAX_CHARACTERS, UserError, array_problem
from alignet_ray.locations import read_bytes
from alignet_ray.store import JsonObject

TRANSFORM = "transform.npz"
TRANSFORM_TENSORS = "transform.safetensors"
SUFFIXES = (".npz", ".safetensors")

REQUIRED = ("weights", "mean", "std")
"""Arrays without which a file is no transform."""


@dataclass(frozen=True)
class StoredTransform:
    """A transform read from a file, and where it comes from (empty for files of other projects)."""

    transform: AffineTransform
    provenance: JsonObject


def dump_transform(suffix: str, transform: AffineTransform, provenance: JsonObject | None = None) -> bytes:
    """A transform as the content of a file.

    Args:
        suffix: .npz (gLocal's layout) or .safetensors.
        transform: the map.
        provenance: JSON-able: model, feature checksum, objects it was fitted on.

    Raises:
        UserError: another suffix.
    """
    if suffix not in SUFFIXES:
        raise UserError(f"a transform is written as .npz or .safetensors, not {suffix or 'without an ending'}")

    # Both formats write memory as it lies, so rows must come first.
    arrays: dict[str, Any] = {
        "weights": np.ascontiguousarray(transform.weights),
        "bias": np.ascontiguousarray(transform.bias),
        "mean": np.array(transform.mean, dtype=np.float32),
        "std": np.array(transform.std, dtype=np.float32),
    }

    # Text as one more array: gLocal and thingsvision read the arrays that they know and leave it alone.
    text = json.dumps(provenance or {}, sort_keys=True)
    if suffix == ".safetensors":
        return bytes(safetensors.numpy.save(arrays, metadata={"format": "np", "provenance": text}))
    stream = io.BytesIO()
    np.savez(stream, **arrays, provenance=np.array(text))
    return stream.getvalue()


def load_transform(path: str | Path) -> AffineTransform:
    """Read a transform from .npz or .safetensors, ours or gLocal's.

    Raises:
        UserError: missing, not a transform, shapes that do not fit, or values that are not finite.
    """
    return read_transform(path).transform


def read_transform(path: str | Path) -> StoredTransform:
    """As `load_transform`, with the provenance."""
    data = read_bytes(str(path))
    try:
        if str(path).endswith(".npz"):
            arrays, provenance = _parse_npz(data)
        else:
            arrays, provenance = _parse_safetensors(data)
        return StoredTransform(_checked_transform(arrays, str(path)), json.loads(provenance))
    except UserError:
        # It says already what is wrong with the file.
        raise
    except Exception as error:  # zip, zlib, NumPy and safetensors raise errors of many types on damaged bytes
        raise UserError(f"{path} is not a transform: {array_problem(error)}") from error


def locate(name: str, root: str) -> str:
    """The file that `align.from` means: a transform, or the one in an align artifact's folder (or of its id).

    Args:
        name: a file, a folder, or the id of an align artifact.
        root: the store's root, for ids.

    Raises:
        UserError: a folder without a transform.
    """
    # A folder as the user wrote it comes before an id, which may be the name of one.
    for folder in (Path(name).expanduser(), Path(root).expanduser() / "align" / name):
        if not folder.is_dir():
            continue
        if (folder / TRANSFORM).is_file():
            return str(folder / TRANSFORM)

        # A network teacher has no transform: the fine-tuned network itself takes its place.
        hint = ""
        if (folder / MODEL_FILE).is_file():
            hint = "; it holds a network: use it as --embed.model"
        raise UserError(f"align.from {name}: no transform.npz in that folder{hint}")
    return name


def names_of_networks(features: Mapping[str, Any]) -> str:
    """Names of the networks behind some features, as their model.json says; empty if it does not."""
    return ", ".join(network["model"] for network in features.get("members", []))


def mismatch_warning(stored: StoredTransform, path: str, model: Mapping[str, Any]) -> str | None:
    """A warning where a stored transform may not belong to a model's features; None where it does.

    Args:
        stored: the transform.
        path: its file, for messages.
        model: model.json of the features: width, and the networks with their checksums (`members`).

    Raises:
        UserError: the features have another width.
    """
    width = model.get("width")
    if width != stored.transform.width:
        raise UserError(
            f"{path} maps features of width {stored.transform.width}, embed.model gives {width}: "
            "it was fitted for another model"
        )

    # Files of other projects have no provenance; a warning, since their width is all that can be compared.
    teacher = stored.provenance.get("teacher", {})
    if not teacher:
        return f"{path} does not say which model it was fitted for; its width fits"

    # Checksums, not names: the same name may stand for other weights.
    fitted_for = teacher.get("members", [])
    used = model.get("members", [])
    if _checksums(fitted_for) != _checksums(used):
        return f"{path} was fitted for other weights ({names_of_networks(teacher)}) than embed.model's"
    return None


def _checksums(networks: Sequence[Mapping[str, Any]]) -> list[str]:
    return [network["checksum"] for network in networks]


def _parse_npz(data: bytes) -> tuple[dict[str, np.ndarray], str]:
    # An array of Python objects would be unpickled, and a pickle runs code.
    file = np.load(io.BytesIO(data), allow_pickle=False)
    if isinstance(file, np.ndarray):
        raise ValueError("it is a single array, not an .npz archive")
    with file:
        arrays = dict(file)
    return arrays, str(arrays.pop("provenance", "{}"))


def _parse_safetensors(data: bytes) -> tuple[dict[str, np.ndarray], str]:
    # The library reads metadata from files only. In bytes, the header is JSON after its length in eight bytes.
    header_size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + header_size])
    return safetensors.numpy.load(data), header.get("__metadata__", {}).get("provenance", "{}")


def _checked_transform(arrays: Mapping[str, np.ndarray], path: str) -> AffineTransform:
    missing = [name for name in REQUIRED if name not in arrays]
    if missing:
        listed = ", ".join(arrays)[:MAX_CHARACTERS]
        raise UserError(f"{path} is not a transform: no {', '.join(missing)} in it (found {listed})")

    weights = np.asarray(arrays["weights"], dtype=np.float32)
    if weights.ndim != 2:
        raise UserError(f"{path}: weights must be a matrix, this has shape {weights.shape}")

    # gLocal's transforms may come without a bias.
    bias = np.zeros(weights.shape[1], dtype=np.float32)
    if "bias" in arrays:
        bias = np.asarray(arrays["bias"], dtype=np.float32).reshape(-1)
    if len(bias) != weights.shape[1]:
        raise UserError(f"{path}: {len(bias)} biases do not fit weights of shape {weights.shape}")

    if arrays["mean"].size != 1 or arrays["std"].size != 1:
        raise UserError(f"{path}: mean and std must be one number each")
    mean = float(arrays["mean"].reshape(()))
    std = float(arrays["std"].reshape(()))

    # One NaN would make every embedding one, long after its file is forgotten.
    if not all(np.isfinite(values).all() for values in (weights, bias, mean, std)):
        raise UserError(f"{path}: the transform holds values that are not finite (NaN or infinity)")
    if std <= 0:
        raise UserError(f"{path}: std is {std}; it must be positive")
    return AffineTransform(mean, std, weights, bias)
