"""Readers of odd-one-out response files: each published layout becomes one typed table, with the file's object numbers.

Plain rows (THINGS' trainset.txt, the train_90.npy/.txt of VICE and SPoSE): three numbers, the pair first, the odd one
last. Rows with a choice (THINGS' csv with response times, its noise-ceiling file, Levels): three objects and the
position of the odd one, counted from 1; objects may be numbers or names.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from jaxtyping import Int64

from alignet_ray.artifacts.schemas import ANSWERS, column_matrix
from alignet_ray.core.triplet_rows import odd_last
from alignet_ray.data.files import delimiter_of, parse_array, plain_text
from alignet_ray.errors import UserError, first_line
from alignet_ray.human import answer_tables
from alignet_ray.human.answer_tables import LineNumbers
from alignet_ray.locations import read_bytes

OBJECT_COLUMNS = (("image1", "image2", "image3"), ("image0", "image1", "image2"), ("i", "j", "k"))
"""Headers that name the three objects of a row."""

ODD_LAST = ("i", "j", "k")
"""The header whose third object is the odd one where no column says which one it is."""

ANSWER_WORDS = ("odd", "choice", "answer", "response", "vote")
"""Words in the name of a column that tells what people answered."""

VOTES_OF = ("_i", "_j", "_k")
"""Ends of the names of columns that count votes for each object, such as n_i."""


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
    lines: LineNumbers = field(default_factory=LineNumbers)
    unread_times: str = ""

    @property
    def triplets(self) -> Int64[np.ndarray, "n 3"]:
        """Rows (pair, pair, odd)."""
        return column_matrix(self.table, "ijk")

    @property
    def participants(self) -> list[str]:
        """Who gave each response; empty where no row says."""
        names: list[str] = self.table["participant"].to_pylist()
        if not any(names):
            return []
        return names


def read_responses(path: str, columns: Mapping[str, str] | None = None, start: int | None = None) -> ResponseTable:
    """Read an odd-one-out file of any known layout; only its form is checked.

    Args:
        path: .npy, or text with or without a header.
        columns: our column name -> the file's, where they differ: image0, image1, image2 (or image1, image2, image3),
            choice (position of the odd one, from 1, or its name), level, participant, rt.
        start: bytes of a text that are read, up to the end of a line. Default: all.

    Raises:
        UserError: not a triplet file.
    """
    data = read_bytes(path)
    if path.endswith(".npy"):
        return ResponseTable(_response_table(_read_npy(data, path)), None)

    if start is not None and len(data) > start:
        data = data[: data.rfind(b"\n", 0, start) + 1]
    data, lines = answer_tables.without_empty_lines(plain_text(data, path))
    header = answer_tables.header_of(data)
    if not header:
        raise UserError(f"{path} is not a triplet file: expected text with three object numbers a line, or .npy")

    if answer_tables.names_columns(header):
        return _read_with_header(data, header, path, columns or {}, lines)
    return _read_plain(data, header.partition(" #")[0].rstrip(), path, lines)


def _read_npy(data: bytes, path: str) -> Int64[np.ndarray, "n 3"]:
    array = parse_array(data, path)
    if array.ndim != 2 or array.shape[1] != 3:
        raise UserError(f"{path}: a triplet file has three columns, this has shape {array.shape}")
    return answer_tables.as_integers(array, path, LineNumbers())


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
        return ResponseTable(_response_table(answer_tables.as_integers(numbers, path, lines)), None, lines=lines)
    rows = answer_tables.as_integers(numbers[:, :4], path, lines)
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
        # Comments and empty lines may have been left out of the text, which `lines` knows.
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
    table = answer_tables.parse(data, header, path)
    lines = answer_tables.after_header(lines)

    names = answer_tables.our_column_names(table.column_names, columns, path)
    object_columns = next((group for group in OBJECT_COLUMNS if names.keys() >= set(group)), None)
    if object_columns is None:
        if "reference" in names:
            raise UserError(f"{path} holds reference comparisons: give it as --human.comparisons")
        raise UserError(f"{path}: no columns image1, image2, image3 (or i, j, k) among {', '.join(table.column_names)}")

    columns_of_objects = [table[names[column]] for column in object_columns]
    triplets, object_names = answer_tables.number_objects(columns_of_objects, path, lines)
    if "choice" in names:
        choices = _choices(table[names["choice"]], columns_of_objects)
        triplets = _odd_last(triplets, _positions(choices, path, lines), path, lines)
    else:
        _require_odd_last(names, object_columns, path)

    known, unread_times = answer_tables.about_answers(table, names, path, lines)
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


def _require_odd_last(names: Mapping[str, str], object_columns: tuple[str, ...], path: str) -> None:
    """Refuse a table that does not say which object is the odd one: the third one in every row would be a guess."""
    fix = "give the position of the odd one (1, 2 or 3) as choice, or name its column by human.columns choice=NAME"
    if object_columns != ODD_LAST:
        listed = ", ".join(names.values())
        raise UserError(f"{path}: which one is odd? There is no column choice among {listed}: {fix}")

    telling = [theirs for ours, theirs in names.items() if ours not in object_columns and _tells_answers(ours)]
    if telling:
        raise UserError(
            f"{path}: which one is odd? {', '.join(telling)} may say it, and without choice it is k: {fix}, or leave "
            "other columns out"
        )


def _tells_answers(name: str) -> bool:
    """Whether a column's lower-case name says that it holds answers; response times are none."""
    if "time" in name:
        return False
    return name.endswith(VOTES_OF) or any(word in name for word in ANSWER_WORDS)


def _positions(choices: list[Any], path: str, lines: LineNumbers) -> Int64[np.ndarray, " n"]:
    """The column `choice` as whole numbers."""
    for row, value in enumerate(choices):
        is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if not is_whole:
            line = lines.first_of(np.arange(len(choices)) == row)
            raise UserError(f"{path}: line {line}: choice {value!r} is not a position 1, 2 or 3")
    return np.array(choices, dtype=np.int64)


def _base_of_layout(object_columns: tuple[str, ...], object_names: tuple[str, ...]) -> int | None:
    """What the numbers of a table count from: names are numbered from 0, and THINGS' image1 to image3 from 1."""
    if object_names:
        return 0
    if object_columns[0] == "image1":
        return 1
    return None


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
