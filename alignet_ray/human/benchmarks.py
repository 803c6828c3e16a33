"""Judgements that did not make the run, on images that it embeds: odd-one-out answers with levels, and choices
between two.

Files name images by their path under the judged objects' images; image_ids come from the listing.
"""

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from jaxtyping import Float, Int

from alignet_ray.errors import UserError
from alignet_ray.human.responses import content, read_answers


class ImageAnswers(NamedTuple):
    """Odd-one-out answers: image_ids (pair, pair, odd), levels, and response times (NaN where unknown)."""

    triplets: Int[np.ndarray, "n 3"]
    levels: list[str]
    times: Float[np.ndarray, " n"]


class Choices(NamedTuple):
    """Which of two images is more like a reference: image_ids, and the share of people who say the left one."""

    reference: Int[np.ndarray, " n"]
    left: Int[np.ndarray, " n"]
    right: Int[np.ndarray, " n"]
    votes_left: Float[np.ndarray, " n"]


def read_image_answers(path: str, images: Mapping[str, int], columns: Sequence[str] = ()) -> ImageAnswers:
    """Answers in the neutral table: image0, image1, image2, choice and, if known, level, participant, rt.

    Args:
        path: the file.
        images: path of an image -> image_id.
        columns: `ours=theirs` where the file's columns have other names.

    Raises:
        UserError: not such a table, or images that are not embedded.
    """
    wrong = [pair for pair in columns if "=" not in pair]
    if wrong:
        raise UserError(f"evaluate.columns: {wrong[0]!r} is not OURS=THEIRS, as in image0=reference")
    found = read_answers(path, dict(pair.split("=", 1) for pair in columns))
    if not found.items:
        raise UserError(f"{path}: image0, image1 and image2 must be paths of images, these are numbers")
    ids = _ids(list(found.items), images, path)
    return ImageAnswers(ids[found.triplets], found.table["level"].to_pylist(), found.table["rt"].to_numpy())


def read_choices(path: str, images: Mapping[str, int]) -> Choices:
    """Choices in the layout of NIGHTS: ref_path, left_path, right_path, left_vote, right_vote (shares or counts).

    Raises:
        UserError: not such a table, or images that are not embedded.
    """
    try:
        table = pacsv.read_csv(io.BytesIO(content(path)))
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is not a table: {str(error).splitlines()[0]}") from error
    names = ("ref_path", "left_path", "right_path", "left_vote", "right_vote")
    if missing := [name for name in names if name not in table.column_names]:
        raise UserError(f"{path}: no column {missing[0]!r} among {', '.join(table.column_names)}")
    reference, left_ids, right_ids = (_ids(table[name].to_pylist(), images, path) for name in names[:3])
    left, right = (table[name].cast(pa.float64()).to_numpy() for name in names[3:])
    total = left + right
    if not (np.isfinite(total).all() and (total > 0).all()):
        raise UserError(f"{path}: every row needs left_vote and right_vote, at least one of them above 0")
    return Choices(reference, left_ids, right_ids, left / total)


def _ids(names: list[str], images: Mapping[str, int], path: str) -> Int[np.ndarray, " n"]:
    unknown = [name for name in names if name not in images]
    if unknown:
        raise UserError(
            f"{path}: {len(unknown)} of {len(names)} images are not among the judged objects' images "
            f"(first: {unknown[0]!r}): name them in objects.table"
        )
    return np.array([images[name] for name in names], dtype=np.int64)
