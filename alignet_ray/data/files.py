"""Files outside the store: delimited text as rows or numbers, and writing a file in one piece."""

import contextlib
import csv
import io
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from alignet_ray.errors import UserError
from alignet_ray.store import read_bytes

DELIMITERS = ("\t", ",", ";")
"""Delimiters that a header may use, the most telling first: a tab is never part of a name."""


def delimiter_of(line: str, default: str) -> str:
    """The delimiter of a line of text, `default` where it has none of `DELIMITERS`."""
    for delimiter in DELIMITERS:
        if delimiter in line:
            return delimiter
    return default


def read_rows(path: str) -> list[dict[str, str | None]]:
    """Rows of a table with a header, by lower-case column name; comma, tab or semicolon.

    Raises:
        UserError: there is no such file, or it is not text.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")  # without the mark that Excel writes first
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text table") from error

    # Only the header decides the delimiter: cells below may hold commas of their own.
    header = text.split("\n", 1)[0]
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter_of(header, ","))
    return [_with_lower_case_names(row) for row in reader]


def _with_lower_case_names(row: dict[str, str | None]) -> dict[str, str | None]:
    return {str(name).strip().lower(): value for name, value in row.items()}


def parse_numbers(data: bytes, delimiter: str | None = None) -> Float[np.ndarray, "n d"]:
    """Text without a header as a matrix of numbers.

    Args:
        data: the file's content.
        delimiter: None: commas if there are any near the beginning, else white space.

    Raises:
        ValueError: not numbers, or lines of different length.
    """
    if delimiter is None and b"," in data[:10_000]:
        delimiter = ","
    return np.loadtxt(io.BytesIO(data), delimiter=delimiter, ndmin=2)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that becomes `target` on success and is deleted on failure.

    Readers therefore see a whole file or none.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield temporary
        os.replace(temporary, target)  # atomic within a folder, hence a temporary file beside the target
    finally:
        temporary.unlink(missing_ok=True)
