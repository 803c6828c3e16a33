"""Exports, each read by the program that it is meant for."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from support.transforms import save_transform

from alignet_ray.artifacts.transforms import load_transform
from alignet_ray.cli import main
from alignet_ray.core.affine import AffineTransform
from alignet_ray.models import formats
from alignet_ray.models.embedding_network import make_network, save_network
from alignet_ray.models.hub import load


def student(folder: Path, arch: str, head: int | None = 8, **provenance: object) -> Path:
    folder.mkdir(parents=True)
    save_network(folder, make_network(f"random:{arch}", 64, head, seed=1), dict(provenance))
    return folder


def fails(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["export", *args])
    message = capsys.readouterr().err
    assert stop.value.code == 2, message
    return message


@pytest.mark.parametrize("arch", ["test_efficientnet", "test_vit"])
def test_timm_reads_its_checkpoint(tmp_path: Path, arch: str) -> None:
    """At a size that is not the network's own: a ViT's position embeddings depend on it."""
    folder, out = student(tmp_path / "student", arch), tmp_path / "out"
    main(["export", str(folder), "--to", "timm", str(out)])
    model, _ = load(folder)
    x = torch.randn(2, 3, 64, 64)
    found = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    assert torch.equal(found(x), model.embed(x))
    data = timm.data.resolve_model_data_config(found)
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in data.items()} == model.backbone.data_config
    size = {"img_size": 64} if arch == "test_vit" else {}
    for weights in (out / "model.safetensors", folder / "backbone.safetensors"):
        found = timm.create_model(arch, num_classes=0, checkpoint_path=weights, **size).eval()
        assert torch.equal(found(x), model.embed(x))


@pytest.mark.parametrize("head", [8, None])
def test_onnx_gives_the_same_numbers(tmp_path: Path, head: int | None) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    folder, out = student(tmp_path / "student", "test_vit" if head else "test_efficientnet", head), tmp_path / "out"
    main(["export", str(folder), "--to", "onnx", str(out)])
    session = onnxruntime.InferenceSession(out / "model.onnx")
    model, _ = load(folder)
    for batch in (1, 5):
        x = torch.randn(batch, 3, 64, 64)
        expected = [z for z in model(x) if z is not None]
        found = session.run(None, {"images": x.numpy()})
        assert [o.name for o in session.get_outputs()] == ["embedding", "triplet_logits"][: len(expected)]
        for a, b in zip(expected, found, strict=True):
            np.testing.assert_allclose(a.numpy(), b, atol=1e-4)
    assert formats.difference(model, lambda x: [z + 0.01 for z in session.run(None, {"images": x})]) > 1e-3


def test_the_teachers_transform(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    transform = AffineTransform(0.5, 2.0, rng.normal(size=(4, 4)).astype(np.float32), np.ones(4, np.float32))
    align = tmp_path / "root" / "align" / "abc"
    align.mkdir(parents=True)
    save_transform(align / "transform.npz", transform)
    folder = student(tmp_path / "root" / "distill" / "d", "test_vit", parents={"align": "abc"})
    assert "not under" in fails(capsys, str(folder), "--to", "thingsvision", str(tmp_path / "a"))  # unfinished
    (align / "_SUCCESS").touch()
    for number, spec in enumerate((folder, align)):
        out = tmp_path / f"out{number}"
        main(["export", str(spec), "--to", "thingsvision", str(out)])
        x = rng.normal(size=(3, 4))
        np.testing.assert_array_equal(load_transform(out / "transform.npz")(x), transform(x))
        with np.load(out / "transform.npz") as file:  # gLocal's keys, and nothing pickled
            y = ((x - file["mean"]) / file["std"]) @ file["weights"] + file["bias"]
        np.testing.assert_allclose(y, transform(x), atol=1e-5)
    assert "empty folder" in fails(capsys, str(folder), "--to", "thingsvision", str(out))
    alone = student(tmp_path / "alone", "test_vit")
    assert "which transform" in fails(capsys, str(alone), "--to", "thingsvision", str(tmp_path / "b"))
