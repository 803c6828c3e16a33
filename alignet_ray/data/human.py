"""Readers of human judgements: every published layout becomes rows (pair, pair, odd) of object numbers, checked.

Plain rows (THINGS' trainset.txt, VICE's and SPoSE's train_90.npy/.txt): three numbers, pair first, odd one last.
Rows with a choice (THINGS' csv with response times, its noise-ceiling file, Levels): three objects and the position of
the odd one. Published files count objects from 0 or from 1 and in more than one order, so a reader decides, and checks
itself against a reference embedding wherever there is one: a wrong base or order is refused, never used.
"""

import io
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from jaxtyping import Float, Float32, Int64

from alignet_ray.core import vice
from alignet_ray.data.schemas import ANSWERS
from alignet_ray.errors import UserError
from alignet_ray.store import filesystem

OBJECT_COLUMNS = (("image1", "image2", "image3"), ("image0", "image1", "image2"), ("i", "j", "k"))
"""Headers that name the three objects of a row."""

CHECKED = 100_000
"""Rows that a file is checked on against a reference embedding."""


@dataclass(frozen=True)
class Answers:
    """A file as it is: three object numbers a row, in the file's own counting.

    Attributes:
        table: schema ANSWERS, numbers as in the file.
        base: the number that the layout counts from, None where the layout does not say.
    """

    table: pa.Table
    base: int | None

    @property
    def triplets(self) -> Int64[np.ndarray, "n 3"]:
        """Rows (pair, pair, odd)."""
        return np.stack([self.table[c].to_numpy() for c in "ijk"], axis=1)


def read_triplets(
    path: str,
    objects: int | None = None,
    base: int | None = None,
    reference: Float[np.ndarray, "m d"] | None = None,
    order: Int64[np.ndarray, " m"] | None = None,
) -> Int64[np.ndarray, "n 3"]:
    """Rows (pair, pair, odd) of object numbers 0..m-1, checked.

    Args:
        path: .txt, .csv, .tsv or .npy file, local or s3://.
        objects: m, where it is known.
        base: what the file counts from (0 or 1); None: the layout or the numbers say.
        reference: embedding of the m objects that must predict the answers about as well as its own probabilities
            promise.
        order: for every number of the file (from 0), the object's row: for files in an older order of objects.

    Raises:
        UserError: the file is missing or no triplet file, counts past the objects, repeats an object in a row, or is at
            odds with the reference; the message says which reading would fit.
    """
    answers = read_answers(path)
    return settle(answers, path, objects, base, reference, order)


def read_answers(path: str) -> Answers:
    """Any triplet file, unchecked but for its form.

    Raises:
        UserError: not a triplet file.
    """
    data = _bytes(path)
    if path.endswith(".npy"):
        return Answers(_table(_npy(data, path)), None)
    first = data[: data.find(b"\n") + 1 or None].decode(errors="replace").strip()
    if not first or "\x00" in first:
        raise UserError(f"{path} is not a triplet file: expected text with three object numbers a line, or .npy")
    return (
        _with_header(data, first, path) if any(c.isalpha() for c in first.split("e")[0]) else _plain(data, first, path)
    )


def settle(
    answers: Answers,
    path: str,
    objects: int | None = None,
    base: int | None = None,
    reference: Float[np.ndarray, "m d"] | None = None,
    order: Int64[np.ndarray, " m"] | None = None,
) -> Int64[np.ndarray, "n 3"]:
    """The rows in the project's own counting; arguments and errors as in `read_triplets`."""
    rows = answers.triplets
    if len(rows) == 0:
        raise UserError(f"{path} holds no triplets")
    low, high = int(rows.min()), int(rows.max())
    if low < 0:
        raise UserError(f"{path}: line {_line(rows.min(axis=1) < 0)} names object {low}; objects count from 0 or 1")
    objects = len(reference) if reference is not None else objects
    start = _start(low, high, objects, base if base is not None else answers.base)
    if start > low:
        raise UserError(
            f"{path}: line {_line(rows.min(axis=1) < start)} names object {low}, but it should count from 1"
        )
    rows = rows - start
    if objects is not None and high - start >= objects:
        line = _line(rows.max(axis=1) >= objects)
        raise UserError(
            f"{path}: line {line} names object {high}, but there are {objects} objects, counted from {start}: "
            "is this file about other objects?"
        )
    repeated = (rows[:, 0] == rows[:, 1]) | (rows[:, 0] == rows[:, 2]) | (rows[:, 1] == rows[:, 2])
    if repeated.any():
        raise UserError(
            f"{path}: {repeated.sum():,} rows repeat an object (first: line {_line(repeated)}); remove them"
        )
    rows = rows if order is None else order[rows]
    if reference is not None:
        require_plausible(rows, reference, path)
    return np.ascontiguousarray(rows)


@dataclass(frozen=True)
class Plausibility:
    """How well an embedding predicts answers (fractions): what it does, and what its own probabilities promise."""

    agreement: float
    expected: float

    @property
    def good(self) -> bool:
        """Whether the agreement is nearer to the promise than to chance."""
        return self.agreement > (1 / 3 + self.expected) / 2


def plausibility(rows: Int64[np.ndarray, "n 3"], reference: Float[np.ndarray, "m d"]) -> Plausibility:
    """Compare answers with a reference embedding, on at most `CHECKED` rows spread over the file."""
    some = rows[:: max(1, len(rows) // CHECKED)]
    p = vice.choice_probabilities(reference.astype(np.float32), np.zeros(reference.shape, np.float32), some, 1, 0)
    top = p.max(axis=1, keepdims=True)
    hits = (p[:, 0] == top[:, 0]) / (p == top).sum(axis=1)  # a guess among equals
    return Plausibility(float(hits.mean()), float(top.mean()))


def require_plausible(rows: Int64[np.ndarray, "n 3"], reference: Float[np.ndarray, "m d"], path: str) -> None:
    """Refuse answers that the reference does not predict.

    Raises:
        UserError: with the readings of the file that would fit.
    """
    found = plausibility(rows, reference)
    if not found.good:
        raise UserError(
            f"{path}: the reference embedding predicts {found.agreement:.1%} of its rows, "
            f"{found.expected:.1%} expected: {fitting_readings(rows, reference)}"
        )


def fitting_readings(rows: Int64[np.ndarray, "n 3"], reference: Float[np.ndarray, "m d"]) -> str:
    """Which other reading of rows (counted from 0) the reference embedding would predict, as advice."""
    m = len(reference)
    readings = {
        "count from 1 (read it with --human.base 1)": rows - 1,
        "count from 0 (read it with --human.base 0)": rows + 1,
        "put the odd one first (it must be last)": rows[:, [1, 2, 0]],
        "put the odd one in the middle (it must be last)": rows[:, [0, 2, 1]],
    }
    fits = [
        text
        for text, other in readings.items()
        if (inside := (other >= 0).all(axis=1) & (other < m).all(axis=1)).mean() > 0.9
        and plausibility(other[inside], reference).good
    ]
    if fits:
        return f"it seems to {' or to '.join(fits)}"
    return "its objects are probably in another order (--human.order), or they are other objects"


def read_embedding(path: str) -> Float32[np.ndarray, "m d"]:
    """A published human embedding: .npy, or text with one row an object.

    Raises:
        UserError: missing, not a finite (m, d) matrix, or all zero.
    """
    data = _bytes(path)
    try:
        if path.endswith(".npy"):
            x = np.load(io.BytesIO(data), allow_pickle=False)
        else:
            x = np.loadtxt(io.BytesIO(data), delimiter="," if b"," in data[:1000] else None, ndmin=2)
        x = np.asarray(x, dtype=np.float32)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is not an embedding: {str(error).splitlines()[0]}") from error
    if x.ndim != 2 or x.shape[0] < 3:
        raise UserError(f"{path}: an embedding has one row an object, this has shape {x.shape}")
    if not np.isfinite(x).all():
        raise UserError(f"{path}: {int((~np.isfinite(x)).any(axis=1).sum())} rows are not finite (NaN or infinity)")
    if not x.any():
        raise UserError(f"{path}: the embedding is zero everywhere; it would call every choice a toss-up")
    return x


def read_order(path: str) -> Int64[np.ndarray, " m"]:
    """An order of objects: one row number a line.

    Raises:
        UserError: not whole numbers, or one of them twice.
    """
    try:
        order = np.loadtxt(io.BytesIO(_bytes(path)), dtype=np.int64, ndmin=1)
    except ValueError as error:
        raise UserError(f"{path}: an order of objects has one row number a line: {error}") from error
    if order.ndim != 1 or len(np.unique(order)) != len(order) or order.min() < 0:
        raise UserError(f"{path}: an order of objects names every row number once")
    return order


def detect_base(low: int, high: int, objects: int | None) -> int:
    """What numbers from `low` to `high` count from: 1 only if no other reading is possible."""
    return int(low >= 1 and objects is not None and high == objects)


def _start(low: int, high: int, objects: int | None, given: int | None) -> int:
    return given if given is not None else detect_base(low, high, objects)


def _bytes(path: str) -> bytes:
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


def _plain(data: bytes, first: str, path: str) -> Answers:
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
        return Answers(_table(_whole(numbers, path)), None)
    whole = _whole(numbers[:, :4], path)
    return Answers(_table(_odd_last(whole[:, :3], whole[:, 3], path)), 1)


def _loadtxt(data: bytes, delimiter: str, path: str) -> np.ndarray:
    try:
        return np.loadtxt(io.BytesIO(data), delimiter=None if delimiter == " " else delimiter, ndmin=2)
    except ValueError as error:
        raise UserError(f"{path} is not a triplet file: {str(error).splitlines()[0]}") from error


def _with_header(data: bytes, first: str, path: str) -> Answers:
    """Named columns: THINGS' csv with response times, or the neutral table of Levels."""
    delimiter = next((d for d in ("\t", ",", ";") if d in first), " ")
    try:
        table = pacsv.read_csv(io.BytesIO(data), parse_options=pacsv.ParseOptions(delimiter=delimiter))
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is not a table: {str(error).splitlines()[0]}") from error
    names = {name.lower(): name for name in table.column_names}
    objects = next((c for c in OBJECT_COLUMNS if all(name in names for name in c)), None)
    if objects is None:
        raise UserError(f"{path}: no columns image1, image2, image3 (or i, j, k) among {', '.join(table.column_names)}")
    triplets = _whole(np.stack([table[names[c]].to_numpy() for c in objects], axis=1), path)
    if "choice" in names:
        triplets = _odd_last(triplets, _whole(table[names["choice"]].to_numpy()[:, None], path)[:, 0], path)
    person = next((names[n] for n in ("subject_id", "participant") if n in names), None)
    seconds = next((names[n] for n in ("rt",) if n in names), None)
    base = 1 if objects[0] == "image1" else None
    return Answers(_table(triplets, table, person, seconds), base)


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
    triplets: Int64[np.ndarray, "n 3"], extra: pa.Table | None = None, person: str | None = None, rt: str | None = None
) -> pa.Table:
    n = len(triplets)
    people = np.full(n, "") if extra is None or person is None else extra[person].cast(pa.string()).fill_null("")
    seconds = np.full(n, np.nan) if extra is None or rt is None else extra[rt].cast(pa.float64()).fill_null(np.nan)
    return pa.table(
        [*triplets.T.copy(), pa.array(people) if isinstance(people, np.ndarray) else people, seconds],
        names=ANSWERS.names,
    ).cast(ANSWERS)


def _line(bad: np.ndarray) -> int:
    """First true row, counted from 1."""
    return int(bad.argmax()) + 1
