"""How a study stands."""

from pathlib import Path

from support.studies import ask, join, make_study

from alignet_ray.ask.progress import HOUR, by_hour, overview, table
from alignet_ray.ask.quality import review
from alignet_ray.ask.study_file import StudyFile


def answered(study: StudyFile, count: int) -> None:
    """A person who always chooses the first picture."""
    anna = join(study)
    for _ in range(count):
        study.answer(anna.person, ask(study, anna, 0, 1, 2).token, 0, 900.0)


def test_answers_by_the_hour(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    assert by_hour([]) == []
    answered(study, 3)
    for number, hour in ((1, 10.2), (2, 10.9), (3, 12.1)):
        study._connection.execute("UPDATE answers SET at = ? WHERE number = ?", (hour * HOUR, number))
    assert by_hour(study.answers()) == [(10 * HOUR, 2), (11 * HOUR, 0), (12 * HOUR, 1)]

    # A clock that was wrong by decades gives no hundred thousand empty bars.
    study._connection.execute("UPDATE answers SET at = ? WHERE number = 3", (1e9,))
    assert len(by_hour(study.answers())) == 2


def test_the_overview_names_people_and_what_is_left_out(tmp_path: Path) -> None:
    study = make_study(tmp_path, trials=30)
    answered(study, 20)
    found = overview(study, ["the folder has changed"])
    assert found["answers"] == 20
    assert found["counted"] == 0
    assert found["notes"] == ["the folder has changed"]
    assert found["left_out"] == [{"path": "class0/broken.jpg", "reason": "truncated"}]
    (person,) = found["people"]
    assert person["name"] == "anna"
    assert person["side_share"] == 1.0
    assert person["reasons"] == ["100% of answers are picture 1"]
    study.decide(person["person"], "keep")
    assert overview(study)["counted"] == 20


def test_the_same_for_the_terminal(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    answered(study, 20)
    (row,) = table(review(study.people(), study.answers()))
    assert row["participant"] == "anna"
    assert row["median ms"] == 900
    assert row["counts"] == "no"
    assert row["decision"] == "the rule"
