"""The file of a study: what was acknowledged is on the disk, nothing counts twice, and withdrawn is withdrawn."""

import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.studies import ask, join, make_study

from alignet_ray.ask.study_file import NewTrial, NotSaved, Refused, StudyFile
from alignet_ray.errors import UserError


def test_a_study_comes_back_as_it_was_made(tmp_path: Path) -> None:
    made = make_study(tmp_path, objects=4, per_object=2, trials=30, code="ABC")
    made.close()
    study = StudyFile.open(tmp_path / "study.sqlite")
    assert study.settings == made.settings
    assert study.secret == made.secret
    assert study.objects() == [f"object {number}" for number in range(4)]
    assert [image.object for image in study.images()] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert study.left_out()[0].reason == "truncated"
    assert (tmp_path / "study.sqlite").stat().st_mode & 0o077 == 0


def test_writes_are_on_the_disk_before_they_return(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    assert study._read("PRAGMA journal_mode")[0][0] == "wal"
    assert study._read("PRAGMA synchronous")[0][0] == 2  # FULL


def test_an_answer_is_stored_once(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    anna = join(study)
    trial = ask(study, anna, 3, 1, 2)
    study.answer(anna.person, trial.token, 2, 812.5)
    study.answer(anna.person, trial.token, 2, 99.0)  # the browser did not get the first reply
    with pytest.raises(Refused, match="the first answer counts"):
        study.answer(anna.person, trial.token, 1, 99.0)
    (answer,) = study.answers()
    assert answer.number == 1
    assert answer.images == (3, 1, 2)
    assert answer.choice == 2
    assert answer.rt == 812.5
    assert study.open_trials(anna.person) == []


def test_answers_for_somebody_else_and_made_up_tokens_are_refused(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    anna, ben = join(study, "anna"), join(study, "ben")
    trial = ask(study, anna, 0, 1, 2)
    for person, token in ((ben.person, trial.token), (anna.person, "made up")):
        with pytest.raises(Refused, match="no question of yours"):
            study.answer(person, token, 0, None)
    assert study.answers() == []
    with pytest.raises(Refused, match="begun already"):
        join(study, "anna")


def test_a_session_is_known_by_its_secret_alone(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    anna, session = study.add_person("anna", {"STUDY_ID": "s"})
    assert study.person_of(session) == anna
    assert session.encode() not in (tmp_path / "study.sqlite-wal").read_bytes()
    renewed = study.renew_session(anna.person)
    assert study.person_of(session) is None
    assert study.person_of(renewed) == anna


def test_questions_keep_their_order_and_their_answers_a_number(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    anna = join(study)
    trials = study.deal(anna.person, [NewTrial("odd", "random", (n, n + 1, n + 2)) for n in range(4)])
    assert [trial.place for trial in trials] == [0, 1, 2, 3]
    study.answer(anna.person, trials[1].token, 0, None)
    study.answer(anna.person, trials[0].token, 0, None)
    assert [answer.trial for answer in study.answers()] == [trials[1].trial, trials[0].trial]
    assert study.answers(up_to=1) == study.answers()[:1]
    assert study.open_trials(anna.person) == trials[2:]
    assert study.trials_of(anna.person) == trials
    assert study.answered(anna.person) == 2


def test_a_withdrawn_person_leaves_no_trace_and_no_number_is_given_twice(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    anna, ben = join(study, "anna-1234567"), join(study, "ben")
    first = ask(study, anna, 0, 1, 2)
    again = ask(study, anna, 2, 1, 0, kind="repeat", repeats=first.trial)
    for trial in (first, again):
        study.answer(anna.person, trial.token, 1, None)
    assert study.withdraw(anna.person) == 2
    assert study.answers() == []
    assert [person.name for person in study.people()] == ["ben"]
    for file in tmp_path.iterdir():
        assert b"anna-1234567" not in file.read_bytes(), file

    study.answer(ben.person, ask(study, ben, 0, 1, 2).token, 0, None)
    assert study.answers()[0].number == 3


def test_the_researcher_can_overrule(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    anna = join(study)
    assert study.people()[0].decision == ""
    study.decide(anna.person, "leave out")
    assert study.people()[0].decision == "leave out"


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + bytes(200)])
def test_a_file_that_is_no_study_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "study.sqlite").write_bytes(content)
    with pytest.raises(UserError, match=r"study\.sqlite") as refused:
        StudyFile.open(tmp_path / "study.sqlite")
    assert "\n" not in str(refused.value)


WRITER = """
import sys
from pathlib import Path
from alignet_ray.ask.study_file import NewTrial, StudyFile
study = StudyFile.open(Path(sys.argv[1]))
person, _ = study.add_person("anna", {})
while True:
    trial, = study.deal(person.person, [NewTrial("odd", "random", (0, 1, 2))])
    study.answer(person.person, trial.token, 1, 500.0)
    print(trial.trial, flush=True)
"""


def test_a_killed_process_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    make_study(tmp_path).close()
    command = [sys.executable, "-c", WRITER, str(tmp_path / "study.sqlite")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(40)]
    process.send_signal(signal.SIGKILL)
    # What was written between the last line that was read and the kill.
    acknowledged += [int(line) for line in process.stdout.read().splitlines()]
    process.wait()

    study = StudyFile.open(tmp_path / "study.sqlite")
    stored = [answer.trial for answer in study.answers()]
    assert len(set(stored)) == len(stored)
    assert set(acknowledged) <= set(stored)
    assert len(stored) <= len(acknowledged) + 1  # the one that was stored as the process died


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from alignet_ray.ask.study_file import NewTrial, NotSaved, StudyFile
path = Path(sys.argv[1])
study = StudyFile.open(path)
person, _ = study.add_person("anna", {})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = path.with_name(path.name + "-wal").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50_000, resource.RLIM_INFINITY))
stored, failed = 0, 0
while failed < 3:
    try:
        trial, = study.deal(person.person, [NewTrial("odd", "random", (0, 1, 2))])
        study.answer(person.person, trial.token, 1, None)
        stored += 1
    except NotSaved:
        failed += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
trial, = study.deal(person.person, [NewTrial("odd", "random", (0, 1, 2))])
study.answer(person.person, trial.token, 1, None)
print(stored + 1, len(study.answers()), study._read("PRAGMA integrity_check"))
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="the system cannot limit the size of files")
def test_a_full_disk_stores_an_answer_or_says_that_it_did_not(tmp_path: Path) -> None:
    make_study(tmp_path).close()
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "study.sqlite")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said, stored, whole = done.stdout.split(maxsplit=2)
    assert said == stored
    assert int(stored) > 1
    assert whole.strip() == "[('ok',)]"


def test_what_the_disk_refuses_is_no_internal_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make_study(tmp_path)
    anna = join(study)
    trial = ask(study, anna, 0, 1, 2)
    study._connection.execute("PRAGMA query_only = ON")  # writes fail as they do on a full disk
    with pytest.raises(NotSaved):
        study.answer(anna.person, trial.token, 0, None)
    study._connection.execute("PRAGMA query_only = OFF")
    study.answer(anna.person, trial.token, 0, None)
    assert len(study.answers()) == 1


def test_threads_take_turns(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    people = [join(study, f"p{number}") for number in range(4)]

    def work(number: int) -> None:
        for _ in range(20):
            trial = ask(study, people[number], 0, 1, 2)
            study.answer(people[number].person, trial.token, number % 3, None)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.number for answer in study.answers()] == list(range(1, 81))


def test_the_database_itself_refuses_a_second_answer(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    anna = join(study)
    trial = ask(study, anna, 0, 1, 2)
    study.answer(anna.person, trial.token, 0, None)
    with pytest.raises(sqlite3.IntegrityError):
        study._connection.execute("INSERT INTO answers (trial, choice, at) VALUES (?, 0, 0)", (trial.trial,))
