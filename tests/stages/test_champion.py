"""A student takes the champion's place only where it is better on validation objects: models of the smoke run."""

import re
from pathlib import Path

import pytest
from support.smoke_run import SmokeRun

from alignet_ray import registry
from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.evals.gate import Verdict
from alignet_ray.models import hub
from alignet_ray.registry import Champion
from alignet_ray.screen import Screen
from alignet_ray.stages import Node, Work, champion, generated_world, register
from alignet_ray.store import Store
from alignet_ray.tracking import Tracker, client

NODES = ("distill@student", "distill@control", "embed@student", "soften", "evaluate")


@pytest.fixture
def work(smoke: SmokeRun, tmp_path: Path) -> Work:
    """What `register` gets in the smoke run."""
    reference = smoke.store.read_ref("smoke")
    assert reference is not None
    settings = tmp_path / "smoke.yaml"
    settings.write_text(reference.config)
    cfg = Config.from_yaml(settings).replace(store__root=str(smoke.root))
    cfg = generated_world.resolve(cfg, smoke.root, Screen())
    parents = {node: smoke[node] for node in NODES}
    # A root of its own: other tests count what lies under that of the smoke run.
    draft = Store.open(str(tmp_path / "root")).draft("register", "champion")
    return Work(cfg, Node("register"), parents, draft, Tracker(), Screen())


def reign(monkeypatch: pytest.MonkeyPatch, student: str | UserError) -> None:
    """Make a folder the champion, or one that cannot be loaded."""

    def locate(model: str, address: str | None) -> Path:
        assert model.endswith("/3")
        if isinstance(student, UserError):
            raise student
        return Path(student)

    monkeypatch.setattr(registry, "champion", lambda uri, name: Champion("3", "another"))
    monkeypatch.setattr(hub, "locate", locate)


def test_a_student_that_is_nearer_to_people_beats_the_champion(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control is the champion: it was trained alike, by a teacher that people did not align."""
    reign(monkeypatch, str(work.parents["distill@control"].local()))
    against = champion.compare(work)
    assert against is not None
    assert against.version == "3"
    assert against.reasons[0].startswith("agreement with people: yes, +")


def test_the_same_weights_are_no_better_than_themselves(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    reign(monkeypatch, str(work.parents["distill@student"].local()))
    against = champion.compare(work)
    assert against is not None
    assert against.verdict is not Verdict.YES
    # Stored embeddings are in half precision, the champion's are not: a choice in thousands may differ.
    assert re.match(
        r"agreement with people: \w+, [+-]0\.0 \[[+-]0\.\d, [+-]0\.\d\]",
        against.reasons[0].replace("cannot tell", "no"),
    )


def test_nobody_takes_the_place_of_a_champion_that_cannot_be_loaded(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    reign(monkeypatch, UserError("its files are gone"))
    against = champion.compare(work)
    assert against == ("3", Verdict.CANNOT_TELL, ["it cannot be loaded: its files are gone"])
    lines = register._champion_lines(against)
    assert lines[0] == "Better than the champion, on validation objects: cannot tell (version 3 stays the champion)"


def test_without_a_champion_or_with_the_same_student_there_is_nobody_to_beat(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "champion", lambda uri, name: None)
    assert champion.compare(work) is None
    mine = work.parents["distill@student"].id
    monkeypatch.setattr(registry, "champion", lambda uri, name: Champion("2", mine))
    assert champion.compare(work) is None


def test_the_registry_knows_its_champion_and_whose_it_is(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert registry.champion(uri, "student") is None
    mlflow = client(uri)
    mlflow.create_registered_model("student")
    mlflow.create_model_version("student", str(tmp_path), tags={"alignet.node.distill.student": "abc"})
    assert registry.champion(uri, "student") is None, "a version, but no champion"
    registry.promote(uri, "student", "1")
    assert registry.champion(uri, "student") == Champion("1", "abc")
