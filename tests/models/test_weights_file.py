"""Checkpoints as training scripts leave them: wrapped, prefixed, several networks in one, or no weights at all."""

from argparse import Namespace
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from alignet_ray.errors import UserError
from alignet_ray.models.backbone import checksum, load_backbone
from alignet_ray.models.model_spec import ModelSpec

Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def weights() -> Weights:
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=10).state_dict()


def below(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: value for name, value in weights.items()}


def loaded(file: Path, key: str = "") -> str:
    """Checksum of test_vit with the weights of a file."""
    return checksum(load_backbone(f"test_vit@{file}{key}").net)


WRAPPINGS: dict[str, Callable[[Weights], Any]] = {
    "compiled": lambda weights: below("_orig_mod.", weights),
    "in parallel and compiled": lambda weights: {"state_dict": below("module._orig_mod.", weights)},
    "Lightning": lambda weights: {"state_dict": below("model.", weights), "pytorch-lightning_version": "2.4.0"},
    "tutorial": lambda weights: {"model_state_dict": weights, "epoch": 3, "loss": torch.ones(())},
    "with its optimiser": lambda weights: {"model": weights, "optimizer": {"state": {0: {"step": torch.ones(())}}}},
    "averaged by timm": lambda weights: {"state_dict": below("x.", weights), "state_dict_ema": weights},
    "beside another head": lambda weights: below("backbone.", weights) | {"dino_head.weight": torch.ones(2, 2)},
    "beside options and scores": lambda weights: {
        "state_dict": weights,
        "args": Namespace(lr=1.0, output=Path("/out")),
        "metric": np.float64(0.3),
    },
    "under a number": lambda weights: {0: weights},
}


@pytest.mark.parametrize("name", WRAPPINGS)
def test_known_wrappings_are_taken_off(name: str, weights: Weights, tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "plain.pth")
    torch.save(WRAPPINGS[name](weights), tmp_path / "wrapped.pth")
    assert loaded(tmp_path / "wrapped.pth") == loaded(tmp_path / "plain.pth")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "student.backbone."])
def test_safetensors_are_read_alike(prefix: str, weights: Weights, tmp_path: Path) -> None:
    save_file(weights, tmp_path / "plain.safetensors")
    save_file(below(prefix, weights), tmp_path / "prefixed.safetensors")
    assert loaded(tmp_path / "prefixed.safetensors") == loaded(tmp_path / "plain.safetensors")


def test_of_several_networks_the_user_says_which(weights: Weights, tmp_path: Path) -> None:
    other = {name: value + 1 for name, value in weights.items()}
    torch.save(weights, tmp_path / "plain.pth")
    torch.save({"teacher": below("backbone.", weights), "student": below("backbone.", other)}, tmp_path / "dino.pth")
    save_file(below("teacher.", weights) | below("student.", other), tmp_path / "flat.safetensors")
    for name in ("dino.pth", "flat.safetensors"):
        with pytest.raises(
            UserError, match=r"several networks \(.*(teacher|student).*\): say which one, as in NAME@FILE#"
        ):
            loaded(tmp_path / name)
        assert loaded(tmp_path / name, "#teacher") == loaded(tmp_path / "plain.pth")
        assert loaded(tmp_path / name, "#student") != loaded(tmp_path / "plain.pth")
    with pytest.raises(UserError, match="has no network 'tea': it holds teacher, student"):
        loaded(tmp_path / "dino.pth", "#tea")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([torch.ones(2)], "holds no weights by name: it is a list"),
        (torch.ones(2), "holds no weights by name: it is a Tensor"),
        ({}, "holds no weights: it is a dict"),
        ({"a.b.weight": torch.ones(2), "a.c.weight": torch.ones(2)}, "all their names begin with 'a'"),
        ({"weight": torch.tensor([1.0, float("nan")])}, "weight is not finite"),
        ({"a.weight": torch.ones(2, device="meta")}, "a.weight is no plain tensor"),
        ({"a.weight": torch.eye(2).to_sparse()}, "a.weight is no plain tensor"),
        ({"state_dict": {"weight": torch.ones(2)}, "best": datetime.now()}, "holds code or Python objects"),
        (torch.nn.Linear(1, 1), r"holds code or Python objects, which are not loaded: save the network's state_dict"),
    ],
)
def test_what_holds_no_network_is_told_in_one_line(content: Any, says: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(UserError, match=says) as caught:
        loaded(tmp_path / "x.pth")
    assert "\n" not in str(caught.value)


def test_quantised_weights_are_not_taken_for_the_weights(weights: Weights, tmp_path: Path) -> None:
    """Copied as they are, integers of -128 to 127 gave embeddings of their own."""
    save_file({name: (100 * value).to(torch.int8) for name, value in weights.items()}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"holds torch\.int8: save the weights unquantised"):
        loaded(tmp_path / "x.safetensors")


def test_weights_for_grey_images_are_told(weights: Weights, tmp_path: Path) -> None:
    grey = {name: value[:, :1] if value.ndim == 4 else value for name, value in weights.items()}
    torch.save(grey, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"is \(64, 1, 16, 16\), .* \(for images of another number of channels\?\)"):
        loaded(tmp_path / "x.pth")


def test_code_beside_options_is_not_run(weights: Weights, tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "run",)

    torch.save({"state_dict": weights, "args": Namespace(hook=Harmful())}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="holds code or Python objects"):
        loaded(tmp_path / "x.pth")
    assert not (tmp_path / "run").exists()


def test_an_existing_path_comes_before_its_special_characters(weights: Weights, tmp_path: Path) -> None:
    folder = tmp_path / "me@host#1"
    folder.mkdir()
    torch.save(weights, folder / "a#b.pth")
    assert loaded(folder / "a#b.pth")
    spec = ModelSpec.parse(f"test_vit@{folder}/a#b.pth")
    assert [spec.path, spec.weights_key] == [folder / "a#b.pth", ""]
    (folder / "rows.npy").write_bytes(b"")
    assert ModelSpec.parse(f"{folder}/rows.npy").kind == "stored"
