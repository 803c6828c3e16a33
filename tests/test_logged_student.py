"""A student is registered only where a server answers. What MLflow holds of it is tested with the registry."""

from pathlib import Path

import pytest

from alignet_ray.errors import UserError
from alignet_ray.logged_student import LoggedStudent, log_student
from alignet_ray.tracking import PENDING, Tracker


def test_without_a_server_the_student_is_kept_and_the_fix_is_said(tmp_path: Path) -> None:
    student = LoggedStudent(Path(__file__), tmp_path, widths={"embedding": 8}, requirements=[])
    waiting = Tracker("http://me:sesame@127.0.0.1:1", f"{PENDING}1", str(tmp_path))
    with pytest.raises(UserError, match=r"no MLflow answers at http://me:\*\*\*@127.*run again; the student is kept"):
        log_student(waiting, student, "student", tmp_path / "card.md")
