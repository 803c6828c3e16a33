"""A student's folder: its files and its model.json. Apart from `distill`, so that a student loads without pyarrow."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from alignet_ray.errors import UserError

BACKBONE_FILE = "backbone.safetensors"
"""The backbone's weights; timm loads them strictly with `num_classes=0`."""

TIMM_WEIGHTS = "model.safetensors"
"""The same weights under the name that timm gives them, in a folder made for a model hub."""

HEAD_FILE = "head.safetensors"
"""The triplet head's weights; missing where there is no head."""

MODEL_FILE = "model.json"
"""Architecture, preprocessing, head, tau and provenance (`StudentDescription`)."""

FORMAT = "alignet_ray student 1"

RELEASED_TAU = 100.0
"""Temperature of the triplet head in AligNet's published recipe."""

Preparation = Literal["auto", "alignet", "timm"]
"""How images are prepared for imported weights: `alignet` squashes them to the square with values in [0, 1]; `timm` is
the timm network's own way; `auto` is `alignet` where there is a triplet head, else `timm`."""

IMPORTED = "imported"
"""Role, in a student's provenance, of a network whose weights come from elsewhere: `alignet-ray import` wrote it."""

REQUIRED = ("architecture", "preprocessing", "head", "tau")
"""Keys of model.json without which a student cannot be loaded."""


HeadUse = Literal["none", "beside", "instead"]
"""What becomes of a student's triplet head: it is left out; its outputs stand in a column `triplet_logits` beside the
embedding; or they are the embedding, divided by sqrt(tau), so that plain dot products are choice logits."""


class DataConfig(TypedDict):
    """timm's data configuration of a network: how an image is resized, cropped and normalised for it."""

    input_size: Sequence[int]
    interpolation: str
    mean: Sequence[float]
    std: Sequence[float]
    crop_pct: float
    crop_mode: str


class NetworkDescription(TypedDict):
    """A backbone's part of model.json: its name, what rebuilds it, and the checksum of all its weights."""

    model: str
    architecture: str
    checksum: str
    preprocessing: DataConfig
    width: int
    size: int
    layer: str


class EmbeddingSource(TypedDict, total=False):
    """Where embeddings come from: the networks that made them, or a file of stored features.

    Keys:
        members: every network, with checksum and preprocessing.
        head: use of the networks' heads.
        widths: of every column.
        compute, decode: number format of the forward pass, and how images were decoded.
        features: name of the file of stored features, which have no networks.
    """

    members: list[NetworkDescription]
    head: HeadUse
    widths: dict[str, int]
    compute: str
    decode: str
    features: str


class Provenance(TypedDict, total=False):
    """Where a network comes from: its role in the run, its artifact's id, and the ids of that artifact's parents."""

    role: str
    artifact: str
    parents: dict[str, str]


@dataclass(frozen=True)
class LinearHeadShape:
    """Shape of a linear triplet head."""

    width: int
    bias: bool


@dataclass(frozen=True)
class KernelHeadShape:
    """Shape of a network teacher's kernel head.

    Attributes:
        dimensions: number of human dimensions.
        neighbours: annotated images that it compares with.
        rank: columns of its metric; None without one.
        own_direction: whether an image's own direction stands beside its dimensions.
        width: number of outputs.
    """

    dimensions: int
    neighbours: int
    rank: int | None
    own_direction: bool
    width: int


HeadShape = LinearHeadShape | KernelHeadShape


@dataclass(frozen=True)
class StudentDescription:
    """A student's model.json.

    Attributes:
        model: name that the backbone was loaded by before training.
        architecture: timm name that rebuilds it.
        checksum: of the backbone's weights.
        preprocessing: how images are prepared.
        width: number of features.
        size: side of the square input in pixels.
        layer: where features are taken.
        head: shape of the triplet head; None without one.
        tau: temperature of the triplet head's dot products.
        provenance: where the student comes from.
    """

    model: str
    architecture: str
    checksum: str
    preprocessing: DataConfig
    width: int
    size: int
    layer: str
    head: HeadShape | None
    tau: float
    provenance: Provenance

    @classmethod
    def read(cls, folder: Path) -> "StudentDescription":
        """model.json of a student's folder.

        Raises:
            UserError: it is missing or is not one.
        """
        # Folders come from strangers too, so anything may stand in this file.
        file = folder / MODEL_FILE
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{folder} is not a student's folder: {MODEL_FILE} cannot be read ({error})") from error
        return cls.from_json(content, str(file))

    @classmethod
    def from_json(cls, content: Any, source: str = MODEL_FILE) -> "StudentDescription":
        """The description that `to_json` gave.

        Args:
            content: of model.json.
            source: its path, for messages.

        Raises:
            UserError: it is no object, lacks a key of `REQUIRED`, or describes no head.
        """
        if not isinstance(content, Mapping):
            raise UserError(f"{source} holds {type(content).__name__}, not an object: not written by `distill`")
        missing = [key for key in REQUIRED if key not in content]
        if missing:
            raise UserError(f"{source} lacks {', '.join(missing)}: not written by `distill`")
        try:
            head = _head_shape(content["head"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{source}: {content['head']!r} describes no head: not written by `distill`") from error

        # The other keys inform; a student loads without them.
        return cls(
            model=content.get("model", ""),
            architecture=content["architecture"],
            checksum=content.get("checksum", ""),
            preprocessing=content["preprocessing"],
            width=content.get("width", 0),
            size=content.get("size", 0),
            layer=content.get("layer", ""),
            head=head,
            tau=content["tau"],
            provenance=content.get("provenance", {}),
        )

    def to_json(self) -> dict[str, object]:
        """Content of model.json."""
        # The format comes first, for people who open the file.
        return {"format": FORMAT, **asdict(self)}


def _head_shape(head: Mapping[str, Any] | None) -> HeadShape | None:
    if not head:
        return None
    # model.json does not name the kind of head; this key is the kernel head's alone.
    if "neighbours" in head:
        # Heads of before had human dimensions alone.
        dimensions = int(head.get("dimensions", head["width"]))
        own_direction = bool(head.get("own_direction", False))
        rank = head["rank"]
        if rank is not None:
            rank = int(rank)
        return KernelHeadShape(dimensions, int(head["neighbours"]), rank, own_direction, int(head["width"]))
    return LinearHeadShape(int(head["width"]), bool(head["bias"]))
