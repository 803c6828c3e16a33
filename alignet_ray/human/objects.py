"""Which images show which judged object, and on which side of the split an object is."""

import csv
import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from alignet_ray.artifacts.schemas import OBJECTS, check
from alignet_ray.config import Config
from alignet_ray.core.splits import split_of
from alignet_ray.errors import UserError
from alignet_ray.store import filesystem

NAMES = ("name", "uniqueid", "concept", "word")
"""Columns of a concept table that may hold the object's name, best first."""


def objects_in_corpus(cfg: Config) -> bool:
    """Whether the judged objects' images are part of the corpus (then some of them must be left out of it)."""
    return cfg.objects.path is None


def images_uri(cfg: Config) -> str:
    """The folder that holds the judged objects' images.

    Raises:
        UserError: neither is given.
    """
    uri = cfg.objects.path or cfg.corpus.path
    if uri is None:
        raise UserError("no images: give --corpus.path, and --objects.path if the judged objects' images lie elsewhere")
    return uri


def read_table(cfg: Config, images: pa.Table) -> dict[int, list[int]]:
    """Images of every object that has some: object -> ascending image_ids.

    Args:
        cfg: names the table (objects.table): columns `label` (class folder) or `path` (image), and `object`.
        images: schema IMAGES, of the source that the table speaks of.

    Raises:
        UserError: no table, wrong columns, an object that is no number, or not one row that fits the images.
    """
    table = _rows(cfg)
    key = "path" if table and "path" in table[0] and table[0]["path"] is not None else "label"
    ids: dict[str, list[int]] = {}
    for image_id, name in zip(images["image_id"].to_pylist(), images[key].to_pylist(), strict=True):
        ids.setdefault(name, []).append(image_id)
    found: dict[int, set[int]] = {}
    for line, row in enumerate(table, start=2):
        number = _object(row["object"], line, cfg)
        found_ids = ids.get(row[key] or "")
        if found_ids:
            found.setdefault(number, set()).update(found_ids)
    if not found:
        raise UserError(
            f"{cfg.objects.table}: no {key} in it fits the images of {images_uri(cfg)} "
            f"(it says {table[0][key] if table else 'nothing'!r}, there is {next(iter(ids), 'nothing')!r})"
        )
    return {number: sorted(found[number]) for number in sorted(found)}


def read_concepts(path: str) -> list[tuple[str, str]]:
    """Name and category of every object, in order; empty strings where the table has no such column.

    Raises:
        UserError: not a table with a header.
    """
    rows = _csv(path)
    names = next((c for c in NAMES if rows and c in rows[0]), None)
    if names is None:
        raise UserError(f"{path}: expected a column name or uniqueID")
    category = next((c for c in rows[0] if "category" in c), None)
    return [(row[names] or "", (row[category] or "") if category else "") for row in rows]


def objects_table(
    seed: int, count: int, concepts: Sequence[tuple[str, str]], image_ids: dict[int, list[int]]
) -> pa.Table:
    """The table OBJECTS of all objects 0..count-1.

    Raises:
        UserError: the objects' table names an object that the human data does not have.
    """
    beyond = [number for number in image_ids if number >= count]
    if beyond:
        raise UserError(
            f"objects.table names object {beyond[0]}, but the human data has {count} objects (0 to {count - 1})"
        )
    named = [concepts[n] if n < len(concepts) else ("", "") for n in range(count)]
    columns = {
        "object": list(range(count)),
        "name": [name for name, _ in named],
        "category": [category for _, category in named],
        "split": [split_of(seed, n) for n in range(count)],
        "image_ids": [image_ids.get(n, []) for n in range(count)],
    }
    return check(pa.table(columns, schema=OBJECTS), OBJECTS)


def held_out_ids(objects: pa.Table) -> Int64[np.ndarray, " n"]:
    """image_ids of validation and test objects, ascending: no stage may learn from them.

    An image that also shows a training object is held out all the same.
    """
    rows = zip(objects["split"].to_pylist(), objects["image_ids"].to_pylist(), strict=True)
    ids = {i for split, image_ids in rows if split != "train" for i in image_ids}
    return np.array(sorted(ids), dtype=np.int64)


def _rows(cfg: Config) -> list[dict[str, str | None]]:
    path = cfg.objects.table
    if path is None:
        raise UserError(
            "which images show the judged objects? Give --objects.table, a CSV with columns label (or path) and object"
        )
    rows = _csv(path)
    if not rows:
        raise UserError(f"{path} has no rows: expected columns label (or path) and object")
    if "object" not in rows[0] or not {"label", "path"} & set(rows[0]):
        raise UserError(f"{path}: expected columns label (or path) and object, found {', '.join(rows[0])}")
    return rows


def _csv(path: str) -> list[dict[str, str | None]]:
    """Rows by lower-case column name; comma, tab or semicolon."""
    fs, name = filesystem(path)
    try:
        with fs.open_input_stream(name) as stream:
            text = stream.read().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: no such file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text table") from error
    head = text.split("\n", 1)[0]
    delimiter = next((d for d in ("\t", ",", ";") if d in head), ",")
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    return [{str(k).strip().lower(): v for k, v in row.items()} for row in reader]


def _object(text: str | None, line: int, cfg: Config) -> int:
    try:
        number = int(text or "")
    except ValueError as error:
        raise UserError(f"{cfg.objects.table}: line {line}: object {text!r} is not a row number") from error
    if number < 0:
        raise UserError(f"{cfg.objects.table}: line {line}: object {number}; row numbers start at 0")
    return number
