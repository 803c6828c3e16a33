"""Runs side by side make what they make one after the other; one that fails does not take the others with it."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.screen import Screen
from alignet_ray.stages import Node, pipeline, side_by_side
from alignet_ray.stages.pipeline import Step
from alignet_ray.stages.side_by_side import OneRun
from alignet_ray.store import Artifact, Recipe, Store
from tests.stages.test_features_run import settings, world  # noqa: F401 (a fixture)

NODES = ["soften", "embed@objects", "align", "evaluate"]


def folds(cfg: Config) -> list[Config]:
    """Settings of three folds, under names of their own."""
    short = cfg.replace(align__steps=40)
    return [short.replace(name=f"fold{fold}", objects__fold=fold, objects__folds=3) for fold in range(3)]


def run(cfgs: Sequence[Config], title: str = "three") -> dict[int, dict[str, Artifact]]:
    found: dict[int, dict[str, Artifact]] = {}
    side_by_side.run(title, cfgs, NODES, 2, Screen(), {}, found.__setitem__)
    return found


def test_three_folds_are_what_they_are_one_after_the_other(
    world: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    together = run(folds(settings(world, tmp_path / "together")))
    assert sorted(together) == [0, 1, 2]
    printed = capsys.readouterr().out
    # The features are every fold's: they are stored before the folds begin.
    assert printed.count("== embed@objects") == 1
    assert "9/9 steps" in printed.replace(",", "")

    for number, cfg in enumerate(folds(settings(world, tmp_path / "alone"))):
        alone = pipeline.run(cfg, Screen(), NODES)
        assert alone.keys() == together[number].keys()
        for name, artifact in alone.items():
            assert artifact.id == together[number][name].id, name
        for node, file in (("soften", "objects.parquet"), ("evaluate", "scores.parquet")):
            tables = [found[node].read_table(file).to_pandas() for found in (alone, together[number])]
            # To rounding: a task of Ray's has fewer threads, and the order of sums depends on their number.
            pd.testing.assert_frame_equal(*tables, rtol=1e-9, atol=1e-12)

    # Every fold has a name that keeps its artifacts, and nothing is left to do.
    store = Store.open(str(tmp_path / "together"))
    assert sorted(store.refs()) == ["fold0", "fold1", "fold2"]
    capsys.readouterr()
    again = run(folds(settings(world, tmp_path / "together")))
    assert {number: found["evaluate"].id for number, found in again.items()} == {
        number: found["evaluate"].id for number, found in together.items()
    }
    assert "nothing to do: all 3 runs are finished" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_fails_lets_the_others_that_go_on_end(
    world: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    cfgs = folds(settings(world, tmp_path / "root"))
    # A folder in the place of one fold's map, which no file can replace.
    wrong = pipeline.plan(cfgs[1], Store.open(str(tmp_path / "root")), NODES)
    place = next(Path(step.artifact.uri) / "transform.npz" for step in wrong if step.node.name == "align")
    place.mkdir(parents=True)

    found: dict[int, dict[str, Artifact]] = {}
    with pytest.raises(UserError, match=r"^fold1: "):
        side_by_side.run("three", cfgs, NODES, 2, Screen(), {}, found.__setitem__)
    assert 0 in found
    assert found[0]["evaluate"].finished

    place.rmdir()
    assert sorted(run(cfgs)) == [0, 1, 2]


def step(store: Store, name: str, id: str) -> Step:
    stage, _, role = name.partition("@")
    recipe = Recipe(inputs={}, parents={}, role=role, version=1, sources=[])
    return Step(Node(stage, role), store.artifact(stage, id), recipe, [], "missing", "", "")


def test_what_several_runs_need_is_found_once(store: Store) -> None:
    """Two seeds of two folds: the corpus is everybody's, the clusters are those of a seed."""
    runs = []
    for seed in range(2):
        for fold in range(2):
            steps = [
                step(store, "embed@corpus", "all"),
                step(store, "cluster", f"seed{seed}"),
                step(store, "align", f"seed{seed}-fold{fold}"),
            ]
            runs.append(OneRun(Config(), steps))

    found = side_by_side.shared(runs)
    assert [one is runs[number] for (one, _), number in zip(found, (0, 2), strict=True)] == [True, True]
    ids = [[each.artifact.id for each in steps] for _, steps in found]
    assert ids == [["all", "seed0"], ["all", "seed1"]]


def test_runs_that_share_nothing_have_nothing_to_make_before(store: Store) -> None:
    runs = [OneRun(Config(), [step(store, "align", id)]) for id in ("a", "b")]
    assert side_by_side.shared(runs) == []
