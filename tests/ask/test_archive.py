"""The archive of a study: all that was answered, and nothing of who it was."""

import io
import json
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.studies import ask, make_study

from alignet_ray.ask.archive import archive
from alignet_ray.ask.study_file import StudyFile
from alignet_ray.errors import UserError


def answered(folder: Path) -> StudyFile:
    study = make_study(folder, trials=5, text="# Hello", code="SECRET-CODE")
    for number, name in enumerate(("anna-5f3a", "ben-77b1", "carl-0c0c")):
        person, _ = study.add_person(name, {"SESSION_ID": "session-99"})
        for place in range(4):
            trial = ask(study, person, place, place + 1, place + 2)
            study.answer(person.person, trial.token, number, 600.0 + place)
    return study


def test_an_archive_has_every_answer_and_nobodys_name(tmp_path: Path) -> None:
    study = answered(tmp_path)
    archive(study, tmp_path / "pilot.zip")
    with zipfile.ZipFile(tmp_path / "pilot.zip") as found:
        contents = {name: found.read(name) for name in found.namelist()}
    assert set(contents) == {"study.json", "instructions.md", "objects.csv", "answers.parquet"}
    table = pq.read_table(io.BytesIO(contents["answers.parquet"]))
    assert table.num_rows == 12
    assert set(table["participant"].to_pylist()) == {"1", "2", "3"}
    assert table["rt"].to_pylist()[:4] == [600.0, 601.0, 602.0, 603.0]
    assert not {"number", "at", "repeats"} & set(table.column_names)
    assert json.loads(contents["study.json"])["trials"] == 5
    assert contents["instructions.md"] == b"# Hello"

    everything = b"".join(contents.values()) + str(table.to_pylist()).encode()
    telling = [b"anna", b"5f3a", b"ben-", b"carl", b"session-99", b"SECRET-CODE", study.secret.hex().encode()]
    assert [word for word in telling if word in everything] == []


def test_numbers_of_participants_are_in_random_order(tmp_path: Path) -> None:
    study = answered(tmp_path)
    orders = set()
    for seed in range(8):
        archive(study, tmp_path / "pilot.zip", seed)
        with zipfile.ZipFile(tmp_path / "pilot.zip") as found:
            table = pq.read_table(io.BytesIO(found.read("answers.parquet")))
        # Each person chose another position.
        orders.add(tuple(table["choice"].to_pylist()[::4]))
    assert len(orders) > 1


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        archive(answered(tmp_path), tmp_path / "nowhere" / "pilot.zip")
