"""A student's model.json comes back as it was written, whichever head it has, and says what it lacks."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from alignet_ray.artifacts.student_files import (
    MODEL_FILE,
    REQUIRED,
    DataConfig,
    HeadShape,
    KernelHeadShape,
    LinearHeadShape,
    StudentDescription,
)
from alignet_ray.errors import UserError

PREPROCESSING: DataConfig = {
    "input_size": [3, 32, 32],
    "interpolation": "bicubic",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "crop_pct": 0.9,
    "crop_mode": "center",
}
STUDENT = StudentDescription(
    model="vit_tiny.augreg",
    architecture="vit_tiny",
    checksum="abc",
    preprocessing=PREPROCESSING,
    width=192,
    size=32,
    layer="pre_logits",
    head=LinearHeadShape(16, True),
    tau=0.5,
    provenance={"role": "student", "artifact": "d1", "parents": {"label@aligned": "l1"}},
)
HEADS = [
    LinearHeadShape(16, False),
    KernelHeadShape(5, 100, 8, True, 13),
    KernelHeadShape(5, 100, None, False, 5),
    None,
]


def write(folder: Path, content: object) -> Path:
    (folder / MODEL_FILE).write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize("head", HEADS)
def test_a_description_comes_back_from_its_file(tmp_path: Path, head: HeadShape | None) -> None:
    student = replace(STUDENT, head=head)
    assert StudentDescription.read(write(tmp_path, student.to_json())) == student


def test_names_are_utf8_whatever_the_locale_says(tmp_path: Path) -> None:
    student = replace(STUDENT, model="größe@Straße.pth")
    (tmp_path / MODEL_FILE).write_bytes(json.dumps(student.to_json(), ensure_ascii=False).encode())
    assert StudentDescription.read(tmp_path).model == "größe@Straße.pth"


def test_the_format_comes_first_and_all_else_is_plain_json() -> None:
    stored = STUDENT.to_json()
    assert next(iter(stored.items())) == ("format", "alignet_ray student 1")
    assert json.loads(json.dumps(stored)) == stored
    assert stored["head"] == {"width": 16, "bias": True}


def test_a_student_loads_by_what_is_required_alone() -> None:
    stored = {key: value for key, value in STUDENT.to_json().items() if key in REQUIRED}
    found = StudentDescription.from_json(stored)
    assert (found.architecture, found.preprocessing, found.head, found.tau) == (
        "vit_tiny",
        PREPROCESSING,
        LinearHeadShape(16, True),
        0.5,
    )
    assert (found.model, found.checksum, found.width, found.size, found.layer) == ("", "", 0, 0, "")
    assert found.provenance == {}


def test_keys_of_later_versions_are_ignored() -> None:
    assert StudentDescription.from_json(STUDENT.to_json() | {"licence": "MIT"}) == STUDENT


def test_kernel_heads_of_before_had_human_dimensions_alone() -> None:
    stored = STUDENT.to_json() | {"head": {"neighbours": 100, "rank": None, "width": 7}}
    assert StudentDescription.from_json(stored).head == KernelHeadShape(7, 100, None, False, 7)


@pytest.mark.parametrize("head", [None, {}])
def test_an_empty_head_is_none(head: object) -> None:
    assert StudentDescription.from_json(STUDENT.to_json() | {"head": head}).head is None


@pytest.mark.parametrize(
    "head",
    [{"bias": True}, {"neighbours": 3}, "x", [1], 5, {"width": "wide", "bias": True}],
)
def test_a_head_that_is_none_is_refused(head: object) -> None:
    with pytest.raises(UserError, match=r"^model\.json: .* describes no head: not written by `distill`$"):
        StudentDescription.from_json(STUDENT.to_json() | {"head": head})


@pytest.mark.parametrize("content", [b"null", b"5", b"[]", b'"text"', b"[" * 100_000])
def test_json_that_is_no_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MODEL_FILE).write_bytes(content)
    with pytest.raises(UserError, match=r"not written by `distill`|cannot be read") as refused:
        StudentDescription.read(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_named_with_its_file(tmp_path: Path, key: str) -> None:
    stored = STUDENT.to_json()
    del stored[key]
    with pytest.raises(UserError, match=rf"model\.json lacks {key}: not written by `distill`$") as refused:
        StudentDescription.read(write(tmp_path, stored))
    assert str(refused.value).startswith(str(tmp_path / MODEL_FILE))


def test_all_missing_keys_are_named_at_once() -> None:
    with pytest.raises(UserError, match=r"^model\.json lacks architecture, preprocessing, head, tau: "):
        StudentDescription.from_json({})


@pytest.mark.parametrize("content", [b"", b"{", b"not json", b'{"tau": 1}}', b"\xff\xfe{}", b"\x00"])
def test_a_file_that_is_not_json_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MODEL_FILE).write_bytes(content)
    with pytest.raises(UserError, match=r"is not a student's folder: model\.json cannot be read") as refused:
        StudentDescription.read(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_folder_without_the_file_or_with_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^.*nowhere is not a student's folder: model\.json cannot be read"):
        StudentDescription.read(tmp_path / "nowhere")
    (tmp_path / MODEL_FILE).mkdir()
    with pytest.raises(UserError, match="is not a student's folder"):
        StudentDescription.read(tmp_path)


def test_a_student_is_described_without_pyarrow() -> None:
    """A student's folder is loaded where the pipeline's packages are not installed."""
    code = (
        "import sys, alignet_ray.artifacts.student_files\n"
        "print([name for name in ('pyarrow', 'torch', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
