"""Weights of a Vision Transformer in flax's names (big_vision, AligNet): found under any prefix, and loaded by timm.

The names are those of big_vision/models/vit.py, such as `Transformer/encoderblock_0/LayerNorm_0/scale`. timm itself
turns them into its own weights, by `VisionTransformer.load_pretrained`.
"""

import math
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn

from alignet_ray.errors import UserError, first_line
from alignet_ray.models.backbone import create, read_data_config

Shape = tuple[int, ...]

OPTIMISER = frozenset({"opt", "opt_state", "optimizer", "mu", "nu", "ema", "param_states", "OPTIMIZER_SLOT"})
"""Parts of names under which an optimiser keeps copies of the weights."""

TARGET = "opt/target/"
"""Where checkpoints of flax's former optimisers keep the weights themselves."""

FORMER_NAMES = (
    ("Transformer/posembed_input/pos_embedding", "pos_embedding"),
    ("Transformer/pos_embedding", "pos_embedding"),
    ("MultiHeadDotProductAttention_1/", "MultiHeadDotProductAttention_0/"),
    ("LayerNorm_2/", "LayerNorm_1/"),
    ("MlpBlock_3/", "MlpBlock_0/"),
)
"""Names of the first Vision Transformers, which numbered all layers of a block together -> names of today."""

POSITIONS = "pos_embedding"

STACKED = "Transformer/encoderblock/"
"""Where a model that ran its blocks in a scan keeps the weights of all of them, one after the other."""

BLOCK = re.compile(r"Transformer/encoderblock_(\d+)/")

MAX_BLOCKS = 1000


@dataclass(frozen=True)
class Variable:
    """One weight of the network and where it comes from.

    Attributes:
        name: of the variable in its file.
        shape: of the weight.
        block: which part of the variable it is, where blocks are stacked; None: all of it.
    """

    name: str
    shape: Shape
    block: int | None = None


@dataclass(frozen=True)
class Layout:
    """What tells Vision Transformers apart.

    Attributes:
        width: of the embedding.
        depth: number of blocks.
        heads: of attention.
        hidden: width inside the blocks' perceptrons.
        patch: side of a patch in pixels.
        positions: position embeddings, that of a class token included.
        class_token: whether it has a class token.
        attention_pool: whether attention pools its tokens (SigLIP).
    """

    width: int
    depth: int
    heads: int
    hidden: int
    patch: int
    positions: int
    class_token: bool
    attention_pool: bool

    def __str__(self) -> str:
        pool = ""
        if self.class_token:
            pool = ", class token"
        if self.attention_pool:
            pool += ", attention pooling"
        return (
            f"width {self.width}, {self.depth} blocks of {self.heads} heads and {self.hidden} hidden units, "
            f"patches of {self.patch} px, {self.positions} positions{pool}"
        )

    @property
    def grid(self) -> int:
        """Patches along a side of the image."""
        return math.isqrt(self.positions - self.class_token)


def weights_by_path(called: Mapping[str, str]) -> dict[str, str]:
    """Path -> name of all variables that are no optimiser's.

    Args:
        called: name of a variable in its file -> what it was called where the model was made, in parts that slashes,
            points or tildes separate (flax, orbax, big_vision's tensorstore).
    """
    paths: dict[str, str] = {}
    for name, call in called.items():
        path = _slashed(call).removeprefix(TARGET)
        if not OPTIMISER & set(path.split("/")):
            paths[path] = name
    return paths


def _slashed(call: str) -> str:
    return re.sub(r"[.~/]+", "/", call).strip("/")


def find_prefix(paths: Iterable[str], wanted: str | None = None) -> str | None:
    """What stands before the names of the one Vision Transformer among the variables; None where there is none.

    Args:
        paths: of the variables.
        wanted: which one, where there are several.

    Raises:
        UserError: several and none is wanted, or not the wanted one.
    """
    paths = set(paths)
    prefixes: set[str] = set()
    for path in paths:
        before, found, _ = f"/{path}".partition("/Transformer/")
        if found:
            prefixes.add(f"{before}/"[1:])
    # A text encoder may be a Transformer, too, but it has no patches.
    with_patches = {prefix for prefix in prefixes if f"{prefix}embedding/kernel" in paths}
    prefixes = with_patches or prefixes

    listed = ", ".join(sorted(prefix.rstrip("/") or "(no prefix)" for prefix in prefixes))
    if wanted is not None:
        prefix = _slashed(f"{wanted}/x")[:-1]
        if prefix not in prefixes:
            raise UserError(f"there is no Vision Transformer under {wanted!r}: there is {listed or 'none at all'}")
        return prefix
    if len(prefixes) > 1:
        raise UserError(f"there are several Vision Transformers: choose one by --prefix from {listed}")
    return next(iter(prefixes), None)


def variables(prefix: str, paths: Mapping[str, str], shapes: Mapping[str, Shape]) -> dict[str, Variable]:
    """The variables below a prefix by big_vision's names of today.

    Args:
        prefix: see `find_prefix`.
        paths: path -> name of a variable.
        shapes: name -> shape.

    Raises:
        UserError: stacked blocks are empty, or more than any network has.
    """
    found: dict[str, Variable] = {}
    for path, name in paths.items():
        if not path.startswith(prefix):
            continue
        key = path.removeprefix(prefix)
        for former, today in FORMER_NAMES:
            key = key.replace(former, today)

        shape = shapes[name]
        if not key.startswith(STACKED):
            found[key] = Variable(name, shape)
            continue

        # One variable holds this weight of all blocks: each block gets its part of it.
        if not shape or not 0 < shape[0] <= MAX_BLOCKS:
            raise UserError(f"variable {name} has shape {shape}: it does not hold the weights of stacked blocks")
        for block in range(shape[0]):
            one = f"Transformer/encoderblock_{block}/" + key.removeprefix(STACKED)
            found[one] = Variable(name, shape[1:], block)
    return _with_class_position(found)


def _with_class_position(found: dict[str, Variable]) -> dict[str, Variable]:
    """Count a position for the class token, as timm's networks do, where the file has none: `read` makes it zero."""
    positions = found.get(POSITIONS)
    if "cls" not in found or positions is None or len(positions.shape) != 3:
        return found
    batch, count, width = positions.shape
    if math.isqrt(count) ** 2 != count:
        return found
    return found | {POSITIONS: Variable(positions.name, (batch, count + 1, width))}


def layout_of(found: Mapping[str, Variable], prefix: str) -> Layout:
    """The layout of the network that these are the weights of.

    Raises:
        UserError: a variable that tells it is missing, or has an impossible shape.
    """
    first = "Transformer/encoderblock_0/"
    patch, _, _, width = _sizes(found, prefix, "embedding/kernel", 4)
    _, heads, _ = _sizes(found, prefix, f"{first}MultiHeadDotProductAttention_0/query/kernel", 3)
    _, hidden = _sizes(found, prefix, f"{first}MlpBlock_0/Dense_0/kernel", 2)
    _, positions, _ = _sizes(found, prefix, POSITIONS, 3)
    blocks = {int(match[1]) for match in map(BLOCK.match, found) if match}
    pools = any(key.startswith("MAPHead_0/") for key in found)
    return Layout(width, max(blocks) + 1, heads, hidden, patch, positions, "cls" in found, pools)


def _sizes(found: Mapping[str, Variable], prefix: str, key: str, count: int) -> Shape:
    if key not in found:
        raise UserError(f"variable {prefix}{key} is missing: this is no whole Vision Transformer of big_vision")
    variable = found[key]
    if len(variable.shape) != count or min(variable.shape) < 1:
        raise UserError(f"variable {prefix}{key} has the impossible shape {variable.shape}")
    return variable.shape


def net_layout(net: nn.Module) -> Layout | None:
    """The layout of a timm network; None where it is no plain Vision Transformer, as big_vision's are."""
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(net, VisionTransformer) or net.pos_embed is None or not hasattr(net.norm, "weight"):
        return None
    # Networks of this class differ in details that only their code tells; `expected_shapes` counts their weights.
    block: Any = net.blocks[0]
    if not hasattr(block, "attn") or not hasattr(block, "mlp"):
        return None
    layout = Layout(
        net.embed_dim,
        len(net.blocks),
        block.attn.num_heads,
        block.mlp.fc1.out_features,
        net.patch_embed.patch_size[0],
        net.pos_embed.shape[1],
        net.cls_token is not None,
        net.attn_pool is not None,
    )
    weights = sum(value.numel() for value in net.state_dict().values())
    if weights != sum(math.prod(shape) for shape in expected_shapes(layout).values()):
        return None
    return layout


def expected_shapes(layout: Layout) -> dict[str, Shape]:
    """big_vision's names and shapes of all weights of a network."""
    width = layout.width
    patch = layout.patch
    shapes: dict[str, Shape] = {
        "embedding/kernel": (patch, patch, 3, width),
        "embedding/bias": (width,),
        POSITIONS: (1, layout.positions, width),
    }
    if layout.class_token:
        shapes["cls"] = (1, 1, width)

    for block in range(layout.depth):
        name = f"Transformer/encoderblock_{block}/"
        shapes |= _attention(f"{name}MultiHeadDotProductAttention_0/", layout)
        shapes |= _norm(f"{name}LayerNorm_0/", width)
        shapes |= _norm(f"{name}LayerNorm_1/", width)
        shapes |= _perceptron(f"{name}MlpBlock_0/", layout)
    shapes |= _norm("Transformer/encoder_norm/", width)

    # SigLIP's pooling: a learned query attends over all tokens (Zhai et al., "Scaling Vision Transformers", 2022).
    if layout.attention_pool:
        shapes["MAPHead_0/probe"] = (1, 1, width)
        shapes |= _attention("MAPHead_0/MultiHeadDotProductAttention_0/", layout)
        shapes |= _norm("MAPHead_0/LayerNorm_0/", width)
        shapes |= _perceptron("MAPHead_0/MlpBlock_0/", layout)
    return shapes


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}scale": (width,), f"{name}bias": (width,)}


def _perceptron(name: str, layout: Layout) -> dict[str, Shape]:
    return {
        f"{name}Dense_0/kernel": (layout.width, layout.hidden),
        f"{name}Dense_0/bias": (layout.hidden,),
        f"{name}Dense_1/kernel": (layout.hidden, layout.width),
        f"{name}Dense_1/bias": (layout.width,),
    }


def _attention(name: str, layout: Layout) -> dict[str, Shape]:
    per_head = layout.width // layout.heads
    shapes: dict[str, Shape] = {}
    for part in ("query", "key", "value"):
        shapes[f"{name}{part}/kernel"] = (layout.width, layout.heads, per_head)
        shapes[f"{name}{part}/bias"] = (layout.heads, per_head)
    shapes[f"{name}out/kernel"] = (layout.heads, per_head, layout.width)
    shapes[f"{name}out/bias"] = (layout.width,)
    return shapes


def architectures(layout: Layout) -> list[str]:
    """timm's names of the networks that have this layout at their own size of images."""
    import timm

    fitting: list[str] = []
    for name in timm.list_models(["vit_*", "test_vit*"], module="vision_transformer"):
        # Most networks are ruled out by their names and configurations, since building one takes a tenth of a second.
        patch = re.search(r"_patch(\d+)", name)
        if patch and int(patch[1]) != layout.patch:
            continue
        config = timm.get_pretrained_cfg(name)
        if config is None or config.input_size[-1] // layout.patch != layout.grid:
            continue
        if net_layout(_without_values(name, None)) == layout:
            fitting.append(name)
    return fitting


def _without_values(name: str, size: int | None) -> nn.Module:
    """A network whose weights have shapes and no values."""
    with torch.device("meta"):
        return create(name, size)


def check_architecture(name: str, layout: Layout) -> int | None:
    """Refuse a timm network that these weights do not fit.

    Args:
        name: of the network.
        layout: of the weights.

    Returns:
        The side of its images, for which its positions are as many as the weights'; None: its own.

    Raises:
        UserError: saying what differs.
    """
    net = _without_values(name, None)
    own = net_layout(net)
    if own is None:
        raise UserError(f"timm's {name} is no plain Vision Transformer: big_vision's weights do not fit it")

    # Weights of another size of images differ in the number of their positions alone.
    size = None
    if own.positions != layout.positions and own.patch == layout.patch:
        size = layout.grid * layout.patch
        own = net_layout(_without_values(name, size))
    if own != layout:
        raise UserError(f"these weights do not fit timm's {name}: it has {own}; they have {layout}")
    if size is None and read_data_config(net, None)["input_size"][-1] // layout.patch != layout.grid:
        size = layout.grid * layout.patch
    return size


def check_variables(found: Mapping[str, Variable], layout: Layout, prefix: str) -> None:
    """Refuse weights of which one is missing or has another shape.

    Raises:
        UserError: naming the variable.
    """
    for key, shape in expected_shapes(layout).items():
        if key not in found:
            raise UserError(f"variable {prefix}{key} is missing")
        if found[key].shape != shape:
            raise UserError(f"variable {prefix}{key} has shape {found[key].shape}: {shape} is needed")


def read(
    found: Mapping[str, Variable],
    layout: Layout,
    prefix: str,
    read_array: Callable[[str], Float32[np.ndarray, "*n"]],
) -> dict[str, Float32[np.ndarray, "*n"]]:
    """All weights of a network by big_vision's names.

    Args:
        found: where they come from, see `check_variables`.
        layout: of the network.
        prefix: what stands before their names, for messages.
        read_array: name of a variable -> its values.

    Raises:
        UserError: one is not finite, or as `read_array`.
    """
    stacked: dict[str, np.ndarray] = {}
    weights: dict[str, np.ndarray] = {}
    for key, shape in expected_shapes(layout).items():
        variable = found[key]
        if variable.block is None:
            values = read_array(variable.name)
        else:
            # All blocks lie in one variable, which is read once.
            if variable.name not in stacked:
                stacked[variable.name] = read_array(variable.name)
            values = stacked[variable.name][variable.block]
        # Zero, since big_vision adds positions before it adds the class token.
        if key == POSITIONS and values.shape[1] + 1 == shape[1]:
            values = np.pad(values, ((0, 0), (1, 0), (0, 0)))
        weights[key] = require_finite(f"{prefix}{key}", values)
    return weights


def require_finite(name: str, values: Float32[np.ndarray, "*n"]) -> Float32[np.ndarray, "*n"]:
    """The values, if all of them are finite.

    Raises:
        UserError: naming the variable.
    """
    if not np.isfinite(values).all():
        raise UserError(f"variable {name} is not finite (NaN or infinity): did the training diverge?")
    return values


def load_into(net: nn.Module, weights: Mapping[str, Float32[np.ndarray, "*n"]]) -> None:
    """Load weights in big_vision's names into a timm network, by timm's own mapping.

    Raises:
        UserError: timm refuses them, or leaves a weight of the network without a value.
    """
    from timm.models.vision_transformer import VisionTransformer

    assert isinstance(net, VisionTransformer), "`net_layout` knows no other networks"
    # What timm's mapping forgets would keep the random values of a new network, and nobody would notice.
    state = net.state_dict()
    for value in state.values():
        value.fill_(math.nan)

    # timm reads files alone. The prefix tells it that the names are those of today.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.npz"
        np.savez(file, allow_pickle=False, **{f"params/{name}": values for name, values in weights.items()})
        try:
            net.load_pretrained(str(file))
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError(f"timm cannot load these weights: {first_line(error)}") from error
    for name, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise UserError(f"timm's mapping gives {name} no value: another version of timm may know it")
