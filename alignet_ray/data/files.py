"""Files outside the store: delimited text as rows or numbers, and writing a file in one piece."""

import codecs
import contextlib
import csv
import io
import os
import re
import unicodedata
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from alignet_ray.errors import UserError, array_problem
from alignet_ray.locations import read_bytes

DELIMITERS = ("\t", ",", ";")
"""Delimiters that a header may use, the most telling first: a tab is never part of a name."""


OTHER_FORMATS = {b"PK\x03\x04": "an Excel workbook or a .zip", b"PAR1": "Parquet", b"\x1f\x8b": "compressed (.gz)"}
"""First bytes of files that people give in place of text, and what these are."""


def delimiter_of(line: str, default: str) -> str:
    """The delimiter of a line of text, `default` where it has none of `DELIMITERS`."""
    for delimiter in DELIMITERS:
        if delimiter in line:
            return delimiter
    return default


def comparable_path(name: str) -> str:
    """An image's path, or a label, in the form in which two of them are compared: as people see them.

    Without blanks around it, in Unicode's composed form (a Mac stores folders decomposed), with forward slashes.
    """
    composed = unicodedata.normalize("NFC", name.strip()).replace("\\", "/")
    return composed.removeprefix("./")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that is not known: the known one that differs in small and capital letters
    alone; empty if there is none.

    Names that differ in case are different names: what is meant is asked, and not guessed.
    """
    wanted = comparable_path(name).casefold()
    for other in known:
        if comparable_path(other).casefold() == wanted:
            return f"; did you mean {other!r}?"
    return ""


class FileRow(NamedTuple):
    """A row of a table.

    Attributes:
        line: its line in the file, counted from 1 as an editor does.
        cells: lower-case column name -> text without blanks around it; "" where the cell is missing.
    """

    line: int
    cells: dict[str, str]


def plain_text(data: bytes, path: str) -> bytes:
    """A text file's content as UTF-8 with line feeds: without Excel's mark at the start, from any kind of line ends.

    Raises:
        UserError: another encoding, or no text at all.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{path} is UTF-16 text: save it as UTF-8 (in Excel: CSV UTF-8)")
    for start, kind in OTHER_FORMATS.items():
        if data.startswith(start):
            raise UserError(f"{path} is {kind}, not text: save it as CSV")

    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path} is not UTF-8 text (line {line}): save it as UTF-8 (in Excel: CSV UTF-8)") from error
    # Zero bytes are valid UTF-8, and the beginning of most binary files.
    if b"\0" in data:
        raise UserError(f"{path} is not text: it holds zero bytes")

    # Old Macs, and Excel's "CSV (Macintosh)", end lines by a carriage return alone.
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def filled_lines(text: str) -> list[str]:
    """The lines of a text without the space around them, and without empty ones."""
    lines = map(str.strip, text.splitlines())
    return [line for line in lines if line]


def read_rows(path: str) -> list[FileRow]:
    """Rows of a table with a header; comma, tab or semicolon. Empty rows are left out.

    Raises:
        UserError: there is no such file, it is not UTF-8 text, a column stands there twice, or a row is longer than
            the header.
    """
    text = plain_text(read_bytes(path), path).decode()

    # Only the header decides the delimiter: cells below may hold commas of their own.
    delimiter = delimiter_of(text.split("\n", 1)[0], ",")
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True, strict=True)

    rows: list[FileRow] = []
    names: list[str] = []
    line = 1
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                if names:
                    rows.append(FileRow(line, _named_cells(names, stripped, line, path)))
                else:
                    names = _column_names(stripped, path)
            # A quoted cell may hold line ends, so a row may take several lines.
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}: line {line}: {error}: is a quotation mark left open?") from error
    return rows


def _column_names(header: list[str], path: str) -> list[str]:
    names = [name.lower() for name in header]
    check_distinct(names, path)
    return names


def check_distinct(names: Sequence[str], path: str) -> None:
    """Refuse a table in which a column stands twice, as a merge of two tables leaves it.

    Raises:
        UserError: naming the column.
    """
    for name, count in Counter(names).items():
        if name and count > 1:
            raise UserError(f"{path}: the column {name!r} stands there {count} times: remove all but one")


def _named_cells(names: list[str], cells: list[str], line: int, path: str) -> dict[str, str]:
    if any(cells[len(names) :]):
        raise UserError(
            f"{path}: line {line} has {len(cells)} cells, the header has {len(names)}: quote cells with commas"
        )
    missing = [""] * (len(names) - len(cells))
    return dict(zip(names, [*cells, *missing], strict=False))


def parse_array(data: bytes, path: str) -> np.ndarray:
    """The array of a .npy file; nothing is unpickled.

    Raises:
        UserError: it is damaged, holds Python objects, or is an archive.
    """
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # a header is parsed as Python literals, so damaged bytes raise errors of many types
        raise UserError(f"{path} is not a plain .npy array: {array_problem(error)}") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path} is not a plain .npy array: it is an .npz archive")
    return array


def parse_numbers(data: bytes, delimiter: str | None = None) -> Float[np.ndarray, "n d"]:
    """Text without a header as a matrix of numbers.

    Args:
        data: the file's content, see `plain_text`.
        delimiter: None: commas if there are any near the beginning, else white space.

    Raises:
        ValueError: not numbers, or lines of different length.
    """
    require_rows(data)
    if delimiter is None and b"," in data[:10_000]:
        delimiter = ","
    return np.loadtxt(io.BytesIO(data), delimiter=delimiter, ndmin=2)


def require_rows(data: bytes) -> None:
    """Refuse text without a row, of which NumPy only warns.

    Raises:
        ValueError: nothing but blanks and comments.
    """
    for line in io.BytesIO(data):
        if line.partition(b"#")[0].strip():
            return
    raise ValueError("it is empty")


SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")
"""How libraries in Rust put the system's number of an error into their own text."""


@contextlib.contextmanager
def writing_tensors(file: Path) -> Iterator[None]:
    """Within it safetensors writes a file, which gets the permissions of new files.

    Raises:
        OSError: it cannot be written. safetensors has an error of its own for that, which nobody expects of a file.
    """
    try:
        yield
    except Exception as error:  # safetensors is not imported for its error's sake
        found = SYSTEM_ERROR.search(str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(file)) from error
    as_new_files_are(file)


def as_new_files_are(file: Path) -> None:
    """Give a file the permissions of new files: safetensors writes its files for their owner's eyes alone."""
    # The mask can only be read by setting it.
    mask = os.umask(0o022)
    os.umask(mask)
    file.chmod(0o666 & ~mask)


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


class MatrixWriter:
    """Fills a .npy file with rows in any order.

    They are written, not mapped: a full disk is an error of a write, where a map would end the process (SIGBUS).

    Args:
        file: opened for writing bytes, at its beginning.
        shape: (n, d) of the whole matrix; rows that nobody writes are zeros.
        dtype: of the numbers in the file.
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, int], dtype: np.dtype) -> None:
        """Write the header, after which every row has its place."""
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        self._file = file
        self._dtype = dtype
        self._start = file.tell()
        self._row_bytes = shape[1] * dtype.itemsize
        file.truncate(self._start + shape[0] * self._row_bytes)

    def write(self, positions: Int[np.ndarray, " n"], rows: Shaped[np.ndarray, "n d"]) -> None:
        """Write rows to their positions, 0 to n - 1.

        Raises:
            OSError: the disk is full, or the file cannot be written.
        """
        order = np.argsort(positions, kind="stable")
        ordered = positions[order]
        # One write for rows that lie one after the other, as nearly all of them do.
        ends = np.flatnonzero(np.diff(ordered) != 1) + 1
        for run in np.split(np.arange(len(ordered)), ends):
            if len(run):
                self._file.seek(self._start + int(ordered[run[0]]) * self._row_bytes)
                self._file.write(np.ascontiguousarray(rows[order[run]], self._dtype).tobytes())
