"""Beginning and serving a study: settings that stay, mistakes in one line, and a kill under load."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from support.studies import TOKEN, Browser, begin_study, make_study, request, write_pictures

from alignet_ray.ask import launch
from alignet_ray.ask.folder import StudyFolder
from alignet_ray.ask.launch import check_settings, read_instructions, require_same, researcher_token, study_name
from alignet_ray.ask.study_file import StudyFile, StudySettings
from alignet_ray.errors import UserError
from alignet_ray.screen import Screen


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"trials": 0}, "--trials 0"),
        ({"catch": 0.7}, "--catch 0.7"),
        ({"catch": float("nan")}, "--catch nan"),
        ({"repeats": -0.1}, "--repeats -0.1"),
        ({"break_every": -1}, "--break-every -1"),
        ({"redirect": "javascript:alert(1)"}, "--redirect javascript"),
    ],
)
def test_settings_that_make_no_study(change: dict[str, Any], option: str) -> None:
    with pytest.raises(UserError, match=re.escape(option)):
        check_settings(StudySettings("images", **change))


def test_a_study_that_cannot_begin_leaves_nothing_behind(tmp_path: Path) -> None:
    images = write_pictures(tmp_path / "images", 5)
    folder = StudyFolder(tmp_path / "runs" / "ask" / "pilot")
    with pytest.raises(UserError, match=r"5 objects make 10 odd-one-out questions.*lower --trials to 10"):
        launch.begin(folder, str(images), {"trials": 100}, Screen())
    assert not (tmp_path / "runs").exists()


def test_a_study_keeps_what_it_was_begun_with(tmp_path: Path) -> None:
    _, study = begin_study(tmp_path, trials=12)
    stored = study.settings
    assert stored.text.startswith("# Which one")
    assert stored.fingerprint
    require_same(stored, "", {"trials": 100}, [])  # the default, which nobody has typed
    require_same(stored, stored.images, {"trials": 12}, ["--trials"])
    with pytest.raises(UserError, match="--trials differs"):
        require_same(stored, "", {"trials": 100}, ["--trials"])
    with pytest.raises(UserError, match="--instructions differs"):
        require_same(stored, "", {"text": "# Other"}, ["--instructions"])
    with pytest.raises(UserError, match="begun with the images of"):
        require_same(stored, "/other", {}, [])


def test_a_study_of_comparisons_has_its_own_instructions_and_says_how_to_use_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, study = begin_study(tmp_path, trials=12, mode="reference")
    assert study.settings.text.startswith("# Which one is more like it?")
    assert StudyFile.open(folder.file).settings.mode == "reference"
    launch.tell(folder, study, "http://127.0.0.1:1", TOKEN, Screen())
    said = capsys.readouterr().out
    assert "12 reference comparisons a person" in said
    assert "--human.comparisons ask:pilot" in said
    with pytest.raises(UserError, match=r"3 objects make 3 reference comparisons.*lower --trials to 3"):
        launch._require_questions(3, study.settings)


def test_a_study_that_was_begun_before_there_were_two_forms_asks_for_the_odd_one_out(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    stored = {key: value for key, value in asdict(study.settings).items() if key != "mode"}
    study._connection.execute("UPDATE settings SET value = ? WHERE key = 'settings'", (json.dumps(stored),))
    assert StudyFile.open(study.path).settings.mode == "odd"


def test_instructions(tmp_path: Path) -> None:
    file = tmp_path / "text.md"
    file.write_bytes("\ufeff# Grüße\r\n".encode())
    assert read_instructions(str(file)) == "# Grüße\n"
    file.write_text("  \n")
    with pytest.raises(UserError, match="is empty"):
        read_instructions(str(file))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="UTF-16"):
        read_instructions(str(file))


def test_the_researchers_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(launch.TOKEN, raising=False)
    assert researcher_token() != researcher_token()
    monkeypatch.setenv(launch.TOKEN, "x" * 16)
    assert researcher_token() == "x" * 16
    for bad in ("short", "has a blank in it, too"):
        monkeypatch.setenv(launch.TOKEN, bad)
        with pytest.raises(UserError, match=launch.TOKEN):
            researcher_token()


def test_personal_links_are_the_same_every_time(tmp_path: Path) -> None:
    _, study = begin_study(tmp_path, trials=12)
    links = launch.personal_links(study, "https://lab.example", 3)
    assert links == launch.personal_links(study, "https://lab.example", 3)
    assert len(set(links)) == 3
    assert links[2].startswith("https://lab.example/?participant=p003#")


def test_names_of_studies() -> None:
    assert study_name("/data/photos/") == "photos"
    assert study_name("photos") == "photos"


def start(root: Path, *args: str) -> tuple[subprocess.Popen[str], str]:
    """The command in a process of its own, and the address that it says."""
    command = [sys.executable, "-m", "alignet_ray", "ask", *args, "--store.root", str(root), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if found := re.search(r"^people +(http://127\.0\.0\.1:\d+)", line):
            return process, found.group(1)
    raise AssertionError(said)


class Crowd:
    """People who answer in threads until the server dies.

    Attributes:
        acknowledged: tokens of the answers that the server said it had stored.
        sessions: name and secret of everybody.
        failed: what went wrong while the server lived.
    """

    def __init__(self, url: str, process: subprocess.Popen[str], people: int) -> None:
        self.url = url
        self.process = process
        self.acknowledged: list[str] = []
        self.sessions: dict[str, str] = {}
        self.failed: list[str] = []
        self.threads = [threading.Thread(target=self.take_part, args=(f"p{number}",)) for number in range(people)]
        for thread in self.threads:
            thread.start()

    def take_part(self, name: str) -> None:
        """Answer as fast as one may."""
        try:
            browser = Browser(self.url, participant=name)
            self.sessions[name] = browser.session
            while not browser.state["finished"]:
                token = browser.state["next"][0]["token"]
                body = {"token": token, "choice": len(self.acknowledged) % 3, "rt": 700}
                status, state, _ = request(f"{self.url}/answers", body, browser.session)
                if status == 429:
                    time.sleep(0.25)
                    continue
                assert status == 200, state
                self.acknowledged.append(token)
                browser.state = state
        except (OSError, HTTPException) as error:  # the server is gone, perhaps in the middle of an answer
            self.process.wait(10)
            if self.process.returncode != -signal.SIGKILL:
                self.failed.append(f"{name}: {error!r}")

    def wait_for(self, answers: int) -> None:
        """Wait until so many answers are acknowledged."""
        deadline = time.monotonic() + 60
        while len(self.acknowledged) < answers:
            assert time.monotonic() < deadline, (self.failed, len(self.acknowledged))
            time.sleep(0.01)


def test_a_kill_under_load_loses_nothing(tmp_path: Path) -> None:
    images = write_pictures(tmp_path / "images", 40)
    process, url = start(tmp_path / "runs", str(images), "--trials", "60")
    try:
        crowd = Crowd(url, process, people=6)
        crowd.wait_for(60)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    for thread in crowd.threads:
        thread.join(60)
    assert crowd.failed == []

    study = StudyFile.open(tmp_path / "runs" / "ask" / "images" / "study.sqlite")
    stored = study.answers()
    tokens = {trial.trial: trial.token for person in study.people() for trial in study.trials_of(person.person)}
    assert set(crowd.acknowledged) <= {tokens[answer.trial] for answer in stored}
    assert len({answer.trial for answer in stored}) == len(stored)
    assert len(stored) <= len(crowd.acknowledged) + len(crowd.threads)
    answered = {person.name: study.answered(person.person) for person in study.people()}
    study.close()

    # Started again by its name, with everybody's session as it was.
    process, url = start(tmp_path / "runs", "images")
    try:
        for name, session in crowd.sessions.items():
            status, state, _ = request(f"{url}/start", {"parameters": {"participant": name}, "key": ""}, session)
            assert status == 200
            assert state["answered"] == answered[name]
        command = [sys.executable, "-m", "alignet_ray", "ask", "images", "--store.root", str(tmp_path / "runs")]
        second = subprocess.run([*command, "--port", "0"], capture_output=True, text=True, check=False, timeout=100)
        assert second.returncode == 2
        assert "is served already" in second.stderr
        assert len(second.stderr.splitlines()) == 1
    finally:
        process.kill()
        process.wait()
