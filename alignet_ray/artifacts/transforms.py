"""Files of other projects, both ways: gLocal's and thingsvision's transform.npz, and DeepMind's AligNet triplets.

transform.npz holds `weights` (p, p) float32, scalars `mean` and `std`, and optionally `bias` (p,):
y = ((x - mean) / std) @ weights + bias. Published files say nothing of the model that they belong to, so ours carry a
`provenance` beside them (JSON text in the .npz, metadata in the .safetensors).
"""

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from alignet_ray.core.affine import AffineTransform
from alignet_ray.errors import UserError
from alignet_ray.store import filesystem


@dataclass(frozen=True)
class StoredTransform:
    """A transform read from a file, and where it comes from (empty for files of other projects)."""

    transform: AffineTransform
    provenance: dict[str, Any]


def save_transform(path: str | Path, transform: AffineTransform, provenance: dict[str, Any] | None = None) -> None:
    """Write a transform to a local file; its ending (.npz, .safetensors) says how. Arguments as in `dump_transform`."""
    Path(path).write_bytes(dump_transform(Path(path).suffix, transform, provenance))


def dump_transform(suffix: str, transform: AffineTransform, provenance: dict[str, Any] | None = None) -> bytes:
    """A transform as the content of a file.

    Args:
        suffix: .npz (gLocal's layout) or .safetensors.
        transform: the map.
        provenance: JSON-able: model, feature checksum, objects it was fitted on.

    Raises:
        UserError: another ending.
    """
    if suffix not in (".npz", ".safetensors"):
        raise UserError(f"a transform is written as .npz or .safetensors, not {suffix or 'without an ending'}")
    arrays: dict[str, Any] = {
        "weights": np.ascontiguousarray(transform.weights),
        "bias": np.ascontiguousarray(transform.bias),
        "mean": np.array(transform.mean, dtype=np.float32),
        "std": np.array(transform.std, dtype=np.float32),
    }
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
    data = _bytes(str(path))
    try:
        arrays, text = _npz(data) if str(path).endswith(".npz") else _safetensors(data)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is not a transform: {str(error).splitlines()[0]}") from error
    return StoredTransform(_transform(arrays, str(path)), json.loads(text))


def locate(name: str, root: str) -> str:
    """The file that `align.from` means: a transform, or the one in an align artifact's folder (or of its id).

    Raises:
        UserError: a folder without a transform.
    """
    for folder in (Path(name).expanduser(), Path(root).expanduser() / "align" / name):
        if folder.is_dir():
            if (folder / "transform.npz").is_file():
                return str(folder / "transform.npz")
            network = "; it holds a network: use it as --embed.model" if (folder / "model.json").is_file() else ""
            raise UserError(f"align.from {name}: no transform.npz in that folder{network}")
    return name


def doubt(stored: StoredTransform, path: str, model: dict[str, Any]) -> str | None:
    """What speaks against applying a stored transform to a model's features, if anything.

    Args:
        stored: the transform; path: its file.
        model: model.json of the features: width, checksum.

    Raises:
        UserError: the features have another width.
    """
    if model.get("width") != stored.transform.width:
        raise UserError(
            f"{path} maps features of width {stored.transform.width}, embed.model gives {model.get('width')}: "
            "it was fitted for another model"
        )
    fitted = stored.provenance.get("teacher", {})
    if not fitted:
        return f"{path} does not say which model it was fitted for; its width fits"
    if fitted.get("checksum") != model.get("checksum"):
        return f"{path} was fitted for other weights ({fitted.get('model')}) than embed.model's"
    return None


def _npz(data: bytes) -> tuple[dict[str, np.ndarray], str]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return arrays, str(arrays.pop("provenance", "{}"))


def _safetensors(data: bytes) -> tuple[dict[str, np.ndarray], str]:
    head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return safetensors.numpy.load(data), head.get("__metadata__", {}).get("provenance", "{}")


def _transform(arrays: dict[str, np.ndarray], path: str) -> AffineTransform:
    if missing := [name for name in ("weights", "mean", "std") if name not in arrays]:
        raise UserError(f"{path} is not a transform: no {', '.join(missing)} in it (found {', '.join(arrays)})")
    weights = np.asarray(arrays["weights"], dtype=np.float32)
    if weights.ndim != 2:
        raise UserError(f"{path}: weights must be a matrix, this has shape {weights.shape}")
    bias = np.asarray(arrays.get("bias", np.zeros(weights.shape[1])), dtype=np.float32).reshape(-1)
    if len(bias) != weights.shape[1]:
        raise UserError(f"{path}: {len(bias)} biases do not fit weights of shape {weights.shape}")
    if arrays["mean"].size != 1 or arrays["std"].size != 1:
        raise UserError(f"{path}: mean and std must be one number each")
    mean, std = float(arrays["mean"].reshape(())), float(arrays["std"].reshape(()))
    if not (np.isfinite(weights).all() and np.isfinite(bias).all() and np.isfinite([mean, std]).all()):
        raise UserError(f"{path}: the transform holds values that are not finite (NaN or infinity)")
    if std <= 0:
        raise UserError(f"{path}: std is {std}; it must be positive")
    return AffineTransform(mean, std, weights, bias)


def _bytes(path: str) -> bytes:
    fs, name = filesystem(path)
    try:
        with fs.open_input_stream(name, compression=None) as stream:
            return bytes(stream.read())
    except OSError as error:
        raise UserError(f"cannot read {path}: no such file") from error
