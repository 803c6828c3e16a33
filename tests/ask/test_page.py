"""A study in headless Chromium: two people at once, one on a phone and one by keyboard, and the researcher's page."""

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from support.studies import TOKEN, Browser, begin_study, served

from alignet_ray.ask.study_file import NotSaved

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUESTIONS = 14
COUNT = "document.querySelector('#count').textContent"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


class Visitor:
    """A browser of somebody who takes part."""

    def __init__(self, browser: Any, url: str, width: int, height: int, touch: bool = False) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height}, has_touch=touch)
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self.url = url
        self.open("")

    def open(self, address: str) -> None:
        """Open the page in a new tab."""
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._heard)
        self.page.on("request", self._asked)
        if address:
            self.page.goto(self.url + address)

    def _heard(self, message: Any) -> None:
        # A refused answer is also told to the console, as a failed request.
        if message.type == "error" and "status of 507" not in message.text:
            self.errors.append(message.text)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:")):
            self.foreign.append(request.url)

    def begin(self) -> None:
        """Agree, and go to the first question."""
        self.page.get_by_label("I have read this").check()
        self.page.get_by_role("button", name="Begin", exact=True).click()
        self.wait()

    def wait(self) -> None:
        """Wait until a question can be answered."""
        self.page.locator("#choices.shown .choice:enabled").nth(2).wait_for()

    def answered(self) -> int:
        """How many answers the page counts."""
        return int(self.page.locator("#count").inner_text().split()[0])


@pytest.fixture(scope="module")
def browser() -> Any:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as browsers:
        yield browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


def boxes(page: Any) -> list[tuple[float, ...]]:
    found = page.evaluate(
        "[...document.querySelectorAll('.choice')].map(b => Object.values(b.getBoundingClientRect().toJSON()))"
    )
    return [tuple(box) for box in found]


def until(page: Any, expression: str) -> None:
    """Wait until an expression is true. (Playwright's own waiting is eval, which the page's policy forbids.)"""
    deadline = time.monotonic() + 30
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(20)


def answer_one(visitor: Visitor, number: int, by_keyboard: bool) -> None:
    page = visitor.page
    visitor.wait()
    before = boxes(page)
    if by_keyboard:
        page.keyboard.press(str(number % 3 + 1))
    else:
        page.locator(".choice").nth(number % 3).tap()
    until(page, f"({COUNT}).startsWith('{number + 1} ') || document.querySelector('#question').hidden")
    if page.locator("#pause").is_visible():
        assert f"{number + 1} of {QUESTIONS}" in page.locator("#pause-text").inner_text()
        page.keyboard.press("Enter")  # the button has the focus
    if page.locator("#question").is_visible():
        visitor.wait()
        assert boxes(page) == before  # nothing has moved


def test_two_people_at_once_to_the_end(browser: Any, tmp_path: Path) -> None:
    folder, study = begin_study(
        tmp_path,
        trials=QUESTIONS,
        break_every=6,
        catch=0.1,
        repeats=0.1,
        code="DONE-7",
        redirect="https://example.org/end?who={participant}&cc={code}",
    )
    with served(folder, study) as (url, _):
        phone = Visitor(browser, url, 390, 844, touch=True)
        desk = Visitor(browser, url, 1280, 800)
        phone.open("/?PROLIFIC_PID=5f3a&STUDY_ID=s1&SESSION_ID=x")
        desk.open("/?participant=desk")
        for visitor, name in ((phone, "phone"), (desk, "desk")):
            assert visitor.page.get_by_role("button", name="Begin", exact=True).is_disabled()
            visitor.page.screenshot(path=tmp_path / f"{name}-welcome.png", full_page=True)
            visitor.begin()
            visitor.page.screenshot(path=tmp_path / f"{name}-question.png")
            assert visitor.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert visitor.page.evaluate("document.documentElement.scrollHeight <= innerHeight")

        # What assistive technology is told.
        tree = desk.page.locator("#question").aria_snapshot()
        assert 'group "Which one is the odd one out?"' in tree
        for place in (1, 2, 3):
            assert f'button "Picture {place} of 3: choose it as the odd one out"' in tree

        for number in range(QUESTIONS):
            answer_one(phone, number, by_keyboard=False)
            answer_one(desk, number, by_keyboard=True)
        for visitor, who in ((phone, "5f3a"), (desk, "desk")):
            visitor.page.locator("#end").wait_for()
            assert visitor.page.locator("#code").inner_text() == "DONE-7"
            link = visitor.page.get_by_role("link", name="Back to where you came from")
            assert link.get_attribute("href") == f"https://example.org/end?who={who}&cc=DONE-7"
            assert visitor.errors == []
            assert visitor.foreign == []
        desk.page.screenshot(path=tmp_path / "desk-end.png")

        researcher = Visitor(browser, url, 1280, 800)
        researcher.open(f"/researcher#{TOKEN}")
        researcher.page.get_by_role("rowheader", name="5f3a", exact=True).wait_for()
        assert TOKEN not in researcher.page.url
        researcher.page.screenshot(path=tmp_path / "researcher.png", full_page=True)
        # The rule may have left this person out already, for speed: what counts is that the decision is stored.
        with researcher.page.expect_response("**/researcher/decision"):
            researcher.page.get_by_label("decision about desk").select_option("leave out")
        researcher.page.locator("tr.out", has_text="desk").wait_for()
        assert researcher.errors == []

    answers = study.answers()
    assert len(answers) == 2 * QUESTIONS
    for person in study.people():
        own = [answer for answer in answers if answer.person == person.person]
        assert [answer.choice for answer in own] == [number % 3 for number in range(QUESTIONS)]
        assert all(answer.rt is not None and 0 < answer.rt < 60_000 for answer in own)
    assert study.people()[1].decision == "leave out"


def test_a_closed_tab_goes_on_and_what_is_not_saved_is_said(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, study = begin_study(tmp_path, trials=10)
    with served(folder, study) as (url, service):
        anna = Visitor(browser, url, 800, 600)
        anna.open("/")
        anna.begin()
        answer_one(anna, 0, by_keyboard=True)
        shown = anna.page.locator("#choices img").nth(0).get_attribute("src")
        anna.page.close()
        anna.open("/")
        anna.page.get_by_role("button", name="Go on where you stopped").click()
        anna.wait()
        assert anna.answered() == 1
        assert anna.page.locator("#choices img").nth(0).get_attribute("src") == shown

        def full(*_: object) -> None:
            raise NotSaved("database or disk is full")

        store = service.study.answer
        monkeypatch.setattr(service.study, "answer", full)
        anna.page.keyboard.press("2")
        anna.page.get_by_role("alert").get_by_text("Not saved, try again").wait_for()
        anna.page.screenshot(path=tmp_path / "not-saved.png")
        assert anna.answered() == 1
        anna.page.keyboard.press("3")  # no second answer to the same question
        monkeypatch.setattr(service.study, "answer", store)
        anna.page.get_by_role("button", name="Try again").click()
        until(anna.page, f"({COUNT}).startsWith('2 ')")
        assert [answer.choice for answer in study.answers()] == [0, 1]
        assert anna.errors == []


def test_the_next_question_waits_until_the_answer_is_stored(browser: Any, tmp_path: Path) -> None:
    folder, study = begin_study(tmp_path, trials=10)
    with served(folder, study) as (url, _):
        anna = Visitor(browser, url, 800, 600)
        anna.open("/")
        anna.begin()
        sources = "[...document.querySelectorAll('#choices img')].map(i => i.src).join()"
        before = anna.page.evaluate(sources)
        held: list[Any] = []
        anna.page.route("**/answers", lambda route: held.append(route))
        anna.page.keyboard.press("1")
        anna.page.wait_for_timeout(300)
        assert anna.page.evaluate(sources) == before
        held[0].continue_()
        until(anna.page, f"{sources} !== '{before}'")


def test_a_preview_of_mechanical_turk_is_told_to_accept(browser: Any, tmp_path: Path) -> None:
    folder, study = begin_study(tmp_path, trials=10)
    with served(folder, study) as (url, _):
        worker = Visitor(browser, url, 800, 600)
        worker.open("/?assignmentId=ASSIGNMENT_ID_NOT_AVAILABLE&hitId=H")
        worker.page.get_by_label("I have read this").check()
        worker.page.get_by_role("button", name="Begin", exact=True).click()
        worker.page.get_by_role("alert").get_by_text("accept the task first").wait_for()
        assert study.people() == []


@pytest.mark.parametrize(("width", "height"), [(390, 844), (844, 390), (1280, 800)])
def test_a_comparison_shows_its_reference_and_takes_one_of_two(
    browser: Any, tmp_path: Path, width: int, height: int
) -> None:
    folder, study = begin_study(tmp_path, trials=6, repeats=0, mode="reference")
    with served(folder, study) as (url, _):
        anna = Visitor(browser, url, width, height)
        anna.open("/?participant=anna")
        anna.page.get_by_label("I have read this").check()
        anna.page.get_by_role("button", name="Begin", exact=True).click()
        ready = anna.page.locator("#choices.shown .choice:enabled").nth(1)
        ready.wait_for()
        tree = anna.page.locator("#question").aria_snapshot()
        assert 'group "Which one is more like this?"' in tree
        assert 'img "The reference, which the other two pictures are compared with"' in tree
        assert tree.count("button ") == 2
        assert 'button "Picture 2 of 2: choose it as more like the reference"' in tree
        assert anna.page.evaluate("document.documentElement.scrollHeight <= innerHeight")
        assert anna.page.evaluate("document.documentElement.scrollWidth <= innerWidth")

        sizes = [(box[2], box[3]) for box in pictures(anna.page)]
        assert len(sizes) == 3
        assert max(sizes) == pytest.approx(min(sizes), abs=1)
        before = pictures(anna.page)
        # The key 3 belongs to no picture, and neither does a click on the reference.
        anna.page.keyboard.press("3")
        anna.page.locator("div.picture").click()
        for number in range(6):
            trial = study.open_trials(1)[0]
            shown = anna.page.evaluate("[...document.querySelectorAll('#choices img')].map(i => i.getAttribute('src'))")
            assert shown == [f"/images/{image}" for image in trial.images]
            anna.page.keyboard.press(str(1 + number % 2))
            until(anna.page, f"({COUNT}).startsWith('{number + 1} ') || document.querySelector('#question').hidden")
            if number < 5:
                ready.wait_for()
                assert pictures(anna.page) == before  # nothing has moved
        anna.page.locator("#end").wait_for()
        assert anna.errors == []
    assert [answer.choice for answer in study.answers()] == [1, 2] * 3


def pictures(page: Any) -> list[list[float]]:
    """Left, top, width and height of the three pictures' boxes."""
    found: list[list[float]] = page.evaluate(
        "[...document.querySelectorAll('.picture')].map(picture => picture.getBoundingClientRect())"
        ".map(box => [box.x, box.y, box.width, box.height])"
    )
    return found


def test_the_focus_is_never_lost(browser: Any, tmp_path: Path) -> None:
    """Who listens to the page hears the question, the break and the end, as their headings or buttons get the focus."""
    folder, study = begin_study(tmp_path, trials=QUESTIONS, break_every=QUESTIONS - 1)
    with served(folder, study) as (url, _):
        one = Visitor(browser, url, 1280, 800)
        one.open("/")
        one.begin()
        until(one.page, "document.activeElement.id == 'prompt'")
        for number in range(QUESTIONS - 1):
            one.page.keyboard.press("2")
            until(one.page, f"{COUNT}.startsWith('{number + 1} ') || !document.querySelector('#pause').hidden")
            if number < QUESTIONS - 2:
                one.wait()
        until(one.page, "document.activeElement.id == 'continue'")
        one.page.keyboard.press("Enter")
        one.wait()
        until(one.page, "document.activeElement.id == 'prompt'")
        one.page.keyboard.press("2")
        until(one.page, "document.activeElement.id == 'thanks'")
        assert one.errors == []


def test_the_researchers_page_on_a_phone_says_all_of_a_person(browser: Any, tmp_path: Path) -> None:
    folder, study = begin_study(tmp_path, trials=QUESTIONS)
    with served(folder, study) as (url, _):
        Browser(url, participant="anna").answer(1)
        phone = Visitor(browser, url, 390, 844)
        phone.open(f"/researcher#{TOKEN}")
        phone.page.get_by_role("rowheader", name="anna").wait_for()
        assert phone.page.locator("#people").evaluate("box => box.scrollWidth <= innerWidth")
        # Answers, time, side, counts, decision: with one answer there is nothing to say about the rest.
        assert phone.page.get_by_role("table").get_by_role("cell").count() == 5
        heading = phone.page.get_by_role("cell").first.evaluate("cell => getComputedStyle(cell, '::before').content")
        assert heading == '"answers" / ""'
        assert phone.errors == []
