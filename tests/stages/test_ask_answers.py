"""`--human.triplets ask:NAME`: a run reads the answers of its beginning, and what it is named after does not move."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.studies import ask, begin_study, join, write_pictures

from alignet_ray.artifacts.soften import SoftenArtifact
from alignet_ray.ask import launch
from alignet_ray.ask.folder import StudyFolder
from alignet_ray.ask.launch import withdraw
from alignet_ray.ask.study_file import StudyFile
from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.screen import Screen
from alignet_ray.stages import Work, ask_answers, human_inputs, pipeline, soften


def answer(study: StudyFile, name: str, count: int) -> None:
    """Somebody for whom numbers of one half belong together."""
    person = join(study, name)
    images = len(study.images())
    rng = np.random.default_rng(len(name))
    for _ in range(count):
        shown = rng.permutation(images)[:3].tolist()
        half = [image < images // 2 for image in shown]
        odd = next((place for place in range(3) if half.count(half[place]) == 1), int(rng.integers(3)))
        study.answer(person.person, ask(study, person, *shown).token, odd, 900.0)


@pytest.fixture
def place(tmp_path: Path) -> tuple[Config, StudyFolder, StudyFile]:
    """A study of thirty pictures with 300 answers, and a run that reads it."""
    folder, study = begin_study(tmp_path, 30, trials=100)
    # Nothing is killed here, so the disk need not be waited for.
    study._connection.execute("PRAGMA synchronous = OFF")
    answer(study, "anna", 300)
    cfg = Config().replace(
        store__root=str(tmp_path / "runs"), human__triplets="ask:pilot", soften__steps=100, soften__dims=8
    )
    return cfg, folder, study


def test_a_study_brings_answers_objects_and_images(
    place: tuple[Config, StudyFolder, StudyFile], make_work: Callable[..., Work]
) -> None:
    cfg, _, study = place
    resolved = ask_answers.resolve(cfg, Screen())
    assert resolved.corpus.path == study.settings.images
    assert resolved.objects.path is None
    work = make_work(resolved, "soften")
    soften.run(work)
    artifact = SoftenArtifact(work.out)
    rows = artifact.objects().to_pylist()
    assert [row["name"] for row in rows] == study.objects()
    # The broken file is listed, and shows no object.
    shown = [image for row in rows for image in row["image_ids"]]
    assert len(shown) == len(set(shown)) == 30
    assert set(range(31)) - set(shown) == {15}
    assert len(artifact.responses()) == 300
    posterior = artifact.posterior()
    similarity = posterior.mu @ posterior.mu.T
    first = similarity[:15, :15][~np.eye(15, dtype=bool)]
    assert first.mean() > similarity[:15, 15:].mean()


def test_other_images_and_tables_come_first(place: tuple[Config, StudyFolder, StudyFile], tmp_path: Path) -> None:
    cfg, _, study = place
    corpus = cfg.replace(corpus__path=str(tmp_path / "others"))
    resolved = ask_answers.resolve(corpus, Screen())
    assert resolved.corpus.path == str(tmp_path / "others")
    assert resolved.objects.path == study.settings.images
    same = ask_answers.resolve(cfg.replace(corpus__path=study.settings.images + "/"), Screen())
    assert same.objects.path is None
    own = ask_answers.resolve(cfg.replace(objects__table="own.csv"), Screen())
    assert own.objects.table == "own.csv"
    assert own.corpus.path is None
    features = ask_answers.resolve(cfg.replace(embed__from_="features.npy"), Screen())
    assert features.corpus.path is None


def test_a_run_does_not_move_while_people_answer(place: tuple[Config, StudyFolder, StudyFile]) -> None:
    cfg, folder, study = place

    def id_of(config: Config) -> str:
        return next(row["id"] for row in pipeline.describe_plan(config) if row["node"] == "soften")

    first = id_of(cfg)
    assert not folder.snapshots.exists()  # a plan leaves nothing behind
    assert id_of(cfg) == first
    pinned = ask_answers.pin(cfg)
    assert id_of(pinned) == first

    answer(study, "ben", 5)
    assert id_of(cfg) != first
    assert id_of(pinned) == first
    assert ask_answers.pin(pinned) == pinned

    study.withdraw(2)
    assert id_of(cfg) == first
    assert "ask:pilot@" in str(pinned.human.triplets)


def test_withdrawn_answers_are_not_read_again(place: tuple[Config, StudyFolder, StudyFile]) -> None:
    cfg, folder, study = place
    answer(study, "ben", 5)
    pinned = ask_answers.pin(cfg)
    withdraw(folder, study, 2)
    with pytest.raises(UserError, match=r"no snapshot .* \(withdrawn answers delete them\)"):
        ask_answers.resolve(pinned, Screen())


@pytest.mark.parametrize(
    ("triplets", "problem"),
    [
        ("ask:", "name a study"),
        ("ask:nothing", "there are: pilot"),
        ("ask:../pilot", "a study's name"),
        ("ask:pilot@nothing", "no snapshot 'nothing'"),
        ("ask:pilot@../../pilot", "no snapshot"),
    ],
)
def test_mistakes(place: tuple[Config, StudyFolder, StudyFile], triplets: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        ask_answers.resolve(place[0].replace(human__triplets=triplets), Screen())


def test_other_responses_stay_as_they_are() -> None:
    cfg = Config().replace(human__triplets="ask.txt")
    assert ask_answers.resolve(cfg, Screen()) is cfg
    assert ask_answers.pin(cfg) is cfg


@pytest.fixture
def comparisons(place: tuple[Config, StudyFolder, StudyFile]) -> tuple[Config, StudyFile]:
    """A study of reference comparisons, `which`, about the same pictures, and a run that reads it."""
    cfg, pilot, study = place
    folder = StudyFolder(pilot.path.with_name("which"))
    which = launch.begin(folder, study.settings.images, {"trials": 100, "mode": "reference"}, Screen())
    which._connection.execute("PRAGMA synchronous = OFF")
    person = join(which, "anna")
    rng = np.random.default_rng(0)
    for _ in range(300):
        shown = rng.permutation(30)[:3].tolist()
        half = [image < 15 for image in shown]
        choice = int(rng.integers(1, 3))
        if half[1] != half[2]:
            choice = 1 + int(half[2] == half[0])
        which.answer(person.person, ask(which, person, *shown).token, choice, 900.0)
    return cfg.replace(human__triplets=None, human__comparisons="ask:which"), which


def test_a_run_learns_from_a_study_of_comparisons(
    comparisons: tuple[Config, StudyFile], make_work: Callable[..., Work]
) -> None:
    cfg, which = comparisons
    resolved = ask_answers.resolve(cfg, Screen())
    assert resolved.human.triplets is None
    assert resolved.corpus.path == which.settings.images
    work = make_work(resolved, "soften")
    soften.run(work)
    artifact = SoftenArtifact(work.out)
    assert [row["name"] for row in artifact.objects().to_pylist()] == which.objects()
    posterior = artifact.posterior()
    similarity = posterior.mu @ posterior.mu.T
    first = similarity[:15, :15][~np.eye(15, dtype=bool)]
    assert first.mean() > similarity[:15, 15:].mean()


def test_comparisons_are_pinned_too(comparisons: tuple[Config, StudyFile]) -> None:
    cfg, which = comparisons
    pinned = ask_answers.pin(cfg)
    assert str(pinned.human.comparisons).startswith("ask:which@")
    before = ask_answers.resolve(pinned, Screen()).human.comparisons
    person = which.people()[0]
    which.answer(person.person, ask(which, person, 0, 1, 2).token, 2, 900.0)
    assert ask_answers.resolve(pinned, Screen()).human.comparisons == before
    assert ask_answers.resolve(cfg, Screen()).human.comparisons != before


@pytest.mark.parametrize(
    ("triplets", "compared", "problem"),
    [
        ("ask:which", None, "--human.triplets ask:which: this study asks reference comparisons: give it as "
        "--human.comparisons ask:which"),
        (None, "ask:pilot", "--human.comparisons ask:pilot: this study asks odd-one-out questions: give it as "
        "--human.triplets ask:pilot"),
        (None, "ask:", "--human.comparisons ask:: name a study, as ask:NAME"),
    ],
)  # fmt: skip
def test_a_study_of_the_other_form_is_refused(
    comparisons: tuple[Config, StudyFile], triplets: str | None, compared: str | None, problem: str
) -> None:
    cfg = comparisons[0].replace(human__triplets=triplets, human__comparisons=compared)
    for read in (lambda: ask_answers.resolve(cfg, Screen()), lambda: ask_answers.pin(cfg)):
        with pytest.raises(UserError) as error:
            read()
        assert str(error.value) == problem


def test_two_studies_of_the_same_images_are_read_together(
    comparisons: tuple[Config, StudyFile], tmp_path: Path
) -> None:
    both = comparisons[0].replace(human__triplets="ask:pilot")
    resolved = ask_answers.resolve(both, Screen())
    assert Path(str(resolved.human.triplets)).read_text(encoding="utf-8").startswith("image1,")
    assert Path(str(resolved.human.comparisons)).read_text(encoding="utf-8").startswith("reference,")
    data = human_inputs.read(resolved)
    assert data.count == 30
    assert data.given.comparisons.answers == len(data.given.triplets) == 300
    pinned = ask_answers.pin(both)
    assert "@" in str(pinned.human.triplets)
    assert "@" in str(pinned.human.comparisons)

    others = write_pictures(tmp_path / "others", 12)
    folder = StudyFolder(tmp_path / "runs" / "ask" / "others")
    launch.begin(folder, str(others), {"trials": 100, "mode": "reference"}, Screen())
    with pytest.raises(UserError, match="the studies pilot and others show different images"):
        ask_answers.resolve(both.replace(human__comparisons="ask:others"), Screen())
