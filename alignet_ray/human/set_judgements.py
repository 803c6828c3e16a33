"""What people said about the images of a set: odd-one-out answers, two-alternative choices, or matrices."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from alignet_ray.artifacts.label import IMAGE_COLUMNS
from alignet_ray.artifacts.schemas import column_matrix
from alignet_ray.core import similarity
from alignet_ray.core.comparisons import Comparisons
from alignet_ray.data import deepmind
from alignet_ray.data.files import comparable_path, did_you_mean, filled_lines, plain_text
from alignet_ray.errors import UserError
from alignet_ray.human import benchmarks, matrices
from alignet_ray.human.benchmarks import ImageResponses
from alignet_ray.human.judgement_sets import JudgementSet
from alignet_ray.locations import read_bytes

MIN_ANSWERS = 2
"""Answers of a participant below which nothing can be said about the person."""

MIN_PAIRS = 3
"""Pairs that a participant must have rated: fewer have no rank correlation worth the name."""

MAX_RELEASED = 1_000_000
"""Triplets of a released file: a score needs no more, and ten million would take hours in every space."""


@dataclass(frozen=True)
class Matrices:
    """Similarities of all pairs of some images.

    Attributes:
        image_ids: image of every row.
        people: one matrix for each participant, larger values meaning more similar; NaN: pairs without a rating.
    """

    image_ids: Int[np.ndarray, " n"]
    people: Float[np.ndarray, "p n n"]


Judgements: TypeAlias = ImageResponses | Comparisons | Matrices
"""What a set holds, by its kind: odd_one_out, choices, matrix."""


def read(judgement_set: JudgementSet, paths: Mapping[str, int]) -> Judgements:
    """The judgements of a set.

    Args:
        judgement_set: says which file, and how to read it.
        paths: path -> image_id of every image in the set's folder.

    Raises:
        UserError: a file that cannot be read, judgements that do not fit the images, or people who said too little.
    """
    file = judgement_set.file
    names = _names(paths, judgement_set.description.images)
    if judgement_set.description.kind == "odd_one_out" and file.endswith(".npz"):
        return _read_release(judgement_set, paths)

    if judgement_set.description.kind == "odd_one_out":
        columns = [f"{ours}={theirs}" for ours, theirs in judgement_set.description.columns.items()]
        answers = benchmarks.read_image_responses(file, names, columns)
        _check_participants(answers, file)
        return answers

    if judgement_set.description.kind == "choices":
        return benchmarks.read_choices(file, names)
    return _read_matrices(judgement_set, paths, names)


def image_ids(judgements: Judgements) -> Int[np.ndarray, " n"]:
    """The images that judgements are about, ascending."""
    if isinstance(judgements, Matrices):
        return np.sort(judgements.image_ids)
    if isinstance(judgements, ImageResponses):
        return np.unique(judgements.triplets)
    return np.unique(judgements.rows)


def count(judgements: Judgements) -> int:
    """Number of judgements: answers, choices, or rated pairs of all participants."""
    if isinstance(judgements, Matrices):
        return int(sum(_rated_pairs(person) for person in judgements.people))
    if isinstance(judgements, ImageResponses):
        return len(judgements.triplets)
    return len(judgements.rows)


def people(judgements: Judgements) -> int:
    """Number of participants; 0 where it is unknown."""
    if isinstance(judgements, Matrices):
        return len(judgements.people)
    if isinstance(judgements, ImageResponses):
        return len(set(judgements.participants) - {""})
    return 0


def keep(judgements: Judgements, kept: Int[np.ndarray, " k"]) -> Judgements:
    """The judgements that are about some images alone, given by their image_ids."""
    if isinstance(judgements, ImageResponses):
        # An answer about an image that is left out cannot be predicted: all three are compared.
        rows: Bool[np.ndarray, " n"] = np.asarray(np.isin(judgements.triplets, kept).all(axis=1))
        return judgements._replace(
            triplets=judgements.triplets[rows],
            levels=_chosen(judgements.levels, rows),
            times=judgements.times[rows],
            participants=_chosen(judgements.participants, rows),
        )
    if isinstance(judgements, Matrices):
        places = np.flatnonzero(np.isin(judgements.image_ids, kept))
        return Matrices(judgements.image_ids[places], judgements.people[:, places][:, :, places])

    return judgements.among(kept)


def _read_release(judgement_set: JudgementSet, paths: Mapping[str, int]) -> ImageResponses:
    """Triplets of AligNet's release as answers: what a model that was aligned with people calls the odd one.

    Raises:
        UserError: not such a file, images that are not there, or more triplets than a score needs.
    """
    file = judgement_set.file
    if judgement_set.description.columns:
        raise UserError(f"{judgement_set.origin}: columns are of tables, {file} has none")
    images = pa.table({"image_id": list(paths.values()), "path": list(paths)})
    # Block by block, so that a file that is too large is noticed before it fills the memory.
    blocks: list[np.ndarray] = []
    rows = 0
    for table in deepmind.import_triplets(file, images):
        blocks.append(column_matrix(table, IMAGE_COLUMNS))
        rows += len(table)
        if rows > MAX_RELEASED:
            raise UserError(
                f"{file} has more than {MAX_RELEASED:,} triplets: give the release's file for validation, or a part"
            )
    triplets = np.concatenate([np.empty((0, 3), np.int64), *blocks])
    unknown = [""] * rows
    return ImageResponses(triplets, unknown, np.full(rows, np.nan), unknown)


def _names(paths: Mapping[str, int], folder: str) -> dict[str, int]:
    """Images by path, with their folder's name before it or without, and by file name where only one image has it."""
    base_names = Counter(path.rpartition("/")[2] for path in paths)
    names: dict[str, int] = {}
    for path, image_id in paths.items():
        names[f"{folder}/{path}"] = image_id
        base_name = path.rpartition("/")[2]
        # File names alone are enough for ImageNet's images, whose names say their class folder.
        if base_names[base_name] == 1:
            names[base_name] = image_id
    # A path comes before the file name of another image.
    return names | dict(paths)


def _chosen(values: list[str], rows: Bool[np.ndarray, " n"]) -> list[str]:
    return [value for value, is_kept in zip(values, rows, strict=True) if is_kept]


def _check_participants(answers: ImageResponses, file: str) -> None:
    """Refuse participants of whom nothing can be said.

    Raises:
        UserError: naming the first of them.
    """
    # "" is nobody in particular, of whom there may be any number of answers.
    answered = Counter(name for name in answers.participants if name)
    few = sorted(name for name, number in answered.items() if number < MIN_ANSWERS)
    if few:
        raise UserError(
            f"{file}: {len(few):,} of {len(answered):,} participants gave one answer alone (first: {few[0]!r}): leave "
            "them out, or the column of participants if it holds something else"
        )


def _read_matrices(judgement_set: JudgementSet, paths: Mapping[str, int], names: Mapping[str, int]) -> Matrices:
    description = judgement_set.description
    file = judgement_set.file
    assert description.matrix is not None, "the description of a matrix says what its values are"
    values = matrices.read_participants(file, description.matrix, description.variable)
    image_ids = _ordered_images(judgement_set, paths, names)
    if values.shape[1] != len(image_ids):
        listed = f"there are {len(image_ids)} images in {judgement_set.images}"
        if description.order:
            listed = f"the order names {len(image_ids)} images"
        raise UserError(f"{file} is about {values.shape[1]} images, {listed}: one row for each image is needed")

    # Found now, and not after the training, where such a person would make a score that is no number.
    for number, person in enumerate(values, start=1):
        reason = why_unusable(person)
        if reason:
            raise UserError(f"{file}: participant {number} {reason}: leave the matrix out")
    return Matrices(image_ids, values)


def why_unusable(person: Float[np.ndarray, "n n"]) -> str:
    """Why nothing can be correlated with a participant's matrix; empty if something can."""
    rated = _rated_pairs(person)
    if rated < MIN_PAIRS:
        return f"rated {rated} pairs, at least {MIN_PAIRS} are needed"
    ratings = similarity.upper(person)
    if np.nanmin(ratings) == np.nanmax(ratings):
        return "rated all pairs alike"
    return ""


def _rated_pairs(person: Float[np.ndarray, "n n"]) -> int:
    return int(np.isfinite(similarity.upper(person)).sum())


def _ordered_images(
    judgement_set: JudgementSet, paths: Mapping[str, int], names: Mapping[str, int]
) -> Int[np.ndarray, " n"]:
    """image_id of every row of a matrix.

    Raises:
        UserError: a name that no image has, an image that stands there twice, or an order that the names leave open.
    """
    listed = _listed_order(judgement_set)
    # Paths come in the order of their names, which is that of their image_ids.
    if not listed:
        _check_order(list(paths), judgement_set)
        return np.array(list(paths.values()), dtype=np.int64)

    comparable = {comparable_path(name): image_id for name, image_id in names.items()}
    image_ids: list[int] = []
    unknown: list[str] = []
    for name in listed:
        # As written first: two images may differ in nothing but the form of their letters.
        image_id = names.get(name, comparable.get(comparable_path(name)))
        if image_id is None:
            unknown.append(name)
        else:
            image_ids.append(image_id)
    if unknown:
        raise UserError(
            f"{judgement_set.origin}: {len(unknown)} of the {len(listed)} names of order are no images in "
            f"{judgement_set.images} (first: {unknown[0]!r})" + did_you_mean(unknown[0], names)
        )

    # Two rows of one image would be two points at the same place for every model.
    commonest, times = Counter(image_ids).most_common(1)[0]
    if times > 1:
        name = listed[image_ids.index(commonest)]
        raise UserError(f"{judgement_set.origin}: order names {name!r} {times} times")
    return np.array(image_ids, dtype=np.int64)


def _listed_order(judgement_set: JudgementSet) -> list[str]:
    """Names of the images in the order of the rows, as the description or its file lists them; empty without a list."""
    file = judgement_set.order_file
    if file is None:
        return list(judgement_set.description.order)
    return filled_lines(plain_text(read_bytes(file), file).decode())


def _check_order(paths: list[str], judgement_set: JudgementSet) -> None:
    """Refuse to guess where names sort differently as text and as numbers: 10.png, 2.png.

    Raises:
        UserError: an order has to be given.
    """
    # The rows are most often in the order of the numbers; sorted text would pair them with other images, unnoticed.
    stems = [path.rpartition("/")[2].rpartition(".")[0] for path in paths]
    if not all(stem.isdecimal() for stem in stems):
        return
    for (before, after), path in zip(pairwise(stems), paths, strict=False):
        if int(before) > int(after):
            raise UserError(
                f"{judgement_set.origin}: sorted as text, the images' names are not in the order of their numbers "
                f"({before} comes before {after}, see {path!r}): give the order of the matrix's rows with the key order"
            )
