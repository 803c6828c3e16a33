"""Reads the name of a model, as `embed.model`, `distill.model`, `evaluate.models` and `load` take it.

vit_base_patch16_siglip_224.webli   a timm name: pretrained weights, downloaded by timm
NAME@FILE                           a timm architecture and a local checkpoint (.safetensors, .pth); NAME@FILE#KEY
                                    where it holds several networks, such as teacher and student
pip:efficientnet-lite0              weights that a package ships (lite0, lite1, lite2; extra `weights`)
random:NAME                         a timm architecture with seeded random weights
FOLDER                              a student's folder (model.json + backbone.safetensors)
models:/NAME@ALIAS                  a student in MLflow's registry; or models:/NAME/VERSION
hf://OWNER/NAME                     a student on the Hugging Face hub, for `load`, `demo` and `export`
embed/ID, FILE.npy, ...             no model, but stored embeddings (see `data.stored`)
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from alignet_ray.artifacts.student_files import MODEL_FILE
from alignet_ray.errors import UserError, require_named

PACKAGE = "pip:"
RANDOM = "random:"
REGISTRY = "models:/"
HUB = "hf://"


class ModelKind(StrEnum):
    """Where a model's weights come from."""

    TIMM = "timm"
    CHECKPOINT = "checkpoint"
    PACKAGE = "package"
    RANDOM = "random"
    STUDENT = "student"
    REGISTERED = "registered"
    HUB = "hub"
    STORED = "stored"


class RegisteredName(NamedTuple):
    """A version in MLflow's registry: a model's name, and either an alias or a version number."""

    name: str
    alias: str = ""
    version: str = ""


@dataclass(frozen=True)
class ModelSpec:
    """A model's name, read.

    Attributes:
        name: as the user wrote it.
        kind: where its weights come from.
        architecture: timm's name of the network; empty where only the weights' owner knows it.
        file: the checkpoint as the user wrote it; empty for the other kinds.
        weights_key: which of several networks in the checkpoint; empty where it holds one.
    """

    name: str
    kind: ModelKind
    architecture: str = ""
    file: str = ""
    weights_key: str = ""

    @classmethod
    def parse(cls, name: str) -> "ModelSpec":
        """Tell the kinds of names apart. What does not exist is not refused here, see `backbone.check`.

        Raises:
            UserError: the name is empty.
        """
        require_named(name, "a model")
        if name.startswith(REGISTRY):
            return cls(name, ModelKind.REGISTERED)
        if name.startswith(HUB):
            return cls(name, ModelKind.HUB)
        if name.startswith(PACKAGE):
            return cls(name, ModelKind.PACKAGE)
        if name.startswith(RANDOM):
            return cls(name, ModelKind.RANDOM, name.removeprefix(RANDOM))

        # What exists under this very name is meant, whatever characters its path has.
        if _is_student_folder(Path(name).expanduser()):
            return cls(name, ModelKind.STUDENT)

        # Imported late, here and below: it needs pyarrow, and a student's folder must load without.
        from alignet_ray.data import stored

        if stored.is_stored(name):
            return cls(name, ModelKind.STORED)
        if "@" in name:
            architecture, _, file = name.partition("@")
            return cls(name, ModelKind.CHECKPOINT, architecture, *_split_key(file))
        return cls(name, ModelKind.TIMM, name)

    @property
    def path(self) -> Path:
        """The checkpoint's file, or the student's folder."""
        return Path(self.file or self.name).expanduser()

    @property
    def identity(self) -> str:
        """The name in artifact ids: a checkpoint without its folder, since its content has a fingerprint of its own.

        A registered name can move to another version: `hub.identity` asks the registry which one it means now.
        """
        if self.kind is ModelKind.CHECKPOINT and self.file:
            key = ""
            if self.weights_key:
                key = f"#{self.weights_key}"
            return f"{self.architecture}@{self.path.name}{key}"
        return self.name

    @property
    def label(self) -> str:
        """The name in tables: files and folders by their last part."""
        if self.kind is ModelKind.STUDENT:
            return self.path.name
        if self.kind is ModelKind.STORED:
            from alignet_ray.data import stored

            # An artifact's id is short, and its last part alone would be a number without a meaning.
            if not self.name.startswith(stored.STAGE):
                return self.path.name
        return self.name

    @property
    def local_files(self) -> list[str]:
        """Local files whose fingerprints belong in an artifact's id, since they can change under the same name.

        Raises:
            UserError: stored embeddings without the CSV that names their rows.
        """
        if self.kind is ModelKind.CHECKPOINT and self.file:
            return [self.file]
        if self.kind is ModelKind.STUDENT:
            # Files alone, which have an ending: folders in it are checkpoints of its training.
            return [str(file) for file in sorted(self.path.glob("*.*"))]
        if self.kind is ModelKind.STORED:
            from alignet_ray.data import stored

            return stored.files(self.name)
        return []

    @property
    def may_have_head(self) -> bool:
        """Whether the model can have a triplet head: students alone have one."""
        return self.kind in (ModelKind.STUDENT, ModelKind.REGISTERED)

    @property
    def registered(self) -> RegisteredName:
        """The parts of a registered model's name.

        Raises:
            UserError: it names no model, or neither an alias nor a version.
        """
        # A version is a number without slashes, so a model's name may hold them.
        rest = self.name.removeprefix(REGISTRY)
        if "@" in rest:
            model, _, alias = rest.partition("@")
            parts = RegisteredName(model, alias=alias)
        else:
            model, _, version = rest.rpartition("/")
            parts = RegisteredName(model, version=version)

        if not parts.name or not (parts.alias or parts.version):
            raise UserError(f"{self.name}: a registered model is {REGISTRY}NAME@ALIAS or {REGISTRY}NAME/VERSION")
        return parts


def _split_key(file: str) -> tuple[str, str]:
    """The checkpoint's path and what follows the last `#`; a file that has the character in its name comes first."""
    path, separator, key = file.rpartition("#")
    if not separator or Path(file).expanduser().exists():
        return file, ""
    return path, key


def _is_student_folder(folder: Path) -> bool:
    """Whether model.json describes a student; an artifact of `embed` has a file of that name, too."""
    if not (folder / MODEL_FILE).is_file():
        return False
    if folder.resolve().parent.name != "embed":
        return True

    # A student may lie in a folder that happens to be called `embed`.
    from alignet_ray.store import MANIFEST

    is_artifact = (folder / MANIFEST).is_file()
    return not is_artifact
