"""Readers of reference comparisons: which of two objects is more like a third one, as votes or as one answer a row.

Layouts: reference, a, b, votes_a, votes_b; reference, a, b, choice (1 or 2, a or b, or the chosen object), with
participant and rt where known; NIGHTS (ref_path, left_path, right_path, left_vote, right_vote); and reference (or
head), winner, loser. Objects may be numbers or names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int64

from alignet_ray.core.comparisons import Comparisons
from alignet_ray.data.files import plain_text
from alignet_ray.errors import UserError, first_line
from alignet_ray.human import answer_tables
from alignet_ray.human.answer_tables import LineNumbers
from alignet_ray.locations import read_bytes


class Layout(NamedTuple):
    """Headers of one layout.

    Attributes:
        objects: columns of the reference and of the two candidates.
        votes: columns of the votes for both; empty where the first candidate is the one that was chosen.
    """

    objects: tuple[str, str, str]
    votes: tuple[str, ...]


LAYOUTS = (
    Layout(("reference", "a", "b"), ("votes_a", "votes_b")),
    Layout(("ref_path", "left_path", "right_path"), ("left_vote", "right_vote")),
    Layout(("reference", "winner", "loser"), ()),
    Layout(("head", "winner", "loser"), ()),
)

MOST_VOTES = 1_000_000
"""Votes for one side of a question: more are no counts of people, and each vote takes a row of memory."""

CHOICES = ({"1", "a", "left"}, {"2", "b", "right"})
"""How files write that the first candidate was chosen, and the second one."""


@dataclass(frozen=True)
class ComparisonTable:
    """Reference comparisons as a file states them, with object numbers in the file's own counting.

    Attributes:
        rows: (reference, a, b), in the order of the file.
        votes: for a, and for b.
        participants: who answered; "" where unknown.
        object_names: the objects' names where the file uses names: number n means object_names[n].
        lines: where the rows stand in the file.
        unread_times: one line about response times that cannot be read; empty if all can.
    """

    rows: Int64[np.ndarray, "n 3"]
    votes: Float[np.ndarray, "n 2"]
    participants: list[str]
    object_names: tuple[str, ...] = ()
    lines: LineNumbers = field(default_factory=LineNumbers)
    unread_times: str = ""

    @property
    def counts_votes(self) -> bool:
        """Whether all votes are whole numbers: shares do not say how many people they stand for."""
        return bool((self.votes == self.votes.round()).all())


def holds_comparisons(path: str) -> bool:
    """Whether a text file has the columns of a known layout; other files, and damaged ones, have not."""
    if path.endswith(".npy"):
        return False
    try:
        data, _ = answer_tables.without_empty_lines(plain_text(read_bytes(path), path))
    except UserError:
        return False
    header = answer_tables.header_of(data)
    if not answer_tables.names_columns(header):
        return False
    names = {name.strip().lower() for name in answer_tables.column_names(header)}
    return any(names >= set(layout.objects) for layout in LAYOUTS)


def read_table(path: str, columns: Mapping[str, str] | None = None) -> ComparisonTable:
    """Read a file of reference comparisons; its objects keep the file's own numbers.

    Args:
        path: text with a header.
        columns: our column name -> the file's, where they differ.

    Raises:
        UserError: not such a table, or rows without an answer.
    """
    data, lines = answer_tables.without_empty_lines(plain_text(read_bytes(path), path))
    header = answer_tables.header_of(data)
    if not answer_tables.names_columns(header):
        raise UserError(f"{path}: reference comparisons need a header: reference,a,b,votes_a,votes_b (or choice)")
    table = answer_tables.parse(data, header, path)
    lines = answer_tables.after_header(lines)
    if len(table) == 0:
        raise UserError(f"{path} holds no comparisons")

    names = answer_tables.our_column_names(table.column_names, columns or {}, path)
    # The layout that fits best: a table that lacks one column is told which one.
    layout = max(LAYOUTS, key=lambda layout: len(names.keys() & set(layout.objects)))
    missing = [column for column in layout.objects if column not in names]
    if missing:
        raise UserError(f"{path}: no column {missing[0]!r} among {', '.join(table.column_names)}")
    cells = [table[names[column]] for column in layout.objects]
    rows, object_names = answer_tables.number_objects(cells, path, lines)
    _require_distinct(rows, path, lines)

    known, unread_times = answer_tables.about_answers(table, names, path, lines)
    participants = [""] * len(table)
    if "participant" in known:
        participants = known["participant"].cast(pa.string()).fill_null("").to_pylist()
    votes = _votes(table, names, layout, cells, path, lines)
    return ComparisonTable(rows, votes, participants, object_names, lines, unread_times)


def _require_distinct(rows: Int64[np.ndarray, "n 3"], path: str, lines: LineNumbers) -> None:
    reference, first, second = rows.T
    repeated = (reference == first) | (reference == second) | (first == second)
    if repeated.any():
        line = lines.first_of(repeated)
        raise UserError(f"{path}: {repeated.sum():,} rows compare an object with itself (first: line {line})")


def _votes(
    table: pa.Table,
    names: Mapping[str, str],
    layout: Layout,
    cells: list[pa.ChunkedArray],
    path: str,
    lines: LineNumbers,
) -> Float[np.ndarray, "n 2"]:
    """Votes for both candidates; one answer a row is one vote."""
    if layout.votes and names.keys() >= set(layout.votes):
        return _counted_votes([table[names[column]] for column in layout.votes], path, lines)

    if not layout.votes:
        # The first candidate is the winner, as its column says.
        return np.tile([1.0, 0.0], (len(table), 1))

    if "choice" not in names:
        raise UserError(
            f"{path}: who was chosen? Give the columns {' and '.join(layout.votes)}, or choice, "
            f"beside {', '.join(layout.objects)}"
        )

    chosen = table[names["choice"]].cast(pa.string()).fill_null("").to_pylist()
    first = cells[1].cast(pa.string()).to_pylist()
    second = cells[2].cast(pa.string()).to_pylist()

    votes = np.zeros((len(table), 2))
    for row, text in enumerate(chosen):
        side = _side(text.strip(), first[row], second[row])
        if side is None:
            line = lines.first_of(np.arange(len(table)) == row)
            raise UserError(f"{path}: line {line}: choice {text!r} is not 1 or 2, a or b, or one of the two objects")
        votes[row, side] = 1
    return votes


def _side(text: str, first: str, second: str) -> int | None:
    """Which candidate was chosen (0 or 1), as a file writes it; None where that is none of them."""
    # The objects' own names first: an object may be called "b". Numbers are positions, as in odd-one-out files.
    if not text.isdigit() and text in (first, second):
        return int(text == second)
    for side, words in enumerate(CHOICES):
        if text.lower() in words:
            return side
    return None


def _counted_votes(columns: list[pa.ChunkedArray], path: str, lines: LineNumbers) -> Float[np.ndarray, "n 2"]:
    try:
        votes = np.stack([column.cast(pa.float64()).fill_null(np.nan).to_numpy() for column in columns], axis=1)
    except pa.ArrowException as error:
        raise UserError(f"{path}: votes must be numbers: {first_line(error)}") from error

    is_negative = np.asarray((votes < 0).any(axis=1))
    if is_negative.any():
        raise UserError(
            f"{path}: {int(is_negative.sum()):,} rows have negative votes (first: line {lines.first_of(is_negative)}): "
            "give counts of people, from 0"
        )

    # Counts so large are something else, such as identifiers in the wrong column.
    is_huge = np.asarray((votes > MOST_VOTES).any(axis=1))
    if is_huge.any():
        raise UserError(
            f"{path}: {int(is_huge.sum()):,} rows have more than {MOST_VOTES:,} votes for one side "
            f"(first: line {lines.first_of(is_huge)}): give counts of people"
        )

    total = votes.sum(axis=1)
    is_empty: Bool[np.ndarray, " n"] = np.logical_not(np.isfinite(total) & (total > 0))
    if is_empty.any():
        raise UserError(
            f"{path}: {int(is_empty.sum()):,} rows have no votes (first: line {lines.first_of(is_empty)}): "
            "every row needs votes for both sides, at least one of them above 0"
        )
    return np.asarray(votes)


def to_objects(
    table: ComparisonTable, path: str, numbers: Int64[np.ndarray, " k"] | None = None, base: int = 0
) -> Comparisons:
    """The comparisons with 0-based object numbers, one row a question.

    Args:
        table: the file.
        path: its name, for messages.
        numbers: object number of each of the table's names; None where it has numbers itself.
        base: what these count from.

    Raises:
        UserError: shares in place of counts.
    """
    if not table.counts_votes:
        raise UserError(f"{path}: votes are shares: give counts of people, as shares do not say how many answered")
    rows = table.rows - base
    if numbers is not None:
        rows = numbers[table.rows]
    return Comparisons(np.ascontiguousarray(rows), table.votes)
