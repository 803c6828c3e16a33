"""Similarity judgements that come as matrices: multi-arrangement (Cichy, King) and pairwise ratings (Peterson).

All reduce to one similarity matrix over a list of images. A stack of matrices, one a participant, is averaged.
"""

import io
from typing import Any, Literal

import numpy as np
import scipy.io
from jaxtyping import Float
from scipy.spatial.distance import squareform

from alignet_ray.core.similarity import check_matrix
from alignet_ray.data.answers import content
from alignet_ray.errors import UserError

Kind = Literal["similarity", "distance"]


def read_matrix(path: str, kind: Kind, key: str | None = None) -> Float[np.ndarray, "n n"]:
    """One similarity matrix, larger values meaning more alike.

    Args:
        path: .npy, .csv, .txt or .mat file: (n, n), (participants, n, n), or the n (n - 1) / 2 values above a diagonal.
        kind: what its values are; distances d become -d, which keeps every order.
        key: variable of a .mat file; None: the only one that can be a matrix.

    Raises:
        UserError: no such file, not one matrix, not square, not symmetric, not finite.
    """
    values = np.squeeze(_load(path, key))
    if values.ndim == 3:
        values = np.nanmean(values, axis=0)
    if values.ndim == 1:
        try:
            values = squareform(values, checks=False)
        except ValueError as error:
            raise UserError(f"{path}: {len(values)} values are no upper triangle of a matrix") from error
    matrix = check_matrix(values, path)
    return -matrix if kind == "distance" else matrix


def _load(path: str, key: str | None) -> Float[np.ndarray, "..."]:
    data = content(path)
    try:
        if path.endswith(".mat"):
            stream: Any = io.BytesIO(data)
            return _pick({k: v for k, v in scipy.io.loadmat(stream).items() if k[0] != "_"}, key, path)
        if path.endswith(".npy"):
            array = np.load(io.BytesIO(data), allow_pickle=False)
        else:
            array = np.loadtxt(io.BytesIO(data), delimiter="," if b"," in data[:10_000] else None, ndmin=2)
        return np.asarray(array, dtype=np.float64)
    except (ValueError, EOFError, NotImplementedError, TypeError) as error:
        raise UserError(f"{path} holds no matrix of numbers: {str(error).splitlines()[0]}") from error


def _pick(variables: dict[str, Any], key: str | None, path: str) -> Float[np.ndarray, "..."]:
    """The matrix among the variables of a .mat file."""
    found = {k: v for k, v in variables.items() if isinstance(v, np.ndarray) and v.dtype.kind in "fiu" and v.size >= 3}
    if key is not None and key in found:
        return np.asarray(found[key], dtype=np.float64)
    if key is not None or len(found) != 1:
        raise UserError(f"{path}: name one of its matrices: {', '.join(found) or 'there is none'}")
    return np.asarray(next(iter(found.values())), dtype=np.float64)
