"""Ray Tune's side of a sweep without Ray: the ledger, the queue, and what the monitor records and shows."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher

from alignet_ray.errors import UserError
from alignet_ray.screen import Screen
from alignet_ray.store import Store
from alignet_ray.sweep import tune
from alignet_ray.sweep.search_space import Domain
from alignet_ray.sweep.selection import FAILED, FINISHED, RUNNING, STOPPED, Trial, ValidationFigures
from alignet_ray.tracking import Session

FIGURES = ValidationFigures(
    score=1.25, agreement=0.5, agreement_low=0.4, agreement_high=0.6, cross_entropy=1.25, neighbours_kept=0.9
)
FIELD = "align.lr"


def trial(number: int = 0, seed: int = 0, **changes: Any) -> Trial:
    return Trial(number, {FIELD: 0.01}, seed, **changes)


def test_a_new_ledger_reads_what_an_earlier_one_wrote(store: Store) -> None:
    draft = store.draft("sweep", "s")
    ledger = tune.TrialLedger(draft)
    whole = trial(1, 0, status=FINISHED, figures=FIGURES, seconds=2.5, curve=[(20.0, 1.5)])
    for written in (whole, trial(0, 1, status=STOPPED), trial(0, 0, status=FAILED, problem="disk")):
        ledger.write(written)

    found = tune.TrialLedger(draft)
    assert [(t.number, t.seed) for t in found.all()] == [(0, 0), (0, 1), (1, 0)]
    assert found.all()[2].figures == FIGURES
    assert found.all()[0].problem == "disk"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[1]",
        b"null",
        b'{"number": 1, "params": {}, "seed": 0, "figures": null, "other": 1}',
        b'{"number": 1, "params": {}, "seed": 0, "figures": null, "status": "finished"}',
        b'{"number": 1, "params": {}, "seed": 0, "figures": null, "status": "done"}',
        b'{"number": 1, "params": [], "seed": 0, "figures": null}',
        b'{"number": 1, "params": {}, "seed": 0, "figures": {"score": 1}, "status": "finished"}',
        b'{"number": 2, "params": {}, "seed": 0, "figures": null}',
    ],
)
def test_a_damaged_trial_is_named(store: Store, content: bytes) -> None:
    draft = store.draft("sweep", "s")
    draft.write_bytes("trials/0001-0.json", content)
    with pytest.raises(UserError, match=r"sweep/s/trials/0001-0\.json is damaged .*: delete the folder ") as error:
        tune.TrialLedger(draft)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("status", "done"), [(FINISHED, True), (STOPPED, True), (FAILED, False), (RUNNING, False)])
def test_failed_and_unfinished_trials_run_again(store: Store, status: str, done: bool) -> None:
    ledger = tune.TrialLedger(store.draft("sweep", "s"))
    ledger.write(trial(3, 1, status=status))
    assert ledger.is_done(3, 1) is done
    assert not ledger.is_done(3, 0)


def test_a_queue_gives_its_trials_in_order_and_then_ends() -> None:
    queue = tune.TrialQueue([trial(2), trial(5, 1)])
    assert queue.suggest("a") == {"job": {"number": 2, "params": {FIELD: 0.01}, "seed": 0}}
    assert queue.suggest("b")["job"]["number"] == 5
    assert queue.suggest("c") == Searcher.FINISHED


class FixedSearcher(Searcher):
    """Suggests 0.1, 0.2, ... and remembers what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, Any]] = []
        self.count = 0

    def suggest(self, trial_id: str) -> dict[str, Any]:
        self.count += 1
        return {FIELD: self.count / 10}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.told.append((trial_id, result))


def test_suggestions_are_numbered_on_from_the_known_trials_and_limited() -> None:
    searcher = FixedSearcher()
    queue = tune.SuggestedTrials(2, searcher, seed=7, first_number=4)
    jobs = [queue.suggest(name)["job"] for name in ("a", "b")]
    assert [(job["number"], job["params"][FIELD], job["seed"]) for job in jobs] == [(4, 0.1, 7), (5, 0.2, 7)]
    assert queue.suggest("c") == Searcher.FINISHED
    assert searcher.count == 2
    queue.on_trial_complete("a", {"score": 1.0})
    assert searcher.told == [("a", {"score": 1.0})]


@pytest.mark.parametrize("kind", ["randint", "lograndint"])
def test_the_upper_bound_of_integers_is_drawn_too(kind: str) -> None:
    domain = tune._tune_domain(Domain(kind, (1, 3)))
    assert set(domain.sample(size=200)) == {1, 2, 3}


def test_a_list_is_a_choice() -> None:
    assert set(tune._tune_domain(Domain("grid", ("a", "b"))).sample(size=100)) == {"a", "b"}


class Watched:
    """A monitor with its ledger, session and screen; and Tune's view of one trial."""

    def __init__(self, store: Store, shown: Path, seconds: float | None = None) -> None:
        self.ledger = tune.TrialLedger(store.draft("sweep", "s"))
        self.session = create_autospec(Session, instance=True, uri="uri", spool="")
        self.shown = shown
        self.file = shown.open("a", encoding="utf-8")
        self.monitor = tune.TrialMonitor(self.ledger, [FIELD], self.session, Screen(self.file), 1, seconds)
        job = {"number": 0, "params": {FIELD: 0.01}, "seed": 0}
        self.trial = SimpleNamespace(trial_id="t", config={"job": job}, last_result={"run_id": "r1"})
        self.monitor.on_trial_start(0, [], self.trial)

    def report(self, **result: Any) -> None:
        self.monitor.on_trial_result(0, [], self.trial, result)

    def closed_runs(self) -> list[tuple[str, str]]:
        """Runs that the session was told to close, and how."""
        return [(call.args[0].run_id, call.args[1]) for call in self.session.end.call_args_list]

    def complete(self) -> Trial:
        self.monitor.on_trial_complete(0, [], self.trial)
        (recorded,) = self.ledger.all()
        return recorded


@pytest.fixture
def watched(store: Store, tmp_path: Path) -> Watched:
    return Watched(store, tmp_path / "screen.txt")


def test_a_trial_is_in_the_ledger_as_soon_as_it_begins(watched: Watched) -> None:
    assert [t.status for t in watched.ledger.all()] == [RUNNING]


def test_live_metrics_make_a_curve_without_the_steps_of_a_restart(watched: Watched) -> None:
    for step, live in ((20, 1.5), (40, 1.4), (20, 1.5), (60, 1.3)):
        watched.report(step=step, live=live)
    watched.report(figures=dict(vars(FIGURES)), score=1.25)
    ended = watched.complete()
    assert ended.curve == [(20.0, 1.5), (40.0, 1.4), (60.0, 1.3)]
    assert ended.status == FINISHED
    assert ended.figures == FIGURES
    assert watched.closed_runs() == [("r1", "FINISHED")]
    watched.file.flush()
    assert "1.2500" in watched.shown.read_text()


def test_a_trial_that_the_scheduler_ends_is_stopped(watched: Watched) -> None:
    watched.report(step=20, live=1.5)
    assert watched.complete().status == STOPPED


def test_a_trial_that_the_time_limit_ends_stays_unfinished(store: Store, tmp_path: Path) -> None:
    watched = Watched(store, tmp_path / "screen.txt", seconds=1e-9)
    assert watched.complete().status == RUNNING
    assert watched.closed_runs() == [("r1", "KILLED")]


def test_a_problem_is_recorded_and_closes_the_run_as_failed(watched: Watched) -> None:
    watched.report(problem="the disk is full", score=None)
    assert watched.complete().problem == "the disk is full"
    assert watched.closed_runs() == [("r1", "FAILED")]


def test_a_lost_process_is_a_failure(watched: Watched) -> None:
    watched.monitor.on_trial_error(0, [], watched.trial)
    (recorded,) = watched.ledger.all()
    assert (recorded.status, recorded.problem) == (FAILED, "its process was lost")


def test_what_a_running_trial_reported_survives_a_kill_and_its_restart(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "LEDGER_SECONDS", 0.0)
    killed = Watched(store, tmp_path / "screen.txt")
    killed.report(step=20, live=1.5)
    killed.report(step=40, live=1.4)
    again = Watched(store, tmp_path / "screen.txt")
    (known,) = again.ledger.all()
    assert list(map(tuple, known.curve)) == [(20.0, 1.5), (40.0, 1.4)]
    assert known.status == RUNNING
    again.report(step=20, live=1.5)
    again.report(step=60, live=1.3)
    assert list(map(tuple, again.complete().curve)) == [(20.0, 1.5), (40.0, 1.4), (60.0, 1.3)]


def test_reports_are_written_now_and_then(watched: Watched) -> None:
    for step in range(1, 100):
        watched.report(step=step, live=1.0)
    (recorded,) = tune.TrialLedger(watched.ledger.draft).all()
    assert len(recorded.curve) < 50, "a file for every report"


ASHA = {"time_attr": "step", "metric": "live", "mode": "min", "grace_period": 4, "max_t": 17, "reduction_factor": 2}


@given(
    curves=st.lists(st.lists(st.floats(0, 9), min_size=16, max_size=16), min_size=2, max_size=12),
    killed_after=st.floats(0, 1),
    cut=st.integers(0, 16),
)
@settings(deadline=None)
def test_a_continued_search_decides_as_one_that_never_ended(
    curves: list[list[float]], killed_after: float, cut: int
) -> None:
    """Trials one after the other through Ray's own ASHA; then the same with an interruption in the middle of one."""
    uninterrupted = ASHAScheduler(**ASHA)
    expected = [run_through(uninterrupted, number, curve) for number, curve in enumerate(curves)]

    ended = int(killed_after * (len(curves) - 1))
    ledger = []
    for number, reported in enumerate(expected[:ended]):
        status = FINISHED if len(reported) == 16 else STOPPED
        ledger.append(Trial(number, {}, 0, status, curve=reported))
    # The report at which the scheduler stops a trial is its last one: before it the kill comes at any place.
    cut = min(cut, len(expected[ended]) - 1)
    ledger.append(Trial(ended, {}, 0, RUNNING, curve=expected[ended][:cut]))
    continued = tune.ContinuedASHA(ledger, **ASHA)
    for number in range(ended, len(curves)):
        assert run_through(continued, number, curves[number]) == expected[number]


def run_through(scheduler: ASHAScheduler, number: int, curve: list[float]) -> list[tuple[float, float]]:
    """The reports of a trial until the scheduler stops it, or to their end."""
    trial = SimpleNamespace(trial_id=f"t{number}", config={"job": {"number": number, "params": {}, "seed": 0}})
    scheduler.on_trial_add(None, trial)
    reported = []
    for step, live in enumerate(curve, 1):
        reported.append((float(step), live))
        if scheduler.on_trial_result(None, trial, {"step": step, "live": live}) == TrialScheduler.STOP:
            break
    return reported


def test_without_a_limit_there_is_no_deadline(watched: Watched) -> None:
    assert watched.monitor.deadline == math.inf
    assert watched.monitor.__getstate__() == {}


def test_rows_stand_under_the_header() -> None:
    header = tune.table_header([FIELD, "align.identity_penalty"])
    params = {FIELD: 0.01, "align.identity_penalty": 1e-5}
    finished = tune.table_row(Trial(3, params, 1, FINISHED, FIGURES, 45.0), list(params))
    failed = tune.table_row(Trial(4, params, 0, FAILED, None, 3.0, [], "disk full"), list(params))
    assert len(header) == len(finished) == len(failed)
    assert finished.split() == ["3", "0.01", "1e-05", "1.2500", "50.0%", "90%", *finished.split()[6:]]
    assert "disk full" in failed
