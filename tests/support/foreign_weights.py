"""Weights as other projects store them: a timm ViT in big_vision's names, TensorFlow's bundles, and SavedModels."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.models import build_model_with_cfg, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from alignet_ray.data.crc32c import MASK_DELTA, crc32c
from alignet_ray.models import flax_vit

MAGIC = bytes.fromhex("57fb808b247547db")
STRING, BFLOAT16 = 7, 14
TYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19}
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


@dataclass(frozen=True)
class BFloat16:
    """An array that is stored in bfloat16."""

    values: np.ndarray


@register_model
def foreign_vit_map(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """A tiny ViT with attention pooling, which timm has none of."""
    sizes: dict[str, Any] = {"patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 2, "mlp_ratio": 3}
    sizes |= {"img_size": 64, "class_token": False, "global_pool": "map"}
    net: VisionTransformer = build_model_with_cfg(VisionTransformer, "foreign_vit_map", pretrained, **(sizes | options))
    return net


def random_vit(name: str, size: int | None = None, seed: int = 0) -> Any:
    """A timm network whose weights are all random, biases and norms included, in evaluation mode."""
    options: dict[str, Any] = {"img_size": size} if size else {}
    net = timm.create_model(name, num_classes=0, **options).eval()
    generator = torch.Generator().manual_seed(seed)
    for value in net.state_dict().values():
        value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return net


def flax_weights(net: Any) -> dict[str, np.ndarray]:
    """A timm ViT's weights by big_vision's names: the inverse of timm's own mapping, written from flax's layers."""
    found = {"embedding/kernel": net.patch_embed.proj.weight.permute(2, 3, 1, 0)}
    found |= {"embedding/bias": net.patch_embed.proj.bias, "pos_embedding": net.pos_embed}
    if net.cls_token is not None:
        found["cls"] = net.cls_token
    for number, block in enumerate(net.blocks):
        name = f"Transformer/encoderblock_{number}"
        found |= norm(f"{name}/LayerNorm_0", block.norm1) | norm(f"{name}/LayerNorm_1", block.norm2)
        found |= perceptron(f"{name}/MlpBlock_0", block.mlp)
        weight, bias = block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3)
        heads, attention = block.attn.num_heads, f"{name}/MultiHeadDotProductAttention_0"
        for part, w, b in zip(("query", "key", "value"), weight, bias, strict=True):
            found |= of_heads(f"{attention}/{part}", w, b, heads)
        found |= out(f"{attention}/out", block.attn.proj, heads)
    found |= norm("Transformer/encoder_norm", net.norm)
    if net.attn_pool is not None:
        pool, attention = net.attn_pool, "MAPHead_0/MultiHeadDotProductAttention_0"
        key, value = pool.kv.weight.chunk(2)
        key_bias, value_bias = pool.kv.bias.chunk(2)
        found["MAPHead_0/probe"] = pool.latent
        found |= of_heads(f"{attention}/query", pool.q.weight, pool.q.bias, pool.num_heads)
        found |= of_heads(f"{attention}/key", key, key_bias, pool.num_heads)
        found |= of_heads(f"{attention}/value", value, value_bias, pool.num_heads)
        found |= out(f"{attention}/out", pool.proj, pool.num_heads)
        found |= norm("MAPHead_0/LayerNorm_0", pool.norm) | perceptron("MAPHead_0/MlpBlock_0", pool.mlp)
    return {name: np.ascontiguousarray(value.detach().numpy()) for name, value in found.items()}


def norm(name: str, layer: nn.Module) -> dict[str, Any]:
    return {f"{name}/scale": layer.weight, f"{name}/bias": layer.bias}


def perceptron(name: str, mlp: Any) -> dict[str, Any]:
    layers = {f"{name}/Dense_0": mlp.fc1, f"{name}/Dense_1": mlp.fc2}
    kernels = {f"{dense}/kernel": layer.weight.T for dense, layer in layers.items()}
    return kernels | {f"{dense}/bias": layer.bias for dense, layer in layers.items()}


def of_heads(name: str, weight: torch.Tensor, bias: torch.Tensor, heads: int) -> dict[str, Any]:
    return {f"{name}/kernel": weight.T.reshape(weight.shape[1], heads, -1), f"{name}/bias": bias.reshape(heads, -1)}


def out(name: str, layer: Any, heads: int) -> dict[str, Any]:
    return {f"{name}/kernel": layer.weight.T.reshape(heads, -1, layer.out_features), f"{name}/bias": layer.bias}


def varint(number: int) -> bytes:
    groups = bytearray()
    while number >= 0x80:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def field(number: int, value: int | bytes) -> bytes:
    """A field of a protobuf message: a varint, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def masked(checksum: int) -> bytes:
    rotated = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
    return ((rotated + MASK_DELTA) & 0xFFFFFFFF).to_bytes(4, "little")


def block(entries: Mapping[bytes, bytes], compression: int = 0) -> bytes:
    """A block of a table with its trailer; every key shares with the one before all that it can."""
    content, before = b"", b""
    for key, value in entries.items():
        shared = 0
        while shared < min(len(key), len(before)) and key[shared] == before[shared]:
            shared += 1
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    content += bytes(4) + (1).to_bytes(4, "little")
    kind = bytes([compression])
    return content + kind + masked(crc32c(content + kind))


def table(entries: Mapping[bytes, bytes], per_block: int = 5, compression: int = 0) -> bytes:
    """A LevelDB table of sorted entries, in blocks of a few."""
    names, data, handles = sorted(entries), b"", {}
    for begin in range(0, len(names), per_block):
        part = names[begin : begin + per_block]
        written = block({name: entries[name] for name in part}, compression)
        handles[part[-1]] = varint(len(data)) + varint(len(written) - 5)
        data += written
    footer = b""
    for written in (block({}), block(handles)):
        footer += varint(len(data)) + varint(len(written) - 5)
        data += written
    return data + footer.ljust(40, b"\0") + MAGIC


def shape_message(shape: tuple[int, ...]) -> bytes:
    return b"".join(field(2, field(1, size)) for size in shape)


def encoded(value: np.ndarray | BFloat16 | bytes) -> tuple[int, tuple[int, ...], bytes, int]:
    """TensorFlow's type, shape, bytes and checksum of a variable."""
    if isinstance(value, bytes):
        lengths = len(value).to_bytes(4, "little")
        of_lengths = masked(crc32c(lengths))
        return STRING, (), varint(len(value)) + of_lengths + value, crc32c(lengths + of_lengths + value)
    if isinstance(value, BFloat16):
        upper = (np.ascontiguousarray(value.values, np.float32).view(np.uint32) >> 16).astype("<u2")
        return BFLOAT16, value.values.shape, upper.tobytes(), crc32c(upper.tobytes())
    data = np.ascontiguousarray(value).tobytes()
    return TYPES[str(value.dtype)], value.shape, data, crc32c(data)


def object_graph(full_names: Mapping[str, str]) -> bytes:
    """The record of the variables' full names, by their names in the bundle."""
    attributes = [
        field(1, b"VARIABLE_VALUE") + field(2, full.encode()) + field(3, key.encode())
        for key, full in full_names.items()
    ]
    return b"".join(field(1, field(1, b"") + field(2, attribute)) for attribute in attributes)


def write_bundle(prefix: Path, variables: Mapping[str, Any], shards: int = 1, header: bytes = b"") -> None:
    """An index and its data files; variables go to the data files in turn."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    files = [bytearray() for _ in range(shards)]
    entries = {b"": header or field(1, shards) + field(3, field(1, 1))}
    for number, (name, value) in enumerate(sorted(variables.items())):
        kind, shape, data, checksum = encoded(value)
        shard = number % shards
        message = field(1, kind) + field(2, shape_message(shape)) + field(3, shard)
        message += field(4, len(files[shard])) + field(5, len(data)) + varint(6 << 3 | 5) + masked(checksum)
        entries[name.encode()] = message
        files[shard] += data
    for shard, content in enumerate(files):
        prefix.with_name(f"{prefix.name}.data-{shard:05}-of-{shards:05}").write_bytes(content)
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(entries))


def write_saved_model(folder: Path, variables: Mapping[str, Any], shards: int = 1) -> Path:
    """A SavedModel's folder whose variables are held by attributes, as `tf.saved_model.save` names them."""
    write_bundle(
        folder / "variables" / "variables", {f"{name}{VALUE}": value for name, value in variables.items()}, shards
    )
    (folder / "saved_model.pb").write_bytes(b"a graph, which nobody reads")
    return folder


def below(prefix: str, weights: Mapping[str, Any]) -> dict[str, Any]:
    """The same weights under a prefix."""
    return {prefix + name: value for name, value in weights.items()}


def tiny_weights() -> dict[str, np.ndarray]:
    """The smallest ViT in big_vision's names, with a class token and a triplet head."""
    random = np.random.default_rng(0)
    shapes = flax_vit.expected_shapes(flax_vit.Layout(4, 1, 2, 6, 2, 5, True, False))
    shapes |= {"triplet_head/kernel": (4, 3), "triplet_head/bias": (3,)}
    return {f"params/{name}": random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
