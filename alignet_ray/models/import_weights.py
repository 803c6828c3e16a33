"""Turns a big_vision Vision Transformer, or a released AligNet student, into a student's folder that `load` reads.

It is read from a TensorFlow SavedModel or an .npz archive, without TensorFlow and JAX.

What was tried: SavedModels that TensorFlow wrote of AligNet's published Vision Transformer (random weights, under the
names of its published wrapper), by orbax and by `tf.saved_model.save`, in float32 and bfloat16, with class token, mean
and attention pooling, up to SigLIP-B's size. The released files themselves were not at hand, so their variables' names
are not known here, nor how the images of each were prepared: `alignet` is what the published SigLIP recipe does. Layers
that are not called as big_vision's, as DINO's and CLIP's may be, are refused, and so are variables that a model keeps
in a list without names of their own.

flax computes GELU by tanh, timm's Vision Transformers exactly, for big_vision's own weights too. Features of the random
weights differ by 2e-4 of the largest for that; with tanh in timm's place, by 2e-6.
"""

import contextlib
import math
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from alignet_ray.artifacts.student_files import IMPORTED, RELEASED_TAU, DataConfig, Preparation
from alignet_ray.data.npz_arrays import NpzArrays
from alignet_ray.data.tensor_bundle import INDEX, TensorBundle
from alignet_ray.errors import UserError, path_text, require_existing, require_regular
from alignet_ray.models import flax_vit
from alignet_ray.models.backbone import SQUASH, Backbone, create, read_data_config
from alignet_ray.models.embedding_network import EmbeddingNetwork, save_network
from alignet_ray.models.flax_vit import Layout, Variable

GRAPH_FILE = "saved_model.pb"
"""What makes a folder a SavedModel. It holds the graph, which is not read."""

HEAD = "triplet_head"
"""The layer of AligNet's students that answers triplets."""

Source = TensorBundle | NpzArrays
"""Variables of a file: both have `shapes`, `names`, `namings` and `read`."""


@dataclass(frozen=True)
class Imported:
    """A network that has become a student's folder.

    Attributes:
        folder: it; `alignet_ray.load` reads it.
        architecture: timm's name of the network.
        size: side of its square input in pixels.
        preprocessing: how images are prepared for it.
        head: outputs of its triplet head; None without one.
        used: number of variables that it was made of.
        left_out: what the others are called, such as an optimiser's, a text encoder's or a classifier's.
    """

    folder: Path
    architecture: str
    size: int
    preprocessing: Literal["alignet", "timm"]
    head: int | None
    used: int
    left_out: tuple[str, ...] = field(repr=False)

    def left_out_groups(self) -> dict[str, int]:
        """Number of variables left out, by the beginning of their names."""
        groups = Counter("/".join(name.split("/")[:2]) for name in self.left_out)
        return dict(groups.most_common())


class Found(NamedTuple):
    """A network among the variables of a file.

    Attributes:
        prefix: what stands before its weights' names.
        weights: big_vision's name of a weight -> its variable.
        head: the triplet head's kernel and bias; empty without one.
        called: name of every variable of the file -> what it was called where the model was made.
    """

    prefix: str
    weights: dict[str, Variable]
    head: dict[str, Variable]
    called: dict[str, str]

    def used(self, layout: Layout) -> set[str]:
        """Names of the variables that a network of this layout, and its head, are made of."""
        names = {variable.name for variable in self.head.values()}
        names |= {self.weights[key].name for key in flax_vit.expected_shapes(layout)}
        return names


def import_student(
    path: str | Path,
    out: str | Path,
    model: str | None = None,
    prefix: str | None = None,
    tau: float = RELEASED_TAU,
    preprocessing: Preparation = "auto",
) -> Imported:
    """Write a student's folder from a SavedModel or from big_vision's .npz weights.

    Args:
        path: the SavedModel's folder, or the .npz file.
        out: the new folder.
        model: timm's name of the network. Default: the one that has these weights' shapes.
        prefix: what stands before the network's names, where a file holds several.
        tau: temperature of the triplet head, where there is one.
        preprocessing: see `student_files.Preparation`.

    Raises:
        UserError: the files cannot be read, hold no such network, or a variable is missing or has another shape; no
            network of timm fits, or several; or `out` is there already.
    """
    folder = _require_new(out)
    if preprocessing not in get_args(Preparation):
        raise UserError(f"preprocessing={preprocessing!r}: use {', '.join(get_args(Preparation))}")
    if not 0 < tau < float("inf"):
        raise UserError(f"tau={tau}: a temperature is a number above 0")

    file = Path(path_text(path, "the weights")).expanduser()
    source = open_source(file)
    # Whoever calls names a file; what is wrong is said of its variables.
    with _naming(file):
        found = find(source, prefix)
        layout = flax_vit.layout_of(found.weights, found.prefix)
        architecture = model or _guess(layout)
        size = flax_vit.check_architecture(architecture, layout)
        flax_vit.check_variables(found.weights, layout, found.prefix)
        head = _read_head(found.head, layout.width, source)
        net = _read_net(found, layout, source, architecture, size)

    chosen: Literal["alignet", "timm"] = "timm"
    if preprocessing == "alignet" or (preprocessing == "auto" and head is not None):
        chosen = "alignet"
    data_config = read_data_config(net, size)
    if chosen == "alignet":
        data_config = cast(DataConfig, data_config | SQUASH)

    # The folder's own name alone: where it lay on this machine says nothing to whoever reads model.json.
    backbone = Backbone(net, architecture, f"{architecture}@{file.resolve().name}", data_config)
    outputs = None
    if head is None:
        tau = 1.0
    else:
        outputs = head.out_features
    with _new_folder(folder) as draft:
        save_network(draft, EmbeddingNetwork(backbone, head, tau), {"role": IMPORTED})

    used = found.used(layout)
    left_out = tuple(sorted(found.called.get(name, name) for name in set(source.names()) - used))
    return Imported(folder, architecture, backbone.size, chosen, outputs, len(used), left_out)


def _require_new(out: str | Path) -> Path:
    """The folder to write, which is not there yet, or is empty."""
    folder = Path(path_text(out, "the new student")).expanduser()
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder: name another")
    return folder


def open_source(file: Path) -> Source:
    """The variables of a SavedModel's folder or of an .npz file.

    Raises:
        UserError: it is neither, or is damaged.
    """
    require_existing(str(file))
    require_regular(file)
    if file.is_file():
        if file.suffix != ".npz":
            raise UserError(f"{file} is not read: give the folder of a SavedModel (unpacked), or an .npz file")
        return NpzArrays(file)

    variables = file / "variables" / "variables"
    if not variables.with_name(f"{variables.name}{INDEX}").is_file():
        if (file / GRAPH_FILE).is_file():
            raise UserError(f"{file} has no variables/variables{INDEX}: its weights are in its graph, or are missing")
        raise UserError(f"{file} is no SavedModel: it has no {GRAPH_FILE} and no variables/variables{INDEX}")
    return TensorBundle(variables)


def find(source: Source, prefix: str | None = None) -> Found:
    """The Vision Transformer among the variables of a file, with its triplet head.

    Args:
        source: the variables.
        prefix: which one, where there are several.

    Raises:
        UserError: there is none, or several and no prefix.
    """
    shapes = source.shapes
    for called in source.namings():
        paths = flax_vit.weights_by_path({name: call for name, call in called.items() if name in shapes})
        before = flax_vit.find_prefix(paths, prefix)
        if before is not None:
            return Found(before, flax_vit.variables(before, paths, shapes), _find_head(paths, shapes), called)
    names = sorted(shapes)
    raise UserError(
        f"none of its {len(names):,} variables is a Vision Transformer's in big_vision's names "
        f"(Transformer/encoderblock_0/...): the first is {(names or ['none at all'])[0][:100]}"
    )


def _find_head(paths: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Variable]:
    found: dict[str, Variable] = {}
    for path, name in paths.items():
        *_, layer, part = ["", "", *path.split("/")]
        if layer == HEAD and part in ("kernel", "bias"):
            found[part] = Variable(name, shapes[name])
    return found


def _read_head(head: Mapping[str, Variable], width: int, source: Source) -> nn.Linear | None:
    if not head:
        return None
    for part in ("kernel", "bias"):
        if part not in head:
            raise UserError(f"variable {HEAD}/{part} is missing")
    outputs = math.prod(head["bias"].shape)
    shapes = {"kernel": (width, outputs), "bias": (outputs,)}

    values: dict[str, Tensor] = {}
    for part, shape in shapes.items():
        if head[part].shape != shape or outputs < 1:
            raise UserError(f"variable {HEAD}/{part} has shape {head[part].shape}: {shape} is needed")
        array = flax_vit.require_finite(f"{HEAD}/{part}", source.read(head[part].name))
        values[part] = torch.from_numpy(array.copy())

    # flax keeps a layer's weights as (inputs, outputs), PyTorch the other way round.
    layer = nn.Linear(width, outputs)
    with torch.no_grad():
        layer.weight.copy_(values["kernel"].T)
        layer.bias.copy_(values["bias"])
    return layer


def _read_net(found: Found, layout: Layout, source: Source, architecture: str, size: int | None) -> nn.Module:
    weights = flax_vit.read(found.weights, layout, found.prefix, source.read)
    net = create(architecture, size)
    flax_vit.load_into(net, weights)
    return net


def _guess(layout: Layout) -> str:
    fitting = flax_vit.architectures(layout)
    if len(fitting) > 1:
        raise UserError(f"several networks of timm fit: choose one by --model from {', '.join(fitting)}")
    if not fitting:
        raise UserError(f"no network of timm has just {layout}: name one by --model")
    return fitting[0]


@contextlib.contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Put the file's name before a message that speaks of its variables."""
    try:
        yield
    except UserError as error:
        if str(file) not in str(error):
            error.args = (f"{file}: {error}",)
        raise


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes it on success and is deleted on failure."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    draft.mkdir()
    try:
        yield draft
        os.replace(draft, target)  # an empty folder may be there, which it takes the place of
    finally:
        shutil.rmtree(draft, ignore_errors=True)
