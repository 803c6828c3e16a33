"""Arrays of an .npz archive: names and shapes at once, the numbers of each array when they are asked for."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from numpy.lib import format as npy

from alignet_ray.data.tensor_bundle import widened
from alignet_ray.errors import UserError, first_line, require_regular

SUFFIX = ".npy"
"""Ending of the names of an archive's members."""


class NpzArrays:
    """Real numbers of an .npz archive by name; nothing is unpickled.

    Attributes:
        file: the archive.
        shapes: name -> shape of every array of real numbers.
        others: names of arrays that hold something else.
    """

    def __init__(self, file: Path) -> None:
        """Read names and shapes.

        Raises:
            UserError: there is no such file, or it is no archive of arrays.
        """
        self.file = file
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.others: list[str] = []
        require_regular(file)
        try:
            with zipfile.ZipFile(file) as archive:
                for member in archive.namelist():
                    self._add(archive, member)
        except FileNotFoundError as error:
            raise UserError(f"{file} does not exist: check the path") from error
        except Exception as error:  # a header is parsed as Python literals, so damaged bytes raise errors of many types
            raise UserError(f"{file} is not a readable .npz archive: {first_line(error)}") from error

    def _add(self, archive: zipfile.ZipFile, member: str) -> None:
        with archive.open(member) as opened:
            version = npy.read_magic(opened)
            if version == (1, 0):
                shape, _, dtype = npy.read_array_header_1_0(opened)
            else:
                shape, _, dtype = npy.read_array_header_2_0(opened)
        name = member.removesuffix(SUFFIX)
        if dtype.kind == "f" or _is_bfloat16(dtype):
            self.shapes[name] = tuple(shape)
        else:
            self.others.append(name)

    def names(self) -> list[str]:
        """Names of all arrays."""
        return [*self.shapes, *self.others]

    def namings(self) -> Iterator[dict[str, str]]:
        """The one way to call the arrays."""
        yield {name: name for name in self.names()}

    def read(self, name: str) -> Float32[np.ndarray, "*n"]:
        """The numbers of one array of `shapes`.

        Raises:
            UserError: its part of the archive is damaged.
        """
        try:
            with np.load(self.file, allow_pickle=False) as arrays:
                values: np.ndarray = arrays[name]
        except Exception as error:  # NumPy and zipfile raise errors of many types on damaged archives
            raise UserError(f"{self.file} is damaged: array {name}: {first_line(error)}") from error
        if _is_bfloat16(values.dtype):
            return widened(values.view("<u2"))
        return values.astype(np.float32)


def _is_bfloat16(dtype: np.dtype) -> bool:
    """Whether these are JAX's numbers of 16 bits, which NumPy stores as two bytes without a meaning."""
    return dtype.kind == "V" and dtype.itemsize == 2 and dtype.names is None
