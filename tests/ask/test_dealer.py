"""Dealing questions: a few ahead, by a plan, and never the same set to two people."""

from pathlib import Path

from support.studies import join, make_study

from alignet_ray.ask.dealer import AHEAD, ASKED, Dealer
from alignet_ray.ask.forms import question_key
from alignet_ray.ask.study_file import Person, StudyFile


def finish(study: StudyFile, dealer: Dealer, person: Person) -> None:
    """Answer all questions of a person."""
    while waiting := dealer.ahead(person.person):
        study.answer(person.person, waiting[0].token, 0, None)


def test_everybody_gets_as_many_questions_as_the_study_says(tmp_path: Path) -> None:
    study = make_study(tmp_path, objects=30, trials=50, catch=0.1, repeats=0.1)
    dealer = Dealer(study, seed=0)
    anna = join(study)
    finish(study, dealer, anna)
    trials = study.trials_of(anna.person)
    assert [trial.place for trial in trials] == list(range(50))
    kinds = [trial.kind for trial in trials]
    assert kinds.count("catch") == 5
    assert kinds.count("repeat") >= 3
    assert dealer.ahead(anna.person) == []


def test_questions_are_dealt_ahead_and_a_reload_gets_the_same(tmp_path: Path) -> None:
    study = make_study(tmp_path, trials=20)
    dealer = Dealer(study, seed=0)
    anna = join(study)
    first = dealer.ahead(anna.person)
    assert len(first) == AHEAD
    assert dealer.ahead(anna.person) == first
    study.answer(anna.person, first[0].token, 1, None)
    second = dealer.ahead(anna.person)
    assert second[:-1] == first[1:]
    assert len(second) == AHEAD


def test_no_set_is_shown_twice_whoever_sees_it(tmp_path: Path) -> None:
    study = make_study(tmp_path, objects=9, per_object=2, trials=20)
    people = [join(study, f"p{number}") for number in range(4)]
    # A server that is started anew goes on where the other one was.
    for number, person in enumerate(people):
        finish(study, Dealer(study, seed=number), person)
    object_of = [image.object for image in study.images()]
    shown = [frozenset(object_of[image] for image in images) for images in study.shown_images()]
    assert len(set(shown)) == len(shown) == 4 * 20 - _tests(study)
    assert all(len(objects) == 3 for objects in shown)


def _tests(study: StudyFile) -> int:
    return sum(answer.kind not in ASKED for answer in study.answers())


def test_catch_trials_show_one_image_twice(tmp_path: Path) -> None:
    study = make_study(tmp_path, per_object=2, trials=40, catch=0.5, repeats=0)
    finish(study, Dealer(study, seed=0), join(study))
    catches = [answer for answer in study.answers() if answer.kind == "catch"]
    assert len(catches) >= 15
    for answer in catches:
        assert answer.expected is not None
        others = [image for place, image in enumerate(answer.images) if place != answer.expected]
        assert others[0] == others[1] != answer.images[answer.expected]
    assert {answer.expected for answer in catches} == {0, 1, 2}


def test_repeats_show_the_same_images_once_more(tmp_path: Path) -> None:
    study = make_study(tmp_path, objects=30, per_object=3, trials=60, repeats=0.2)
    finish(study, Dealer(study, seed=0), join(study))
    trials = study.trials_of(1)
    by_number = {trial.trial: trial for trial in trials}
    repeats = [trial for trial in trials if trial.kind == "repeat"]
    sources = [by_number[trial.repeats or 0] for trial in repeats]
    assert len(repeats) >= 8
    assert len({source.trial for source in sources}) == len(sources)
    for trial, source in zip(repeats, sources, strict=True):
        assert sorted(trial.images) == sorted(source.images)
        assert source.kind in ASKED
        assert trial.place - source.place >= 10


def test_offered_triplets_are_asked_beside_random_ones(tmp_path: Path) -> None:
    study = make_study(tmp_path, objects=40, trials=40, catch=0, repeats=0, sampler="active", random_share=0.25)
    dealer = Dealer(study, seed=0)
    offered = [(n, n + 1, n + 2) for n in range(0, 36)]
    dealer.offer([offered[0], *offered])  # one of them twice
    finish(study, dealer, join(study))
    trials = study.trials_of(1)
    active = [tuple(sorted(trial.images)) for trial in trials if trial.kind == "active"]
    assert active == offered[: len(active)]
    assert 4 <= len(trials) - len(active) <= 18


def test_reference_comparisons_keep_their_reference(tmp_path: Path) -> None:
    study = make_study(tmp_path, objects=30, per_object=3, trials=60, repeats=0.3, catch=0, mode="reference")
    finish(study, Dealer(study, seed=0), join(study))
    trials = study.trials_of(1)
    assert {trial.mode for trial in trials} == {"reference"}
    by_number = {trial.trial: trial for trial in trials}
    repeats = [trial for trial in trials if trial.kind == "repeat"]
    sources = [by_number[trial.repeats or 0] for trial in repeats]
    assert [trial.images[0] for trial in repeats] == [source.images[0] for source in sources]
    assert [set(trial.images) for trial in repeats] == [set(source.images) for source in sources]
    swapped = sum(trial.images != source.images for trial, source in zip(repeats, sources, strict=True))
    assert 2 <= swapped <= len(repeats) - 2


def test_the_obvious_candidate_is_the_reference_itself(tmp_path: Path) -> None:
    study = make_study(tmp_path, per_object=2, trials=40, catch=0.5, repeats=0, mode="reference")
    finish(study, Dealer(study, seed=0), join(study))
    catches = [answer for answer in study.answers() if answer.kind == "catch"]
    assert len(catches) >= 15
    for answer in catches:
        reference, *candidates = answer.images
        assert answer.expected is not None
        same = candidates.pop(answer.expected - 1)
        assert same == reference
        assert candidates[0] // 2 != reference // 2  # an image of another object
    assert {answer.expected for answer in catches} == {1, 2}


def test_a_small_study_of_reference_comparisons_runs_out_late(tmp_path: Path) -> None:
    study = make_study(tmp_path, objects=5, trials=20, catch=0, repeats=0, mode="reference")
    dealer = Dealer(study, seed=0)
    people = [join(study, f"p{number}") for number in range(3)]
    for person in people:
        finish(study, dealer, person)
    asked = [question_key(images, "reference") for images in study.shown_images()]
    assert len(set(asked[:30])) == 30  # all that there are, before one comes again
    for person in people:
        own = {question_key(trial.images, "reference") for trial in study.trials_of(person.person)}
        assert len(own) == 20


def test_offered_references_stay_references(tmp_path: Path) -> None:
    study = make_study(tmp_path, 12, trials=9, catch=0, repeats=0, random_share=0, sampler="active", mode="reference")
    dealer = Dealer(study, seed=0)
    offered = [(n, n + 1, n + 2) for n in range(9)]
    dealer.offer([offered[0], (0, 2, 1), *offered[1:]])  # one of them twice
    finish(study, dealer, join(study))
    trials = study.trials_of(1)
    assert [trial.images[0] for trial in trials] == list(range(9))
    assert [tuple(sorted(trial.images)) for trial in trials] == offered
    assert len({trial.images[1] - trial.images[0] for trial in trials}) == 2
