"""Sets of human judgements from outside the run: a folder of images, and a file of what people said about them.

A set is described by a YAML file, `set.yaml` in its folder or any other name. Its paths are relative to that file:

    name: levels
    images: images                # folder of the images
    kind: odd_one_out             # or matrix, or choices
    file: answers.csv
    columns: {image0: image1Path, image1: image2Path, image2: image3Path, choice: selected_image,
              level: triplet_type}
    citation: Muttenthaler et al., Nature 2025
    licence: see the publishers' page

The columns above are those of Levels (https://gin.g-node.org/fborn/Dataset_Levels): its publishers give a pickled
dictionary, participant -> list of answers with the keys image1Path, image2Path, image3Path, selected_image (a file
name), rt and triplet_type (between_class, class_border, within_class). Pickles are never opened here: write the answers
as a CSV with these keys and a column `participant` once. Its images are ImageNet's, which are found by file name.

AligNet's released triplets (.npz; within classes, at their border, between them) are of the kind odd_one_out as well:
what they call the odd one is the choice of a model, not of a person.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from alignet_ray.config import field_name, yaml_file
from alignet_ray.config.names import check_set_name
from alignet_ray.config.sections import InputPath, Section
from alignet_ray.core.scores import DATASETS
from alignet_ray.data.files import plain_text
from alignet_ray.errors import UserError, nearest
from alignet_ray.human import set_layouts
from alignet_ray.human.set_layouts import DESCRIPTION, Kind
from alignet_ray.locations import read_bytes
from alignet_ray.store import JsonObject

COLUMNS = ("image0", "image1", "image2", "choice", "level", "participant", "rt")
"""Our names of the columns of odd-one-out answers."""

OPTIONS = {"odd_one_out": ("columns",), "matrix": ("matrix", "variable", "order"), "choices": ()}
"""Kind -> the keys that only some kinds have."""


class SetDescription(Section):
    """What a description says of a set."""

    name: Annotated[str, AfterValidator(check_set_name)]
    """Name of the set in tables."""
    kind: Kind
    """What people were asked: which of three is the odd one, how similar all pairs are, which of two is more alike."""
    file: InputPath[str]
    """File of the judgements."""
    images: InputPath[str] = set_layouts.IMAGES
    """Folder of the images."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Odd one out: our column name -> the file's, where they differ."""
    matrix: Literal["similarity", "distance"] | None = None
    """Matrix: what its values are."""
    variable: str | None = None
    """Matrix: variable of a .mat file. Default: the only one that can be a matrix."""
    order: tuple[str, ...] | str = ()
    """Matrix: the images in the order of its rows, or a text file with one name a line. Default: sorted by name."""
    citation: str = ""
    """Shown in the report."""
    licence: str = ""
    """Shown in the report."""

    @field_validator("file", "order")
    @classmethod
    def _is_local(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(value, str) and "://" in value:
            raise ValueError(f"{value} is behind a URL: judgements are local files, images may lie anywhere")
        return value

    @model_validator(mode="after")
    def _keys_belong_to_the_kind(self) -> "SetDescription":
        # A key that is silently without effect would be taken for one that works.
        for kind, keys in OPTIONS.items():
            for key in keys:
                if kind != self.kind and getattr(self, key):
                    raise ValueError(f"{key} belongs to the kind {kind}, this set is of the kind {self.kind}")
        # Taken the wrong way round, all correlations would change their sign.
        if self.kind == "matrix" and self.matrix is None:
            raise ValueError("say what the values of the matrix are: `matrix: similarity` or `matrix: distance`")
        for ours in self.columns:
            if ours not in COLUMNS:
                raise ValueError(f"columns: no such column {ours!r}{_hint(ours, COLUMNS)}")
        return self


@dataclass(frozen=True)
class JudgementSet:
    """A set and where it lies.

    Attributes:
        description: what its description says.
        origin: the YAML file, or the folder where there is none; for messages.
        folder: what the description's paths are relative to.
    """

    description: SetDescription
    origin: str
    folder: str

    @property
    def name(self) -> str:
        """Name in tables."""
        return self.description.name

    @property
    def images(self) -> str:
        """Folder of the images."""
        return _below(self.folder, self.description.images)

    @property
    def file(self) -> str:
        """File of the judgements."""
        return _below(self.folder, self.description.file)

    @property
    def order_file(self) -> str | None:
        """File with the order of the images, if the description names one."""
        order = self.description.order
        if not isinstance(order, str):
            return None
        return _below(self.folder, order)

    @property
    def sources(self) -> list[str]:
        """Files that the judgements are read from; the images are not among them."""
        return [self.file, *filter(None, [self.order_file])]

    def value(self) -> JsonObject:
        """All that decides its scores besides the content of its files."""
        # Paths are marked as inputs: where a set lies is no part of an artifact's id.
        return self.description.result_fields()


def open_sets(paths: Sequence[str]) -> list[JudgementSet]:
    """The sets of some folders or YAML files.

    Raises:
        UserError: as `open_set`; two sets of one name, or a name that the run itself uses.
    """
    opened: dict[str, JudgementSet] = {}
    for path in paths:
        judgements = open_set(path)
        # Names become folders, and some file systems do not tell a capital letter from a small one.
        name = judgements.name.lower()
        if name in DATASETS:
            raise UserError(f"{judgements.origin}: the run itself calls a data set {name!r}: choose another name")
        if name in opened:
            raise UserError(f"{judgements.origin} and {opened[name].origin} are both called {name!r}: rename one")
        opened[name] = judgements
    return list(opened.values())


def open_set(path: str) -> JudgementSet:
    """The set of a folder, with a description in it or of unmistakable content, or of a YAML file.

    Raises:
        UserError: no such file, not a description, a wrong key or value, or a folder that may be several things.
    """
    if "://" in path:
        raise UserError(
            f"evaluate.sets: {path} is behind a URL: describe the set in a local YAML file with that as images"
        )
    # A YAML file may describe data that lie elsewhere, where nobody may write.
    if path.lower().endswith((".yaml", ".yml")):
        folder = path.rpartition("/")[0] or "."
        return JudgementSet(_describe(_read_yaml(path), path), path, folder)

    folder = path.rstrip("/") or "/"
    description = f"{folder}/{DESCRIPTION}"
    if Path(description).expanduser().is_file():
        return JudgementSet(_describe(_read_yaml(description), description), description, folder)
    if not Path(folder).expanduser().is_dir():
        raise UserError(f"evaluate.sets: {path} is neither a folder nor a YAML file: check the path")
    return JudgementSet(_describe(set_layouts.recognise(Path(folder).expanduser()), path), path, folder)


def _below(folder: str, path: str) -> str:
    """A path relative to a folder; absolute ones and URLs stay as they are."""
    if "://" in path or path.startswith(("/", "~")):
        return path
    return f"{folder}/{path}"


def _read_yaml(path: str) -> Any:
    text = plain_text(read_bytes(path), path).decode()
    try:
        return yaml_file.load(text)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _describe(tree: Any, origin: str) -> SetDescription:
    """A checked description.

    Raises:
        UserError: naming the first wrong key or value.
    """
    known = list(SetDescription.model_fields)
    if not isinstance(tree, dict):
        raise UserError(f"{origin} describes no set: expected the keys {', '.join(known[:4])}, ...")
    try:
        return SetDescription.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{origin}: {_first_problem(error, known)}") from error


def _first_problem(error: ValidationError, known: Sequence[str]) -> str:
    """The first wrong key and what is wrong with it; for an unknown one also the nearest known one."""
    # An unknown key is told before a missing one: it is most often that one, misspelled.
    errors = sorted(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
    first = errors[0]
    name = field_name(first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"the key {name} is missing"
    if first["type"] == "extra_forbidden":
        return f"no such key {name!r}{_hint(name, known)}"
    # Of keys that do not go together the message speaks for itself.
    if not first["loc"]:
        return message
    return f"{name}: {message}"


def _hint(name: str, known: Sequence[str]) -> str:
    """What was probably meant by a name, or all there are."""
    meant = nearest(name, known)
    if meant is None:
        return f": there are {', '.join(known)}"
    return f"; did you mean {meant}?"
