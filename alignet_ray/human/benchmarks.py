"""Human benchmarks for evaluation only: odd-one-out responses (Levels) and two-alternative choices (NIGHTS).

Their files name images by path under the annotated objects' images, or under a set's own images; the listing turns
paths into image_ids.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from alignet_ray.core.comparisons import Comparisons
from alignet_ray.data.files import comparable_path, did_you_mean
from alignet_ray.errors import UserError
from alignet_ray.human.answer_tables import LineNumbers
from alignet_ray.human.comparisons import read_table
from alignet_ray.human.responses import read_responses


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
    triplets = ids[responses.triplets]
    _require_distinct(triplets, path, responses.lines)
    return ImageResponses(
        triplets=triplets,
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


def read_choices(path: str, image_ids: Mapping[str, int]) -> Comparisons:
    """Two-alternative choices of any layout of reference comparisons (NIGHTS among them); votes are shares or counts.

    Args:
        path: a table that `human.comparisons` reads, with paths of images in place of objects.
        image_ids: path of an image -> image_id.

    Raises:
        UserError: not such a table, or images that are not embedded.
    """
    table = read_table(path)
    if not table.object_names:
        raise UserError(f"{path}: the reference and the two others must be paths of images, these are numbers")
    # Shares and counts alike: what is scored is the share of a row's votes.
    rows = _ids_of_paths(list(table.object_names), image_ids, path)[table.rows]
    _require_distinct(rows, path, table.lines)
    return Comparisons(rows, table.votes)


def _require_distinct(rows: Int[np.ndarray, "n 3"], path: str, lines: LineNumbers) -> None:
    """Refuse rows that name an image twice, whatever it is called: no model could answer them wrongly.

    Raises:
        UserError: with the number of such rows, and the line of the first one.
    """
    first, second, third = rows.T
    repeated = (first == second) | (first == third) | (second == third)
    if repeated.any():
        line = lines.first_of(repeated)
        raise UserError(
            f"{path}: {int(repeated.sum()):,} rows name one image twice (first: line {line}): leave them out"
        )


def _ids_of_paths(paths: list[str], image_ids: Mapping[str, int], file: str) -> Int[np.ndarray, " n"]:
    comparable = {comparable_path(path): image_id for path, image_id in image_ids.items()}

    ids: list[int] = []
    unknown: list[str] = []
    for path in paths:
        # An exact match comes first: two images may differ in nothing but the way their names are written.
        image_id = image_ids.get(path, comparable.get(comparable_path(path)))
        if image_id is None:
            unknown.append(path)
        else:
            ids.append(image_id)

    if unknown:
        raise UserError(
            f"{file}: {len(unknown)} of {len(paths)} images are not there (first: {unknown[0]!r}): of the annotated "
            "objects' images those count that objects.table names, of a set's those in its folder"
            + did_you_mean(unknown[0], image_ids)
        )
    return np.array(ids, dtype=np.int64)
