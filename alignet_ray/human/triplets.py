"""Human judgements in our own counting, checked: rows (pair, pair, odd) of object numbers, embeddings, orders.

Published files count objects from 0 or from 1 and in more than one order, so a reader decides, and checks itself
against a reference embedding wherever there is one: a wrong base or order is refused, never used.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64

from alignet_ray.core import vice
from alignet_ray.errors import UserError
from alignet_ray.human.responses import ResponseTable, content, read_answers

CHECKED = 100_000
"""Rows that a file is checked on against a reference embedding."""


def read_triplets(
    path: str,
    objects: int | None = None,
    base: int | None = None,
    reference: Float[np.ndarray, "m d"] | None = None,
    order: Int64[np.ndarray, " m"] | None = None,
    columns: Mapping[str, str] | None = None,
) -> Int64[np.ndarray, "n 3"]:
    """Rows (pair, pair, odd) of object numbers 0..m-1, checked.

    Args:
        path: .txt, .csv, .tsv or .npy file, local or s3://.
        objects: m, where it is known.
        base: what the file counts from (0 or 1); None: the layout or the numbers say.
        reference: embedding of the m objects that must predict the answers about as well as its own probabilities
            promise.
        order: for every number of the file (from 0), the object's row: for files in an older order of objects.
        columns: our column names -> the file's, where they differ.

    Raises:
        UserError: the file is missing or no triplet file, counts past the objects, repeats an object in a row, or is at
            odds with the reference; the message says which reading would fit.
    """
    answers = read_answers(path, columns)
    return settle(answers, path, objects, base, reference, order)


def settle(
    answers: ResponseTable,
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
    objects = len(order) if order is not None else len(reference) if reference is not None else objects
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
        if int(rows.max()) >= len(reference):
            raise UserError(f"{path}: --human.order leads to row {rows.max()}, the embedding has {len(reference)}")
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
    found = {
        text: plausibility(other[inside], reference)
        for text, other in readings.items()
        if (inside := (other >= 0).all(axis=1) & (other < m).all(axis=1)).mean() > 0.9
    }
    fits = [text for text, plausible in found.items() if plausible.good]
    if fits:
        return f"it seems to {' or to '.join(fits)}"
    # A column that rarely holds the odd one tells mixed columns from objects in another order, where all are at chance.
    columns = [plausibility(rows, reference), *found.values()]
    if any(c.agreement < (1 / 3 + (1 - c.expected) / 2) / 2 for c in columns):
        return "the odd one is not always in the same column (it must be last in every row)"
    return "its objects are probably in another order (--human.order), or they are other objects"


def read_embedding(path: str) -> Float32[np.ndarray, "m d"]:
    """A published human embedding: .npy, or text with one row an object.

    Raises:
        UserError: missing, not a finite (m, d) matrix, or all zero.
    """
    data = content(path)
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
        order = np.loadtxt(io.BytesIO(content(path)), dtype=np.int64, ndmin=1)
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


def _line(bad: np.ndarray) -> int:
    """First true row, counted from 1."""
    return int(bad.argmax()) + 1
