"""All human answers of a run with 0-based object numbers: odd-one-out responses and reference comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from alignet_ray.core.comparisons import Comparisons, merged, no_comparisons
from alignet_ray.errors import UserError
from alignet_ray.human import comparisons as comparison_files
from alignet_ray.human import object_names, triplets
from alignet_ray.human.comparisons import ComparisonTable
from alignet_ray.human.object_names import ObjectNames
from alignet_ray.human.responses import ResponseTable, read_responses


@dataclass(frozen=True)
class AnswerFiles:
    """Files of human answers and how they are read. Each is read once, when its table is first asked for.

    Attributes:
        triplets: odd-one-out responses.
        comparisons: reference comparisons.
        validation: responses or comparisons that are held out from the fit.
        columns: pairs `expected=actual` of column names.
        base: the number that object numbers count from; None where the files say.
        order: file with the object that each number of the responses means.
        concepts: names of the objects in the order of their numbers; empty where unknown.
        concepts_path: where these come from, for messages.
    """

    triplets: str | None = None
    comparisons: str | None = None
    validation: str | None = None
    columns: tuple[str, ...] = ()
    base: int | None = None
    order: str | None = None
    concepts: Sequence[str] = ()
    concepts_path: str = ""

    def renamed(self) -> dict[str, str]:
        """Our column names -> the files'.

        Raises:
            UserError: a pair without =.
        """
        for pair in self.columns:
            if "=" not in pair:
                raise UserError(f"human.columns {pair}: write it as expected=actual, for example choice=answer")
        return dict(pair.split("=", 1) for pair in self.columns)

    @cached_property
    def triplet_table(self) -> ResponseTable | None:
        """The odd-one-out responses; None without any."""
        if not self.triplets:
            return None
        return read_responses(self.triplets, self.renamed())

    @cached_property
    def comparison_table(self) -> ComparisonTable | None:
        """The reference comparisons; None without any."""
        if not self.comparisons:
            return None
        return comparison_files.read_table(self.comparisons, self.renamed())

    @cached_property
    def validation_table(self) -> ResponseTable | ComparisonTable | None:
        """The held-out answers, of either kind; None without any."""
        if not self.validation:
            return None
        if comparison_files.holds_comparisons(self.validation):
            return comparison_files.read_table(self.validation, self.renamed())
        return read_responses(self.validation, self.renamed())


class Answers(NamedTuple):
    """Answers with object numbers counted from 0.

    Attributes:
        triplets: odd-one-out responses, rows (pair, pair, odd).
        comparisons: reference comparisons, one row a question.
    """

    triplets: Int64[np.ndarray, "n 3"]
    comparisons: Comparisons

    def highest(self) -> int:
        """The highest object number; -1 where there are no answers."""
        return int(max(self.triplets.max(initial=-1), self.comparisons.rows.max(initial=-1)))


NO_TRIPLETS = np.empty((0, 3), np.int64)
"""No odd-one-out responses."""


def read_names(files: AnswerFiles) -> ObjectNames | None:
    """The objects' names, where the human files call them by name; None where they number them.

    Raises:
        UserError: a file that cannot be read, or files that do not fit each other.
    """
    tables = {
        files.triplets: files.triplet_table,
        files.comparisons: files.comparison_table,
        files.validation: files.validation_table,
    }
    names_of = {path: table.object_names for path, table in tables.items() if path and table}

    # A table of concepts numbers the objects, whether a file calls them by number or by name.
    if files.concepts and any(names_of.values()):
        return object_names.from_concepts(files.concepts, files.concepts_path)
    if files.concepts:
        return None
    return object_names.of_files(names_of)


def read(
    files: AnswerFiles,
    names: ObjectNames | None,
    count: int | None = None,
    reference: Float32[np.ndarray, "m d"] | None = None,
) -> Answers:
    """The answers that the model of people is fitted to.

    Args:
        files: where they are.
        names: of the objects, as `read_names` gives them.
        count: number of objects, where it is known.
        reference: embedding of the objects that odd-one-out responses are checked against.

    Raises:
        UserError: files that are no answers, or name objects that do not exist.
    """
    responses = NO_TRIPLETS
    if files.triplets and files.triplet_table:
        responses = _triplets(files, files.triplet_table, files.triplets, names, count, reference)
    comparisons = no_comparisons()
    if files.comparisons and files.comparison_table:
        comparisons = _comparisons(files, files.comparison_table, files.comparisons, names, count)
    return Answers(responses, comparisons)


def read_validation(
    files: AnswerFiles,
    names: ObjectNames | None,
    count: int,
    reference: Float32[np.ndarray, "m d"] | None = None,
) -> Answers:
    """The held-out answers, which may be of either kind; arguments and errors as in `read`."""
    path = files.validation
    table = files.validation_table
    assert path is not None, "there are held-out answers"
    assert table is not None, "a file that is named has a table"
    if isinstance(table, ComparisonTable):
        return Answers(NO_TRIPLETS, _comparisons(files, table, path, names, count))
    return Answers(_triplets(files, table, path, names, count, reference), no_comparisons())


def _triplets(
    files: AnswerFiles,
    responses: ResponseTable,
    path: str,
    names: ObjectNames | None,
    count: int | None,
    reference: Float32[np.ndarray, "m d"] | None,
) -> Int64[np.ndarray, "n 3"]:
    """Responses with object numbers, by their names or by the file's own numbers."""
    order = None
    if files.order:
        order = triplets.read_order(files.order)
    if responses.object_names and names is not None:
        return _by_name(responses, path, names, reference)
    return triplets.to_object_ids(responses, path, count, files.base, reference, order)


def _by_name(
    responses: ResponseTable, path: str, names: ObjectNames, reference: Float32[np.ndarray, "m d"] | None
) -> Int64[np.ndarray, "n 3"]:
    """Responses about objects that the file calls by name."""
    numbers = names.numbers(responses.object_names, path)
    # Numbered by the reader, the names pass the same checks as numbers do.
    rows: Int64[np.ndarray, "n 3"] = numbers[
        triplets.to_object_ids(responses, path, len(responses.object_names), base=0)
    ]
    if reference is not None:
        triplets.require_plausible(rows, reference, path)
    return rows


def _comparisons(
    files: AnswerFiles, table: ComparisonTable, path: str, names: ObjectNames | None, count: int | None
) -> Comparisons:
    """Comparisons with object numbers, by their names or by the file's own numbers, one row a question."""
    if table.object_names and names is not None:
        found = comparison_files.to_objects(table, path, names.numbers(table.object_names, path))
    else:
        base = files.base
        if base is None:
            base = triplets.detect_base(int(table.rows.min()), int(table.rows.max()), count)
        triplets.require_in_range(table.rows, base, count, path, table.lines)
        found = comparison_files.to_objects(table, path, base=base)
    # Files with one answer a row ask the same question in many rows.
    return merged(found)
