"""A study as one file to share or to keep, without anything that says who took part, or when."""

import json
import random
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from alignet_ray.ask.export import ANSWERS, OBJECTS, answer_table, objects_text
from alignet_ray.ask.study_file import StudyFile
from alignet_ray.data.files import replacing
from alignet_ray.errors import UserError

STUDY = "study.json"
INSTRUCTIONS = "instructions.md"
"""Files of an archive, besides those of an export."""

TELLING = ("number", "at", "repeats")
"""Columns that say when somebody answered: whoever knows who was there at that time could tell who it was."""

PRIVATE_SETTINGS = ("images", "text", "fingerprint", "code", "redirect")
"""Settings that are a folder of this machine, a file of the archive, or worth money to participants."""


def archive(study: StudyFile, file: Path, seed: int | None = None) -> None:
    """Write the archive of a study (.zip): its settings and instructions, its objects, and all answers.

    Participants are numbers in random order. Names, parameters of recruiting services and times of day are left out;
    so are the study's keys. Response times stay.

    Args:
        study: the file of the study.
        file: where it goes.
        seed: of the order of participants; None: from the system.

    Raises:
        UserError: it cannot be written.
    """
    settings = {name: value for name, value in asdict(study.settings).items() if name not in PRIVATE_SETTINGS}
    answers = BytesIO()
    pq.write_table(anonymous_answers(study, seed), answers)
    members: Sequence[tuple[str, bytes]] = (
        (STUDY, json.dumps(settings, indent=1).encode()),
        (INSTRUCTIONS, study.settings.text.encode()),
        (OBJECTS, objects_text(study).encode()),
        (ANSWERS, answers.getvalue()),
    )
    try:
        with replacing(file) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as target:
            for name, data in members:
                # A fixed date: that of writing says when the study was.
                target.writestr(zipfile.ZipInfo(name), data)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from error


def anonymous_answers(study: StudyFile, seed: int | None = None) -> pa.Table:
    """All answers, with numbers for participants, by participant and place."""
    table = answer_table(study, study.answers())
    names = [person.name for person in study.people()]
    random.Random(seed).shuffle(names)
    number_of = {name: f"{number}" for number, name in enumerate(names, start=1)}
    participants = pa.array([number_of[name] for name in table["participant"].to_pylist()], pa.string())
    position = table.schema.get_field_index("participant")
    anonymous = table.set_column(position, "participant", participants).drop_columns(list(TELLING))
    return anonymous.sort_by([("participant", "ascending"), ("place", "ascending")])
