"""Who is named and who is left out; whole fits are in test_soften."""

from pathlib import Path

import numpy as np

from alignet_ray.core.participants import PersonFit
from alignet_ray.human.responses import ResponseTable, read_responses
from alignet_ray.stages.people_screen import kept

NAN = float("nan")


def table(path: Path, people: list[str]) -> ResponseTable:
    lines = ["image1,image2,image3,choice,subject_id", *(f"1,2,3,1,{name}" for name in people)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return read_responses(str(path))


def test_answers_of_those_who_guess_are_left_out_and_of_nobody_are_kept(tmp_path: Path) -> None:
    given = table(tmp_path / "answers.csv", ["a", "b", "", "a", "c"])
    people = [
        PersonFit("a", 2, 0.2, -9.0, 0.5, NAN),
        PersonFit("b", 1, 1.0, 1.0, 0.3, 900.0),
        PersonFit("c", 1, 1.0, 1.0, 0.3, 90.0),
    ]
    np.testing.assert_array_equal(kept(given, people), [False, True, True, False, False])
