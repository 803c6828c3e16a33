"""What a run is told about people: files of answers, names of the objects, and the images that show them."""

import pyarrow as pa

from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.human import answers, object_names, objects
from alignet_ray.human.answers import AnswerFiles
from alignet_ray.human.object_names import ObjectNames
from alignet_ray.human.objects import Concept, ObjectImages


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
    human = cfg.human
    return AnswerFiles(
        triplets=human.triplets,
        comparisons=human.comparisons,
        validation=human.validation,
        columns=human.columns,
        base=human.base,
        order=human.order,
        concepts=[concept.name for concept in concepts(cfg)],
        concepts_path=cfg.objects.concepts or "",
    )


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
        # A table may call objects by name where the answers number them: the table of concepts knows both.
        if names is None and files.concepts:
            names = object_names.from_concepts(files.concepts, files.concepts_path)
        return objects.read_object_images(table, images, folder, names)
    return objects.images_by_name(images, folder, _names_or_numbers(cfg, files, names))


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
