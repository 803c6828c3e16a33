"""Human odd-one-out triplets with 0-based object ids, checked: rows (pair, pair, odd), embeddings and object orders.

Published files count objects from 0 or from 1, put the odd one in different columns and number objects in different
orders. Wherever there is a reference embedding, the rows are checked against it, so that a wrong reading is refused
instead of used.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from alignet_ray.data.files import parse_array, parse_numbers, plain_text, require_rows
from alignet_ray.errors import UserError, first_line
from alignet_ray.human.answer_tables import MOST_OBJECTS, LineNumbers, require_countable
from alignet_ray.human.responses import ResponseTable, read_responses
from alignet_ray.locations import read_bytes

CHECKED_ROWS = 100_000
"""Rows of a file that are compared with a reference embedding."""

CHANCE = 1 / 3
"""Agreement of a random choice among three pairs."""


def read_triplets(
    path: str,
    objects: int | None = None,
    base: int | None = None,
    reference: Float[np.ndarray, "m d"] | None = None,
    order: Int64[np.ndarray, " m"] | None = None,
    columns: Mapping[str, str] | None = None,
) -> Int64[np.ndarray, "n 3"]:
    """Rows (pair, pair, odd) of object ids 0..m-1, checked.

    Args:
        path: .txt, .csv, .tsv or .npy file, local or s3://.
        objects: m, where it is known.
        base: what the file counts from (0 or 1). Default: what the layout or the numbers say.
        reference: embedding of the m objects, whose agreement with the responses must be near what its own choice
            probabilities promise.
        order: the object id that each number of the file (from 0) means: for files in an older order of objects.
        columns: our column names -> the file's, where they differ.

    Raises:
        UserError: the file is missing or no triplet file, names objects that do not exist, repeats an object in a row,
            or disagrees with the reference; the message says which reading would fit.
    """
    responses = read_responses(path, columns)
    return to_object_ids(responses, path, objects, base, reference, order)


def to_object_ids(
    responses: ResponseTable,
    path: str,
    objects: int | None = None,
    base: int | None = None,
    reference: Float[np.ndarray, "m d"] | None = None,
    order: Int64[np.ndarray, " m"] | None = None,
) -> Int64[np.ndarray, "n 3"]:
    """The responses with 0-based object ids; arguments and errors as in `read_triplets`."""
    # Every check below would pass on no rows at all.
    numbers = responses.triplets
    if len(numbers) == 0:
        raise UserError(f"{path} holds no triplets")

    # An order or a reference states the number of objects more reliably than the caller can.
    if order is not None:
        objects = len(order)
    elif reference is not None:
        objects = len(reference)
    if base is None:
        base = responses.base
    if base is None:
        base = detect_base(int(numbers.min()), int(numbers.max()), objects)

    require_in_range(numbers, base, objects, path, responses.lines)
    # A choice among two different objects says nothing about similarity; such rows are mistakes of an export.
    rows = numbers - base
    _require_distinct(rows, path, responses.lines)

    if order is not None:
        rows = order[rows]
    if reference is not None:
        if int(rows.max()) >= len(reference):
            raise UserError(f"{path}: --human.order leads to row {rows.max()}, the embedding has {len(reference)}")
        require_plausible(rows, reference, path)
    return np.ascontiguousarray(rows)


def detect_base(lowest: int, highest: int, objects: int | None) -> int:
    """What numbers from `lowest` to `highest` count from: 1 only where no other reading is possible."""
    return int(lowest >= 1 and objects is not None and highest == objects)


def require_in_range(
    numbers: Int64[np.ndarray, "n 3"], base: int, objects: int | None, path: str, lines: LineNumbers
) -> None:
    """Refuse numbers below `base`, or beyond the number of objects, or beyond any count where that is unknown."""
    lowest = int(numbers.min())
    highest = int(numbers.max())

    # A negative number is a mistake; an object 0 in a file said to count from 1 has a fix that can be named.
    if lowest < 0:
        line = lines.first_of(numbers.min(axis=1) < 0)
        raise UserError(f"{path}: line {line} names object {lowest}; objects count from 0 or 1")
    if lowest < base:
        line = lines.first_of(numbers.min(axis=1) < base)
        raise UserError(f"{path}: line {line} names object 0, so the file counts from 0: use --human.base 0")

    if objects is None:
        require_countable(numbers, path, lines)
    elif highest - base >= objects:
        line = lines.first_of(numbers.max(axis=1) - base >= objects)
        raise UserError(
            f"{path}: line {line} names object {highest}, but there are {objects} objects, counted from {base}: "
            "is this file about other objects?"
        )


def _require_distinct(rows: Int64[np.ndarray, "n 3"], path: str, lines: LineNumbers) -> None:
    first, second, third = rows.T
    repeated: Bool[np.ndarray, " n"] = (first == second) | (first == third) | (second == third)
    if repeated.any():
        line = lines.first_of(repeated)
        raise UserError(f"{path}: {repeated.sum():,} rows repeat an object (first: line {line}); remove them")


@dataclass(frozen=True)
class Plausibility:
    """How well an embedding predicts responses.

    Attributes:
        agreement: share of the responses that it predicts.
        expected: share that its own choice probabilities promise.
    """

    agreement: float
    expected: float

    @property
    def good(self) -> bool:
        """Whether the agreement is nearer to the promise than to chance."""
        return self.agreement > (CHANCE + self.expected) / 2

    @property
    def below_chance(self) -> bool:
        """Whether the agreement is nearer to what a wrong column gives than to chance."""
        opposite = (1 - self.expected) / 2
        return self.agreement < (CHANCE + opposite) / 2


def plausibility(rows: Int64[np.ndarray, "n 3"], reference: Float[np.ndarray, "m d"]) -> Plausibility:
    """Compare responses with a reference embedding, on at most `CHECKED_ROWS` rows spread over the file."""
    # Late, since it brings torch, which commands that only look at a run do without.
    from alignet_ray.core import vice

    # Spread over the file, as rows may be sorted by object.
    step = max(1, len(rows) // CHECKED_ROWS)
    embedding = reference.astype(np.float32)
    probabilities = vice.choice_probabilities(embedding, np.zeros_like(embedding), rows[::step], 1, 0)
    best = probabilities.max(axis=1, keepdims=True)
    # Among pairs that tie for the best, the prediction is a guess.
    hits = (probabilities[:, 0] == best[:, 0]) / (probabilities == best).sum(axis=1)
    return Plausibility(float(hits.mean()), float(best.mean()))


def require_plausible(rows: Int64[np.ndarray, "n 3"], reference: Float[np.ndarray, "m d"], path: str) -> None:
    """Refuse responses that the reference does not predict.

    Raises:
        UserError: with the readings of the file that would fit.
    """
    result = plausibility(rows, reference)
    if not result.good:
        raise UserError(
            f"{path}: the reference embedding predicts {result.agreement:.1%} of its rows, "
            f"{result.expected:.1%} expected: {fitting_readings(rows, reference)}"
        )


def fitting_readings(rows: Int64[np.ndarray, "n 3"], reference: Float[np.ndarray, "m d"]) -> str:
    """Which other reading of rows (counted from 0) the reference embedding would predict, as advice to the user."""
    # What goes wrong in practice: the count starts elsewhere, or the odd one stands in another column.
    readings = {
        "count from 1 (read it with --human.base 1)": rows - 1,
        "count from 0 (read it with --human.base 0)": rows + 1,
        "put the odd one first (it must be last)": rows[:, [1, 2, 0]],
        "put the odd one in the middle (it must be last)": rows[:, [0, 2, 1]],
    }
    results: dict[str, Plausibility] = {}
    for text, reading in readings.items():
        # A shifted count may lead a few rows beyond the objects; a reading that loses many is none.
        inside = ((reading >= 0) & (reading < len(reference))).all(axis=1)
        if inside.mean() > 0.9:
            results[text] = plausibility(reading[inside], reference)

    fitting = [text for text, result in results.items() if result.good]
    if fitting:
        return f"it seems to {' or to '.join(fitting)}"

    # A column that rarely holds the odd one tells mixed columns from objects in another order, where all are at chance.
    columns = [plausibility(rows, reference), *results.values()]
    if any(result.below_chance for result in columns):
        return "the odd one is not always in the same column (it must be last in every row)"
    return "its objects are probably in another order (--human.order), or they are other objects"


def read_embedding(path: str) -> Float32[np.ndarray, "m d"]:
    """A published human embedding: .npy, or text with one row per object.

    Raises:
        UserError: missing, not a finite (m, d) matrix, or all zero.
    """
    data = read_bytes(path)
    try:
        if path.endswith(".npy"):
            values = parse_array(data, path)
        else:
            values = parse_numbers(plain_text(data, path))
        # What float32 cannot hold becomes infinite, and is refused below.
        with np.errstate(over="ignore"):
            embedding = np.asarray(values, dtype=np.float32)
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not an embedding: {first_line(error)}") from error

    if embedding.ndim != 2 or embedding.shape[0] < 3:
        raise UserError(f"{path}: an embedding has one row an object, this has shape {embedding.shape}")
    if not np.isfinite(embedding).all():
        count = int((~np.isfinite(embedding)).any(axis=1).sum())
        raise UserError(f"{path}: {count} rows are not finite (NaN or infinity)")
    if not embedding.any():
        raise UserError(f"{path}: the embedding is zero everywhere: every choice would be equally likely")
    return embedding


def read_order(path: str) -> Int64[np.ndarray, " m"]:
    """An order of objects: one object id a line.

    Raises:
        UserError: not whole numbers, or one of them twice.
    """
    data = plain_text(read_bytes(path), path)
    try:
        require_rows(data)
        order = np.loadtxt(io.BytesIO(data), dtype=np.int64, ndmin=1)
    except UserError:
        raise
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path}: an order of objects has one row number a line: {first_line(error)}") from error
    if order.ndim != 1 or not len(order) or len(np.unique(order)) != len(order) or order.min() < 0:
        raise UserError(f"{path}: an order of objects names every row number once")
    if order.max() >= MOST_OBJECTS:
        raise UserError(f"{path}: an order of objects names row {order.max()}: rows are counted from 0 without gaps")
    # Read as it stands, such a file would shift every object by one, and nothing later would notice.
    if order.min() == 1 and order.max() == len(order):
        raise UserError(f"{path} counts from 1 to {len(order)}: row numbers start at 0, so subtract 1 from each")
    return order
