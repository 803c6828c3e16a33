"""Readers of odd-one-out response files: each published layout becomes one typed table, with the file's object numbers.

Plain rows (THINGS' trainset.txt, the train_90.npy/.txt of VICE and SPoSE): three numbers, the pair first, the odd one
last. Rows with a choice (THINGS' csv with response times, its noise-ceiling file, Levels): three objects and the
position of the odd one, counted from 1; objects may be numbers or names.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from jaxtyping import Bool, Int64

from alignet_ray.artifacts.schemas import ANSWERS
from alignet_ray.core.triplets import odd_last
from alignet_ray.data.files import check_distinct, delimiter_of, parse_array, plain_text
from alignet_ray.errors import UserError, first_line
from alignet_ray.store import read_bytes

OBJECT_COLUMNS = (("image1", "image2", "image3"), ("image0", "image1", "image2"), ("i", "j", "k"))
"""Headers that name the three objects of a row."""

MAX_OBJECT = 2**53
"""Largest object number: larger ones are not exact in float64."""

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


@dataclass(frozen=True)
class ResponseTable:
    """Odd-one-out responses as a file states them, with object numbers in the file's own counting.

    Attributes:
        table: schema ANSWERS.
        base: the number that the layout counts from; None where the layout does not say.
        object_names: the objects' names where the file uses names: number n means object_names[n].
        lines: where the rows stand in the file.
        unread_times: one line about response times that cannot be read and count as unknown; empty if all can.
    """

    table: pa.Table
    base: int | None
    object_names: tuple[str, ...] = ()
    lines: LineNumbers = LineNumbers()
    unread_times: str = ""

    @property
    def triplets(self) -> Int64[np.ndarray, "n 3"]:
        """Rows (pair, pair, odd)."""
        return np.stack([self.table[column].to_numpy() for column in "ijk"], axis=1)


def read_responses(path: str, columns: Mapping[str, str] | None = None) -> ResponseTable:
    """Read an odd-one-out file of any known layout; only its form is checked.

    Args:
        path: .npy, or text with or without a header.
        columns: our column name -> the file's, where they differ: image0, image1, image2 (or image1, image2, image3),
            choice (position of the odd one, from 1, or its name), level, participant, rt.

    Raises:
        UserError: not a triplet file.
    """
    data = read_bytes(path)
    if path.endswith(".npy"):
        return ResponseTable(_response_table(_read_npy(data, path)), None)

    data, lines = _without_empty_lines(plain_text(data, path))
    header = data[: data.find(b"\n") + 1 or None].decode().strip()
    if not header:
        raise UserError(f"{path} is not a triplet file: expected text with three object numbers a line, or .npy")

    # Letters mean column names, except those of numbers such as 1e+03 and nan.
    without_comment = header.partition(" #")[0]
    without_numbers = without_comment.lower().replace("e+", "").replace("e-", "").replace("nan", "")
    if any(character.isalpha() for character in without_numbers):
        return _read_with_header(data, header, path, columns or {}, lines)
    return _read_plain(data, without_comment.rstrip(), path, lines)


def _without_empty_lines(data: bytes) -> tuple[bytes, LineNumbers]:
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


def _after_header(lines: LineNumbers) -> LineNumbers:
    """Lines of the rows below a header."""
    if lines.lines is None:
        return LineNumbers(first=lines.first + 1)
    return LineNumbers(lines=lines.lines[1:])


def _read_npy(data: bytes, path: str) -> Int64[np.ndarray, "n 3"]:
    array = parse_array(data, path)
    if array.ndim != 2 or array.shape[1] != 3:
        raise UserError(f"{path}: a triplet file has three columns, this has shape {array.shape}")
    return _as_integers(array, path, LineNumbers())


def _as_integers(array: np.ndarray, path: str, lines: LineNumbers) -> Int64[np.ndarray, "n c"]:
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


def _read_plain(data: bytes, header: str, path: str, lines: LineNumbers) -> ResponseTable:
    """Numbers without a header: three columns, or objects, choice and more (THINGS' noise-ceiling file)."""
    delimiter = delimiter_of(header, " ")
    # None means any run of white space, which is what a blank stands for in these files.
    separator: str | None = delimiter
    if delimiter == " ":
        separator = None
    width = len(header.split(separator))
    if width < 3:
        raise UserError(f"{path}: a triplet file has three columns, its first line has {width}: {header[:60]!r}")

    names = [f"c{number}" for number in range(width)]
    try:
        table = pacsv.read_csv(
            io.BytesIO(data),
            pacsv.ReadOptions(column_names=names),
            pacsv.ParseOptions(delimiter=delimiter),
            pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.float64()), null_values=[]),
        )
        numbers = np.stack([column.to_numpy() for column in table.columns], axis=1)
    except (pa.ArrowException, ValueError):
        # Arrow is fast but takes one space for one delimiter; numpy reads runs of spaces and names a wrong line.
        numbers = _read_slowly(data, separator, path, lines)

    if numbers.shape[1] < 3:
        raise UserError(f"{path}: a triplet file has three columns, this has {numbers.shape[1]}")
    if numbers.shape[1] == 3:
        return ResponseTable(_response_table(_as_integers(numbers, path, lines)), None, lines=lines)
    rows = _as_integers(numbers[:, :4], path, lines)
    return ResponseTable(_response_table(_odd_last(rows[:, :3], rows[:, 3], path, lines)), 1, lines=lines)


def _read_slowly(data: bytes, separator: str | None, path: str, lines: LineNumbers) -> np.ndarray:
    try:
        return np.loadtxt(io.BytesIO(data), delimiter=separator, ndmin=2)
    except ValueError as error:
        reason = _wrong_line(data.decode(), separator, lines) or first_line(error)
        raise UserError(f"{path} is not a triplet file: {reason}") from error


def _wrong_line(text: str, separator: str | None, lines: LineNumbers) -> str:
    """What is wrong in the first line that does not fit, by its number in the file; empty where none is found."""
    rows = [line.partition("#")[0].split(separator) for line in text.splitlines()]
    for row, cells in enumerate(rows):
        where = f"line {lines.first_of(np.arange(len(rows)) == row)}"
        if len(cells) != len(rows[0]):
            return f"{where} has {len(cells)} columns, the first one has {len(rows[0])}"
        for cell in cells:
            if not cell.strip():
                return f"{where} has an empty column (a separator at its end?)"
            try:
                float(cell)
            except ValueError:
                return f"{where}: {cell.strip()[:40]!r} is not a number"
    return ""


def _read_with_header(
    data: bytes, header: str, path: str, columns: Mapping[str, str], lines: LineNumbers
) -> ResponseTable:
    """Named columns: THINGS' csv with response times, or the neutral table of Levels."""
    try:
        parse = pacsv.ParseOptions(delimiter=delimiter_of(header, " "))
        table = pacsv.read_csv(io.BytesIO(data), parse_options=parse)
    except (pa.ArrowException, ValueError) as error:
        raise UserError(f"{path} is not a table: {first_line(error)}") from error
    table = table.rename_columns([name.strip() for name in table.column_names])
    lines = _after_header(lines)

    names = _our_column_names(table.column_names, columns, path)
    object_columns = next((group for group in OBJECT_COLUMNS if names.keys() >= set(group)), None)
    if object_columns is None:
        raise UserError(f"{path}: no columns image1, image2, image3 (or i, j, k) among {', '.join(table.column_names)}")

    columns_of_objects = [table[names[column]] for column in object_columns]
    triplets, object_names = _number_objects(columns_of_objects, path, lines)
    if "choice" in names:
        choices = _choices(table[names["choice"]], columns_of_objects)
        triplets = _odd_last(triplets, _positions(choices, path, lines), path, lines)

    extra = {"rt": names.get("rt"), "level": names.get("level"), "participant": None}
    for column in PARTICIPANT_COLUMNS:
        extra["participant"] = extra["participant"] or names.get(column)
    known = {ours: table[theirs] for ours, theirs in extra.items() if theirs is not None}
    unread_times = ""
    if "rt" in known:
        known["rt"], unread_times = _times(known["rt"], path, lines)
    base = _base_of_layout(object_columns, object_names)
    return ResponseTable(_response_table(triplets, known), base, object_names, lines, unread_times)


def _choices(column: pa.ChunkedArray, objects: list[pa.ChunkedArray]) -> list[Any]:
    """The column `choice`; the name of one of a row's three objects (Levels) becomes its position, from 1."""
    choices: list[Any] = column.to_pylist()
    if not all(pa.types.is_string(names.type) for names in [column, *objects]):
        return choices
    for row, names in enumerate(zip(*(names.to_pylist() for names in objects), strict=True)):
        # Any other text stays as it is, and is refused with its line.
        if choices[row] in names:
            choices[row] = names.index(choices[row]) + 1
    return choices


def _positions(choices: list[Any], path: str, lines: LineNumbers) -> Int64[np.ndarray, " n"]:
    """The column `choice` as whole numbers."""
    for row, value in enumerate(choices):
        is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if not is_whole:
            line = lines.first_of(np.arange(len(choices)) == row)
            raise UserError(f"{path}: line {line}: choice {value!r} is not a position 1, 2 or 3")
    return np.array(choices, dtype=np.int64)


def _times(column: pa.ChunkedArray, path: str, lines: LineNumbers) -> tuple[pa.ChunkedArray, str]:
    """Response times as float64, and one line about those that cannot be read: they count as unknown."""
    if not pa.types.is_string(column.type):
        return column.cast(pa.float64()), ""

    times: list[float] = []
    unread = np.zeros(len(column), dtype=bool)
    texts = column.to_pylist()
    for row, text in enumerate(texts):
        try:
            times.append(float(text or "nan"))
        except ValueError:
            times.append(np.nan)
            unread[row] = True

    note = ""
    if unread.any():
        first = texts[int(unread.argmax())]
        note = (
            f"{path}: {int(unread.sum()):,} of {len(texts):,} response times cannot be read and count as unknown "
            f"(first: line {lines.first_of(unread)}, {first!r}); milliseconds are plain numbers with a point"
        )
    return pa.chunked_array([pa.array(times, pa.float64())]), note


def _our_column_names(theirs: list[str], columns: Mapping[str, str], path: str) -> dict[str, str]:
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


def _base_of_layout(object_columns: tuple[str, ...], object_names: tuple[str, ...]) -> int | None:
    """What the numbers of a table count from: names are numbered from 0, and THINGS' image1 to image3 from 1."""
    if object_names:
        return 0
    if object_columns[0] == "image1":
        return 1
    return None


def _number_objects(
    columns: list[pa.ChunkedArray], path: str, lines: LineNumbers
) -> tuple[Int64[np.ndarray, "n 3"], tuple[str, ...]]:
    """Object numbers, and the objects' names where the columns hold names, numbered in alphabetical order."""
    if not any(pa.types.is_string(column.type) for column in columns):
        numbers = np.stack([column.to_numpy() for column in columns], axis=1)
        return _as_integers(numbers, path, lines), ()

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


def _odd_last(
    objects: Int64[np.ndarray, "n 3"], choice: Int64[np.ndarray, " n"], path: str, lines: LineNumbers
) -> Int64[np.ndarray, "n 3"]:
    """Rows with the odd one last; choice is its position, counted from 1."""
    is_wrong = (choice < 1) | (choice > 3)
    if is_wrong.any():
        line = lines.first_of(is_wrong)
        hint = ""
        if choice.min() == 0 and choice.max() <= 2:
            hint = " (it counts from 0: add 1)"
        elif (objects == choice[:, None]).any(axis=1).all():
            hint = " (it is the number of the chosen object: give its position)"
        raise UserError(f"{path}: line {line}: choice {choice[is_wrong][0]} is not a position 1, 2 or 3{hint}")

    # With the first object odd, the pair is (1, 2), the last of PAIRS; with the last one odd, it is the first.
    return odd_last(objects, pair=3 - choice)


def _response_table(triplets: Int64[np.ndarray, "n 3"], known: Mapping[str, pa.ChunkedArray] | None = None) -> pa.Table:
    """Schema ANSWERS; `known` holds the columns participant, rt and level that the file has."""
    known = known or {}
    columns: dict[str, pa.Array | pa.ChunkedArray | np.ndarray] = {
        "participant": pa.repeat(pa.scalar(""), len(triplets)),
        "rt": np.full(len(triplets), np.nan),
        "level": pa.repeat(pa.scalar(""), len(triplets)),
    }
    for name, values in known.items():
        if name == "rt":
            columns[name] = values.cast(pa.float64()).fill_null(np.nan)
        else:
            columns[name] = values.cast(pa.string()).fill_null("")
    return pa.table([*triplets.T.copy(), *columns.values()], schema=ANSWERS)
