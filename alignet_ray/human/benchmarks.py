"""Human benchmarks for evaluation only: odd-one-out responses (Levels) and two-alternative choices (NIGHTS).

Their files name images by path under the annotated objects' images, or under a set's own images; the listing turns
paths into image_ids.
"""

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from jaxtyping import Float, Int

from alignet_ray.data.files import check_distinct, comparable_path, delimiter_of, plain_text
from alignet_ray.errors import UserError, first_line
from alignet_ray.human.responses import read_responses
from alignet_ray.store import read_bytes

CHOICE_COLUMNS = ("ref_path", "left_path", "right_path", "left_vote", "right_vote")
"""Columns of a two-alternative file, as NIGHTS names them."""


class ImageResponses(NamedTuple):
    """Odd-one-out responses about images.

    Attributes:
        triplets: image_ids (pair, pair, odd).
        levels: kind of each triplet; empty where the file does not say.
        times: response times in ms; NaN where unknown.
        participants: who answered; empty where the file does not say.
        unread_times: one line about times that cannot be read and count as unknown; empty if all can.
    """

    triplets: Int[np.ndarray, "n 3"]
    levels: list[str]
    times: Float[np.ndarray, " n"]
    participants: list[str]
    unread_times: str = ""


class TwoAlternativeChoices(NamedTuple):
    """Which of two images is more similar to a reference image.

    Attributes:
        reference, left, right: image_ids.
        votes_left: share of people who choose the left image.
    """

    reference: Int[np.ndarray, " n"]
    left: Int[np.ndarray, " n"]
    right: Int[np.ndarray, " n"]
    votes_left: Float[np.ndarray, " n"]


def read_image_responses(path: str, image_ids: Mapping[str, int], columns: Sequence[str] = ()) -> ImageResponses:
    """Odd-one-out responses with columns image0, image1, image2, choice and, if known, level, participant, rt.

    Args:
        path: the file.
        image_ids: path of an image -> image_id.
        columns: `ours=theirs` where the file's columns have other names.

    Raises:
        UserError: not such a table, or images that are not embedded.
    """
    # Names are numbered by the reader; here they are paths, whose numbers become image ids.
    responses = read_responses(path, column_names(columns))
    if not responses.object_names:
        raise UserError(f"{path}: image0, image1 and image2 must be paths of images, these are numbers")
    ids = _ids_of_paths(list(responses.object_names), image_ids, path)
    return ImageResponses(
        triplets=ids[responses.triplets],
        levels=responses.table["level"].to_pylist(),
        times=responses.table["rt"].to_numpy(),
        participants=responses.table["participant"].to_pylist(),
        unread_times=responses.unread_times,
    )


def column_names(columns: Sequence[str]) -> dict[str, str]:
    """Pairs `ours=theirs` as a mapping.

    Raises:
        UserError: a pair without =.
    """
    names: dict[str, str] = {}
    for pair in columns:
        ours, separator, theirs = pair.partition("=")
        if not separator:
            raise UserError(f"evaluate.columns: {pair!r} is not OURS=THEIRS, as in image0=reference")
        names[ours] = theirs
    return names


def read_choices(path: str, image_ids: Mapping[str, int]) -> TwoAlternativeChoices:
    """Two-alternative choices in the layout of NIGHTS; its votes may be shares or counts.

    Args:
        path: table with the columns `CHOICE_COLUMNS`.
        image_ids: path of an image -> image_id.

    Raises:
        UserError: not such a table, or images that are not embedded.
    """
    table = read_choice_table(path)
    # Shares add up to 1 and counts to the number of people: dividing by the sum suits both.
    try:
        left_votes = table["left_vote"].cast(pa.float64()).to_numpy()
        right_votes = table["right_vote"].cast(pa.float64()).to_numpy()
    except pa.ArrowException as error:
        raise UserError(f"{path}: left_vote and right_vote must be numbers: {first_line(error)}") from error
    total = left_votes + right_votes
    if not (np.isfinite(total).all() and (total > 0).all()):
        raise UserError(f"{path}: every row needs left_vote and right_vote, at least one of them above 0")
    is_negative = (left_votes < 0) | (right_votes < 0)
    if is_negative.any():
        raise UserError(f"{path}: {int(is_negative.sum()):,} rows have negative votes: votes are shares or counts")
    ids: dict[str, np.ndarray] = {}
    for name in CHOICE_COLUMNS[:3]:
        paths = table[name].cast(pa.string()).fill_null("").to_pylist()
        ids[name] = _ids_of_paths(paths, image_ids, path)
    return TwoAlternativeChoices(ids["ref_path"], ids["left_path"], ids["right_path"], left_votes / total)


def read_choice_table(path: str) -> pa.Table:
    """A table of two-alternative choices with the columns `CHOICE_COLUMNS`; their images are not looked up.

    Raises:
        UserError: not such a table.
    """
    data = plain_text(read_bytes(path), path)
    header = data[: data.find(b"\n") + 1 or None].decode()
    try:
        parse = pacsv.ParseOptions(delimiter=delimiter_of(header, ","))
        table = pacsv.read_csv(io.BytesIO(data), parse_options=parse)
    except pa.ArrowException as error:
        raise UserError(f"{path} is not a table: {first_line(error)}") from error
    check_distinct(table.column_names, path)
    for name in CHOICE_COLUMNS:
        if name not in table.column_names:
            raise UserError(f"{path}: no column {name!r} among {', '.join(table.column_names)}")
    return table


def _ids_of_paths(paths: list[str], image_ids: Mapping[str, int], file: str) -> Int[np.ndarray, " n"]:
    # An exact match comes first: two images may differ in nothing but the way their names are written.
    comparable = {comparable_path(path): image_id for path, image_id in image_ids.items()}
    ids: list[int] = []
    unknown: list[str] = []
    for path in paths:
        image_id = image_ids.get(path, comparable.get(comparable_path(path)))
        if image_id is None:
            unknown.append(path)
        else:
            ids.append(image_id)

    if unknown:
        raise UserError(
            f"{file}: {len(unknown)} of {len(paths)} images are not there (first: {unknown[0]!r}): of the annotated "
            "objects' images those count that objects.table names, of a set's those in its folder"
        )
    return np.array(ids, dtype=np.int64)
