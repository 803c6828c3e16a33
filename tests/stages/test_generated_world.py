"""A preset that names a generated world gets the paths of that world; what the user gives beside it stays."""

from dataclasses import replace
from pathlib import Path

import pytest

from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.screen import Screen
from alignet_ray.stages import generated_world
from alignet_ray.synthetic import world

TINY = Config().replace(
    corpus__path="synthetic:tiny", embed__model=("synthetic:tiny",), distill__model="synthetic:tiny"
)


def test_without_a_world_nothing_changes(tmp_path: Path) -> None:
    cfg = Config().replace(corpus__path=str(tmp_path))
    assert generated_world.name_and_folder(cfg, tmp_path) is None
    assert generated_world.resolve(cfg, tmp_path, Screen()) is cfg


def test_the_worlds_own_paths_and_those_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Path] = []
    monkeypatch.setattr(world, "materialise", lambda name, folder, *_: drawn.append(folder))
    cfg = TINY.replace(human__triplets="mine.txt", distill__model="pip:efficientnet-lite0", embed__size=48)
    resolved = generated_world.resolve(cfg, tmp_path, Screen())

    (folder,) = drawn
    paths = world.paths("tiny", folder)
    assert (resolved.corpus.path, resolved.objects.table) == (paths["corpus"], paths["table"])
    assert resolved.human.triplets == "mine.txt"
    assert (resolved.embed.model, resolved.embed.size) == ((paths["model"],), 48)
    assert resolved.distill.model == "pip:efficientnet-lite0"
    assert resolved.distill.size is None


def test_another_world_gets_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = generated_world.name_and_folder(TINY, tmp_path)
    assert before == generated_world.name_and_folder(TINY, tmp_path)
    changed = replace(world.WORLDS["tiny"], size=world.WORLDS["tiny"].size + 1)
    monkeypatch.setitem(world.WORLDS, "tiny", changed)
    assert generated_world.name_and_folder(TINY, tmp_path) != before


def test_a_world_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no generated world named 'nothing': there are "):
        generated_world.name_and_folder(Config().replace(corpus__path="synthetic:nothing"), tmp_path)
