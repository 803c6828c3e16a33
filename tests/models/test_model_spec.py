from pathlib import Path

import pytest

from alignet_ray.errors import UserError
from alignet_ray.models.model_spec import ModelKind, ModelSpec, RegisteredName


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """A student's folder inside an artifact of `distill`, where an artifact's own file lies, too."""
    folder = tmp_path / "distill" / "abc"
    folder.mkdir(parents=True)
    for name in ("model.json", "backbone.safetensors", "artifact.json", "_SUCCESS"):
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def embedded(tmp_path: Path) -> Path:
    """An artifact of `embed`, whose model.json describes no student."""
    folder = tmp_path / "embed" / "abc"
    folder.mkdir(parents=True)
    for name in ("model.json", "artifact.json"):
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("name", "kind", "architecture", "file"),
    [
        ("vit_base_patch16_siglip_224.webli", ModelKind.TIMM, "vit_base_patch16_siglip_224.webli", ""),
        ("/nowhere/student", ModelKind.TIMM, "/nowhere/student", ""),
        ("resnet18@~/weights@2.pth", ModelKind.CHECKPOINT, "resnet18", "~/weights@2.pth"),
        ("resnet18@weights.safetensors", ModelKind.CHECKPOINT, "resnet18", "weights.safetensors"),
        ("pip:efficientnet-lite0", ModelKind.PACKAGE, "", ""),
        ("random:test_vit", ModelKind.RANDOM, "test_vit", ""),
        ("models:/student@champion", ModelKind.REGISTERED, "", ""),
        ("embed/0123abcd", ModelKind.STORED, "", ""),
        ("features.npy", ModelKind.STORED, "", ""),
    ],
)
def test_kinds_of_names_are_told_apart(name: str, kind: ModelKind, architecture: str, file: str) -> None:
    assert ModelSpec.parse(name) == ModelSpec(name, kind, architecture, file)


def test_folders_are_told_apart_by_what_lies_in_them(student: Path, embedded: Path) -> None:
    assert ModelSpec.parse(str(student)).kind is ModelKind.STUDENT
    assert ModelSpec.parse(str(embedded)).kind is ModelKind.STORED


@pytest.mark.parametrize(
    ("name", "identity", "label"),
    [
        ("resnet18.a1_in1k", "resnet18.a1_in1k", "resnet18.a1_in1k"),
        ("resnet18@/data/weights@2.pth", "resnet18@weights@2.pth", "resnet18@/data/weights@2.pth"),
        ("random:test_vit", "random:test_vit", "random:test_vit"),
        ("models:/student/3", "models:/student/3", "models:/student/3"),
        ("embed/0123abcd", "embed/0123abcd", "embed/0123abcd"),
        ("/data/features.npy", "/data/features.npy", "features.npy"),
    ],
)
def test_names_in_ids_and_in_tables(name: str, identity: str, label: str) -> None:
    spec = ModelSpec.parse(name)
    assert (spec.identity, spec.label) == (identity, label)


def test_files_that_can_change_under_the_same_name_are_listed(student: Path, embedded: Path) -> None:
    assert ModelSpec.parse("resnet18@~/weights.pth").local_files == ["~/weights.pth"]
    students = [f"{student}/{name}" for name in ("artifact.json", "backbone.safetensors", "model.json")]
    assert ModelSpec.parse(str(student)).local_files == students
    assert ModelSpec.parse(str(embedded)).local_files == [f"{embedded}/artifact.json"]
    for name in ("resnet18.a1_in1k", "random:test_vit", "pip:efficientnet-lite0", "models:/s@champion", "embed/abc"):
        assert ModelSpec.parse(name).local_files == []


def test_students_alone_may_have_a_head(student: Path) -> None:
    assert all(ModelSpec.parse(name).may_have_head for name in (str(student), "models:/student@champion"))
    assert not any(ModelSpec.parse(name).may_have_head for name in ("resnet18", "resnet18@x.pth", "embed/abc"))


def test_a_registered_name_has_an_alias_or_a_version() -> None:
    assert ModelSpec.parse("models:/student@champion").registered == RegisteredName("student", alias="champion")
    assert ModelSpec.parse("models:/student/3").registered == RegisteredName("student", version="3")
    for name in ("models:/student", "models:/student@", "models:/@champion", "models:/"):
        with pytest.raises(UserError, match="a registered model is models:/NAME@ALIAS or models:/NAME/VERSION"):
            _ = ModelSpec.parse(name).registered
