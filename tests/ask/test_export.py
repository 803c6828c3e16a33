"""Answers as files: what other programs and our own reader find in them, and snapshots that do not move."""

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.studies import ask, join, make_study

from alignet_ray.ask.dealer import Dealer
from alignet_ray.ask.export import ANSWER_SCHEMA, export, people_left_out, snapshot
from alignet_ray.ask.folder import StudyFolder
from alignet_ray.ask.study_file import StudyFile
from alignet_ray.errors import UserError
from alignet_ray.human import answers
from alignet_ray.human.comparisons import read_table
from alignet_ray.human.objects import read_concepts
from alignet_ray.human.responses import read_responses
from alignet_ray.human.triplets import read_triplets


def study_with_answers(folder: Path) -> StudyFile:
    """Two careful people and a careless one; two images of every object."""
    study = make_study(folder, objects=20, per_object=2, trials=24, catch=0.1, repeats=0.2)
    dealer = Dealer(study, seed=0)
    rng = np.random.default_rng(0)
    for name in ("anna", "ben", "carl"):
        person = join(study, name)
        while waiting := dealer.ahead(person.person):
            trial = waiting[0]
            choice = int(rng.integers(3))
            if trial.kind == "repeat":
                before = next(one for one in study.answers() if one.trial == trial.repeats)
                choice = trial.images.index(before.images[before.choice])
            if trial.expected is not None:
                choice = trial.expected
            if name == "carl":
                choice = 0
            study.answer(person.person, trial.token, choice, 700.0 + choice)
    return study


def test_our_own_reader_reads_an_export(tmp_path: Path) -> None:
    study = study_with_answers(tmp_path)
    files = {file.name: file for file in export(study, tmp_path / "out")}
    read = read_responses(str(files["responses.csv"]))
    counted = [one for one in study.answers() if one.kind == "random" and one.person != 3]
    object_of = [image.object for image in study.images()]
    assert read.base == 1
    assert read.table["participant"].to_pylist() == ["anna" if one.person == 1 else "ben" for one in counted]
    assert read.table["rt"].to_pylist() == [one.rt for one in counted]

    # The odd one last, counted from 0.
    rows = read_triplets(str(files["responses.csv"]), objects=20)
    assert rows[:, 2].tolist() == [object_of[one.images[one.choice]] for one in counted]
    shown = [sorted(object_of[image] for image in one.images) for one in counted]
    assert np.sort(rows, axis=1).tolist() == shown
    assert files["objects.csv"].read_text().splitlines()[:3] == ["path,object", "class0/0.jpg,0", "class0/1.jpg,0"]
    assert [concept.name for concept in read_concepts(str(files["concepts.csv"]))] == study.objects()


def test_parquet_has_every_answer(tmp_path: Path) -> None:
    study = study_with_answers(tmp_path)
    export(study, tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "answers.parquet")
    assert table.schema == ANSWER_SCHEMA
    rows = table.to_pylist()
    answers = study.answers()
    assert [row["number"] for row in rows] == [one.number for one in answers]
    for row, one in zip(rows, answers, strict=True):
        assert row["choice"] == one.choice + 1
        assert row["kind"] == one.kind
        assert row["path2"] == study.images()[one.images[1]].path
        assert (row["expected"] is None) == (one.kind != "catch")
        assert row["counts"] == (one.kind == "random" and row["participant"] != "carl")
    repeats = [row for row in rows if row["kind"] == "repeat"]
    assert repeats
    for row in repeats:
        source = rows[row["repeats"] - 1]
        assert {row["path1"], row["path2"], row["path3"]} == {source["path1"], source["path2"], source["path3"]}


def test_a_snapshot_does_not_move_while_people_answer(tmp_path: Path) -> None:
    study = study_with_answers(tmp_path)
    folder = StudyFolder(tmp_path / "pilot")
    first = snapshot(study, folder)
    text = first.responses.read_text()
    assert first.rows == len(text.splitlines()) - 1
    assert "anna" not in text
    assert snapshot(study, folder) == first  # the same answers, the same files

    # What an artifact's id is made of is the same wherever and whenever the files are written.
    again = snapshot(study, folder, tmp_path / "elsewhere")
    assert again.responses.name == first.responses.name
    for path, other in zip(first[:3], again[:3], strict=True):
        assert path.stat().st_mtime_ns == other.stat().st_mtime_ns
        assert path.stat().st_size == other.stat().st_size

    dora = join(study, "dora")
    study.answer(dora.person, ask(study, dora, 0, 5, 9).token, 2, None)
    later = snapshot(study, folder)
    assert later.responses != first.responses
    assert later.rows == first.rows + 1
    assert first.responses.read_text() == text

    # Without dora the answers are the first ones, and so is the name.
    study.withdraw(dora.person)
    assert snapshot(study, folder) == first


def test_a_snapshot_follows_the_researchers_decisions(tmp_path: Path) -> None:
    study = study_with_answers(tmp_path)
    folder = StudyFolder(tmp_path / "pilot")
    before = snapshot(study, folder)
    assert people_left_out(study)[0].startswith("carl: 24 answers left out (")
    study.decide(3, "keep")
    assert people_left_out(study) == []
    assert snapshot(study, folder).rows > before.rows
    study.decide(3, "leave out")
    assert people_left_out(study) == ["carl: 24 answers left out (your decision)"]
    assert snapshot(study, folder) == before


def test_nothing_to_read_is_one_line(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    with pytest.raises(UserError, match="none of the 0 answers of the study 'pilot' counts"):
        snapshot(study, StudyFolder(tmp_path / "pilot"))
    assert not (tmp_path / "pilot").exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot write to"):
        export(study, tmp_path / "closed" / "out")


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="cannot write to"):
        export(study, tmp_path / "out")


def comparisons_with_answers(folder: Path) -> StudyFile:
    """Two people who find objects of the same half more alike; two images of every object."""
    study = make_study(folder, objects=20, per_object=2, trials=30, catch=0.1, repeats=0.1, mode="reference")
    dealer = Dealer(study, seed=0)
    for name in ("anna", "ben"):
        person = join(study, name)
        while waiting := dealer.ahead(person.person):
            trial = waiting[0]
            near = [image < 20 for image in trial.images]
            choice = trial.expected or 1 + int(near[2] == near[0])
            study.answer(person.person, trial.token, choice, 700.0 + choice)
    return study


def test_comparisons_are_read_as_they_were_answered(tmp_path: Path) -> None:
    study = comparisons_with_answers(tmp_path)
    files = {file.name: file for file in export(study, tmp_path / "out")}
    assert sorted(files) == ["answers.parquet", "comparisons.csv", "concepts.csv", "objects.csv"]
    asked = [one for one in study.answers() if one.kind == "random"]
    object_of = [image.object for image in study.images()]
    lines = files["comparisons.csv"].read_text().splitlines()
    assert lines[0] == "reference,a,b,choice,participant,rt"
    first = [object_of[image] for image in asked[0].images]
    assert lines[1] == f"{first[0]},{first[1]},{first[2]},{asked[0].choice},anna,{asked[0].rt}"

    table = read_table(str(files["comparisons.csv"]))
    assert table.rows.tolist() == [[object_of[image] for image in one.images] for one in asked]
    assert table.votes.tolist() == [[float(one.choice == 1), float(one.choice == 2)] for one in asked]
    assert table.participants == ["anna" if one.person == 1 else "ben" for one in asked]
    assert table.unread_times == ""


def test_objects_of_comparisons_are_counted_from_0_even_if_the_first_was_not_shown(tmp_path: Path) -> None:
    study = make_study(tmp_path, 5, mode="reference")
    anna = join(study)
    study.answer(anna.person, ask(study, anna, 4, 1, 2).token, 2, None)
    found = snapshot(study, StudyFolder(tmp_path / "pilot"))
    assert found.responses.read_text() == "reference,a,b,choice\n4,1,2,2\n"
    read = answers.read(answers.AnswerFiles(comparisons=str(found.responses)), None, count=5)
    assert read.comparisons.rows.tolist() == [[4, 1, 2]]
    assert read.comparisons.votes.tolist() == [[0, 1]]


def test_parquet_names_the_chosen_candidate(tmp_path: Path) -> None:
    study = comparisons_with_answers(tmp_path)
    export(study, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "answers.parquet").to_pylist()
    assert {row["mode"] for row in rows} == {"reference"}
    for row, one in zip(rows, study.answers(), strict=True):
        assert row[f"path{row['choice']}"] == study.images()[one.images[one.choice]].path
    catches = [row for row in rows if row["kind"] == "catch"]
    assert catches
    assert [row[f"path{row['expected']}"] for row in catches] == [row["path1"] for row in catches]
