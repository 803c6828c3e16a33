from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from alignet_ray.errors import UserError
from alignet_ray.images.decode import decode
from alignet_ray.images.listing import list_images, read_bytes
from alignet_ray.models.backbone import (
    WEIGHT_PACKAGES,
    checksum,
    classifier,
    load_backbone,
    may_have_classifier,
    package_weights,
)


@pytest.fixture
def noise() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet", "mobilenetv3_small_050"])
def test_output_is_what_timm_calls_pre_logits(name: str) -> None:
    backbone = load_backbone(f"random:{name}", 64)
    x = torch.randn(2, 3, 64, 64)
    z = backbone(x)
    assert z.shape == (2, backbone.width)
    assert torch.equal(z, backbone.net.forward_head(backbone.net.forward_features(x), pre_logits=True))
    assert not backbone.training
    assert not any(p.requires_grad for p in backbone.parameters())


def test_patch_mean_leaves_out_the_class_token() -> None:
    backbone = load_backbone("random:test_vit", 64, layer="patch_mean")
    x = torch.randn(2, 3, 64, 64)
    tokens = backbone.net.forward_features(x)
    assert torch.allclose(backbone(x), tokens[:, backbone.net.num_prefix_tokens :].mean(1), atol=1e-5)
    assert backbone.width == tokens.shape[-1]


@pytest.mark.parametrize(
    ("name", "layer"), [("test_vit", "block:2"), ("test_vit", "block:-1"), ("test_resnet", "block:1")]
)
def test_any_block_can_be_read(name: str, layer: str) -> None:
    backbone = load_backbone(f"random:{name}", 64, layer=layer)
    caught: list[torch.Tensor] = []
    if name == "test_vit":
        block = backbone.net.blocks[int(layer.removeprefix("block:"))]
        block.register_forward_hook(lambda module, args, output: caught.append(output))
    x = torch.randn(2, 3, 64, 64)
    z = backbone(x)
    assert z.shape == (2, backbone.width)
    if caught:
        assert torch.allclose(z, caught[0][:, backbone.net.num_prefix_tokens :].mean(1), atol=1e-5)
    assert backbone.describe()["layer"] == layer


@pytest.mark.parametrize("layer", ["block:99", "block:x", "penultimate"])
def test_an_unknown_layer_is_told(layer: str) -> None:
    with pytest.raises(UserError, match=r"use pre_logits, patch_mean, or block:N"):
        load_backbone("random:test_vit", 64, layer=layer)


def test_preprocessing_is_timms_own(noise: Image.Image) -> None:
    backbone = load_backbone("random:test_efficientnet", 48)
    config = timm.data.resolve_model_data_config(timm.create_model("test_efficientnet")) | {"input_size": (3, 48, 48)}
    assert torch.equal(backbone.preprocess(noise), timm.data.create_transform(**config)(noise))
    assert backbone.preprocess(noise).shape == (3, 48, 48)
    assert backbone.size == 48


def test_random_weights_are_seeded_and_leave_the_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second = load_backbone("random:test_vit"), load_backbone("random:test_vit")
    assert torch.equal(torch.get_rng_state(), before)
    assert checksum(first.net) == checksum(second.net)
    assert checksum(load_backbone("random:test_vit", seed=1).net) != checksum(first.net)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("classes", [0, 10])
def test_a_local_checkpoint_is_loaded_with_or_without_classifier(tmp_path: Path, suffix: str, classes: int) -> None:
    net = timm.create_model("test_resnet", num_classes=classes).eval()
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, file)
    else:
        save_file(net.state_dict(), file)
    backbone = load_backbone(f"test_resnet@{file}", 64)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(backbone(x), net.forward_head(net.forward_features(x), pre_logits=True))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "mobilenetv3_small_050"])
def test_the_classifier_of_a_checkpoint_is_found(tmp_path: Path, name: str) -> None:
    net = timm.create_model(name, num_classes=10).eval()
    save_file(net.state_dict(), tmp_path / "with.safetensors")
    save_file(timm.create_model(name, num_classes=0).state_dict(), tmp_path / "without.safetensors")
    spec = f"{name}@{tmp_path / 'with.safetensors'}"
    width = load_backbone(spec).width
    found = classifier(spec, width)
    assert found is not None
    x = torch.randn(2, 3, 160, 160)
    torch.testing.assert_close(load_backbone(spec, 160)(x) @ found.weight.T + found.bias, net(x))
    assert classifier(spec, width + 1) is None, "its features are others"
    assert may_have_classifier(spec)
    for without in (f"{name}@{tmp_path / 'without.safetensors'}", f"random:{name}"):
        assert classifier(without, width) is None
        assert not may_have_classifier(without)


def test_the_classifier_of_timms_own_weights_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a network in the place of the downloaded one."""
    net = timm.create_model("test_resnet", num_classes=10)
    monkeypatch.setattr(timm, "create_model", lambda spec, pretrained: net)
    found = classifier("test_resnet.r160_in1k", net.num_features)
    assert found is not None
    assert torch.equal(found.weight, net.get_classifier().weight)
    assert torch.equal(found.bias, net.get_classifier().bias)
    assert may_have_classifier("test_resnet.r160_in1k")
    net.reset_classifier(0)  # as contrastively trained networks are
    assert classifier("test_resnet.r160_in1k", net.num_features) is None


def test_position_embeddings_are_resampled_for_another_size(tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "vit.safetensors")
    backbone = load_backbone(f"test_vit@{tmp_path / 'vit.safetensors'}", 96)
    assert backbone(torch.zeros(1, 3, 96, 96)).shape == (1, backbone.width)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(UserError, match=r"do not fit: .* is (missing|too much)"):
        load_backbone(f"test_resnet@{tmp_path / 'vit.safetensors'}")


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "exploded",)  # type: ignore[return-value]

    torch.save({"x": Bomb()}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match="not a readable weights file"):
        load_backbone(f"test_vit@{tmp_path / 'bad.pth'}")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet5O", r"did you mean resnet50"),
        ("random:test_vitt", r"did you mean test_vit"),
        ("vit_base_patch16_224.nonsense", r"vit_base_patch16_224\.\w+"),
        ("pip:efficientnet-lite9", r"pip:efficientnet-lite0"),
        ("test_vit@/nowhere/weights.pth", r"does not exist"),
        ("/nowhere/student", r"no folder with model\.json"),
        ("test_vit@{here}", r"not a readable weights file"),
    ],
)
def test_mistakes_are_reported_with_the_fix(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_backbone(spec.format(here=__file__))


def test_no_network_is_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants as hub

    def unreachable(*_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("socket.getaddrinfo", unreachable)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    before = hub.HF_HUB_OFFLINE
    with pytest.raises(UserError, match=r"cannot get the weights of resnet18\.a1_in1k.*@FILE"):
        load_backbone("resnet18.a1_in1k")
    assert before == hub.HF_HUB_OFFLINE


@pytest.mark.parametrize("name", WEIGHT_PACKAGES)
def test_packaged_weights_fill_timms_network(name: str) -> None:
    backbone = load_backbone(f"pip:{name}")
    assert backbone.architecture == WEIGHT_PACKAGES[name][1]
    assert backbone.width == 1280
    assert torch.isfinite(backbone(torch.zeros(1, 3, 64, 64))).all()
    found = classifier(f"pip:{name}", backbone.width)
    assert found is not None
    assert found.weight.shape == (1000, 1280)
    assert found.bias.shape == (1000,)
    assert may_have_classifier(f"pip:{name}")


def test_packaged_weights_recognise_real_images(sample: Path) -> None:
    foreign, arch = package_weights("pip:efficientnet-lite0")
    net = timm.create_model(arch).eval()
    net.load_state_dict(dict(zip(net.state_dict(), foreign.values(), strict=True)))
    preprocess = load_backbone("pip:efficientnet-lite0").preprocess
    images = list_images(str(sample / "imagenet_sample"))["path"].to_pylist()[::6]
    wnids = timm.data.ImageNetInfo("imagenet-1k").label_names()
    hits = 0
    for start in range(0, len(images), 32):
        paths = images[start : start + 32]
        x = torch.stack([preprocess(decode(read_bytes(str(sample / "imagenet_sample"), p))) for p in paths])
        with torch.inference_mode():
            top = net(x).argmax(1)
        hits += sum(wnids[int(t)] == p.split("/")[0] for t, p in zip(top, paths, strict=True))
    assert hits / len(images) > 0.84  # 88.3 % of all 810 and more
