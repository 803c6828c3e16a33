import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from alignet_ray.errors import UserError
from alignet_ray.models.embedding_network import EmbeddingNetwork, load_network, make_network, save_network
from alignet_ray.models.hub import load

SPEC = "random:test_efficientnet"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    student = make_network(SPEC, 32, 8, seed=1)
    student.tau = 3.5
    save_network(tmp_path, student, {"role": "student"})
    return tmp_path


def test_folder_round_trip_is_exact(folder: Path):
    before, (after, preprocess) = make_network(SPEC, 32, 8, seed=1).eval(), load(folder)
    x = torch.stack([preprocess(Image.new("RGB", (50, 40), (i * 40, 90, 10))) for i in range(5)])
    assert x.shape == (5, 3, 32, 32)
    for a, b in zip(before(x), after(x), strict=True):
        assert torch.equal(a, b)
    assert after.tau == 3.5
    assert not any(p.requires_grad for p in after.parameters())


def test_squashed_preprocessing_is_kept_after_reload(tmp_path: Path):
    student = make_network(SPEC, 32, 8, seed=1, squash=True).eval()
    save_network(tmp_path, student, {})
    after, preprocess = load(tmp_path)
    image = Image.effect_noise((90, 40), 80).convert("RGB")
    x = preprocess(image)
    whole = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC), np.float32) / 255
    assert np.allclose(x.permute(1, 2, 0).numpy(), whole, atol=1e-6)
    assert torch.equal(after(x[None]).embedding, student(student.preprocess(image)[None]).embedding)
    seen = after.backbone.pixel_transform(image)
    other = make_network(SPEC, 32, 8, seed=1).backbone.pixel_transform(image)
    assert torch.allclose(after.backbone.pixel_transform.normalize(seen[None])[0], x, atol=1e-6)
    assert not torch.equal(seen, other), "the model's own transform crops"


def test_timm_reads_the_backbone_strictly(folder: Path):
    net = timm.create_model("test_efficientnet", num_classes=0, checkpoint_path=str(folder / "backbone.safetensors"))
    net.load_state_dict(load_file(folder / "backbone.safetensors"), strict=True)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(net.eval()(x), load_network(folder)(x).embedding)


def test_model_json_says_what_is_needed(folder: Path):
    info = json.loads((folder / "model.json").read_text())
    assert info["architecture"] == "test_efficientnet"
    assert info["preprocessing"]["input_size"] == [3, 32, 32]
    assert (info["head"], info["tau"], info["provenance"]) == ({"width": 8, "bias": True}, 3.5, {"role": "student"})


def test_the_same_seed_makes_the_same_head():
    one, two, other = (make_network(SPEC, 32, 8, seed=s).head.weight for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_a_folder_to_start_from_brings_its_head(folder: Path):
    again, other = make_network(str(folder), 32, 8, seed=2), make_network(str(folder), 32, 16, seed=2)
    assert torch.equal(again.head.weight, load_network(folder).head.weight)
    assert again.tau == 3.5
    assert all(p.requires_grad for p in again.parameters())
    assert other.head.out_features == 16


def test_without_a_head(tmp_path: Path):
    save_network(tmp_path, make_network(SPEC, 32, 0, seed=0), {})
    assert not (tmp_path / "head.safetensors").exists()
    assert load_network(tmp_path)(torch.zeros(1, 3, 32, 32)).triplet_logits is None


@pytest.mark.parametrize("head", [0, 8])
def test_odd_one_out_finds_the_different_image(head: int):
    student = make_network(SPEC, 32, head, seed=0).eval()
    same, different = torch.full((3, 3, 32, 32), 0.7), torch.randn(3, 3, 32, 32)
    p = student.odd_one_out(same, different, same)
    assert p.shape == (3, 3)
    assert torch.allclose(p.sum(-1), torch.ones(3))
    if not head:  # an untrained head's dot products do not say; cosines do
        assert (p.argmax(-1) == 1).all()
    assert torch.allclose(student.embed(different, batch=2), student(different).embedding, atol=1e-5)


COMPILED = """
import sys, torch
from alignet_ray.models.embedding_network import make_network
for spec in ("random:test_efficientnet", "random:test_vit"):
    student = make_network(spec, 32, 8, seed=0).eval().requires_grad_(False)
    compiled = torch.compile(student, backend="aot_eager", fullgraph=True)
    x = torch.randn(3, 3, 32, 32)
    for one, two in zip(student(x), compiled(x), strict=True):
        assert torch.allclose(one, two, atol=1e-5)
    assert torch.allclose(compiled.odd_one_out(x, x, x), student.odd_one_out(x, x, x), atol=1e-5)
print("one graph")
"""


def test_a_student_compiles_into_one_graph():
    """In a process of its own, since the checks of types that tests add are no part of the graph."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "one graph", done.stderr[-2000:]


def test_any_backbone_loads_without_a_head():
    model, _ = load(SPEC)
    assert isinstance(model, EmbeddingNetwork)
    assert model(torch.zeros(1, 3, 64, 64)).triplet_logits is None


def test_damaged_folders_are_told(folder: Path, tmp_path: Path):
    (folder / "head.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="head"):
        load_network(folder)
    (folder / "model.json").write_text("{}")
    with pytest.raises(UserError, match="lacks architecture"):
        load_network(folder)
    with pytest.raises(UserError, match=r"model\.json"):
        load_network(tmp_path / "nowhere")
