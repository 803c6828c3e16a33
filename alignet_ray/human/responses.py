"""Files of odd-one-out answers as they are: each layout becomes one typed table, in the file's own counting.

Plain rows (THINGS' trainset.txt, VICE's and SPoSE's train_90.npy/.txt): three numbers, pair first, odd one last.
Rows with a choice (THINGS' csv with response times, its noise-ceiling file, Levels): three objects and the position of
the odd one, counted from 1; objects may be numbers or names.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from jaxtyping import Int64

from alignet_ray.artifacts.schemas import ANSWERS
from alignet_ray.errors import UserError
from alignet_ray.store import filesystem

OBJECT_COLUMNS = (("image1", "image2", "image3"), ("image0", "image1", "image2"), ("i", "j", "k"))
"""Headers that name the three objects of a row."""


@dataclass(frozen=True)
class ResponseTable:
    """A file as it is: three object numbers a row, in the file's own counting.

    Attributes:
        table: schema ANSWERS, numbers as in the file.
        base: the number that the layout counts from, None where the layout does not say.
        items: the names of the objects where the file uses names: object n is items[n].
    """

    table: pa.Table
    base: int | None
    items: tuple[str, ...] = ()

    @property
    def triplets(self) -> Int64[np.ndarray, "n 3"]:
        """Rows (pair, pair, odd)."""
        return np.stack([self.table[c].to_numpy() for c in "ijk"], axis=1)


def read_answers(path: str, columns: Mapping[str, str] | None = None) -> ResponseTable:
    """Any triplet file, unchecked but for its form.

    Args:
        path: .npy, or text with or without a header.
        columns: our column name -> the file's, where they differ: image0, image1, image2 (or image1, image2, image3),
            choice (position of the odd one, from 1), level, participant, rt.

    Raises:
        UserError: not a triplet file.
    """
    data = content(path)
    if path.endswith(".npy"):
        return ResponseTable(_table(_npy(data, path)), None)
    first = data[: data.find(b"\n") + 1 or None].decode(errors="replace").strip()
    if not first or "\x00" in first:
        raise UserError(f"{path} is not a triplet file: expected text with three object numbers a line, or .npy")
    if any(c.isalpha() for c in first.lower().replace("e+", "").replace("e-", "").replace("nan", "")):
        return _with_header(data, first, path, columns or {})
    return _plain(data, first, path)


def content(path: str) -> bytes:
    """A file's bytes, local or s3://.

    Raises:
        UserError: there is no such file.
    """
    fs, name = filesystem(path)
    try:
        with fs.open_input_stream(name, compression=None) as stream:
            return bytes(stream.read())
    except (FileNotFoundError, IsADirectoryError, OSError) as error:
        raise UserError(f"cannot read {path}: no such file") from error


def _npy(data: bytes, path: str) -> Int64[np.ndarray, "n 3"]:
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is not a plain .npy array: {str(error).splitlines()[0]}") from error
    if array.ndim != 2 or array.shape[1] != 3:
        raise UserError(f"{path}: a triplet file has three columns, this has shape {array.shape}")
    return _whole(array, path)


def _whole(array: np.ndarray, path: str) -> Int64[np.ndarray, "n c"]:
    """Numbers as int64; floats only where they are whole."""
    if array.dtype.kind not in "iu":
        if array.dtype.kind != "f":
            raise UserError(f"{path}: object numbers must be whole numbers, these are {array.dtype}")
        bad = ~(np.isfinite(array).all(axis=1) & (array == np.round(array)).all(axis=1))
        if bad.any():
            raise UserError(f"{path}: line {_line(bad)} holds a number that is not whole: this is no triplet file")
    return array.astype(np.int64)


def _plain(data: bytes, first: str, path: str) -> ResponseTable:
    """Numbers without a header: three columns, or objects, choice and what else there is (THINGS' noise ceiling)."""
    delimiter = next((d for d in ("\t", ",", ";") if d in first), " ")
    columns = len(first.split(None if delimiter == " " else delimiter))
    if columns < 3:
        raise UserError(f"{path}: a triplet file has three columns, its first line has {columns}: {first[:60]!r}")
    names = [f"c{n}" for n in range(columns)]
    try:
        table = pacsv.read_csv(
            io.BytesIO(data),
            pacsv.ReadOptions(column_names=names),
            pacsv.ParseOptions(delimiter=delimiter),
            pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.float64()), null_values=[]),
        )
        numbers = np.stack([c.to_numpy() for c in table.columns], axis=1)
    except pa.ArrowInvalid:  # several spaces in a row, or a wrong line: numpy says where
        numbers = _loadtxt(data, delimiter, path)
    if columns == 3:
        return ResponseTable(_table(_whole(numbers, path)), None)
    whole = _whole(numbers[:, :4], path)
    return ResponseTable(_table(_odd_last(whole[:, :3], whole[:, 3], path)), 1)


def _loadtxt(data: bytes, delimiter: str, path: str) -> np.ndarray:
    try:
        return np.loadtxt(io.BytesIO(data), delimiter=None if delimiter == " " else delimiter, ndmin=2)
    except ValueError as error:
        raise UserError(f"{path} is not a triplet file: {str(error).splitlines()[0]}") from error


def _with_header(data: bytes, first: str, path: str, columns: Mapping[str, str]) -> ResponseTable:
    """Named columns: THINGS' csv with response times, or the neutral table of Levels."""
    delimiter = next((d for d in ("\t", ",", ";") if d in first), " ")
    try:
        table = pacsv.read_csv(io.BytesIO(data), parse_options=pacsv.ParseOptions(delimiter=delimiter))
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is not a table: {str(error).splitlines()[0]}") from error
    ours = {theirs.lower(): name for name, theirs in columns.items()}
    names = {ours.get(name.lower(), name.lower()): name for name in table.column_names}
    if missing := [theirs for theirs in columns.values() if theirs.lower() not in map(str.lower, table.column_names)]:
        raise UserError(f"{path}: no column {missing[0]!r} among {', '.join(table.column_names)}")
    objects = next((c for c in OBJECT_COLUMNS if all(name in names for name in c)), None)
    if objects is None:
        raise UserError(f"{path}: no columns image1, image2, image3 (or i, j, k) among {', '.join(table.column_names)}")
    triplets, items = _items([table[names[c]] for c in objects], path)
    if "choice" in names:
        triplets = _odd_last(triplets, _whole(table[names["choice"]].to_numpy()[:, None], path)[:, 0], path)
    person = next((names[n] for n in ("subject_id", "participant") if n in names), None)
    base = 0 if items else 1 if objects[0] == "image1" else None
    return ResponseTable(_table(triplets, table, person, names.get("rt"), names.get("level")), base, items)


def _items(columns: list[pa.ChunkedArray], path: str) -> tuple[Int64[np.ndarray, "n 3"], tuple[str, ...]]:
    """Object numbers; names (of images, say) are numbered in alphabetical order, and returned."""
    if not any(pa.types.is_string(c.type) for c in columns):
        return _whole(np.stack([c.to_numpy() for c in columns], axis=1), path), ()
    text = np.stack([np.asarray(c.cast(pa.string()).fill_null("").to_pylist()) for c in columns], axis=1)
    if (text == "").any():
        raise UserError(f"{path}: line {_line((text == '').any(axis=1)) + 1} leaves an object out")
    items, numbers = np.unique(text, return_inverse=True)
    return numbers.reshape(text.shape).astype(np.int64), tuple(items.tolist())


def _odd_last(
    objects: Int64[np.ndarray, "n 3"], choice: Int64[np.ndarray, " n"], path: str
) -> Int64[np.ndarray, "n 3"]:
    """Rows with the odd one last; choice is its position, counted from 1."""
    wrong = (choice < 1) | (choice > 3)
    if wrong.any():
        raise UserError(f"{path}: line {_line(wrong)}: choice {choice[wrong][0]} is not a position 1, 2 or 3")
    others = np.array([[1, 2, 0], [0, 2, 1], [0, 1, 2]])[choice - 1]
    return np.take_along_axis(objects, others, axis=1)


def _table(
    triplets: Int64[np.ndarray, "n 3"],
    extra: pa.Table | None = None,
    person: str | None = None,
    rt: str | None = None,
    level: str | None = None,
) -> pa.Table:
    def text(name: str | None) -> pa.Array | pa.ChunkedArray:
        if extra is None or name is None:
            return pa.repeat(pa.scalar(""), len(triplets))
        return extra[name].cast(pa.string()).fill_null("")

    seconds = (
        np.full(len(triplets), np.nan)
        if extra is None or rt is None
        else extra[rt].cast(pa.float64()).fill_null(np.nan)
    )
    return pa.table([*triplets.T.copy(), text(person), seconds, text(level)], schema=ANSWERS)


def _line(bad: np.ndarray) -> int:
    """First true row, counted from 1."""
    return int(bad.argmax()) + 1
