"""Ray Tune for a sweep: the queue of jobs, what is written down of each trial, and the live table. Part of `sweep`."""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from ray import tune
from ray.tune import Callback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from alignet_ray.errors import UserError
from alignet_ray.screen import Screen, clock
from alignet_ray.store import Draft
from alignet_ray.sweep import selection
from alignet_ray.sweep.search_space import Domain, Space
from alignet_ray.sweep.selection import Trial
from alignet_ray.tracking import Session, Tracker

SCRATCH = ".tune"
"""What Ray Tune writes for itself; never read again, since the trials are written down one by one."""


class TrialLedger:
    """The trials of a sweep: a small file each, so that a killed sweep knows what it has."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        names = draft.files("trials", ".json")
        read = (Trial(**draft.read_json(name)) for name in names)
        self.trials: dict[tuple[int, int], Trial] = {(t.number, t.seed): t for t in read}

    def write(self, trial: Trial) -> None:
        """Keep what is known of a trial now."""
        self.trials[trial.number, trial.seed] = trial
        self.draft.write_bytes(f"trials/{trial.number:04d}-{trial.seed}.json", json.dumps(asdict(trial)).encode())

    def is_done(self, number: int, seed: int) -> bool:
        """Whether a trial need not run (again)."""
        found = self.trials.get((number, seed))
        return found is not None and found.status in (selection.FINISHED, selection.STOPPED)

    def all(self) -> list[Trial]:
        """Every trial, by number and seed."""
        return [self.trials[key] for key in sorted(self.trials)]


class Queue(Searcher):
    """Jobs that are fixed beforehand, then `more` that Optuna suggests (none without it)."""

    def __init__(self, jobs: Sequence[Trial], more: int = 0, inner: Any = None, seed: int = 0, number: int = 0) -> None:
        super().__init__(metric="score", mode="min")
        self.jobs, self.more, self.inner, self.seed, self.number = list(jobs), more, inner, seed, number
        self.asked: set[str] = set()

    def suggest(self, trial_id: str) -> Any:
        """The next job."""
        if self.jobs:
            job = self.jobs.pop(0)
            return {"job": {"number": job.number, "params": dict(job.params), "seed": job.seed}}
        if not self.more:
            return Searcher.FINISHED
        self.more, self.number = self.more - 1, self.number + 1
        self.asked.add(trial_id)
        return {"job": {"number": self.number - 1, "params": self.inner.suggest(trial_id), "seed": self.seed}}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna what its suggestion was worth; one that was stopped or failed has no score."""
        if trial_id in self.asked:
            self.inner.on_trial_complete(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to keep: the ledger knows what is done."""

    def restore(self, checkpoint_path: str) -> None:
        """Never called: a sweep goes on from its ledger."""


def optuna(space: Space, mode: str, seed: int, known: Sequence[Trial]) -> Any:
    """Optuna's sampler, told of the trials that are finished.

    Raises:
        UserError: the package is not installed.
    """
    try:
        import optuna as package
    except ImportError as error:
        raise UserError("--sweep.searcher optuna needs a package: pip install optuna") from error
    from ray.tune.search.optuna import OptunaSearch

    package.logging.set_verbosity(package.logging.WARNING)
    domains = OptunaSearch.convert_search_space({name: _domain(domain) for name, domain in space.items()})
    search = OptunaSearch(domains, metric="score", mode=mode, seed=seed)
    for trial in known:
        if all(space[name].holds(value) for name, value in trial.params.items()):
            search.add_evaluated_point(dict(trial.params), trial.figures["score"])
    return search


def _domain(domain: Domain) -> Any:
    """A domain as Tune's."""
    if not domain.is_range:
        return tune.choice(list(domain.values))
    low, high = domain.values
    return getattr(tune, domain.kind)(low, high + 1 if domain.kind.endswith("randint") else high)


class LiveTable(Callback):
    """In the driver: writes trials down and shows them, a line for each that ends."""

    def __init__(
        self,
        ledger: TrialLedger,
        fields: Sequence[str],
        session: Session,
        screen: Screen,
        total: int,
        seconds: float | None = None,
    ) -> None:
        self.ledger, self.fields, self.session, self.screen, self.total = ledger, fields, session, screen, total
        self.live: dict[str, Trial] = {}
        self.since: dict[str, float] = {}
        self.seconds, self.end = seconds, time.monotonic() + (seconds or math.inf)
        self.shown = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Tune writes its callbacks down; this one belongs to this process."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Write it down as begun."""
        self.live[trial.trial_id] = begun = Trial(**trial.config["job"])
        self.since[trial.trial_id] = time.monotonic()
        self.ledger.write(begun)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A live metric, or the figures at the end."""
        mine = self.live[trial.trial_id]
        if "problem" in result:
            mine = replace(mine, status=selection.FAILED, problem=result["problem"])
        elif "figures" in result:
            mine = replace(mine, status=selection.FINISHED, figures=result["figures"])
        elif not mine.curve or result["step"] > mine.curve[-1][0]:
            mine = replace(mine, curve=[*mine.curve, (float(result["step"]), result["live"])])
        self.live[trial.trial_id] = mine
        if time.monotonic() - self.shown >= (0.2 if self.screen.live else self.screen.every):
            self.shown = time.monotonic()
            self.screen.redraw(self._running())

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Finished, failed with a reason, or stopped: by the scheduler for good, by the clock to go on later."""
        mine = self.live.pop(trial.trial_id)
        if mine.status == selection.RUNNING and time.monotonic() < self.end:
            mine = replace(mine, status=selection.STOPPED)
        self._close(mine, trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its process was lost, again and again."""
        mine = self.live.pop(trial.trial_id)
        self._close(replace(mine, status=selection.FAILED, problem="its process was lost"), trial)

    def _close(self, mine: Trial, trial: Any) -> None:
        seconds = time.monotonic() - self.since.pop(trial.trial_id)
        self.ledger.write(replace(mine, seconds=round(seconds, 1)))
        run = (trial.last_result or {}).get("run_id", "")
        if run:
            status = {selection.FAILED: "FAILED", selection.RUNNING: "KILLED"}.get(mine.status, "FINISHED")
            self.session.end(Tracker(self.session.uri, run, self.session.spool), status)
        self.screen.line(line(self.ledger.trials[mine.number, mine.seed], self.fields))

    def _running(self) -> str:
        parts = [
            f"{t.number}" + (f" (step {t.curve[-1][0]:.0f}: {t.curve[-1][1]:.4f})" if t.curve else "")
            for t in self.live.values()
        ]
        return f"   of {self.total} trials running: {', '.join(parts)}"


def head(fields: Sequence[str]) -> str:
    """The table's head; `line` fits under it."""
    names = [name.partition(".")[2] for name in fields]
    return "  ".join(["trial", *(f"{n:>10}" for n in names), "   score", "agreement", " kept", "    time", " seed"])


def line(trial: Trial, fields: Sequence[str]) -> str:
    """A trial as a row."""
    values = [f"{short(trial.params[name]):>{max(10, len(name.partition('.')[2]))}}" for name in fields]
    found = trial.figures
    figures = [f"{found['score']:8.4f}", f"{found['agreement']:9.1%}", f"{found['kept']:5.0%}"] if found else []
    blank = [] if found else [f"{trial.problem or trial.status:>26}"]
    return "  ".join([f"{trial.number:5}", *values, *figures, *blank, f"{clock(trial.seconds):>8}", f"{trial.seed:5}"])


def short(value: Any) -> str:
    """A parameter in few characters."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def tuned(
    trainable: Callable[..., None],
    setup: Mapping[str, Any],
    queue: Queue,
    watch: LiveTable,
    *,
    count: int,
    concurrent: int,
    cpus: float,
    asha: ASHAScheduler | None,
    storage: str,
    reuse: bool,
) -> None:
    """Run `count` trials from a queue.

    Args:
        setup: what every trial is called with besides its job.
        concurrent: trials at a time; cpus: what each itself takes.
        asha: the scheduler that stops trials early, if any.
        storage: folder or URL for Tune's own files.
        reuse: whether a process does one trial after another.
    """
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    os.environ |= {"TUNE_DISABLE_STRICT_METRIC_CHECKING": "1", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C stops the sweep as it stops any run
    tune.Tuner(
        tune.with_resources(tune.with_parameters(trainable, **setup), {"CPU": cpus}),
        tune_config=tune.TuneConfig(
            num_samples=count,
            search_alg=queue,
            scheduler=asha,
            max_concurrent_trials=concurrent,
            time_budget_s=watch.seconds,
            reuse_actors=reuse,
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=storage,
            verbose=0,
            callbacks=[watch],
            failure_config=tune.FailureConfig(max_failures=2),
        ),
    ).fit()
