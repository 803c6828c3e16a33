"""Inputs about people: files of answers, names of the objects, and the images that show them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.human import answers, comparisons, object_names, objects, triplets
from alignet_ray.human.answers import AnswerFiles, Answers
from alignet_ray.human.object_names import ObjectNames
from alignet_ray.human.objects import Concept, ObjectImages
from alignet_ray.human.responses import ResponseTable, read_responses

LARGE = 20_000_000
"""Bytes of all files of answers from which on they are read by `soften` alone: parsing them would delay every plan."""

START = 1_000_000
"""Bytes of a large file of responses that are checked before anything starts."""


@dataclass(frozen=True)
class HumanData:
    """All inputs about people.

    Attributes:
        published: a given human embedding; None where one is fitted.
        concepts: names and categories of the objects; none where nothing says them.
        names: of the objects, where answers call them by name.
        files: the files of answers.
        given: the answers that the fit reads.
        count: number of objects.
    """

    published: Float32[np.ndarray, "m d"] | None
    concepts: list[Concept]
    names: ObjectNames | None
    files: AnswerFiles
    given: Answers
    count: int


def read(cfg: Config) -> HumanData:
    """Read and check the answers, the names of the objects and the given embeddings.

    Raises:
        UserError: a file cannot be read, or the files do not fit each other.
    """
    published = None
    if cfg.human.embedding:
        published = triplets.read_embedding(cfg.human.embedding)
    listed = concepts(cfg)
    files = answer_files(cfg)
    names = answers.read_names(files)

    # Where objects have names and no table of concepts, the answers themselves say what they are called.
    if names is not None and not listed:
        listed = [Concept(name) for name in names.names]

    # The number of objects: as published or listed; otherwise the highest id that was compared tells it.
    given = answers.read(files, names, len(listed) or None, _reference(cfg, published))
    if published is not None:
        count = len(published)
    else:
        count = max(len(listed), given.highest() + 1)
    return HumanData(published, listed, names, files, given, count)


def check(cfg: Config) -> None:
    """Read all files about people whose form can be checked in a moment, before anything starts.

    Raises:
        UserError: a file that cannot be read, or files that do not fit each other.
    """
    table = cfg.objects.table
    if _is_large(cfg):
        # What takes long to read is left to `soften`; its first lines show whether it is such a file at all.
        files = answer_files(cfg)
        starts: dict[str | None, ResponseTable] = {}
        for path in (files.triplets, files.validation):
            if path and not comparisons.holds_comparisons(path):
                starts[path] = read_responses(path, files.renamed(), START)
        _require_participants(cfg, starts.get(files.triplets))
        if table:
            objects.names_objects(table)
        return

    data = read(cfg)
    _require_participants(cfg, data.files.triplet_table)
    if cfg.human.validation:
        answers.read_validation(data.files, data.names, data.count)
    if table and objects.names_objects(table):
        objects.check_table(table, data.count, _names_of_table(data.files, data.names))
    elif table:
        objects.check_table(table, data.count)


def _require_participants(cfg: Config, responses: ResponseTable | None) -> None:
    """Refuse to screen people whom no response names."""
    if cfg.human.screen and (responses is None or not responses.participants):
        raise UserError(
            "--human.screen leaves people out, but no odd-one-out responses say who gave them: give a file with a "
            "column participant (or name it, as --human.columns participant=NAME)"
        )


def _is_large(cfg: Config) -> bool:
    """Whether reading the answers takes so long that one would wait for it."""
    human = cfg.human
    size = 0
    for path in (human.triplets, human.comparisons, human.validation, human.embedding, human.reference):
        # How long a server takes is not known, so what lies behind an address counts as large.
        if path and "://" in path:
            return True
        if path:
            size += Path(path).expanduser().stat().st_size
    return size > LARGE


def _reference(cfg: Config, published: Float32[np.ndarray, "m d"] | None) -> Float32[np.ndarray, "m d"] | None:
    """The embedding that responses are checked against; None if there is none."""
    # Any embedding of the same objects can tell a misread file; the published one of the run will do.
    if cfg.human.reference:
        return triplets.read_embedding(cfg.human.reference)
    return published


def has_answers(cfg: Config) -> bool:
    """Whether the run has human answers of any kind, or a published model of them."""
    human = cfg.human
    return bool(human.triplets or human.comparisons or human.embedding)


def concepts(cfg: Config) -> list[Concept]:
    """Names and categories of the objects; none where no table of them is given."""
    if not cfg.objects.concepts:
        return []
    return objects.read_concepts(cfg.objects.concepts)


def answer_files(cfg: Config) -> AnswerFiles:
    """The files of human answers and how they are read."""
    names = [concept.name for concept in concepts(cfg)]
    return cfg.human.settings(AnswerFiles, concepts=names, concepts_path=cfg.objects.concepts or "")


def sources(cfg: Config) -> list[str]:
    """The files that decide which images show an object: the table, or else the answers that name or number it."""
    if cfg.objects.table:
        files: tuple[str | None, ...] = (cfg.objects.table,)
        if objects.names_objects(cfg.objects.table):
            files += _naming_files(cfg)
        return [path for path in files if path]
    return [path for path in _naming_files(cfg) if path]


def _naming_files(cfg: Config) -> tuple[str | None, ...]:
    human = cfg.human
    return human.triplets, human.comparisons, human.validation, cfg.objects.concepts


def object_images(cfg: Config, images: pa.Table, folder: str) -> ObjectImages:
    """The images of every object that has some, by the table of objects or by the names of folders and files.

    Args:
        cfg: names the table and the human files.
        images: schema IMAGES, of the folder.
        folder: where they lie, for messages.

    Raises:
        UserError: nothing says which images show which object.
    """
    # Answers by number and a table of numbers need no names, and reading millions of answers for them would be slow.
    table = cfg.objects.table
    if table and not objects.names_objects(table):
        return objects.read_object_images(table, images, folder)

    if not has_answers(cfg):
        raise UserError(objects.NO_TABLE)
    files = answer_files(cfg)
    names = answers.read_names(files)
    if table:
        return objects.read_object_images(table, images, folder, _names_of_table(files, names))
    return objects.images_by_name(images, folder, _names_or_numbers(cfg, files, names))


def _names_of_table(files: AnswerFiles, names: ObjectNames | None) -> ObjectNames | None:
    """The names by which a table may call objects."""
    # A table may call objects by name where the answers number them: the table of concepts knows both.
    if names is None and files.concepts:
        return object_names.from_concepts(files.concepts, files.concepts_path)
    return names


def _names_or_numbers(cfg: Config, files: AnswerFiles, names: ObjectNames | None) -> ObjectNames:
    """What folders or files of the objects' images must be called."""
    if names is not None:
        return names
    # Answers by number and folders by name: the table of concepts knows both.
    if files.concepts:
        return object_names.from_concepts(files.concepts, files.concepts_path)
    if cfg.human.embedding:
        raise UserError(objects.NO_TABLE)
    highest = answers.read(files, None, len(files.concepts) or None).highest()
    return object_names.by_number(highest + 1)
