"""Who takes part: names, links and services, and who may not answer for whom."""

from pathlib import Path

import pytest
from support.studies import make_study

from alignet_ray.ask.participants import enter, find, link_key, personal_link, stored_name
from alignet_ray.ask.study_file import Refused


def test_one_link_for_all_gives_everybody_a_name(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    names = {enter(study, {})[0].name for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("anonymous-") for name in names)


@pytest.mark.parametrize(
    ("parameters", "name", "origin"),
    [
        ({"participant": "p7"}, "p7", {}),
        (
            {"PROLIFIC_PID": "5f3a", "STUDY_ID": "s1", "SESSION_ID": "x9", "other": "?"},
            "5f3a",
            {"STUDY_ID": "s1", "SESSION_ID": "x9"},
        ),
        ({"workerId": "A1B2", "assignmentId": "3X", "hitId": "H"}, "A1B2", {"assignmentId": "3X", "hitId": "H"}),
    ],
)
def test_services_name_their_participants(
    tmp_path: Path, parameters: dict[str, str], name: str, origin: dict[str, str]
) -> None:
    study = make_study(tmp_path)
    person, _ = enter(study, parameters)
    assert person.name == name
    assert person.origin == origin


def test_a_preview_is_no_participant(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    with pytest.raises(Refused, match="accept the task"):
        enter(study, {"workerId": "A1", "assignmentId": "ASSIGNMENT_ID_NOT_AVAILABLE"})
    assert study.people() == []


def test_the_same_browser_goes_on(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    person, session = enter(study, {"participant": "p7"})
    assert enter(study, {"participant": "p7"}, session=session) == (person, session)
    assert enter(study, {}, session=session) == (person, session)  # the same tab without the address's end
    # Somebody else at the same computer.
    other, theirs = enter(study, {"participant": "p8"}, session=session)
    assert other.name == "p8"
    assert theirs != session


def test_a_name_alone_opens_no_session(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    enter(study, {"participant": "p7"})
    with pytest.raises(Refused, match="another browser"):
        enter(study, {"participant": "p7"})
    with pytest.raises(Refused, match="another browser"):
        enter(study, {"participant": "p7"}, session="made up")


def test_a_personal_link_works_in_any_browser_for_its_person_alone(tmp_path: Path) -> None:
    study = make_study(tmp_path, links_only=True)
    with pytest.raises(Refused, match="needs the personal link"):
        enter(study, {"participant": "p7"})
    key = link_key(study, "p7")
    assert personal_link(study, "http://127.0.0.1:1", "p7") == f"http://127.0.0.1:1/?participant=p7#{key}"
    person, first = enter(study, {"participant": "p7"}, key)
    again, second = enter(study, {"participant": "p7"}, key)
    assert again == person
    assert study.person_of(first) is None  # the new browser has taken over
    assert study.person_of(second) == person
    for name, wrong in (("p8", key), ("p7", key[:-1]), ("", key)):
        with pytest.raises(Refused, match="not complete"):
            enter(study, {"participant": name}, wrong)


@pytest.mark.parametrize("name", ["<b>", "a b", "x" * 101, "a/b", "é\n"])
def test_odd_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused, match="cannot be used"):
        enter(make_study(tmp_path), {"participant": name})


def test_hashed_names_can_still_be_found_and_tell_nothing(tmp_path: Path) -> None:
    study = make_study(tmp_path, hashed=True)
    person, _ = enter(study, {"PROLIFIC_PID": "5f3a-secret", "SESSION_ID": "tells-who"})
    assert person.name == stored_name(study, "5f3a-secret")
    assert "secret" not in person.name
    assert person.origin == {}
    assert find(study, "5f3a-secret") == person
    assert find(study, person.name) == person
    assert find(study, "nobody") is None
    # Another study's hashes are others: nobody can join two tables by them.
    assert stored_name(make_study(tmp_path / "b", hashed=True), "5f3a-secret") != person.name
