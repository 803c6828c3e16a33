"""Annotated objects: which images show each of them, their names, and the split that each belongs to."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import pyarrow as pa

from alignet_ray.artifacts.schemas import OBJECTS, check
from alignet_ray.core.splits import Fold, split_of
from alignet_ray.data.files import FileRow, comparable_path, did_you_mean, read_rows
from alignet_ray.errors import UserError
from alignet_ray.human.object_names import ObjectNames

NAME_COLUMNS = ("name", "uniqueid", "concept", "word")
"""Columns of a concept table that may hold the object's name, best first."""


NUMBER = re.compile(r"[+-]?[0-9]+([.][0-9]*)?([eE][+-]?[0-9]+)?")
"""A number as tables hold it."""

NO_TABLE = (
    "which images show the annotated objects? Give --objects.table, a CSV with columns label (or path) and object, "
    "or name folders or files of images like the objects of the human data"
)
"""What is said where nothing tells it."""


class Concept(NamedTuple):
    """An object's name and its superordinate category; empty where unknown."""

    name: str = ""
    category: str = ""


class ObjectImages(NamedTuple):
    """Which images show which object.

    Attributes:
        image_ids: object -> ascending image_ids, of every object that has images.
        unmatched: one line about the rows that fit no image; empty if all fit.
    """

    image_ids: dict[int, list[int]]
    unmatched: str


def images_folder(objects_path: str | None, corpus_path: str | None) -> str:
    """The folder that holds the annotated objects' images: their own (`objects.path`), else the corpus.

    Raises:
        UserError: neither is given.
    """
    folder = objects_path or corpus_path
    if folder is None:
        raise UserError(
            "no images: give --corpus.path, and --objects.path if the annotated objects' images lie elsewhere"
        )
    return folder


def read_object_images(
    table: str | None, images: pa.Table, folder: str, names: ObjectNames | None = None
) -> ObjectImages:
    """Images of every object that has some.

    Names are compared as people see them (`comparable_path`).

    Args:
        table: CSV with the columns `label` (class folder) or `path` (image), and `object` (`objects.table`).
        images: schema IMAGES, of the folder that the table speaks of.
        folder: that folder, for messages.
        names: of the objects, if the table may call them by name.

    Raises:
        UserError: no table, wrong columns, an object that is no number and no name, or not one row that fits the
            images.
    """
    if table is None:
        raise UserError(NO_TABLE)
    rows = _object_rows(table)
    column = "label"
    if "path" in rows[0].cells:
        column = "path"

    # A class folder holds many images, a path one: either way a key leads to a list.
    ids_of: dict[str, list[int]] = {}
    for image_id, name in zip(images["image_id"].to_pylist(), images[column].to_pylist(), strict=True):
        ids_of.setdefault(comparable_path(name), []).append(image_id)

    # An object may have several rows, and rows that fit no image are no error: a corpus may hold only some objects.
    image_ids: dict[int, set[int]] = {}
    unmatched: list[FileRow] = []
    for row in rows:
        number = _object_number(row, table, names)
        ids = ids_of.get(comparable_path(row.cells[column]))
        if ids:
            image_ids.setdefault(number, set()).update(ids)
        else:
            unmatched.append(row)

    if not image_ids:
        there = next(iter(ids_of), "nothing")
        raise UserError(
            f"{table}: no {column} in it fits the images of {folder} "
            f"(it says {rows[0].cells[column]!r}, there is {there!r})" + did_you_mean(rows[0].cells[column], ids_of)
        )

    note = ""
    if unmatched:
        first = unmatched[0]
        note = (
            f"{len(unmatched):,} of {len(rows):,} rows of {table} fit no image "
            f"(first: line {first.line}, {first.cells[column]!r})"
        )
        note += did_you_mean(first.cells[column], ids_of)
    return ObjectImages({number: sorted(image_ids[number]) for number in sorted(image_ids)}, note)


def images_by_name(images: pa.Table, folder: str, names: ObjectNames) -> ObjectImages:
    """Images of every object by the name of their class folder, or else of the file, with its ending or without.

    Args:
        images: schema IMAGES.
        folder: where they lie, for messages.
        names: of the objects.

    Raises:
        UserError: no image is called like an object; or objects have numbers alone, and not each has images.
    """
    image_ids: dict[int, list[int]] = {}
    unused: set[str] = set()
    columns = [images[name].to_pylist() for name in ("image_id", "label", "path")]
    for image_id, label, path in zip(*columns, strict=True):
        file = PurePosixPath(path)
        number = names.number_of_any((label, file.stem, file.name))
        if number is not None:
            image_ids.setdefault(number, []).append(image_id)
        else:
            unused.update((label, file.stem, file.name))

    without = [name for number, name in enumerate(names.names) if number not in image_ids]
    # Folders may be numbered for reasons of their own: numbers are taken for objects only where all are there.
    if not image_ids or (names.are_numbers and without):
        raise UserError(
            f"{NO_TABLE} (no folder or file of {folder} is called {without[0]!r}, an object of {names.source})"
            + did_you_mean(without[0], sorted(unused))
        )
    note = ""
    if without:
        note = (
            f"{len(without):,} of {len(names):,} objects have no folder or file of their name (first: {without[0]!r})"
        )
        note += did_you_mean(without[0], sorted(unused))
    return ObjectImages({number: image_ids[number] for number in sorted(image_ids)}, note)


def names_objects(table: str) -> bool:
    """Whether an objects' table calls an object by something else than a number."""
    return any(not _is_number(row.cells["object"]) for row in _object_rows(table))


def check_table(table: str, count: int, names: ObjectNames | None = None) -> None:
    """Check the objects of a table, without looking at images.

    Args:
        table: see `read_object_images`.
        count: number of objects in the human data.
        names: of the objects, if the table calls them by name.

    Raises:
        UserError: wrong columns, or an object that the human data does not have.
    """
    for row in _object_rows(table):
        _require_known(_object_number(row, table, names), count)


def _require_known(number: int, count: int) -> None:
    if number >= count:
        raise UserError(
            f"objects.table names object {number}, but the human data has {count} objects (0 to {count - 1})"
        )


def read_concepts(path: str) -> list[Concept]:
    """Name and category of every object, in order.

    Raises:
        UserError: not a table with a header.
    """
    rows = read_rows(path)
    header: list[str] = []
    if rows:
        header = list(rows[0].cells)

    name = next((column for column in NAME_COLUMNS if column in header), None)
    if name is None:
        raise UserError(f"{path}: expected a column name or uniqueID")
    # THINGS' table has several categories, under longer names: the first one counts.
    category = next((column for column in header if "category" in column), None)

    concepts = []
    for row in rows:
        concept = Concept(row.cells[name])
        if category is not None:
            concept = Concept(row.cells[name], row.cells[category])
        concepts.append(concept)
    return concepts


def objects_table(
    seed: int,
    count: int,
    concepts: Sequence[Concept],
    image_ids: Mapping[int, list[int]],
    fold: Fold | None = None,
) -> pa.Table:
    """The table OBJECTS of all objects 0..count-1.

    Args:
        seed: of the split.
        count: number of objects in the human data.
        concepts: names and categories, in order; there may be fewer than objects.
        image_ids: of every object that has images.
        fold: of the split, as `split_of`.

    Raises:
        UserError: the objects' table names an object that the human data does not have.
    """
    for number in image_ids:
        _require_known(number, count)

    # Names may be missing for the last objects; the split depends on seed, fold and number alone, so it never moves.
    numbers = range(count)
    unnamed = [Concept()] * max(0, count - len(concepts))
    named = [*concepts[:count], *unnamed]
    columns = {
        "object": list(numbers),
        "name": [concept.name for concept in named],
        "category": [concept.category for concept in named],
        "split": [split_of(seed, number, fold) for number in numbers],
        "image_ids": [image_ids.get(number, []) for number in numbers],
    }
    return check(pa.table(columns, schema=OBJECTS), OBJECTS)


def _object_rows(table: str) -> list[FileRow]:
    """The rows of the objects' table, at least one."""
    rows = read_rows(table)
    if not rows:
        raise UserError(f"{table} has no rows: expected columns label (or path) and object")
    # One of the two keys is enough: a class folder for many images, a path for one.
    header = rows[0].cells
    if "object" not in header or not {"label", "path"} & set(header):
        raise UserError(f"{table}: expected columns label (or path) and object, found {', '.join(header)}")
    return rows


def _is_number(text: str) -> bool:
    # Python's own `float` would take the names "1_2" and "inf" for numbers, too.
    return bool(NUMBER.fullmatch(text))


def _object_number(row: FileRow, table: str, names: ObjectNames | None) -> int:
    text = row.cells["object"]
    if names is not None:
        return int(names.numbers([text], f"{table}, line {row.line}")[0])

    if not _is_number(text):
        raise UserError(f"{table}: line {row.line}: object {text!r} is not a row number")
    # Spreadsheets write whole numbers as 3.0.
    number = float(text)
    if not number.is_integer():
        raise UserError(f"{table}: line {row.line}: object {text!r} is not a row number")
    if number < 0:
        raise UserError(f"{table}: line {row.line}: object {text}; row numbers start at 0")
    return int(number)
