import os
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch

from alignet_ray.errors import UserError
from alignet_ray.models.embedding_network import load_network, make_network, save_network
from alignet_ray.models.hub import fetch, identity, load, locate

BACKBONE = "random:test_efficientnet"


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student's folder, with a head of 8 outputs."""
    folder = tmp_path_factory.mktemp("student")
    save_network(folder, make_network(BACKBONE, 32, 8, seed=1), {})
    return folder


@pytest.fixture(scope="module")
def server(student: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a registry: version 1 of models:/s is a student and the champion, version 2 is no student."""
    root = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{root}/mlflow.db"
    client = mlflow.MlflowClient(tracking_uri=uri)
    client.create_registered_model("s")
    client.create_model_version("s", student.as_uri())

    other = root / "other"
    other.mkdir()
    (other / "MLmodel").write_text("flavors: {}\n")
    client.create_model_version("s", other.as_uri())
    client.set_registered_model_alias("s", "champion", "1")
    return uri


def test_a_students_folder_loads_by_path_and_by_text(student: Path) -> None:
    images = torch.randn(2, 3, 32, 32)
    expected = load_network(student)(images)

    for name in (student, str(student)):
        model = load(name, device="cpu")
        assert model.name == str(student)
        assert torch.equal(model(images).triplet_logits, expected.triplet_logits)
        assert torch.equal(model(images).embedding, expected.embedding)
        assert not model.network.training
        assert not any(parameter.requires_grad for parameter in model.network.parameters())


@pytest.mark.parametrize("name", [None, 5, ["runs/distill/abc"], b"random:test_vit"])
def test_what_is_no_name_is_not_looked_up(name: Any, untyped_caller: None) -> None:
    with pytest.raises(UserError, match=r"is no name of a model: give a student's folder, models:/NAME@ALIAS"):
        load(name)


def test_a_backbone_loads_without_a_head() -> None:
    model = load(BACKBONE, device="cpu")
    assert model.network.head is None
    assert model.layer == "pre_logits"


def test_a_model_runs_on_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # "meta" stands for the GPU: a device that is not the CPU and that every machine has.
    monkeypatch.setattr("alignet_ray.models.backbone.default_device", lambda: "meta")
    assert load(BACKBONE).device == "meta"
    assert load(BACKBONE, device="cpu").device == "cpu"


def test_only_names_of_students_have_a_folder(student: Path, server: str) -> None:
    assert locate(student) == student
    assert locate(BACKBONE) is None

    fetched = locate("models:/s@champion", server)
    assert fetched is not None
    assert (fetched / "model.json").read_bytes() == (student / "model.json").read_bytes()


def test_a_registered_student_is_the_student_of_the_folder(student: Path, server: str) -> None:
    images = torch.randn(2, 3, 32, 32)
    expected = load(student, device="cpu")(images)

    for name in ("models:/s@champion", "models:/s/1"):
        registered = load(name, device="cpu", tracking_uri=server)(images)
        assert torch.equal(registered.triplet_logits, expected.triplet_logits)


def test_without_a_server_the_registry_is_the_one_under_the_root(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = Path(server.removeprefix("sqlite:///")).parent
    assert load("models:/s/1", root=str(root)).network.head.out_features == 8
    with pytest.raises(UserError, match="no model registry"):
        load("models:/s/1", root=str(tmp_path))


def test_a_version_without_a_student_is_refused(server: str) -> None:
    with pytest.raises(UserError, match=r"models:/s/2 is not a student .* holds no model\.json"):
        fetch("models:/s/2", server)


@pytest.mark.parametrize("name", ["models:/s@nobody", "models:/s/3", "models:/nothing@champion"])
def test_what_the_registry_does_not_know_is_refused_with_its_address(name: str, server: str) -> None:
    for ask in (fetch, identity):
        with pytest.raises(UserError) as refusal:
            ask(name, server)
        assert f"{name} is not in the registry at {server}" in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_an_alias_has_the_identity_of_the_version_that_it_means_now(server: str) -> None:
    client = mlflow.MlflowClient(tracking_uri=server)
    client.set_registered_model_alias("s", "newest", "1")
    first = identity("models:/s@newest", server)
    assert first == identity("models:/s/1", server)
    assert first.startswith("models:/s/1 of ")

    client.set_registered_model_alias("s", "newest", "2")
    assert identity("models:/s@newest", server) == identity("models:/s/2", server) != first


def test_a_registered_name_without_alias_and_version_is_refused(server: str) -> None:
    for ask in (fetch, identity):
        with pytest.raises(UserError, match="NAME@ALIAS"):
            ask("models:/s", server)


@pytest.mark.parametrize("name", ["models:/s@champion", "models:/s@nobody"])
def test_fetching_leaves_mlflows_server_as_it_was(
    name: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = f"sqlite:///{tmp_path}/before.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", before)
    try:
        fetch(name, server)
    except UserError:
        assert name == "models:/s@nobody"
    assert mlflow.get_tracking_uri() == before
    assert os.environ["MLFLOW_TRACKING_URI"] == before
    mlflow.set_tracking_uri(None)


def test_a_registered_model_without_mlflow_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    for ask in (fetch, identity):
        with pytest.raises(UserError, match="pip install mlflow"):
            ask("models:/s@champion", None)


@pytest.mark.parametrize("device", ["cuda:99", "nope", "meta", ""])
def test_a_device_that_is_not_there_is_refused_before_the_model_is_read(device: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be used .*: take 'cpu', or None") as caught:
        load(tmp_path / "nothing", device=device)
    assert "\n" not in str(caught.value)


def test_an_empty_name_is_no_model() -> None:
    for ask in (load, locate):
        with pytest.raises(UserError, match="the path of a model is empty"):
            ask("")
