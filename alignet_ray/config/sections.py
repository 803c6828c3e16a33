"""Sections for inputs and infrastructure, and the base class that every section shares.

A field's docstring is its help text, its dotted name is its command-line option, and its default is written here and
nowhere else. Numbers that a paper fixes are in `presets.py`.
"""

import dataclasses
from enum import Enum
from pathlib import PurePath
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from alignet_ray.errors import require_named

T = TypeVar("T")


class Marker(Enum):
    """What a field means for an artifact's id."""

    RUNTIME = "runtime"
    INPUT = "input"


RuntimeOnly = Annotated[T, Marker.RUNTIME]
"""Type of a field that says where, how fast or how visibly a stage works. It never changes what the stage produces,
except for rounding, so it is no part of an artifact's id."""

InputPath = Annotated[T, Marker.INPUT]
"""Type of a field that names an input. Its content is in the id by a fingerprint, so the same file may be moved; the
field itself only contributes whether an input is given."""

RUNTIME_NOTE = " (Runtime only: does not change results.)"


class Section(BaseModel):
    """Base of all sections: immutable, and strict about names."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        populate_by_name=True,
        serialize_by_alias=True,
        allow_inf_nan=False,
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Say in the help text of every runtime field that it is one."""
        super().__pydantic_init_subclass__(**kwargs)
        # A subclass inherits fields that have the note already.
        for field in cls.model_fields.values():
            description = field.description or ""
            if Marker.RUNTIME in field.metadata and not description.endswith(RUNTIME_NOTE):
                field.description = description + RUNTIME_NOTE

    @field_validator("*", mode="before")
    @classmethod
    def _as_it_was_meant(cls, value: Any, info: Any) -> Any:
        """Refuse what pydantic or a later stage would take for something else; one text makes a list of one."""
        # `info` is pydantic's ValidationInfo, a protocol that no type checker can check at runtime.
        field = cls.model_fields[str(info.field_name)]
        kinds = _kinds(field.annotation)
        # From Python, where a path is rarely a text; a number or a choice it stays wrong for.
        if isinstance(value, PurePath) and str in kinds:
            value = str(value)
        if isinstance(value, list | tuple) and str in kinds:
            value = [_plain(entry) for entry in value]

        # pydantic takes true for 1, and YAML takes `yes`, `no`, `on` and `off` for true and false.
        entries = [value]
        if isinstance(value, list | tuple):
            entries = list(value)
        has_truth_value = any(isinstance(entry, bool) for entry in entries)
        if has_truth_value and not kinds & {bool, Section}:
            raise ValueError(
                "true and false (in YAML also yes, no, on, off) are no values here: give a number, or quote a text"
            )

        if isinstance(value, str) and tuple in kinds and not _takes_text(field.annotation):
            return (value,)
        # An empty path would mean the working directory.
        if value == "" and Marker.INPUT in field.metadata:
            raise ValueError("the path is empty: leave the setting out")
        return value

    def result_fields(self) -> dict[str, Any]:
        """The fields that change a result, as JSON-able values: what a stage hashes into its artifact's id."""
        # As JSON: a tuple from the command line and a list from YAML must have one hash.
        values = self.model_dump(mode="json", by_alias=False)
        result: dict[str, Any] = {}

        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if Marker.RUNTIME in field.metadata:
                continue

            # Whether an input is given changes what a stage does; where it lies does not.
            if Marker.INPUT in field.metadata:
                result[name] = bool(value)
            elif isinstance(value, Section):
                result[name] = value.result_fields()
            else:
                result[name] = values[name]

        return result

    def settings(self, kind: type[T], /, **others: Any) -> T:
        """A dataclass of settings, its fields taken from the section's fields of the same names.

        Args:
            kind: the dataclass.
            others: values of fields that the section does not have, or that are to differ from it.
        """
        assert dataclasses.is_dataclass(kind)
        # By name, so that a default stands in the section alone.
        values: dict[str, Any] = {}
        for field in dataclasses.fields(kind):
            if field.name in type(self).model_fields:
                values[field.name] = getattr(self, field.name)
        return kind(**values | others)


def _plain(entry: Any) -> Any:
    """An entry of a list, a `Path` as text."""
    if isinstance(entry, PurePath):
        return str(entry)
    return entry


def _kinds(annotation: Any) -> set[Any]:
    """The plain types that an annotation is made of; a section counts as `Section`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return {Section}
    kinds = {get_origin(annotation) or annotation}
    # The arguments of a Literal are values.
    if get_origin(annotation) is not Literal:
        for inner in get_args(annotation):
            kinds |= _kinds(inner)
    return kinds


def _takes_text(annotation: Any) -> bool:
    """Whether a text is a value of its own, beside a list of them: `tuple[str, ...] | str`."""
    return annotation is str or (get_origin(annotation) in (Union, UnionType) and str in get_args(annotation))


class Corpus(Section):
    """The images to learn on."""

    path: InputPath[str | None] = None
    """Folder or URL (s3:// or another scheme of fsspec) with images in class folders; `synthetic:NAME` for a generated
    world."""


class Objects(Section):
    """The objects that people compared, and the images that show them."""

    path: InputPath[str | None] = None
    """Folder of the objects' images. Default: the images are part of the corpus."""
    table: InputPath[str | None] = None
    """CSV with columns `label` (class folder) or `path` (image), and `object` (row of the human data, or its name).
    Default: class folders or files that are called like the objects."""
    concepts: InputPath[str | None] = None
    """Optional CSV with one row per object, in order: `name` or `uniqueID`, and `category` where known. Used by the
    report."""
    fold: int | None = Field(None, ge=0)
    """Fold whose objects are the test objects (from 0); the next fold has the validation objects, and the rest is for
    training. Default: no folds; 60 % of the objects are for training, 20 % for validation, 20 % for the test."""
    folds: int = Field(5, ge=3)
    """Number of folds that `objects.fold` counts in."""

    @model_validator(mode="after")
    def _fold_is_one_of_them(self) -> "Objects":
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"objects.fold {self.fold}: {self.folds} folds are counted from 0 to {self.folds - 1}")
        return self


class Human(Section):
    """Human similarity judgements."""

    triplets: InputPath[str | None] = None
    """Odd-one-out responses: rows (pair, pair, odd) of object numbers or names. `ask:NAME`: those of a study."""
    comparisons: InputPath[str | None] = None
    """Reference comparisons, which of two objects is more like a third: a table with columns reference, a, b, and
    votes_a and votes_b (or choice). Alone, or beside `human.triplets`. `ask:NAME`: those of a study."""
    validation: InputPath[str | None] = None
    """A separate file of responses (or of reference comparisons) held out from the fit."""
    embedding: InputPath[str | None] = None
    """A published human embedding (.npy, objects x dimensions) that replaces the fit of `soften`."""
    reference: InputPath[str | None] = None
    """An embedding that the responses are checked against. Default: `human.embedding`."""
    base: Literal[0, 1] | None = None
    """The number that object numbering starts from. Default: inferred from the file."""
    columns: tuple[str, ...] = ()
    """Names of columns that differ from the expected ones, as `expected=actual`; expected are image1, image2, image3,
    choice, participant, rt, level; of reference comparisons reference, a, b, votes_a, votes_b."""
    screen: bool = False
    """Leave out people who answer as if at random or too fast: their answers are fitted, compared with the model of all
    and left out of a second fit. Without it they are named."""
    order: InputPath[str | None] = None
    """Text file with one row number per line: the row that each object number of the responses refers to (for data in
    an older object order)."""


class StoreSection(Section):
    """Where artifacts are stored."""

    root: RuntimeOnly[str] = "runs"
    """Folder (or s3:// URL) that holds all artifacts."""

    @field_validator("root")
    @classmethod
    def _root_is_named(cls, root: str) -> str:
        require_named(root, "the root")
        return root


class RaySection(Section):
    """How Ray is started."""

    address: RuntimeOnly[str | None] = None
    """Address of a running cluster. Default: RAY_ADDRESS, or else a new Ray on this machine."""
    num_cpus: RuntimeOnly[int | None] = Field(None, ge=1)
    """Logical CPUs of a local Ray. Default: the machine's cores, at least 4 (these are slots, not threads)."""
    object_store_mb: RuntimeOnly[int | None] = Field(None, ge=80)
    """Shared memory of a local Ray in MB. Default: chosen by Ray."""
    dashboard: RuntimeOnly[bool] = False
    """Start Ray's dashboard on this machine; the run says where it is. (A cluster has one of its own.)"""
    force: RuntimeOnly[bool] = False
    """Spread all work over Ray's processes. Default: what takes a few seconds stays in the calling process, with the
    same results, because starting processes would take longer."""
    gpus: RuntimeOnly[int] = Field(0, ge=0)
    """GPUs to request from the cluster and to wait for before each distributed stage."""
    cpus: RuntimeOnly[int] = Field(0, ge=0)
    """CPUs to request and wait for in the same way."""
    patience: RuntimeOnly[float] = Field(30.0, ge=0)
    """Minutes to wait for them. After that the run continues with what is available, or stops if nothing is."""
    stall_minutes: RuntimeOnly[float] = Field(10.0, ge=0)
    """Minutes without progress after which a warning says what the run is waiting for; 0 disables it."""


class Tracking(Section):
    """MLflow tracking."""

    uri: RuntimeOnly[str | None] = None
    """Tracking server. Default: MLFLOW_TRACKING_URI, or else `sqlite:///<root>/mlflow.db`."""
    experiment: RuntimeOnly[str] = "alignet-ray"
    """MLflow experiment."""
