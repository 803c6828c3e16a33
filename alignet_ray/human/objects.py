"""Annotated objects: which images show each of them, their names, and the split that each belongs to."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from alignet_ray.artifacts.schemas import OBJECTS, check
from alignet_ray.core.splits import split_of
from alignet_ray.data.files import read_rows
from alignet_ray.errors import UserError

NAME_COLUMNS = ("name", "uniqueid", "concept", "word")
"""Columns of a concept table that may hold the object's name, best first."""


class Concept(NamedTuple):
    """An object's name and its superordinate category; empty where unknown."""

    name: str = ""
    category: str = ""


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


def read_object_images(table: str | None, images: pa.Table, folder: str) -> dict[int, list[int]]:
    """Images of every object that has some: object -> ascending image_ids.

    Args:
        table: CSV with the columns `label` (class folder) or `path` (image), and `object` (`objects.table`).
        images: schema IMAGES, of the folder that the table speaks of.
        folder: that folder, for messages.

    Raises:
        UserError: no table, wrong columns, an object that is no number, or not one row that fits the images.
    """
    if table is None:
        raise UserError(
            "which images show the annotated objects? Give --objects.table, "
            "a CSV with columns label (or path) and object"
        )
    rows = _object_rows(table)
    by_path = rows[0].get("path") is not None
    column = "path" if by_path else "label"

    # A class folder holds many images, a path one: either way a key leads to a list.
    ids_of: dict[str, list[int]] = {}
    for image_id, key in zip(images["image_id"].to_pylist(), images[column].to_pylist(), strict=True):
        ids_of.setdefault(key, []).append(image_id)

    # An object may have several rows, and rows that fit no image are no error: a corpus may hold only some objects.
    image_ids: dict[int, set[int]] = {}
    for line, row in enumerate(rows, start=2):
        number = _object_number(row["object"], line, table)
        ids = ids_of.get(row[column] or "")
        if ids:
            image_ids.setdefault(number, set()).update(ids)

    if not image_ids:
        there = next(iter(ids_of), "nothing")
        raise UserError(
            f"{table}: no {column} in it fits the images of {folder} (it says {rows[0][column]!r}, there is {there!r})"
        )
    return {number: sorted(image_ids[number]) for number in sorted(image_ids)}


def read_concepts(path: str) -> list[Concept]:
    """Name and category of every object, in order.

    Raises:
        UserError: not a table with a header.
    """
    rows = read_rows(path)
    header = list(rows[0]) if rows else []
    name = next((column for column in NAME_COLUMNS if column in header), None)
    if name is None:
        raise UserError(f"{path}: expected a column name or uniqueID")
    category = next((column for column in header if "category" in column), None)
    if category is None:
        return [Concept(row[name] or "") for row in rows]
    return [Concept(row[name] or "", row[category] or "") for row in rows]


def objects_table(seed: int, count: int, concepts: Sequence[Concept], image_ids: Mapping[int, list[int]]) -> pa.Table:
    """The table OBJECTS of all objects 0..count-1.

    Args:
        seed: of the split.
        count: number of objects in the human data.
        concepts: names and categories, in order; there may be fewer than objects.
        image_ids: of every object that has images.

    Raises:
        UserError: the objects' table names an object that the human data does not have.
    """
    for number in image_ids:
        if number >= count:
            raise UserError(
                f"objects.table names object {number}, but the human data has {count} objects (0 to {count - 1})"
            )

    numbers = range(count)
    unnamed = [Concept()] * max(0, count - len(concepts))
    named = [*concepts[:count], *unnamed]
    columns = {
        "object": list(numbers),
        "name": [concept.name for concept in named],
        "category": [concept.category for concept in named],
        "split": [split_of(seed, number) for number in numbers],
        "image_ids": [image_ids.get(number, []) for number in numbers],
    }
    return check(pa.table(columns, schema=OBJECTS), OBJECTS)


def _object_rows(table: str) -> list[dict[str, str | None]]:
    """The rows of the objects' table, at least one."""
    rows = read_rows(table)
    if not rows:
        raise UserError(f"{table} has no rows: expected columns label (or path) and object")
    if "object" not in rows[0] or not {"label", "path"} & set(rows[0]):
        raise UserError(f"{table}: expected columns label (or path) and object, found {', '.join(rows[0])}")
    return rows


def _object_number(text: str | None, line: int, table: str) -> int:
    try:
        number = int(text or "")
    except ValueError as error:
        raise UserError(f"{table}: line {line}: object {text!r} is not a row number") from error
    if number < 0:
        raise UserError(f"{table}: line {line}: object {number}; row numbers start at 0")
    return number
