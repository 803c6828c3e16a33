"""The command `ask` as a user types it."""

import re
from pathlib import Path

import numpy as np
import pytest
from support.studies import ask as ask_question
from support.studies import begin_study, join

from alignet_ray.ask.folder import StudyFolder
from alignet_ray.ask.study_file import StudyFile
from alignet_ray.cli import main


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A root with the study `pilot`, in which anna has always chosen the first picture."""
    folder, study = begin_study(tmp_path, trials=12)
    anna = join(study, "anna")
    for number in range(15):
        study.answer(anna.person, ask_question(study, anna, 0, 1, 2 + number % 9).token, 0, 900.0)
    study.close()
    assert folder.exists
    return tmp_path


def run(place: Path, capsys: pytest.CaptureFixture[str], *args: str) -> str:
    main(["ask", *args, "--store.root", str(place / "runs")])
    return capsys.readouterr().out


def fails(place: Path, capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["ask", *args, "--store.root", str(place / "runs"), "--port", "0"])
    message = capsys.readouterr().err
    assert stop.value.code == 2, message
    assert len(message.strip().splitlines()) == 1
    return message


def test_personal_links(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = run(place, capsys, "pilot", "--links", "2", "--public-url", "https://lab.example/")
    assert [line.partition("#")[0] for line in said.splitlines()] == [
        "https://lab.example/?participant=p001",
        "https://lab.example/?participant=p002",
    ]


def test_decisions_are_shown_and_can_be_taken_back(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "100% of answers are picture 1" in run(place, capsys, "pilot", "--quality")
    for option, decision, counts in (("--keep", "keep", "yes"), ("--by-rule", "the rule", "no")):
        (row,) = run(place, capsys, "pilot", option, "anna").splitlines()[2:]
        assert row.endswith(decision)
        assert f" {counts} " in row


def test_export(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(place, capsys, "pilot", "--keep", "anna")
    said = run(place, capsys, "pilot", "--export", str(place / "out"))
    assert len(said.splitlines()) == 4
    assert (place / "out" / "responses.csv").read_text().count("\n") == 16


def test_archive(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(place, capsys, "pilot", "--archive", str(place / "pilot.zip"))
    assert (place / "pilot.zip").stat().st_size > 1000


def test_a_simulation_compares_random_and_active_questions(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = np.abs(np.random.default_rng(0).normal(size=(30, 4))).astype(np.float32)
    np.save(place / "truth.npy", truth)
    file = str(place / "truth.npy")
    said = run(place, capsys, "--simulate", file, "--people", "4", "--trials", "50", "--seeds", "1")
    assert "active / random" in said
    assert "ceiling" in said


def test_a_simulation_of_comparisons(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(place / "truth.npy", np.ones((30, 2), np.float32))
    said = run(
        place, capsys, *("--simulate", str(place / "truth.npy"), "--mode", "reference"),
        *("--people", "2", "--trials", "50", "--seeds", "1"),
    )  # fmt: skip
    # All objects are alike: there is nothing to know, and of two one can be guessed.
    assert set(re.findall(r"\d\d\.\d%", said)) == {"50.0%"}


def test_the_form_of_a_study_stays(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--mode differs from what this study was begun with" in fails(place, capsys, "pilot", "--mode", "reference")


def test_withdrawal(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snapshots = StudyFolder(place / "runs" / "ask" / "pilot").snapshots
    (snapshots / "abc").mkdir(parents=True)
    (snapshots / "abc" / "answers.csv").touch()
    assert "15 answers of anna are deleted" in run(place, capsys, "pilot", "--withdraw", "anna")
    assert StudyFile.open(place / "runs" / "ask" / "pilot" / "study.sqlite").answers() == []
    assert not snapshots.exists()
    assert "nobody named 'anna'" in fails(place, capsys, "pilot", "--withdraw", "anna")


@pytest.mark.parametrize(
    ("args", "fix"),
    [
        (("nowhere",), "no study 'nowhere'"),
        (("./nowhere/at/all",), "no study 'all'"),
        (("nowhere", "--quality"), "there are: pilot"),
        (("pilot", "--trials", "50"), "--trials differs"),
        (("pilot", "--keep", "zoe"), "nobody named 'zoe'"),
        (("{place}/other", "--name", "pilot"), "begun with the images of"),
        (("{place}/images", "--name", "new", "--trials", "0"), "--trials 0"),
        (("{place}/images", "--name", "new", "--instructions", "/nowhere.md"), "/nowhere.md"),
        (("{place}/empty", "--name", "new"), "no images under"),
        (("{place}/images", "--name", "a/b"), "a study's name"),
        ((), "name a folder of images, or a study"),
        (("--simulate", "/nowhere.npy"), "/nowhere.npy"),
        (("--simulate", "{place}/truth.npy", "--sample", "99"), "--sample 99"),
        (("--simulate", "{place}/truth.npy", "--people", "0"), "--people 0"),
        (("pilot", "--archive", "/nowhere/pilot.zip"), "cannot write /nowhere/pilot.zip"),
        (("pilot", "--trails", "5"), "did you mean '--trials'"),
    ],
)
def test_mistakes_are_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], fix: str
) -> None:
    for name in ("other", "empty"):
        (place / name).mkdir()
    np.save(place / "truth.npy", np.eye(30, 4, dtype=np.float32))
    assert fix in fails(place, capsys, *(arg.format(place=place) for arg in args))
    assert [folder.name for folder in (place / "runs" / "ask").iterdir()] == ["pilot"]


def test_a_remote_root_needs_a_local_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["ask", "images", "--store.root", "s3://bucket/runs"])
    assert "--state-dir" in capsys.readouterr().err
