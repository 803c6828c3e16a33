"""A study as a browser meets it: questions, answers, resumption, attacks, and a full disk."""

import json
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.studies import TOKEN, Browser, begin_study, request, served

from alignet_ray.ask.limits import RateLimit
from alignet_ray.ask.participants import link_key
from alignet_ray.ask.server import MAX_BODY, Service, allowed_hosts
from alignet_ray.images.decode import decode


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[str, Service]]:
    folder, study = begin_study(tmp_path, trials=12, code="DONE-7", redirect="https://example.org/?cc={code}")
    with served(folder, study) as running:
        yield running


def test_a_person_answers_to_the_end(place: tuple[str, Service]) -> None:
    url, service = place
    anna = Browser(url, participant="anna")
    assert anna.state["total"] == 12
    assert "code" not in anna.state
    for number in range(12):
        assert anna.state["answered"] == number
        assert not anna.state["finished"]
        for image in anna.state["next"][0]["images"]:
            status, data, headers = request(f"{url}/images/{image}")
            assert status == 200
            assert decode(data).size[1] == 60
            assert "immutable" in headers["Cache-Control"]
        anna.answer(number % 3)
    assert anna.state["finished"]
    assert anna.state["next"] == []
    assert anna.state["code"] == "DONE-7"
    assert anna.state["redirect"].startswith("https://example.org")
    assert [answer.choice for answer in service.study.answers()] == [0, 1, 2] * 4
    assert service.study.answers()[0].rt == 800.0


def test_a_closed_tab_goes_on_where_it_stopped(place: tuple[str, Service]) -> None:
    url, _ = place
    anna = Browser(url, participant="anna")
    anna.answer(1)
    body = {"parameters": {"participant": "anna"}, "key": ""}
    status, again, _ = request(f"{url}/start", body, anna.session)
    assert status == 200
    assert again["next"] == anna.state["next"]
    assert again["answered"] == 1
    # Another browser knows the name alone.
    status, answer, _ = request(f"{url}/start", body)
    assert status == 409
    assert "another browser" in answer["error"]


def test_an_answer_that_is_sent_twice_counts_once(place: tuple[str, Service]) -> None:
    url, service = place
    anna = Browser(url)
    token = anna.state["next"][0]["token"]
    for _ in range(3):
        status, state, _ = request(f"{url}/answers", {"token": token, "choice": 2, "rt": 10}, anna.session)
        assert status == 200
        assert state["answered"] == 1
    assert request(f"{url}/answers", {"token": token, "choice": 0, "rt": 10}, anna.session)[0] == 409
    assert len(service.study.answers()) == 1


def test_nobody_answers_for_somebody_else(place: tuple[str, Service]) -> None:
    url, service = place
    anna, ben = Browser(url, participant="anna"), Browser(url, participant="ben")
    stolen = {"token": anna.state["next"][0]["token"], "choice": 0, "rt": 1}
    assert request(f"{url}/answers", stolen, ben.session)[0] == 409
    assert request(f"{url}/answers", stolen)[0] == 401
    assert request(f"{url}/answers", stolen, "made up")[0] == 401
    assert request(f"{url}/answers", stolen, TOKEN)[0] == 401
    assert service.study.answers() == []


def test_withdrawn_answers_end_the_session(place: tuple[str, Service]) -> None:
    url, service = place
    anna = Browser(url, participant="anna")
    body = {"token": anna.state["next"][0]["token"], "choice": 0, "rt": 1}
    service.study.withdraw(1)
    status, answer, _ = request(f"{url}/answers", body, anna.session)
    assert status == 401
    assert "has ended" in answer["error"]


def test_personal_links(tmp_path: Path) -> None:
    folder, study = begin_study(tmp_path, trials=5, links_only=True)
    with served(folder, study) as (url, _):
        body = {"parameters": {"participant": "p001"}, "key": ""}
        assert request(f"{url}/start", body)[0] == 409
        assert request(f"{url}/start", body | {"key": link_key(study, "p001")})[0] == 200


def test_a_comparison_is_answered_with_one_of_the_two(tmp_path: Path) -> None:
    folder, study = begin_study(tmp_path, trials=5, mode="reference")
    with served(folder, study) as (url, _):
        anna = Browser(url)
        (question, *_) = anna.state["next"]
        assert question["mode"] == "reference"
        for choice in (0, 3, True, "1"):
            body = {"token": question["token"], "choice": choice, "rt": 1}
            status, answer, _ = request(f"{url}/answers", body, anna.session)
            assert status == 400
            assert answer["error"] == "an answer has a token and a choice of 1 or 2"
        for number in range(5):
            anna.answer(1 + number % 2)
        assert anna.state["finished"]
        assert [answer.choice for answer in study.answers()] == [1, 2, 1, 2, 1]
        page = request(url)[1].decode()
        assert "Which one is more like this?" in page
        assert page.count('<button class="choice') == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 5000,
        {"token": 1, "choice": 0},
        {"token": "x", "choice": 3},
        {"token": "x", "choice": True},
        {"token": "x", "choice": "1"},
        {"token": "x", "choice": 0.5},
        {"choice": 0},
    ],
)
def test_malformed_answers_are_refused(place: tuple[str, Service], body: Any) -> None:
    url, service = place
    anna = Browser(url)
    status, answer, _ = request(f"{url}/answers", body, anna.session)
    assert status == 400
    assert set(answer) == {"error"}
    assert service.study.answers() == []


@pytest.mark.parametrize("parameters", [None, [], {"participant": 7}, {"participant": ["a"]}])
def test_malformed_starts_are_refused(place: tuple[str, Service], parameters: Any) -> None:
    url, service = place
    assert request(f"{url}/start", {"parameters": parameters, "key": ""})[0] == 400
    assert service.study.people() == []


def test_other_attacks(place: tuple[str, Service]) -> None:
    url, service = place
    start = {"parameters": {}, "key": ""}
    # What a form of another site can send without the browser asking first.
    assert request(f"{url}/start", json.dumps(start).encode(), **{"Content-Type": "text/plain"})[0] == 415
    assert request(f"{url}/start", b"x" * (MAX_BODY + 1))[0] == 413
    # A name that another site makes mean this machine.
    assert request(f"{url}/", **{"Host": "elsewhere.example"})[0] == 400
    assert request(f"{url}/start")[0] == 405
    for image in ("12", "99999999999999999999", "-1", "0.5", "..%2f..%2fetc%2fpasswd", "study.sqlite"):
        assert request(f"{url}/images/{image}")[0] == 404, image
    for path in ("/study.sqlite", "/..%2fstudy.sqlite", "/page.html", "/instructions.md", "/docs"):
        assert request(url + path)[0] == 404, path
    assert service.study.people() == []


@pytest.mark.parametrize(
    ("given", "stored"),
    [(812.5, 812.5), (0, 0.0), (-1, None), (math.inf, None), (math.nan, None), ("9", None), (None, None), (4e6, None)],
)
def test_response_times_are_numbers_or_unknown(place: tuple[str, Service], given: Any, stored: float | None) -> None:
    url, service = place
    Browser(url).answer(0, rt=given)
    assert service.study.answers()[0].rt == stored


def test_every_response_is_strict_about_content(place: tuple[str, Service]) -> None:
    url, _ = place
    for path in ("/", "/page.js", "/images/0", "/researcher", "/nothing", "/researcher/data"):
        headers = request(url + path)[2]
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "Set-Cookie" not in headers


def test_pages_load_nothing_from_elsewhere(place: tuple[str, Service]) -> None:
    url, _ = place
    for path in ("/", "/researcher", "/page.js", "/researcher.js", "/page.css"):
        text = request(url + path)[1].decode()
        assert not re.search(r"""(src|href|url|import|fetch)\W{1,3}(https?:)?//""", text), path


def test_the_researchers_data_need_the_token(place: tuple[str, Service]) -> None:
    url, service = place
    Browser(url, participant="anna").answer(0)
    status, page, _ = request(f"{url}/researcher")
    assert status == 200
    assert b"anna" not in page
    for secret in ("", "wrong"):
        assert request(f"{url}/researcher/data", secret=secret)[0] == 401
        assert request(f"{url}/researcher/decision", {"person": 1, "decision": "keep"}, secret)[0] == 401
    # A token in the address is none: addresses end up in logs.
    assert request(f"{url}/researcher/data?token={TOKEN}")[0] == 401

    status, data, _ = request(f"{url}/researcher/data", secret=TOKEN)
    assert status == 200
    assert data["people"][0]["name"] == "anna"
    assert data["answers"] == 1
    assert data["left_out"][0]["path"] == "round/broken.jpg"
    decision = {"person": 1, "decision": "leave out"}
    assert request(f"{url}/researcher/decision", decision, TOKEN)[0] == 200
    assert service.study.people()[0].decision == "leave out"
    assert request(f"{url}/researcher/data", secret=TOKEN)[1]["people"][0]["counts"] is False
    for wrong in ({"person": 9, "decision": ""}, {"person": 1, "decision": "hang"}, {"person": [1], "decision": ""}):
        assert request(f"{url}/researcher/decision", wrong, TOKEN)[0] == 400


def test_too_many_wrong_tokens_wait_and_the_right_one_does_not(place: tuple[str, Service]) -> None:
    url, _ = place
    statuses = [request(f"{url}/researcher/data", secret=f"guess {number}")[0] for number in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    assert request(f"{url}/researcher/data", secret=TOKEN)[0] == 200


def test_answers_faster_than_a_person_wait(place: tuple[str, Service]) -> None:
    url, service = place
    service._answers = RateLimit(burst=2, per_second=0.001)
    anna = Browser(url)
    anna.answer(0)
    anna.answer(0)
    body = {"token": anna.state["next"][0]["token"], "choice": 0, "rt": 1}
    status, answer, _ = request(f"{url}/answers", body, anna.session)
    assert status == 429
    assert "not saved" in answer["error"]
    assert len(service.study.answers()) == 2
    Browser(url).answer(0)  # one person's haste is nobody else's problem


def test_too_many_people_at_once_wait(place: tuple[str, Service]) -> None:
    url, service = place
    service._starts = RateLimit(burst=1, per_second=0.001)
    Browser(url)
    assert request(f"{url}/start", {"parameters": {}, "key": ""})[0] == 429


def test_a_disk_that_cannot_be_written_says_not_saved(place: tuple[str, Service]) -> None:
    url, service = place
    anna = Browser(url)
    body = {"token": anna.state["next"][0]["token"], "choice": 1, "rt": 700}
    service.study._connection.execute("PRAGMA query_only = ON")
    status, answer, _ = request(f"{url}/answers", body, anna.session)
    assert status == 507
    assert "Not saved, try again" in answer["error"]
    service.study._connection.execute("PRAGMA query_only = OFF")
    assert request(f"{url}/answers", body, anna.session)[0] == 200
    assert len(service.study.answers()) == 1


def test_no_addresses_and_no_browsers_are_stored(place: tuple[str, Service]) -> None:
    url, service = place
    headers = {"User-Agent": "Telltale/1.0", "X-Forwarded-For": "203.0.113.77"}
    status, _, _ = request(f"{url}/start", {"parameters": {"participant": "anna"}, "key": ""}, **headers)
    assert status == 200
    for file in service.folder.path.rglob("study.sqlite*"):
        content = file.read_bytes()
        for telling in (b"Telltale", b"203.0.113.77", b"127.0.0.1"):
            assert telling not in content


def test_names_that_the_server_answers_to() -> None:
    assert allowed_hosts("127.0.0.1", "") == ["127.0.0.1", "localhost"]
    assert "lab.example" in allowed_hosts("127.0.0.1", "https://lab.example/study")
    assert "*" not in allowed_hosts("0.0.0.0", "https://lab.example")
    assert allowed_hosts("0.0.0.0", "") == ["*"]


def test_a_clock_that_jumps_back_changes_no_order(place: tuple[str, Service], monkeypatch: pytest.MonkeyPatch) -> None:
    url, service = place
    anna = Browser(url)
    for now in (2e9, 1e9, 3e9):
        monkeypatch.setattr("alignet_ray.ask.study_file.time.time", lambda now=now: now)
        anna.answer(0)
    monkeypatch.undo()
    assert [answer.number for answer in service.study.answers()] == [1, 2, 3]
    assert [answer.place for answer in service.study.answers()] == [0, 1, 2]
    assert time.time() > 1e9
    assert len(request(f"{url}/researcher/data", secret=TOKEN)[1]["hours"]) == 3
