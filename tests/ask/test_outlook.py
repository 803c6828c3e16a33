"""When to stop asking: planted groups are learned, and there is a point from which on more answers bring little."""

import threading
from pathlib import Path

import numpy as np
import pytest
from support.studies import ask, join, make_study

from alignet_ray.ask import outlook
from alignet_ray.ask.outlook import Outlook, OutlookWorker, measure
from alignet_ray.ask.study_file import Answer, StudyFile
from alignet_ray.core.learning_curve import Forecast, Point
from alignet_ray.core.scores import CHANCE

OBJECTS = 30
OBJECT_OF = list(range(OBJECTS))


def answers(count: int, noise: float, kinds: tuple[str, ...] = ("random",), seed: int = 0) -> list[Answer]:
    """Answers of people for whom the lower and the higher half belong together, some of which are guesses."""
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < count:
        images = rng.permutation(OBJECTS)[:3].tolist()
        low = [image < OBJECTS // 2 for image in images]
        # Three of a kind have no odd one.
        if len(set(low)) == 1:
            continue
        odd = next(place for place in range(3) if low.count(low[place]) == 1)
        if rng.random() < noise:
            odd = int(rng.integers(3))
        kind = kinds[len(found) % len(kinds)]
        found.append(Answer(len(found), 0, len(found), 0, "odd", kind, tuple(images), None, None, odd, 900.0, 0.0))
    return found


def test_a_study_that_has_enough_may_stop_and_one_that_learns_goes_on() -> None:
    enough = measure(answers(4000, 0.1), OBJECT_OF, OBJECTS, "odd", seed=0)
    assert enough is not None
    assert enough.points[-1].accuracy == pytest.approx(1 - 0.1 * 2 / 3, abs=0.03)
    assert enough.advice.startswith("you may stop")

    learning = measure(answers(240, 0.1), OBJECT_OF, OBJECTS, "odd", seed=0)
    assert learning is not None
    assert learning.advice.startswith("go on")
    assert learning.forecast.gain > enough.forecast.gain


def test_comparisons_have_an_outlook_too() -> None:
    rng = np.random.default_rng(0)
    given = []
    for number in range(4000):
        images = rng.permutation(OBJECTS)[:3].tolist()
        low = [image < OBJECTS // 2 for image in images]
        if low[1] == low[2]:
            continue
        chosen = 1 if low[1] == low[0] else 2
        given.append(Answer(number, 0, number, 0, "reference", "random", tuple(images), None, None, chosen, 900.0, 0.0))
    found = measure(given, OBJECT_OF, OBJECTS, "reference", seed=0)
    assert found is not None
    assert found.chance == 1 / 2
    assert found.points[-1].accuracy > 0.95
    assert found.advice.startswith("you may stop")


def test_guesses_alone_teach_nothing() -> None:
    found = measure(answers(400, 1.0), OBJECT_OF, OBJECTS, "odd", seed=0)
    assert found is not None
    assert found.points[-1].accuracy == pytest.approx(CHANCE, abs=0.12)
    assert "chance" in found.advice


def test_only_answers_to_random_questions_are_tested() -> None:
    found = measure(answers(1000, 0.1, ("random", "active", "active", "active")), OBJECT_OF, OBJECTS, "odd", seed=0)
    assert found is not None
    assert 80 < found.tested < 170, "a quarter of five times a tenth"
    assert measure(answers(300, 0.1, ("active",)), OBJECT_OF, OBJECTS, "odd", seed=0) is None
    assert measure(answers(199, 0.1), OBJECT_OF, OBJECTS, "odd", seed=0) is None


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.01, 0.03, "go on: 1,000 more answers would help"),
        (0.0, 0.03, "cannot tell yet whether 1,000 more answers would change much"),
        (0.0, 0.004, "you may stop: 1,000 more answers about these objects would hardly change anything"),
    ],
)
def test_the_advice_goes_by_the_interval(low: float, high: float, words: str) -> None:
    points = [Point(100, 0.5, 0.45, 0.55)]
    found = Outlook(points, Forecast(1000, (low + high) / 2, low, high), 400, CHANCE)
    assert found.advice == words
    assert found.as_json()["advice"] == words


def answered_study(folder: Path, count: int) -> StudyFile:
    study = make_study(folder, OBJECTS, trials=2000, catch=0, repeats=0)
    study._connection.execute("PRAGMA synchronous = OFF")
    answer_more(study, count)
    return study


def answer_more(study: StudyFile, count: int) -> None:
    person = study.person_named("anna") or join(study)
    for given in answers(count, 0.1, seed=study.last_number()):
        study.answer(person.person, ask(study, person, *given.images).token, given.choice, 900.0)
    study.decide(person.person, "keep")


def test_it_is_measured_again_after_a_quarter_more_answers(tmp_path: Path) -> None:
    study = answered_study(tmp_path, 199)
    worker = OutlookWorker(study)
    assert not worker.step()
    answer_more(study, 1)
    assert worker.step()
    first = worker.outlook
    assert first is not None
    answer_more(study, 49)
    assert not worker.step()
    answer_more(study, 1)
    assert worker.step()
    assert worker.outlook is not None
    assert worker.outlook.points[-1].answers > first.points[-1].answers


def test_the_worker_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlook, "CHECK_SECONDS", 0.01)
    worker = OutlookWorker(answered_study(tmp_path, 200))
    stop = threading.Event()
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    while worker.outlook is None:
        thread.join(0.05)
        assert thread.is_alive()
    stop.set()
    thread.join(20)
    assert not thread.is_alive()
