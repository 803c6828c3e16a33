"""`alignet-ray import`: foreign weights become a student with the outputs of the network they come from."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.foreign_weights import (
    GRAPH,
    BFloat16,
    below,
    flax_weights,
    object_graph,
    random_vit,
    write_bundle,
    write_saved_model,
)

import alignet_ray
from alignet_ray.cli import main
from alignet_ray.errors import UserError
from alignet_ray.models.import_weights import import_student, open_source

PREFIX = "params/model/_Model_0/"
"""Where AligNet's published code keeps the network."""

RANDOM = np.random.default_rng(0)
HEAD = {
    "params/triplet_head/kernel": RANDOM.normal(size=(64, 10)).astype(np.float32),
    "params/triplet_head/bias": RANDOM.normal(size=10).astype(np.float32),
}
CLASSIFIER = {"params/i1k_head/kernel": np.zeros((64, 5), np.float32), "params/i1k_head/bias": np.zeros(5, np.float32)}


@pytest.fixture(scope="module")
def net() -> Any:
    return random_vit("test_vit")


@pytest.fixture(scope="module")
def weights(net: Any) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = below(PREFIX, flax_weights(net))
    return found


def require_same_features(folder: Path, net: Any, tolerance: float = 1e-6) -> None:
    student, _ = alignet_ray.load(folder, device="cpu")
    size = student.backbone.size
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(student(images).embedding, net(images), rtol=0, atol=tolerance)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_saved_model_becomes_a_student(tmp_path: Path, net: Any, weights: dict[str, Any], shards: int) -> None:
    folder = write_saved_model(tmp_path / "SigLIP-B-alignet", weights | HEAD | CLASSIFIER, shards)
    done = import_student(folder, tmp_path / "student")
    assert (done.architecture, done.size, done.head, done.preprocessing) == ("test_vit", 160, 10, "alignet")
    assert done.used == len(weights) + 2
    assert done.left_out == ("params/i1k_head/bias", "params/i1k_head/kernel")
    assert done.left_out_groups() == {"params/i1k_head": 2}
    require_same_features(tmp_path / "student", net)

    student, _ = alignet_ray.load(tmp_path / "student", device="cpu")
    features = torch.randn(2, 64)
    expected = features.numpy() @ HEAD["params/triplet_head/kernel"] + HEAD["params/triplet_head/bias"]
    assert student.head is not None
    assert np.allclose(student.head(features).numpy(), expected, atol=1e-5)
    assert student.tau == 100


def test_a_student_is_prepared_images_as_alignet_s_are(tmp_path: Path, weights: dict[str, Any]) -> None:
    folder = write_saved_model(tmp_path / "model", weights | HEAD)
    import_student(folder, tmp_path / "a")
    import_student(folder, tmp_path / "b", preprocessing="timm", tau=5)
    about = [json.loads((tmp_path / name / "model.json").read_text()) for name in "ab"]
    assert about[0]["preprocessing"]["crop_mode"] == "squash"
    assert about[0]["preprocessing"]["std"] == [1, 1, 1]
    assert about[1]["preprocessing"]["crop_mode"] == "center"
    assert [one["tau"] for one in about] == [100, 5]
    assert about[0]["model"] == "test_vit@model", "no path of this machine"
    assert about[0]["provenance"] == {"role": "imported"}


@pytest.mark.parametrize("prefix", ["", "params/", "params/img/", "opt/target/"])
def test_npz_weights_become_a_student(tmp_path: Path, net: Any, prefix: str) -> None:
    arrays: dict[str, Any] = below(prefix, flax_weights(net)) | {"params/txt/Embed_0/embedding": np.zeros((4, 64))}
    np.savez(tmp_path / "weights.npz", **arrays)
    done = import_student(tmp_path / "weights.npz", tmp_path / "student")
    assert (done.head, done.preprocessing) == (None, "timm")
    assert done.left_out == ("params/txt/Embed_0/embedding",)
    require_same_features(tmp_path / "student", net)
    assert not (tmp_path / "student" / "head.safetensors").exists()


def test_attention_pooling_and_another_size(tmp_path: Path) -> None:
    net = random_vit("foreign_vit_map", 96)
    np.savez(tmp_path / "weights.npz", **below("params/img/", flax_weights(net)))
    with pytest.raises(UserError, match=r"no network of timm has just width 64, 2 blocks .* name one by --model"):
        import_student(tmp_path / "weights.npz", tmp_path / "student")
    assert import_student(tmp_path / "weights.npz", tmp_path / "student", model="foreign_vit_map").size == 96
    require_same_features(tmp_path / "student", net)


def test_bfloat16_in_both_formats(tmp_path: Path, net: Any, weights: dict[str, Any]) -> None:
    folder = write_saved_model(tmp_path / "model", {name: BFloat16(value) for name, value in weights.items()})
    import_student(folder, tmp_path / "a")
    halves = {name: (value.view(np.uint32) >> 16).astype("<u2").view("V2") for name, value in weights.items()}
    np.savez(tmp_path / "weights.npz", **halves)
    import_student(tmp_path / "weights.npz", tmp_path / "b")
    found = [alignet_ray.load(tmp_path / name, device="cpu").network.backbone.net.state_dict() for name in "ab"]
    for name, value in net.state_dict().items():
        assert torch.equal(found[0][name], found[1][name])
        assert torch.allclose(found[0][name], value, rtol=2**-7)


def test_variables_in_a_list_are_known_by_their_full_names(tmp_path: Path, net: Any, weights: dict[str, Any]) -> None:
    """As orbax exports a model: numbers in the bundle, and names in the record of objects."""
    names = sorted(weights | CLASSIFIER)
    keys = {name: f"tf_var_leaves/{number}/.ATTRIBUTES/VARIABLE_VALUE" for number, name in enumerate(names)}
    variables: dict[str, Any] = {keys[name]: (weights | CLASSIFIER)[name] for name in names}
    bundle = tmp_path / "model" / "variables" / "variables"
    write_bundle(bundle, variables)
    with pytest.raises(UserError, match=r"none of its 104 variables is a Vision Transformer's in big_vision's names"):
        import_student(tmp_path / "model", tmp_path / "student")

    variables[GRAPH] = object_graph({key: name.replace("/", ".") for name, key in keys.items()})
    write_bundle(bundle, variables)
    done = import_student(tmp_path / "model", tmp_path / "student")
    assert done.left_out == ("params.i1k_head.bias", "params.i1k_head.kernel")
    require_same_features(tmp_path / "student", net)


def test_an_optimiser_s_variables_are_left_out_and_counted(tmp_path: Path, net: Any, weights: dict[str, Any]) -> None:
    extra = below("opt_state/0/mu/", weights) | below("opt_state/0/nu/", weights) | {"step": np.array(3)}
    folder = write_saved_model(tmp_path / "model", weights | extra)
    done = import_student(folder, tmp_path / "student")
    assert done.used == len(weights)
    assert done.left_out_groups() == {"opt_state/0": 2 * len(weights), "step": 1}
    require_same_features(tmp_path / "student", net)


def refusal(path: Path, out: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        import_student(path, out, **options)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    assert not list(out.parent.glob(f".{out.name}.*")), "half a student"
    return str(caught.value)


def test_what_is_missing_or_damaged_is_named(tmp_path: Path, weights: dict[str, Any]) -> None:
    out, folder = tmp_path / "out", tmp_path / "model"
    name = f"{PREFIX}Transformer/encoderblock_2/MultiHeadDotProductAttention_0/out/bias"
    write_saved_model(folder, {key: value for key, value in weights.items() if key != name})
    assert refusal(folder, out) == f"{folder}: variable {name} is missing"
    write_saved_model(folder, weights | {name: np.zeros(63, np.float32)})
    assert refusal(folder, out) == f"{folder}: variable {name} has shape (63,): (64,) is needed"
    write_saved_model(folder, weights | {name: np.full(64, np.inf, np.float32)})
    assert f"variable {name} is not finite" in refusal(folder, out)
    write_saved_model(folder, weights | {"params/triplet_head/kernel": HEAD["params/triplet_head/kernel"]})
    assert refusal(folder, out) == f"{folder}: variable triplet_head/bias is missing"
    write_saved_model(folder, weights | HEAD | {"params/triplet_head/bias": np.zeros(7, np.float32)})
    assert "triplet_head/kernel has shape (64, 10): (64, 7) is needed" in refusal(folder, out)

    write_saved_model(folder, weights)
    data = folder / "variables" / "variables.data-00000-of-00001"
    changed = bytearray(data.read_bytes())
    changed[len(changed) // 2] ^= 1
    data.write_bytes(changed)
    assert "its checksum differs" in refusal(folder, out)
    (folder / "variables" / "variables.index").write_bytes(b"")
    assert "is not a readable index of variables" in refusal(folder, out)
    (folder / "variables" / "variables.index").unlink()
    assert "its weights are in its graph, or are missing" in refusal(folder, out)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "does not exist" in refusal(tmp_path / "nowhere", out)
    (tmp_path / "model.tar.gz").write_bytes(b"x")
    assert "give the folder of a SavedModel (unpacked), or an .npz file" in refusal(tmp_path / "model.tar.gz", out)
    (tmp_path / "empty").mkdir()
    assert "is no SavedModel" in refusal(tmp_path / "empty", out)
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    assert "none of its 1 variables is a Vision Transformer's" in refusal(tmp_path / "other.npz", out)
    np.savez(tmp_path / "other.npz", x=np.array(3))
    assert "the first is none at all" in refusal(tmp_path / "other.npz", out)
    assert open_source(tmp_path / "other.npz").names() == ["x"]


def test_an_ambiguous_network_is_refused_with_its_candidates(tmp_path: Path) -> None:
    """So400m at 378 and at 384 pixels has the same shapes: the shapes alone that tell are written here."""
    block = "Transformer/encoderblock_0/"
    shapes: dict[str, tuple[int, ...]] = {
        "embedding/kernel": (14, 14, 3, 1152),
        "pos_embedding": (1, 729, 1152),
        f"{block}MultiHeadDotProductAttention_0/query/kernel": (1152, 16, 72),
        f"{block}MlpBlock_0/Dense_0/kernel": (1152, 4304),
        "Transformer/encoderblock_26/LayerNorm_0/bias": (1152,),
        "MAPHead_0/probe": (1, 1, 1152),
    }
    arrays: dict[str, Any] = {name: np.zeros(shape, np.float16) for name, shape in shapes.items()}
    np.savez_compressed(tmp_path / "weights.npz", **arrays)
    said = refusal(tmp_path / "weights.npz", tmp_path / "out")
    names = "vit_so400m_patch14_siglip_378, vit_so400m_patch14_siglip_384"
    assert said.endswith(f"several networks of timm fit: choose one by --model from {names}")
    said = refusal(tmp_path / "weights.npz", tmp_path / "out", model="vit_so400m_patch14_siglip_384")
    assert said.endswith("variable embedding/bias is missing")
    with pytest.raises(UserError, match="choose one by model= from vit_so400m"):
        alignet_ray.import_student(tmp_path / "weights.npz", tmp_path / "out")


def test_options_that_mean_nothing_are_refused(tmp_path: Path, weights: dict[str, Any]) -> None:
    folder = write_saved_model(tmp_path / "model", weights)
    out = tmp_path / "out"
    assert "tau=0: a temperature is a number above 0" in refusal(folder, out, tau=0)
    assert "no Vision Transformer under 'img'" in refusal(folder, out, prefix="img")
    assert "is no plain Vision Transformer" in refusal(folder, out, model="test_efficientnet")
    assert "did you mean" in refusal(folder, out, model="test_vitt")
    out.mkdir()
    (out / "mine").write_text("kept")
    with pytest.raises(UserError, match="is not an empty folder: name another"):
        import_student(folder, out)
    assert (out / "mine").read_text() == "kept"


def test_nothing_half_written_is_left(tmp_path: Path, weights: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_the_disk(folder: Path, *_: Any) -> None:
        (folder / "backbone.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    folder = write_saved_model(tmp_path / "model", weights)
    monkeypatch.setattr("alignet_ray.models.import_weights.save_network", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        import_student(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_command_says_what_it_did_and_how_to_go_on(
    tmp_path: Path, weights: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_saved_model(tmp_path / "model", weights | HEAD | CLASSIFIER)
    out = tmp_path / "my student"
    out.mkdir()
    main(["import", str(folder), "--out", str(out), "--model", "test_vit"])
    said = capsys.readouterr().out
    assert "read   104 variables: test_vit at 160 px, triplet head of 10, images as alignet's" in said
    assert "left   2 variables left out: params/i1k_head (2)" in said
    assert f"wrote  {out}\nuse    alignet_ray.load({str(out)!r})\n" in said
    assert f"alignet-ray export {shlex.quote(str(out))} --to timm EXPORTED" in said
    assert alignet_ray.load(out, device="cpu").network.tau == 100

    with pytest.raises(SystemExit) as stop:
        main(["import", str(folder), "--out", str(out)])
    assert stop.value.code == 2
    assert "is not an empty folder" in capsys.readouterr().err


def test_an_imported_network_is_exported_without_claims(tmp_path: Path, net: Any, weights: dict[str, Any]) -> None:
    import_student(write_saved_model(tmp_path / "model", weights | HEAD), tmp_path / "student")
    main(["export", str(tmp_path / "student"), "--to", "hub", str(tmp_path / "hub")])
    require_same_features(tmp_path / "hub", net)
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "with weights that other people trained (test_vit@model), converted by alignet_ray" in card
    assert "fine-tuned" not in card
    assert "human-alignment" not in card
    assert str(tmp_path) not in card
