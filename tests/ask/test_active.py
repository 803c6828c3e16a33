"""Choosing questions while people answer."""

import threading
from pathlib import Path

import numpy as np
from support.studies import ask, join, make_study

from alignet_ray.ask import active
from alignet_ray.ask.active import FIRST, ActiveChoice, choose, chosen_first, due
from alignet_ray.ask.dealer import Dealer
from alignet_ray.ask.forms import question_key
from alignet_ray.ask.study_file import StudyFile
from alignet_ray.core.trace_norm import DIMS, PRECISION, PeopleModel
from alignet_ray.core.triplet_rows import set_keys


def study_of(folder: Path, answers: int) -> StudyFile:
    """A study of 30 objects with random answers of one person."""
    study = make_study(folder, 30, trials=500, catch=0, repeats=0, sampler="active")
    study._connection.execute("PRAGMA synchronous = OFF")
    answer_more(study, answers)
    return study


def answer_more(study: StudyFile, count: int) -> None:
    person = study.person_named("anna") or join(study)
    rng = np.random.default_rng(study.last_number())
    for _ in range(count):
        images = rng.permutation(30)[:3].tolist()
        # Numbers below 15 belong together.
        low = [image < 15 for image in images]
        odd = next((place for place in range(3) if low.count(low[place]) == 1), 0)
        study.answer(person.person, ask(study, person, *images).token, odd, 900.0)
    study.decide(person.person, "keep")


def test_answers_as_triplets(tmp_path: Path) -> None:
    study = make_study(tmp_path, 6, 2)
    anna = join(study)
    for choice in range(3):
        study.answer(anna.person, ask(study, anna, 2, 7, 10).token, choice, None)
    rows = chosen_first(study.answers(), [image.object for image in study.images()], "odd")
    assert rows[:, 2].tolist() == [1, 3, 5]
    assert np.sort(rows, axis=1).tolist() == [[1, 3, 5]] * 3


def test_the_model_is_fitted_when_enough_answers_have_come(tmp_path: Path) -> None:
    study = study_of(tmp_path, FIRST - 1)
    dealer = Dealer(study, seed=0)
    choice = ActiveChoice(study, dealer)
    assert not choice.step()
    answer_more(study, 1)
    assert choice.step()
    assert choice.model is not None
    assert choice.model.answers == FIRST
    assert choice.agreement() is None  # nothing was predicted yet
    assert not choice.step()

    answer_more(study, FIRST)
    assert choice.step()
    share, low, high, count = choice.agreement() or (0, 0, 0, 0)
    assert count == FIRST
    assert low <= share <= high
    assert share > 1 / 3

    # The next person is asked what the model wants to know, beside random questions.
    ben = join(study, "ben")
    kinds = []
    for _ in range(40):
        trial = dealer.ahead(ben.person)[0]
        kinds.append(trial.kind)
        study.answer(ben.person, trial.token, 0, None)
    assert kinds.count("active") > 20
    assert kinds.count("random") >= 2


def test_people_who_are_left_out_teach_nothing(tmp_path: Path) -> None:
    study = study_of(tmp_path, FIRST)
    study.decide(1, "leave out")
    assert not ActiveChoice(study, Dealer(study, seed=0)).step()


def test_what_is_unknown_is_asked_about() -> None:
    known = np.eye(DIMS, dtype=np.float32)[np.arange(40) % 4] * 2
    covariance = np.repeat(np.eye(DIMS, dtype=np.float32)[None] / 1000, 40, axis=0)
    covariance[36:] = np.eye(DIMS) / PRECISION
    chosen = choose(PeopleModel(known, covariance, 1000), 20, np.random.default_rng(0), np.empty(0, np.int64), "odd")
    assert len(chosen) == 20
    assert (chosen[:6] >= 36).any(axis=1).all()
    again = choose(PeopleModel(known, covariance, 1000), 20, np.random.default_rng(0), set_keys(chosen), "odd")
    assert not np.isin(set_keys(again), set_keys(chosen)).any()
    # No object takes part much more often than on average.
    assert np.bincount(chosen.reshape(-1)).max() <= np.ceil(active.SPREAD * 3 * 20 / 40)


def test_fits_become_rarer_as_answers_grow() -> None:
    assert due(0, 30) == FIRST
    assert due(0, 200) == 400
    assert due(500, 200) == FIRST
    assert due(20_000, 200) == 2000


def test_the_background_ends_with_the_study(tmp_path: Path) -> None:
    study = study_of(tmp_path, FIRST)
    choice = ActiveChoice(study, Dealer(study, seed=0))
    stop = threading.Event()
    thread = threading.Thread(target=choice.run, args=(stop,))
    thread.start()
    for _ in range(600):
        if choice.model is not None:
            break
        stop.wait(0.1)
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert choice.model is not None


def test_comparisons_as_rows(tmp_path: Path) -> None:
    study = make_study(tmp_path, 6, 2, mode="reference")
    anna = join(study)
    for choice in (1, 2):
        study.answer(anna.person, ask(study, anna, 2, 7, 10).token, choice, None)
    rows = chosen_first(study.answers(), [image.object for image in study.images()], "reference")
    assert rows.tolist() == [[1, 3, 5], [1, 5, 3]]


def test_a_study_of_comparisons_learns_and_asks(tmp_path: Path) -> None:
    study = make_study(tmp_path, 20, trials=500, catch=0, repeats=0, sampler="active", mode="reference")
    study._connection.execute("PRAGMA synchronous = OFF")
    dealer = Dealer(study, seed=0)
    choice = ActiveChoice(study, dealer)
    anna = join(study)
    study.decide(anna.person, "keep")
    for _ in range(2 * FIRST):
        trial = dealer.ahead(anna.person)[0]
        # Numbers below 10 belong together.
        low = [image < 10 for image in trial.images]
        study.answer(anna.person, trial.token, 1 + int(low[2] == low[0]), 900.0)
        choice.step()

    share, _, _, count = choice.agreement() or (0, 0, 0, 0)
    assert count >= 10
    assert share > 1 / 2
    trials = study.trials_of(anna.person)
    kinds = [trial.kind for trial in trials]
    assert kinds.count("active") > 20
    assert len({question_key(trial.images, "reference") for trial in trials}) == len(trials)
