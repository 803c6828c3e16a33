"""big_vision's names of weights: prefixes, former names and stacked blocks, and the timm networks that they fit."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from support.foreign_weights import below, flax_weights, random_vit

from alignet_ray.errors import UserError
from alignet_ray.models import flax_vit
from alignet_ray.models.flax_vit import Layout

TINY = Layout(64, 6, 2, 192, 16, 101, True, False)


def located(weights: dict[str, Any], prefix: str = "") -> dict[str, flax_vit.Variable]:
    paths = flax_vit.weights_by_path({name: name for name in weights})
    return flax_vit.variables(prefix, paths, {name: value.shape for name, value in weights.items()})


def loaded(weights: dict[str, Any], name: str, prefix: str = "") -> Any:
    """A timm network with these weights."""
    found = located(weights, prefix)
    layout = flax_vit.layout_of(found, prefix)
    flax_vit.check_variables(found, layout, prefix)
    net = random_vit(name, seed=9)
    flax_vit.load_into(net, flax_vit.read(found, layout, prefix, weights.__getitem__))
    return net


def require_equal(net: Any, other: Any) -> None:
    expected = other.state_dict()
    for name, value in net.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("name", ["test_vit", "foreign_vit_map"])
def test_every_weight_comes_back(name: str) -> None:
    net = random_vit(name)
    require_equal(loaded(flax_weights(net), name), net)


def test_each_expected_variable_reaches_the_network() -> None:
    """A variable that timm's mapping did not read would be said to be used, and would not be."""
    net = random_vit("foreign_vit_map")
    weights = flax_weights(net)
    before = net.state_dict()
    for key in flax_vit.expected_shapes(Layout(64, 2, 2, 192, 16, 16, False, True)):
        changed = loaded(weights | {key: weights[key] + 1}, "foreign_vit_map").state_dict()
        assert sum(not torch.equal(changed[name], before[name]) for name in before) == 1, key


def test_former_names_are_those_of_the_first_vision_transformers() -> None:
    net = random_vit("test_vit")
    weights = {}
    for key, value in flax_weights(net).items():
        for today, former in (
            ("MultiHeadDotProductAttention_0", "MultiHeadDotProductAttention_1"),
            ("LayerNorm_1", "LayerNorm_2"),
            ("MlpBlock_0", "MlpBlock_3"),
            ("pos_embedding", "Transformer/posembed_input/pos_embedding"),
        ):
            key = key.replace(today, former)
        weights[key] = value
    require_equal(loaded(weights, "test_vit"), net)


def test_stacked_blocks_are_taken_apart() -> None:
    net = random_vit("test_vit")
    weights = flax_weights(net)
    stacked = {key: value for key, value in weights.items() if "encoderblock_" not in key}
    first = "Transformer/encoderblock_0/"
    for key in [key for key in weights if key.startswith(first)]:
        blocks = [weights[key.replace("_0/", f"_{number}/", 1)] for number in range(6)]
        stacked["Transformer/encoderblock/" + key.removeprefix(first)] = np.stack(blocks)
    require_equal(loaded(stacked, "test_vit"), net)
    with pytest.raises(UserError, match=r"does not hold the weights of stacked blocks"):
        located({"Transformer/encoderblock/LayerNorm_0/scale": np.zeros((2000, 3))})


def test_a_class_token_without_a_position_gets_a_zero() -> None:
    """big_vision of today adds positions to patches alone; timm's networks add them to the class token, too."""
    net = random_vit("test_vit")
    with torch.no_grad():
        net.pos_embed[:, 0] = 0
    weights = flax_weights(net)
    weights["pos_embedding"] = weights["pos_embedding"][:, 1:]
    require_equal(loaded(weights, "test_vit"), net)


def test_an_optimiser_s_copies_and_separators_do_not_matter() -> None:
    called = {
        "0": "params.img.embedding.kernel",
        "1": "params~img~Transformer~encoder_norm~scale",
        "2": "opt_state/0/mu/params/img/embedding/kernel",
        "3": "params/x/.OPTIMIZER_SLOT/adam/m",
        "4": "opt/target/embedding/bias",
    }
    paths = {
        "params/img/embedding/kernel": "0",
        "params/img/Transformer/encoder_norm/scale": "1",
        "embedding/bias": "4",
    }
    assert flax_vit.weights_by_path(called) == paths


def test_the_prefix_is_what_stands_before_the_one_transformer_with_patches() -> None:
    image = ["params/img/embedding/kernel", "params/img/Transformer/encoder_norm/scale"]
    text = ["params/txt/Transformer/encoder_norm/scale"]
    assert flax_vit.find_prefix(image + text) == "params/img/"
    assert flax_vit.find_prefix(text) == "params/txt/"
    assert flax_vit.find_prefix(["Transformer/encoder_norm/scale"]) == ""
    assert flax_vit.find_prefix(["a/b"]) is None
    two = [*image, "teacher/embedding/kernel", "teacher/Transformer/encoder_norm/scale"]
    with pytest.raises(UserError, match=r"several.*choose one by --prefix from params/img, teacher$"):
        flax_vit.find_prefix(two)
    assert flax_vit.find_prefix(two, "teacher") == "teacher/"
    assert flax_vit.find_prefix(two, "params.img") == "params/img/"
    assert flax_vit.find_prefix(["Transformer/encoder_norm/scale"], "") == ""
    with pytest.raises(UserError, match=r"no Vision Transformer under 'student': there is params/img, teacher$"):
        flax_vit.find_prefix(two, "student")


def test_a_layout_is_read_from_shapes() -> None:
    weights = below("params/", flax_weights(random_vit("test_vit")))
    assert flax_vit.layout_of(located(weights, "params/"), "params/") == TINY
    assert TINY.grid == 10
    assert "class token" in str(TINY)
    del weights["params/embedding/kernel"]
    with pytest.raises(UserError, match=r"^variable params/embedding/kernel is missing"):
        flax_vit.layout_of(located(weights, "params/"), "params/")
    weights["params/embedding/kernel"] = np.zeros((16, 64))
    with pytest.raises(UserError, match=r"params/embedding/kernel has the impossible shape \(16, 64\)"):
        flax_vit.layout_of(located(weights, "params/"), "params/")


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        (TINY, ["test_vit"]),
        (Layout(768, 12, 12, 3072, 32, 64, False, True), ["vit_base_patch32_siglip_256"]),
        (Layout(768, 12, 12, 3072, 32, 50, True, False), ["vit_base_patch32_224"]),
        (
            Layout(1152, 27, 16, 4304, 14, 729, False, True),
            ["vit_so400m_patch14_siglip_378", "vit_so400m_patch14_siglip_384"],
        ),
        (Layout(65, 6, 2, 192, 16, 101, True, False), []),
    ],
)
def test_the_networks_of_timm_that_fit_a_layout(layout: Layout, names: list[str]) -> None:
    assert flax_vit.architectures(layout) == names


def test_heads_tell_networks_of_equal_weights_apart() -> None:
    """timm's vit_base_patch16_gap_224 has 16 heads, the SigLIP of the same shapes has 12."""
    patches = Layout(768, 12, 12, 3072, 16, 196, False, False)
    assert flax_vit.check_architecture("vit_base_patch16_siglip_gap_224", patches) is None
    with pytest.raises(UserError, match=r"do not fit timm's vit_base_patch16_gap_224: .* 16 heads .* 12 heads"):
        flax_vit.check_architecture("vit_base_patch16_gap_224", patches)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit2", "vit_base_patch16_clip_224"])
def test_networks_with_other_layers_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"timm's {name} is no plain Vision Transformer"):
        flax_vit.check_architecture(name, TINY)


def test_another_size_of_images_is_read_from_the_positions() -> None:
    smaller = Layout(64, 6, 2, 192, 16, 17, True, False)
    assert flax_vit.check_architecture("test_vit", smaller) == 64
    assert flax_vit.check_architecture("test_vit", TINY) is None
    with pytest.raises(UserError, match=r"did you mean"):
        flax_vit.check_architecture("test_vitt", TINY)


def test_wrong_variables_are_named() -> None:
    weights = below("p/", flax_weights(random_vit("test_vit")))
    name = "p/Transformer/encoderblock_3/MlpBlock_0/Dense_1/bias"
    found = located({key: value for key, value in weights.items() if key != name}, "p/")
    with pytest.raises(UserError, match=f"^variable {name} is missing$"):
        flax_vit.check_variables(found, TINY, "p/")
    found = located(weights | {name: np.zeros(1)}, "p/")
    with pytest.raises(UserError, match=rf"^variable {name} has shape \(1,\): \(64,\) is needed$"):
        flax_vit.check_variables(found, TINY, "p/")
    with pytest.raises(UserError, match=f"^variable {name} is not finite"):
        loaded(weights | {name: np.full(64, math.nan, np.float32)}, "test_vit", "p/")


def test_a_weight_that_timm_does_not_set_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    net = random_vit("test_vit")
    monkeypatch.setattr(type(net), "load_pretrained", lambda self, file: None)
    with pytest.raises(UserError, match="timm's mapping gives cls_token no value"):
        flax_vit.load_into(net, flax_weights(random_vit("test_vit")))
    monkeypatch.undo()
    with pytest.raises(UserError, match="timm cannot load these weights"):
        flax_vit.load_into(net, {"embedding/kernel": np.zeros(3, np.float32)})
