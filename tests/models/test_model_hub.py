"""A student's folder for a model hub, and the way there and back through a hub on loopback."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import timm
import torch
import yaml

import alignet_ray
from alignet_ray.artifacts.evaluate import EvaluateArtifact, EvaluateFacts
from alignet_ray.cli import main
from alignet_ray.core.scores import Score
from alignet_ray.errors import UserError
from alignet_ray.models import model_hub
from alignet_ray.models.backbone import check_model
from alignet_ray.models.embedding_network import make_network, save_network
from alignet_ray.models.hub import load
from alignet_ray.store import Manifest, Recipe, Store
from tests.support.hub_server import Hub, running_hub


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """A student under a root, and the evaluation of its run."""
    store = Store.open(str(tmp_path / "runs"))
    draft = store.draft("distill", "abc")
    folder = Path(draft.uri)
    save_network(folder, make_network("random:test_vit", 64, 8, seed=1), {"artifact": "abc", "role": "student"})

    evaluated = store.draft("evaluate", "def")
    rows = [
        Score("base", "pre_logits", "objects", "odd_one_out", 0.4, 0.38, 0.42, 100),
        Score("student", "pre_logits", "objects", "odd_one_out", 0.4642, 0.44, 0.489, 100),
        Score("student", "head", "objects", "odd_one_out", 0.511, 0.483, 0.541, 100),
    ]
    EvaluateArtifact(evaluated).write_scores(rows)
    facts = EvaluateFacts(["a line of the table"], 20, "cannot tell", [], {})
    manifest = Manifest(
        node="evaluate",
        recipe=Recipe(parents={"distill@student": "abc"}),
        facts=vars(facts),
        config={"human": {"embedding": "/home/me/vice.npy"}},
    )
    evaluated.finish(manifest.to_json())
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with running_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def test_the_folder_is_a_whole_student_and_timms_own(student: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(["export", str(student), "--to", "hub", str(out)])
    names = {"model.safetensors", "config.json", "head.safetensors", "model.json", "README.md"}
    assert {file.name for file in out.iterdir()} == names
    assert all(stat.S_IMODE(file.stat().st_mode) & 0o044 == 0o044 for file in out.iterdir())

    images = torch.randn(2, 3, 64, 64)
    expected = load(student, device="cpu")(images)
    found = load(out, device="cpu")(images)
    assert torch.equal(found.triplet_logits, expected.triplet_logits)
    backbone = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    assert torch.equal(backbone(images), expected.embedding)
    # Exported once more it stays what it is.
    again = tmp_path / "again"
    main(["export", str(out), "--to", "hub", str(again)])
    assert torch.equal(load(again, device="cpu")(images).triplet_logits, expected.triplet_logits)


def test_the_card_has_metadata_scores_and_whose_judgements(student: Path, tmp_path: Path) -> None:
    model_hub.write_folder(str(student), tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    _, header, body = text.split("---\n", 2)
    metadata = yaml.safe_load(header)
    assert metadata["library_name"] == "timm"
    metrics = [metric for result in metadata["model-index"][0]["results"] for metric in result["metrics"]]
    assert [metric["value"] for metric in metrics] == [46.4, 51.1]
    assert metrics[0]["name"] == "agreement with people, %, pre_logits [44.0, 48.9]"
    assert "a line of the table" in body
    assert "published embedding vice.npy" in body
    assert "/home/me" not in text
    assert str(tmp_path) not in text + (tmp_path / "out" / "model.json").read_text()

    # Without the run's root nothing is claimed.
    model_hub.write_folder(str(tmp_path / "out"), tmp_path / "away")
    assert "Not scored" in (tmp_path / "away" / "README.md").read_text()


def test_there_and_back_through_a_hub(student: Path, hub: Hub, tmp_path: Path) -> None:
    model = alignet_ray.load(str(student), device="cpu")
    name = model.push_to_hub("me/aligned")
    assert name == "hf://me/aligned"
    assert hub.tokens == {"hf_secret"}
    assert hub.private == {"me/aligned"}
    assert set(hub.repositories["me/aligned"]) >= {"model.safetensors", "head.safetensors", "model.json", "README.md"}

    # Nothing but the student's own files comes back.
    hub.repositories["me/aligned"]["evil.py"] = b"print('never run')"
    images = torch.randn(2, 3, 64, 64)
    found = alignet_ray.load(name, device="cpu")
    assert torch.equal(found(images).triplet_logits, model(images).triplet_logits)
    assert not list((tmp_path / "cache").rglob("evil.py"))
    main(["export", name, "--to", "timm", str(tmp_path / "timm")])
    assert json.loads((tmp_path / "timm" / "config.json").read_text())["architecture"] == "test_vit"


def test_mistakes_are_told_in_one_line(
    student: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"hf://me/nothing cannot be fetched") as caught:
        load("hf://me/nothing")
    assert "\n" not in str(caught.value)
    hub.repositories["me/other"] = {"README.md": b"# something else"}
    with pytest.raises(UserError, match=r"is not a student of alignet_ray: it holds no model\.json"):
        load("hf://me/other")
    with pytest.raises(UserError, match="--to timm writes it"):
        model_hub.write_folder("random:test_vit", tmp_path / "out")
    with pytest.raises(UserError, match="a hub's model cannot be used here"):
        check_model("hf://me/aligned")

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for call in (lambda: load("hf://me/aligned"), lambda: load(student).push_to_hub("me/aligned")):
        with pytest.raises(UserError, match="cannot be") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_scores_of_other_runs_are_not_taken(student: Path, tmp_path: Path) -> None:
    evaluated = Store.open(str(tmp_path / "runs")).draft("evaluate", "zzz")
    evaluated.write_table("scores.parquet", pa.table({"model": ["x"]}))
    evaluated.finish(Manifest(recipe=Recipe(parents={"distill@student": "other"})).to_json())
    model_hub.write_folder(str(student), tmp_path / "out")
    assert "46.4" in (tmp_path / "out" / "README.md").read_text()
