"""Human similarity matrices from files: multi-arrangement (Cichy, King) and pairwise ratings (Peterson)."""

import io
import struct
import warnings
import zlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from alignet_ray.core.similarity import check_matrix
from alignet_ray.data.files import parse_array, parse_numbers, plain_text
from alignet_ray.errors import UserError, first_line
from alignet_ray.locations import read_bytes

MAT_HEADER = 128
"""Bytes of the header of a MATLAB file (version 5 and on)."""

MAT_COMPRESSED = 15
"""Type of a compressed variable in it."""

Kind = Literal["similarity", "distance"]
"""What a file's values are; distances d become similarities -d, which keeps every order."""


def read_matrix(path: str, kind: Kind, variable: str | None = None) -> Float[np.ndarray, "n n"]:
    """One similarity matrix, larger values meaning more similar; matrices of several participants are averaged.

    Args:
        path: .npy, .csv, .txt or .mat file: (n, n), (participants, n, n), or the n (n - 1) / 2 values above a diagonal.
        kind: what its values are.
        variable: variable of a .mat file. Default: the only one that can be a matrix.

    Raises:
        UserError: no such file, not one matrix, not square, not symmetric, not finite.
    """
    return mean(read_participants(path, kind, variable), path)


def read_participants(path: str, kind: Kind, variable: str | None = None) -> Float[np.ndarray, "p n m"]:
    """As `read_matrix`, one matrix per participant (one in all where the file holds one); NaN: pairs without a rating.

    Raises:
        UserError: as `read_matrix`, naming the first participant whose matrix is wrong.
    """
    # Files, above all MATLAB's, often have extra dimensions of length one.
    values = np.squeeze(_load(path, variable))
    if values.ndim == 1:
        # Late: scipy takes as long to import as all the rest of a command.
        from scipy.spatial.distance import squareform

        try:
            values = squareform(values, checks=False)
        except ValueError as error:
            raise UserError(f"{path}: {len(values)} values are no upper triangle of a matrix") from error

    # One matrix counts as the matrix of one participant.
    matrices = values
    if values.ndim == 2:
        matrices = values[None]
    if matrices.ndim != 3:
        raise UserError(f"{path} has shape {values.shape}: it must be items x items, or participants x items x items")
    if len(matrices) > 1:
        for participant, matrix in enumerate(matrices, start=1):
            check_matrix(matrix, f"{path}, participant {participant},", gaps=True)
    mean(matrices, path)  # refuses pairs that no participant rated

    # Similarities from here on: only their order matters to a rank correlation, so the sign is all that changes.
    if kind == "distance":
        return -matrices
    return matrices


def mean(matrices: Float[np.ndarray, "p n m"], name: str) -> Float[np.ndarray, "n n"]:
    """The mean over the participants who rated a pair.

    Raises:
        UserError: a pair that nobody rated.
    """
    with warnings.catch_warnings():
        # numpy warns of pairs that nobody rated; the check names them.
        warnings.simplefilter("ignore", RuntimeWarning)
        return check_matrix(np.nanmean(matrices, axis=0), name)


def _load(path: str, variable: str | None) -> Float[np.ndarray, "..."]:
    data = read_bytes(path)
    try:
        if path.endswith(".mat"):
            import scipy.io

            _check_compressed(data)
            stream: Any = io.BytesIO(data)
            return _choose_variable(scipy.io.loadmat(stream), variable, path)
        if path.endswith(".npy"):
            array = parse_array(data, path)
            # NumPy would drop the imaginary parts.
            if array.dtype.kind == "c":
                raise UserError(f"{path} holds complex numbers: save the similarities as real ones")
            return np.asarray(array, dtype=np.float64)
        return np.asarray(parse_numbers(plain_text(data, path)), dtype=np.float64)
    except UserError:
        raise
    except Exception as error:  # MATLAB's format is parsed by many layers, which raise errors of any type
        raise UserError(f"{path} holds no matrix of numbers: {first_line(error)}") from error


def _check_compressed(data: bytes) -> None:
    """Check the sums of a MATLAB file's compressed variables: scipy crashes on some damaged ones.

    Raises:
        ValueError, zlib.error: a variable is damaged or cut off.
    """
    byte_order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if byte_order is None:  # another version of the format, which holds nothing compressed
        return

    # Behind the header, variables follow each other, each with its kind and size in front.
    offset = MAT_HEADER
    while offset + 8 <= len(data):
        kind, size = struct.unpack(f"{byte_order}II", data[offset : offset + 8])
        content = data[offset + 8 : offset + 8 + size]
        if len(content) < size:
            raise ValueError("the file ends inside a variable")

        # zlib compares the checksum at the end while it decompresses.
        if kind == MAT_COMPRESSED:
            zlib.decompress(content)
        offset += 8 + size


def _choose_variable(variables: Mapping[str, Any], wanted: str | None, path: str) -> Float[np.ndarray, "..."]:
    """The matrix among the variables of a .mat file."""
    matrices: dict[str, np.ndarray] = {}
    for name, value in variables.items():
        is_numeric = isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and value.size >= 3
        # scipy adds entries such as __header__ of its own.
        if is_numeric and not name.startswith("_"):
            matrices[name] = value

    if wanted is None and len(matrices) == 1:
        wanted = next(iter(matrices))
    if wanted is None or wanted not in matrices:
        raise UserError(f"{path}: name one of its matrices: {', '.join(matrices) or 'there is none'}")
    return np.asarray(matrices[wanted], dtype=np.float64)
