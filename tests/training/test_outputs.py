"""A trained network goes into its artifact whole, wherever the artifact lies."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as load_tensors

from alignet_ray.artifacts.distill import DistillArtifact
from alignet_ray.artifacts.student_files import LinearHeadShape, Provenance
from alignet_ray.models.backbone import checksum
from alignet_ray.models.embedding_network import EmbeddingNetwork, load_network, make_network
from alignet_ray.store import Draft, Store
from alignet_ray.training.outputs import write_network

NET = "random:test_efficientnet"
PROVENANCE: Provenance = {"role": "student", "artifact": "s1", "parents": {"cluster": "c1"}}


@pytest.fixture(params=["local", "remote"])
def out(request: pytest.FixtureRequest, store: Store) -> Draft:
    """A draft in a folder, and one in fsspec's memory, which stands for remote storage."""
    if request.param == "local":
        return store.draft("distill", "s1")
    return Store.open("memory://outputs").draft("distill", "s1")


def read_back(out: Draft, folder: Path) -> EmbeddingNetwork:
    for name in out.files():
        (folder / name).write_bytes(out.read_bytes(name))
    return load_network(folder)


def network(head: int | None) -> EmbeddingNetwork:
    return make_network(NET, 32, head, seed=1)


def test_the_written_network_is_the_trained_one(out: Draft, tmp_path: Path) -> None:
    student = network(8)
    assert isinstance(student.head, torch.nn.Linear)
    student.tau = 0.25
    with torch.no_grad():
        student.head.weight.mul_(3)
        for weight in student.backbone.parameters():
            weight.add_(0.01)
    write_network(out, student, PROVENANCE)

    again = read_back(out, tmp_path)
    assert checksum(again) == checksum(student)
    assert again.tau == 0.25
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again(pixels).triplet_logits, student.eval()(pixels).triplet_logits)


def test_the_artifact_holds_the_students_files_and_nothing_else(out: Draft) -> None:
    write_network(out, network(8), PROVENANCE)
    assert out.files(deep=True) == ["backbone.safetensors", "head.safetensors", "model.json"]
    assert load_tensors(out.read_bytes("head.safetensors"))["weight"].shape[0] == 8


def test_model_json_says_where_it_comes_from(out: Draft) -> None:
    write_network(out, network(8), PROVENANCE)
    description = DistillArtifact(out).description()
    assert description.provenance == PROVENANCE
    assert description.model == NET
    assert description.head == LinearHeadShape(8, True)
    assert json.loads(out.read_bytes("model.json"))["format"] == "alignet_ray student 1"


def test_without_a_head_there_is_no_file_of_one(store: Store) -> None:
    out = store.draft("distill", "plain")
    write_network(out, network(None), PROVENANCE)
    assert out.files() == ["backbone.safetensors", "model.json"]
    assert DistillArtifact(out).description().head is None
    assert load_network(DistillArtifact(out).folder()).head is None


def test_a_second_network_replaces_the_first(store: Store) -> None:
    out = store.draft("distill", "twice")
    write_network(out, network(8), PROVENANCE)
    second = network(4)
    write_network(out, second, {"role": "control"})
    again = load_network(DistillArtifact(out).folder())
    assert checksum(again) == checksum(second)
    assert DistillArtifact(out).description().provenance == {"role": "control"}
