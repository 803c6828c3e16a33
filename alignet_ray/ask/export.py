"""Answers as files: tables that a run reads, Parquet, and snapshots that do not move while people go on answering."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from alignet_ray.ask.folder import StudyFolder
from alignet_ray.ask.forms import FORMS
from alignet_ray.ask.quality import counted, review
from alignet_ray.ask.study_file import Answer, Mode, StudyFile
from alignet_ray.data.files import replacing
from alignet_ray.errors import UserError
from alignet_ray.store import digest

RESPONSES: dict[Mode, str] = {"odd": "responses.csv", "reference": "comparisons.csv"}
ANSWERS = "answers.parquet"
OBJECTS = "objects.csv"
CONCEPTS = "concepts.csv"
"""Files of an export."""

ANSWER_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("participant", pa.string()),
        ("place", pa.int32()),
        ("mode", pa.string()),
        ("kind", pa.string()),
        ("object1", pa.int64()),
        ("object2", pa.int64()),
        ("object3", pa.int64()),
        ("path1", pa.string()),
        ("path2", pa.string()),
        ("path3", pa.string()),
        ("choice", pa.int8()),
        ("expected", pa.int8()),
        ("repeats", pa.int64()),
        ("rt", pa.float64()),
        ("at", pa.timestamp("ms", tz="UTC")),
        ("counts", pa.bool_()),
    ]
)
"""Every answer, catch trials and repeats included: objects from 0; `choice` and `expected` number the columns, so that
choice 2 is object2 (object1 is the reference, where there is one); `repeats` the number of the answer that this one
repeats, `counts` whether the answer says something about the images and its person is not left out."""


class Snapshot(NamedTuple):
    """Answers as a run reads them.

    Attributes:
        responses: file in THINGS' csv layout, or of reference comparisons.
        objects: table of the images of every object.
        concepts: names of the objects.
        rows: number of answers.
    """

    responses: Path
    objects: Path
    concepts: Path
    rows: int

    @property
    def name(self) -> str:
        """Hash of what is in the files."""
        return self.responses.parent.name


def export(study: StudyFile, folder: Path) -> list[Path]:
    """Write all files of an export; returns them.

    Raises:
        UserError: the folder cannot be written.
    """
    answers = study.answers()
    people = study.people()
    names = {person.person: person.name for person in people}
    kept = counted(people, answers)
    object_of = study.object_of()
    mode = study.settings.mode

    # What a run reads holds the answers that count; the table of all answers says which ones those are.
    texts = {
        RESPONSES[mode]: responses_text(kept, mode, object_of, names),
        OBJECTS: objects_text(study),
        CONCEPTS: concepts_text(study),
    }

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            with replacing(folder / name) as draft:
                draft.write_text(text, encoding="utf-8")
        with replacing(folder / ANSWERS) as draft:
            pq.write_table(answer_table(study, answers), draft)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    return [folder / name for name in (*texts, ANSWERS)]


def responses_text(
    answers: Sequence[Answer], mode: Mode, object_of: Mapping[int, int], names: Mapping[int, str] | None = None
) -> str:
    """Answers as a run reads them: THINGS' csv layout, or one reference comparison a row.

    THINGS' layout counts objects from 1. The layout of comparisons leaves open what objects count from; from 0, its
    reader cannot take them for anything else. The choice is the number that people saw, from 1.

    Args:
        answers: answers of one form.
        mode: their form.
        object_of: image -> object.
        names: person -> participant; None leaves people and times out.
    """
    # Who answered, and how fast, has other names in THINGS' layout than in ours.
    if mode == "odd":
        columns = ["image1", "image2", "image3", "choice"]
        about_people = ["subject_id", "rt"]
        base = 1
    else:
        columns = ["reference", "a", "b", "choice"]
        about_people = ["participant", "rt"]
        base = 0
    if names is not None:
        columns += about_people

    rows: list[list[object]] = []
    for answer in answers:
        row: list[object] = [object_of[image] + base for image in answer.images]
        row.append(FORMS[mode].label(answer.choice))
        if names is not None:
            row += [names[answer.person], _time(answer.rt)]
        rows.append(row)
    return _csv(columns, rows)


def _time(rt: float | None) -> str:
    if rt is None:
        return ""
    return f"{rt:.1f}"


def objects_text(study: StudyFile) -> str:
    """Which image shows which object, as `objects.table` is read."""
    return _csv(["path", "object"], [[image.path, image.object] for image in study.images()])


def concepts_text(study: StudyFile) -> str:
    """Names of the objects, as `objects.concepts` is read."""
    return _csv(["name"], [[name] for name in study.objects()])


def _csv(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()


def answer_table(study: StudyFile, answers: Sequence[Answer]) -> pa.Table:
    """All answers with everything that is known about them, schema ANSWER_SCHEMA."""
    people = study.people()
    names = {person.person: person.name for person in people}
    counting = {answer.number for answer in counted(people, answers)}
    images = {image.image: image for image in study.images()}
    # A repeat is stored with the trial that it repeats; people who read the table know answers by number alone.
    number_of = {answer.trial: answer.number for answer in answers}

    rows = []
    for answer in answers:
        row = {
            "number": answer.number,
            "participant": names[answer.person],
            "place": answer.place,
            "mode": answer.mode,
            "kind": answer.kind,
            "choice": answer.choice + 1,
            "expected": _from_one(answer.expected),
            "repeats": number_of.get(answer.repeats or 0),
            "rt": answer.rt,
            "at": round(1000 * answer.at),
            "counts": answer.number in counting,
        }

        # The objects in the order in which the person saw them, to which `choice` refers.
        for position, image in enumerate(answer.images, start=1):
            row[f"object{position}"] = images[image].object
            row[f"path{position}"] = images[image].path
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=ANSWER_SCHEMA)


def _from_one(position: int | None) -> int | None:
    if position is None:
        return None
    return position + 1


def snapshot(study: StudyFile, folder: StudyFolder, place: Path | None = None) -> Snapshot:
    """The answers of now, as files whose name is a hash of what is in them; the same answers give the same files.

    The files hold no people and no times, so that what a run keeps is about images alone. Their time of modification
    is the same wherever they are written, since it is part of an artifact's id.

    Args:
        study: the file of the study.
        folder: its folder.
        place: where the files go. Default: the study's folder of snapshots.

    Raises:
        UserError: no answer counts yet.
    """
    answers = study.answers()
    kept = counted(study.people(), answers)
    if not kept:
        raise UserError(f"none of the {len(answers)} answers of the study {folder.name!r} counts: ask people first")

    object_of = study.object_of()
    responses = responses_text(kept, study.settings.mode, object_of)
    objects = objects_text(study)
    concepts = concepts_text(study)
    target = (place or folder.snapshots) / digest([responses, objects, concepts])
    target.mkdir(parents=True, exist_ok=True)
    files = _files(folder, target, len(kept))
    for path, text in ((files.responses, responses), (files.objects, objects), (files.concepts, concepts)):
        _write_once(path, text)
    return files


def find_snapshot(folder: StudyFolder, name: str) -> Snapshot:
    """An earlier snapshot, by its name.

    Raises:
        UserError: there is none, or answers in it were withdrawn.
    """
    target = folder.snapshots / name
    known = [path.name for path in folder.snapshots.glob("*")]
    if name not in known or not _files(folder, target, 0).responses.is_file():
        raise UserError(
            f"the study {folder.name!r} has no snapshot {name!r} (withdrawn answers delete them): read the answers of "
            f"now, as ask:{folder.name}"
        )
    responses = _files(folder, target, 0).responses
    rows = responses.read_text(encoding="utf-8").count("\n") - 1
    return _files(folder, target, rows)


def _files(folder: StudyFolder, target: Path, rows: int) -> Snapshot:
    """The files of a snapshot; the study's name is in front, as the file's name stands in reports."""
    return Snapshot(target / f"{folder.name}-{target.name}.csv", target / OBJECTS, target / CONCEPTS, rows)


def _write_once(path: Path, text: str) -> None:
    if path.exists():
        return
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")
        os.utime(draft, (0, 0))


def people_left_out(study: StudyFile) -> list[str]:
    """One line about each person whose answers do not count, and why."""
    lines = []
    for entry in review(study.people(), study.answers()):
        if not entry.counts:
            why = "; ".join(entry.reasons)
            if entry.person.decision:
                why = "your decision"
            lines.append(f"{entry.person.name}: {entry.quality.answers} answers left out ({why})")
    return lines
