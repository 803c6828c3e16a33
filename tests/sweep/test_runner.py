"""A sweep through real Ray Tune on features with a known answer; what is done is never done again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.screen import Screen
from alignet_ray.stages import kept, pipeline
from alignet_ray.store import Artifact, Store
from alignet_ray.sweep import runner, selection, trial
from alignet_ray.tracking import Session, client

WITH_RESPONSES = {"human__triplets": "x", "corpus__path": "x"}


@pytest.fixture
def make_sweep(
    parents: dict[str, Artifact],
    store: Store,
    tmp_path: Path,
    ray_session: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., runner.SweepRunner]:
    """A sweep over the identity penalty, its upstream made; a weak penalty lets the map fit people's choices."""

    def make(**changes: Any) -> runner.SweepRunner:
        root = str(Path(store.root))
        cfg = Config().replace(
            **{
                "name": "tiny",
                "store__root": root,
                "align__map": "affine",
                "align__steps": 60,
                "align__batch_size": 1024,
                "align__folds": 2,
                "align__identity_penalty": 100.0,
                "sweep__trials": 3,
                "sweep__full": False,
                # Every further process at a time would load torch once more.
                "sweep__concurrent": 2,
                "sweep__halving": 0,
                "sweep__space": ("align.identity_penalty=loguniform(1e-4,1e-1)",),
                **WITH_RESPONSES,
                **changes,
            }
        )
        stage, space = trial.read_space(cfg)
        session = Session.open(cfg, tmp_path)
        pinned = {name: artifact.id for name, artifact in parents.items()}
        setup = trial.TrialSetup(cfg, trial.OBJECTIVES[stage], pinned, {}, session, session.begin("tiny", cfg, {}))
        screen = Screen((tmp_path / "screen.txt").open("a"))
        return runner.SweepRunner(setup, stage, space, store, store.draft("sweep", "tiny"), screen)

    return make


def test_a_killed_sweep_continues_with_what_it_has(
    make_sweep: Callable[..., runner.SweepRunner], store: Store, tmp_path: Path
) -> None:
    first = make_sweep(sweep__trials=2)
    first.search()
    assert [t.status for t in first.ledger.all()] == [selection.FINISHED] * 2
    made = {a.id: (Path(a.uri) / "_SUCCESS").stat().st_mtime_ns for a in store.all(["align"])}
    assert len(made) == 2
    (Path(first.draft.uri) / "trials" / "0000-0.json").unlink()  # killed after the artifact, before it was written down

    again = make_sweep(sweep__repeats=1)
    assert [t.number for t in again.ledger.all()] == [1]
    again.search()
    again.repeat()
    again.conclude()
    for id, finished in made.items():
        assert (Path(store.root) / "align" / id / "_SUCCESS").stat().st_mtime_ns == finished, "made again"
    trials = again.ledger.all()
    assert [(t.number, t.seed) for t in trials] == [(n, s) for n in range(3) for s in (0, 1)]
    assert {t.status for t in trials} == {selection.FINISHED}
    best = selection.compare_finalists(trials, "min", 0)[0]
    assert best.number != 0, "a penalty of 100 leaves the map at the identity"
    winner = Config.from_yaml(Path(again.draft.uri) / "winner.yaml")
    assert winner.align.identity_penalty == best.params["align.identity_penalty"] < 100
    assert f"number {best.number} did best" in again.draft.read_bytes("sweep.html").decode()
    assert "trial  identity_penalty" in (tmp_path / "screen.txt").read_text()
    reference = store.read_ref("tiny-sweep")
    assert reference is not None
    assert {("align", a.id) for a in store.all(["align"])} <= kept.reachable(store), "gc would delete a trial"
    runs = client(again.setup.session.uri).search_runs([again.setup.session.experiment])
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == again.setup.parent.run_id]
    assert {r.info.status for r in children} == {"FINISHED"}
    assert {float(r.data.params["align.identity_penalty"]) for r in children} == {
        t.params["align.identity_penalty"] for t in trials
    }
    curve = client(again.setup.session.uri).get_metric_history(children[0].info.run_id, "curve/cross_entropy")
    assert [m.step for m in curve] == [20, 40, 60]


def test_a_continued_sweep_prunes_by_the_rungs_of_before(
    make_sweep: Callable[..., runner.SweepRunner], store: Store
) -> None:
    """The good trial ran before the interruption, the bad one after it: alone, ASHA would let it run to its end."""
    changes = {"sweep__halving": 2, "align__identity_penalty": 1e-3}
    space = ("align.identity_penalty=choice(1000.0)",)
    first = make_sweep(sweep__trials=1, sweep__space=space, **changes)
    first.search()
    assert [(t.status, len(t.curve)) for t in first.ledger.all()] == [(selection.FINISHED, 3)]

    again = make_sweep(sweep__trials=2, sweep__space=space, **changes)
    again.search()
    good, bad = again.ledger.all()
    assert bad.status == selection.STOPPED
    assert [step for step, _ in bad.curve] == [20]
    assert bad.curve[0][1] > good.curve[0][1]


@pytest.mark.parametrize(
    ("stage", "resources", "cores", "changes", "concurrent"),
    [
        ("distill", (8, 128), 128, {}, 8),
        ("distill", (8, 128), 128, {"distill__workers": 4}, 2),
        ("distill", (2, 16), 16, {"distill__gpus_per_worker": 0.5}, 4),
        ("distill", (0, 4), 2, {}, 2),
        ("distill", (0, 4), 2, {"distill__workers": 2}, 1),
        ("distill", (0, 1), 1, {}, 1),
        ("align", (0, 8), 8, {}, 4),
        ("align", (4, 32), 32, {"align__map": "network"}, 4),
    ],
)
def test_as_many_trials_at_a_time_as_there_is_room_for(
    make_sweep: Callable[..., runner.SweepRunner],
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    resources: tuple[int, int],
    cores: int,
    changes: dict[str, Any],
    concurrent: int,
) -> None:
    made = make_sweep(sweep__concurrent=None)
    made.cfg = made.cfg.replace(**changes)
    made.stage = stage
    monkeypatch.setattr(runner.cluster_nodes, "cluster_resources", lambda: resources)
    monkeypatch.setattr(runner.cluster_nodes, "cores", lambda: cores)
    assert made._room().concurrent == concurrent


def test_a_trial_that_fails_is_shown_and_the_others_go_on(
    make_sweep: Callable[..., runner.SweepRunner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[dict[str, Any]] = []
    monkeypatch.setattr("ray.tune.report", reported.append)
    made = make_sweep(align__objective="hard", sweep__space=("align.identity_penalty=choice(1,2)",), align__triplets=1)
    monkeypatch.setattr(pipeline, "make", lambda *_: (_ for _ in ()).throw(UserError("no answer is about them")))
    trial.run_trial({"job": {"number": 0, "params": {"align.identity_penalty": 1.0}, "seed": 0}}, made.setup)
    assert reported[-1]["problem"] == "no answer is about them"
    assert reported[-1]["score"] is None


def test_a_sweep_without_a_finished_trial_is_an_error(make_sweep: Callable[..., runner.SweepRunner]) -> None:
    made = make_sweep()
    made.ledger.write(
        selection.Trial(0, {"align.identity_penalty": 1.0}, 0, selection.FAILED, problem="the disk is full")
    )
    with pytest.raises(UserError, match="the disk is full"):
        made.conclude()


def test_another_seed_keeps_what_is_upstream(make_sweep: Callable[..., runner.SweepRunner], store: Store) -> None:
    made = make_sweep()
    steps = [made.setup.steps(made.setup.config({"align.identity_penalty": 1.0}, seed), store) for seed in (0, 1)]
    assert [[s.node.name for s in made_steps] for made_steps in steps] == [["align"], ["align"]]
    assert steps[0][0].artifact.id != steps[1][0].artifact.id
    assert steps[0][0].recipe.parents == steps[1][0].recipe.parents
