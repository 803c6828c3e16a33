"""Recognises a set of human judgements without a description: a folder of images beside one file of a known layout."""

import re
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from alignet_ray.data import deepmind
from alignet_ray.data.files import delimiter_of
from alignet_ray.errors import UserError, first_line
from alignet_ray.human import comparisons
from alignet_ray.human.matrices import read_participants
from alignet_ray.store import JsonObject

DESCRIPTION = "set.yaml"
"""Name of a set's description in its folder."""

IMAGES = "images"
"""Folder of the images where a description names none."""

Kind = Literal["odd_one_out", "matrix", "choices"]

TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
SUFFIXES = (".npy", ".npz", ".mat", *TEXT_SUFFIXES)
"""Files that may hold judgements."""

NO_DATA = ("readme", "license", "licence", "citation")
"""Beginnings of the names of files about data."""

ANSWER_HEADERS = (("image0", "image1", "image2", "choice"), ("image1", "image2", "image3", "choice"))
"""Headers of odd-one-out answers."""


def recognise(folder: Path) -> JsonObject:
    """The description that a folder's content stands for.

    Raises:
        UserError: no images, no file of a known layout, several of them, or a matrix whose values may be either.
    """
    write_one = f"describe it in {folder / DESCRIPTION} (name, images, kind, file)"
    if not (folder / IMAGES).is_dir():
        raise UserError(f"{folder} has neither {DESCRIPTION} nor a folder {IMAGES}: {write_one}")

    # Every file is looked at: one that comes second would be overlooked otherwise, and be the right one.
    known: dict[str, JsonObject] = {}
    problems: list[str] = []
    for path in sorted(folder.iterdir()):
        is_data = path.suffix.lower() in SUFFIXES and not path.name.lower().startswith(NO_DATA)
        if path.is_file() and is_data and not path.name.startswith("."):
            state = path.stat()
            found = _layout(path, state.st_size, state.st_mtime_ns)
            if isinstance(found, str):
                problems.append(found)
            elif found is not None:
                known[path.name] = dict(found)

    # Where one file alone was nearly of a layout, what is wrong with it helps more than a general answer.
    if not known and len(problems) == 1:
        raise UserError(f"{folder} has no file of judgements: {problems[0]}")
    if not known:
        raise UserError(f"{folder} has no file of judgements of a known layout: {write_one}")
    if len(known) > 1:
        raise UserError(f"{folder} may be several sets ({', '.join(known)}): {write_one}")

    ((file, found),) = known.items()
    if found["kind"] == "matrix" and found["matrix"] is None:
        raise UserError(f"{folder / file} may hold similarities or distances: {write_one}, with the key matrix")

    # Folders may be called anything, the names of sets are parts of other names.
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.resolve().name).strip("-.")
    return {"name": name, "file": file} | found


# A run asks what its sets are at every step of its plan.
@lru_cache(maxsize=64)
def _layout(path: Path, size: int, modified: int) -> JsonObject | str | None:
    """Kind of the judgements in a file, and what goes with it; None if it is none of the known layouts.

    A file that can only be a matrix, and is a wrong one, gives what is wrong with it.

    Args:
        path: the file.
        size, modified: its bytes and time of modification: a changed file is another one.
    """
    # Tables are told by their header, before they are tried as rows of numbers.
    if path.suffix.lower() in TEXT_SUFFIXES:
        if comparisons.holds_comparisons(str(path)):
            return {"kind": "choices"}
        header = _first_row(path)
        if any(set(columns) <= header for columns in ANSWER_HEADERS):
            return {"kind": "odd_one_out"}
    if path.suffix.lower() == ".npz":
        if deepmind.is_release(path):
            return {"kind": "odd_one_out"}
        return None

    # What is left may be a matrix, as text, as .npy or as .mat.
    try:
        people = read_participants(str(path), "similarity")
    except UserError as error:
        # A table may be one of something else, and a .mat may hold structures.
        if path.suffix.lower() == ".npy":
            return str(error)
        return None

    values = _values_of(people[0])
    # Similarities whose diagonal was set to zero look like distances: a name that says so makes it doubtful.
    if values == "distance" and re.search(r"(?<!dis)simil", path.name.lower()):
        values = None
    return {"kind": "matrix", "matrix": values}


def _first_row(path: Path) -> set[str]:
    """Names in the first line of a text file, in lower case."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            line = file.readline(10_000)
    except OSError as error:
        raise UserError(f"cannot read {path}: {first_line(error)}") from error
    return {name.strip().strip('"').lower() for name in line.split(delimiter_of(line, " "))}


def _values_of(matrix: np.ndarray) -> Literal["similarity", "distance"] | None:
    """What a matrix holds, by its diagonal: nothing is nearer to an item than the item itself. None: it may be both."""
    diagonal = np.diagonal(matrix)
    others = matrix[~np.eye(len(matrix), dtype=bool)]
    # A diagonal that was never filled in says nothing.
    if not np.isfinite(diagonal).all() or np.ptp(diagonal) > 0:
        return None
    if (diagonal == 0).all() and np.nanmin(others) >= 0 and np.nanmax(others) > 0:
        return "distance"
    if diagonal[0] > 0 and np.nanmax(others) <= diagonal[0]:
        return "similarity"
    return None
