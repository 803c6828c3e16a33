"""What readers of human answers share: lines of a file, names of its columns, objects by number or name, and times."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from jaxtyping import Bool, Float64, Int64

from alignet_ray.data.files import check_distinct, delimiter_of
from alignet_ray.errors import UserError, first_line

MAX_OBJECT = 2**53
"""Largest object number: larger ones are not exact in float64."""

MOST_OBJECTS = 10_000_000
"""Object numbers must be below it where nothing else limits them: arrays have one row for each object."""

PARTICIPANT_COLUMNS = ("subject_id", "participant")
"""Headers that name the participant."""


@dataclass(frozen=True)
class LineNumbers:
    """Where the rows of a file stand, for messages: lines counted from 1, as an editor shows them.

    Attributes:
        first: line of the first row.
        lines: line of every row, where empty lines or comments lie between them; else None.
    """

    first: int = 1
    lines: Int64[np.ndarray, " n"] | None = None

    def first_of(self, selected: Bool[np.ndarray, " n"]) -> int:
        """Line of the first selected row."""
        row = int(selected.argmax())
        if self.lines is None:
            return self.first + row
        return int(self.lines[row])


def without_empty_lines(data: bytes) -> tuple[bytes, LineNumbers]:
    """Text without empty lines and comments (`#`), and where its lines stood."""
    has_gaps = data.startswith((b"\n", b"#")) or b"\n\n" in data or b"\n#" in data or b"\n " in data
    if not has_gaps:
        return data, LineNumbers()

    kept: list[bytes] = []
    numbers: list[int] = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        content = line.strip()
        if content and not content.startswith(b"#"):
            kept.append(content)
            numbers.append(number)
    return b"\n".join(kept), LineNumbers(lines=np.array(numbers, dtype=np.int64))


def header_of(data: bytes) -> str:
    """The first line of a text."""
    return data[: data.find(b"\n") + 1 or None].decode().strip()


def names_columns(header: str) -> bool:
    """Whether a file's first line names its columns."""
    # Letters mean column names, except those of numbers such as 1e+03 and nan.
    without_comment = header.partition(" #")[0].lower()
    without_numbers = without_comment.replace("e+", "").replace("e-", "").replace("nan", "")
    return any(character.isalpha() for character in without_numbers)


def column_names(header: str) -> list[str]:
    """The column names of a file's first line."""
    return [name.strip() for name in next(csv.reader([header], delimiter=delimiter_of(header, " ")))]


def parse(data: bytes, header: str, path: str) -> pa.Table:
    """The table below a header, whatever separates its columns.

    Raises:
        UserError: not a table.
    """
    try:
        options = pacsv.ParseOptions(delimiter=delimiter_of(header, " "))
        table = pacsv.read_csv(io.BytesIO(data), parse_options=options)
    except (pa.ArrowException, ValueError) as error:
        raise UserError(f"{path} is not a table: {first_line(error)}") from error
    return table.rename_columns([name.strip() for name in table.column_names])


def after_header(lines: LineNumbers) -> LineNumbers:
    """Lines of the rows below a header."""
    if lines.lines is None:
        return LineNumbers(first=lines.first + 1)
    return LineNumbers(lines=lines.lines[1:])


def as_integers(array: np.ndarray, path: str, lines: LineNumbers) -> Int64[np.ndarray, "n c"]:
    """Numbers as int64; floats only where they are whole and exact."""
    if array.dtype.kind not in "iuf":
        raise UserError(f"{path}: object numbers must be whole numbers, these are {array.dtype}")

    # Casting alone would cut 1.5 to 1 and turn NaN into some number, silently.
    if array.dtype.kind == "f":
        is_whole = np.isfinite(array).all(axis=1) & (array == np.round(array)).all(axis=1)
        if not is_whole.all():
            line = lines.first_of(~is_whole)
            raise UserError(f"{path}: line {line} holds a number that is not whole: this is no triplet file")

    # float16 holds whole numbers up to 2,048 only: larger ones were rounded when the file was written.
    largest = MAX_OBJECT
    if array.dtype.kind == "f":
        largest = min(largest, 2 ** (np.finfo(array.dtype).nmant + 1))
    highest = np.abs(array.astype(np.float64)).max(axis=1, initial=0)
    if (highest > largest).any():
        line = lines.first_of(highest > largest)
        raise UserError(
            f"{path}: line {line} holds a number above {largest:,}, which {array.dtype} cannot hold exactly"
        )
    return array.astype(np.int64)


def require_countable(numbers: Int64[np.ndarray, "n 3"], path: str, lines: LineNumbers) -> None:
    """Refuse object numbers that are no count of objects, such as the numbers of catalogue entries.

    Raises:
        UserError: naming the first line.
    """
    is_beyond = numbers.max(axis=1, initial=0) >= MOST_OBJECTS
    if is_beyond.any():
        line = lines.first_of(is_beyond)
        raise UserError(
            f"{path}: line {line} names object {numbers[is_beyond][0].max()}, and the objects are counted: number "
            f"them from 0 without gaps (below {MOST_OBJECTS:,}), or call them by name in a table with a header"
        )


def about_answers(
    table: pa.Table, names: Mapping[str, str], path: str, lines: LineNumbers
) -> tuple[dict[str, pa.ChunkedArray], str]:
    """The columns participant, rt and level that a table has, and one line about times that cannot be read.

    Args:
        table: answers, one a row.
        names: our name of every column -> the file's.
        path, lines: for messages.
    """
    theirs = {"rt": names.get("rt"), "level": names.get("level"), "participant": None}
    for column in PARTICIPANT_COLUMNS:
        theirs["participant"] = theirs["participant"] or names.get(column)

    known = {ours: table[name] for ours, name in theirs.items() if name is not None}
    unread_times = ""
    if "rt" in known:
        known["rt"], unread_times = _response_times(known["rt"], path, lines)
    return known, unread_times


def _response_times(column: pa.ChunkedArray, path: str, lines: LineNumbers) -> tuple[pa.ChunkedArray, str]:
    """Response times as float64, and one line about those that cannot be read: they count as unknown."""
    is_number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_null(column.type)
    if is_number:
        times = np.asarray(column.cast(pa.float64()).to_numpy(), np.float64).copy()
        unread = np.zeros(len(times), dtype=bool)
    else:
        # Arrow takes some texts for times of day or for yes and no.
        times, unread = _times_of_texts(column.cast(pa.string()).to_pylist())

    # -1 and the like stand for "not taken"; as times they would make a person look too fast.
    is_impossible = (times < 0) | np.isinf(times)
    times[is_impossible] = np.nan
    unread |= is_impossible

    note = ""
    if unread.any():
        first = column[int(unread.argmax())].as_py()
        note = (
            f"{path}: {int(unread.sum()):,} of {len(times):,} response times cannot be read and count as unknown "
            f"(first: line {lines.first_of(unread)}, {str(first)!r}); milliseconds are plain numbers with a point"
        )
    return pa.chunked_array([pa.array(times, pa.float64())]), note


def _times_of_texts(texts: list[str | None]) -> tuple[Float64[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Times, NaN where there is none, and which texts are no times."""
    times = np.full(len(texts), np.nan)
    unread = np.zeros(len(texts), dtype=bool)
    for row, text in enumerate(texts):
        try:
            times[row] = float(text or "nan")
        except ValueError:
            unread[row] = True
    return times, unread


def our_column_names(theirs: list[str], columns: Mapping[str, str], path: str) -> dict[str, str]:
    """Our lower-case name of every column -> the file's own name."""
    lower = [name.lower() for name in theirs]
    check_distinct(lower, path)
    for wanted in columns.values():
        if wanted.lower() not in lower:
            raise UserError(f"{path}: no column {wanted!r} among {', '.join(theirs)}")
    renamed = {wanted.lower(): ours for ours, wanted in columns.items()}
    names: dict[str, str] = {}
    for key, name in zip(lower, theirs, strict=True):
        # A column that has our name by chance does not stand in for the one that the user named.
        if key in columns and key not in renamed:
            continue
        names[renamed.get(key, key)] = name
    return names


def number_objects(
    columns: list[pa.ChunkedArray], path: str, lines: LineNumbers
) -> tuple[Int64[np.ndarray, "n 3"], tuple[str, ...]]:
    """Object numbers, and the objects' names where the columns hold names, numbered in alphabetical order."""
    if not len(columns[0]):
        raise UserError(f"{path} has a header and not one answer below it")
    if not any(pa.types.is_string(column.type) for column in columns):
        nulls: Bool[np.ndarray, "n 3"] = np.stack([column.is_null().to_numpy() for column in columns], axis=1)
        is_missing = np.asarray(nulls.any(axis=1))
        if is_missing.any():
            raise UserError(f"{path}: line {lines.first_of(is_missing)} leaves an object out")
        numbers = np.stack([column.to_numpy() for column in columns], axis=1)
        return as_integers(numbers, path, lines), ()

    # A column of names may hold a number as well, which Arrow then reads as text or leaves empty.
    texts = []
    for column in columns:
        filled = column.cast(pa.string()).fill_null("")
        texts.append(np.asarray(filled.to_pylist(), dtype=np.str_))
    names = np.strings.strip(np.stack(texts, axis=1))
    is_empty = (names == "").any(axis=1)
    if is_empty.any():
        raise UserError(f"{path}: line {lines.first_of(is_empty)} leaves an object out")
    object_names, positions = np.unique(names, return_inverse=True)
    return positions.reshape(names.shape).astype(np.int64), tuple(object_names.tolist())
