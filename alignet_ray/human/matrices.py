"""Similarity judgements that come as matrices: multi-arrangement (Cichy, King) and pairwise ratings (Peterson).

All reduce to one similarity matrix over a list of images, or one a participant.
"""

import io
import warnings
from typing import Any, Literal

import numpy as np
import scipy.io
from jaxtyping import Float
from scipy.spatial.distance import squareform

from alignet_ray.core.similarity import check_matrix
from alignet_ray.errors import UserError
from alignet_ray.human.responses import content

Kind = Literal["similarity", "distance"]


def read_matrix(path: str, kind: Kind, key: str | None = None) -> Float[np.ndarray, "n n"]:
    """One similarity matrix, larger values meaning more alike.

    Args:
        path: .npy, .csv, .txt or .mat file: (n, n), (participants, n, n), or the n (n - 1) / 2 values above a diagonal.
        kind: what its values are; distances d become -d, which keeps every order.
        key: variable of a .mat file; None: the only one that can be a matrix.

    Matrices of several participants are averaged.

    Raises:
        UserError: no such file, not one matrix, not square, not symmetric, not finite.
    """
    return mean(read_people(path, kind, key), path)


def read_people(path: str, kind: Kind, key: str | None = None) -> Float[np.ndarray, "p n m"]:
    """As `read_matrix`, one matrix a participant (one in all where the file holds one); NaN: pairs not judged.

    Raises:
        UserError: as `read_matrix`, naming the first participant whose matrix is wrong.
    """
    values = np.squeeze(_load(path, key))
    if values.ndim == 1:
        try:
            values = squareform(values, checks=False)
        except ValueError as error:
            raise UserError(f"{path}: {len(values)} values are no upper triangle of a matrix") from error
    people = values[None] if values.ndim == 2 else values
    if people.ndim != 3:
        raise UserError(f"{path} has shape {values.shape}: it must be items x items, or participants x items x items")
    if len(people) > 1:
        for person, matrix in enumerate(people, start=1):
            check_matrix(matrix, f"{path}, participant {person},", gaps=True)
    mean(people, path)
    return -people if kind == "distance" else people


def mean(people: Float[np.ndarray, "p n m"], name: str) -> Float[np.ndarray, "n n"]:
    """The mean over participants, of those who judged a pair.

    Raises:
        UserError: a pair that nobody judged.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # pairs that nobody judged are told by the check
        return check_matrix(np.nanmean(people, axis=0), name)


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
