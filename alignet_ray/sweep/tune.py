"""Ray Tune for a sweep: the queue of trials, the ledger that outlives a killed sweep, and progress on the screen."""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune import Callback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from alignet_ray.errors import UserError, first_line
from alignet_ray.screen import Screen, clock
from alignet_ray.store import Draft
from alignet_ray.sweep.search_space import Domain, Space, format_value, short_name
from alignet_ray.sweep.selection import FAILED, FINISHED, RUNNING, STOPPED, Mode, Trial, TrialConfig, ValidationFigures
from alignet_ray.tracking import Session, Tracker

LEDGER_SECONDS = 5.0
"""Seconds between two records of a running trial."""

FIGURE_HEADINGS = ("   score", "agreement", " kept")
"""Columns of a finished trial's figures; an unfinished one shows its status across them."""


class TrialLedger:
    """The trials of a sweep, one small file each, so that a killed sweep knows what it has."""

    def __init__(self, draft: Draft) -> None:
        """Read what there is.

        Raises:
            UserError: a file is damaged.
        """
        self.draft = draft
        # By setting and seed: a repeat has the number of its setting.
        self.trials: dict[tuple[int, int], Trial] = {}
        for name in draft.files("trials", ".json"):
            stored = draft.read_json(name)
            try:
                trial = Trial.from_json(stored)
            except ValueError as error:
                raise draft.damaged(name, first_line(error)) from error
            # A copy under another name would take that trial's place.
            if name != self._file(trial):
                raise draft.damaged(name, f"it is about trial {trial.number} with seed {trial.seed}")
            self.trials[trial.number, trial.seed] = trial

    def write(self, trial: Trial) -> None:
        """Record what is known of a trial now."""
        self.trials[trial.number, trial.seed] = trial
        self.draft.write_bytes(self._file(trial), json.dumps(asdict(trial)).encode())

    @staticmethod
    def _file(trial: Trial) -> str:
        return f"trials/{trial.number:04d}-{trial.seed}.json"

    def is_done(self, number: int, seed: int) -> bool:
        """Whether a trial need not run (again)."""
        trial = self.trials.get((number, seed))
        # Failed ones run again: the reason may be gone, such as a full disk. So do those that a kill left `running`.
        return trial is not None and trial.status in (FINISHED, STOPPED)

    def all(self) -> list[Trial]:
        """Every trial, by number and seed."""
        return [self.trials[key] for key in sorted(self.trials)]

    def of_seed(self, seed: int) -> list[Trial]:
        """Every trial with this seed, by number."""
        return [trial for trial in self.all() if trial.seed == seed]


class TrialQueue(Searcher):
    """Trials that are fixed beforehand, as a searcher of Ray Tune."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        # Ray asks every searcher for a metric; the order here is fixed, and the mode has no effect.
        super().__init__(metric="score", mode="min")
        self.trials = list(trials)

    def suggest(self, trial_id: str) -> Any:
        """The config of the next trial."""
        if not self.trials:
            return Searcher.FINISHED
        trial = self.trials.pop(0)
        return _config_of(trial)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing to learn from."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to keep: the ledger knows what is done."""

    def restore(self, checkpoint_path: str) -> None:
        """Never called: a sweep continues from its ledger."""


class SuggestedTrials(TrialQueue):
    """Trials that another searcher (Optuna) suggests one by one."""

    def __init__(self, count: int, searcher: Searcher, seed: int, first_number: int) -> None:
        super().__init__([])
        self.remaining = count
        self.searcher = searcher
        self.seed = seed
        self.number = first_number

    def suggest(self, trial_id: str) -> Any:
        """The config of the next trial."""
        if not self.remaining:
            return Searcher.FINISHED

        # Tune asks for a suggestion only when there is room for a trial, so that it can learn from those that ended.
        number = self.number
        self.remaining -= 1
        self.number += 1
        return _job(number, self.searcher.suggest(trial_id) or {}, self.seed)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the searcher the score of its suggestion; one that was stopped or failed has none."""
        self.searcher.on_trial_complete(trial_id, result, error)


def _config_of(trial: Trial) -> TrialConfig:
    return _job(trial.number, trial.params, trial.seed)


def _job(number: int, params: Mapping[str, Any], seed: int) -> TrialConfig:
    return {"job": {"number": number, "params": dict(params), "seed": seed}}


def optuna_searcher(space: Space, mode: Mode, seed: int, known: Sequence[Trial]) -> Searcher:
    """Optuna's sampler (tree-structured Parzen estimator), told of the trials that are finished.

    Raises:
        UserError: the package is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError("--sweep.searcher optuna needs a package: pip install optuna") from error
    from ray.tune.search.optuna import OptunaSearch

    # Optuna's own line for every trial would break the table of trials.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tune_space = {name: _tune_domain(domain) for name, domain in space.items()}
    domains = OptunaSearch.convert_search_space(tune_space)
    searcher = OptunaSearch(domains, metric="score", mode=mode, seed=seed)

    # The given setting may lie outside the space, and Optuna refuses such points.
    for trial in known:
        if _lies_inside(trial, space):
            searcher.add_evaluated_point(dict(trial.params), trial.score)
    return searcher


def _lies_inside(trial: Trial, space: Space) -> bool:
    """Whether every value of a trial belongs to the space."""
    return all(space[field].holds(value) for field, value in trial.params.items())


def _tune_domain(domain: Domain) -> Any:
    """A domain as one of Ray Tune's, whose integer ranges exclude the upper bound."""
    if not domain.is_range:
        return tune.choice(list(domain.values))

    low, high = domain.values
    if domain.is_integer:
        high += 1
    # The ranges of our grammar have the names of Ray Tune's functions.
    return getattr(tune, domain.kind)(low, high)


class ContinuedASHA(ASHAScheduler):
    """ASHA that goes on where an earlier run of the sweep ended: its rungs hold what that run's trials reported.

    By hand, from the ledger's curves: `Tuner.restore` begins with empty rungs, since a Tune controller does not store
    its scheduler (Ray 2.60), and it unpickles files of the root, which may come from strangers.
    """

    def __init__(self, known: Sequence[Trial], **options: Any) -> None:
        """Replay the trials so far.

        Args:
            known: trials of the sweep, those that ended and those that will run again.
            options: of Ray's scheduler.
        """
        super().__init__(**options)
        self.curves = {trial.number: trial.curve for trial in known}
        for trial in known:
            # What Ray asks of a trial here is a name.
            if trial.status in (FINISHED, STOPPED):
                self.on_trial_add(None, SimpleNamespace(trial_id=f"known-{trial.number}", config=_config_of(trial)))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Take a trial in, with what it reported before an interruption, so that it is not compared with itself."""
        super().on_trial_add(tune_controller, trial)
        for step, live in self.curves.get(trial.config["job"]["number"], []):
            self.on_trial_result(tune_controller, trial, {self._time_attr: step, self._metric: live})


class TrialMonitor(Callback):
    """Callback of Ray Tune in the driver: records trials in the ledger and shows them, a line for each that ends.

    Attributes:
        seconds: time until the trials are stopped; None: no limit.
    """

    def __init__(
        self,
        ledger: TrialLedger,
        fields: Sequence[str],
        session: Session,
        screen: Screen,
        total: int,
        seconds: float | None = None,
    ) -> None:
        self.ledger = ledger
        self.fields = fields
        self.session = session
        self.screen = screen
        self.total = total
        self.seconds = seconds
        self.deadline = time.monotonic() + (seconds or math.inf)

        # By Ray's id of a trial: what goes on, when it began, and when it was last written to the ledger.
        self.running: dict[str, Trial] = {}
        self.started: dict[str, float] = {}
        self.written: dict[str, float] = {}
        self.last_shown = time.monotonic()

    def __getstate__(self) -> dict[str, object]:
        """Tune stores its callbacks; this one belongs to this process and has nothing to store."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record it as begun."""
        begun = Trial(**trial.config["job"])
        # A trial that an interruption cut off keeps what it reported: it reports the same again.
        if earlier := self.ledger.trials.get((begun.number, begun.seed)):
            begun = replace(begun, curve=earlier.curve)
        self.running[trial.trial_id] = begun
        self.started[trial.trial_id] = time.monotonic()
        # Also before it has a result: a continued sweep must not give its number to another setting.
        self.ledger.write(begun)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A live metric, or the figures at the end."""
        known = self.running[trial.trial_id]
        if "problem" in result:
            known = replace(known, status=FAILED, problem=result["problem"])
        elif "figures" in result:
            known = replace(known, status=FINISHED, figures=ValidationFigures(**result["figures"]))
        elif not known.curve or result["step"] > known.curve[-1][0]:
            # A trial that was restarted reports its earlier steps again.
            known = replace(known, curve=[*known.curve, (float(result["step"]), result["live"])])
            self._record(trial.trial_id, known)
        self.running[trial.trial_id] = known

        # A terminal redraws one line; a log file gets a new line each time, so there it is rare.
        interval = self.screen.every
        if self.screen.live:
            interval = 0.2
        if time.monotonic() - self.last_shown >= interval:
            self.last_shown = time.monotonic()
            self.screen.redraw(self._progress())

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Finished, failed, or stopped: for good by the scheduler, or by the time limit, to continue later."""
        ended = self.running.pop(trial.trial_id)
        # After the deadline it stays `running`, so that the next run of the sweep repeats it.
        if ended.status == RUNNING and time.monotonic() < self.deadline:
            ended = replace(ended, status=STOPPED)
        self._close(ended, trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its process was lost, again and again."""
        ended = self.running.pop(trial.trial_id)
        self._close(replace(ended, status=FAILED, problem="its process was lost"), trial)

    def _record(self, trial_id: str, known: Trial) -> None:
        """Write down what a running trial reported, so that a continued sweep compares others with it; now and then."""
        now = time.monotonic()
        if now - self.written.get(trial_id, -math.inf) >= LEDGER_SECONDS:
            self.written[trial_id] = now
            self.ledger.write(known)

    def _close(self, ended: Trial, tune_trial: Any) -> None:
        seconds = time.monotonic() - self.started.pop(tune_trial.trial_id)
        ended = replace(ended, seconds=round(seconds, 1))
        self.ledger.write(ended)

        # The trial's own process may be gone, so the driver closes its MLflow run.
        run_id = (tune_trial.last_result or {}).get("run_id", "")
        if run_id:
            status = {FAILED: "FAILED", RUNNING: "KILLED"}.get(ended.status, "FINISHED")
            self.session.end(Tracker(self.session.uri, run_id, self.session.spool), status)
        self.screen.line(table_row(ended, self.fields))

    def _progress(self) -> str:
        parts = []
        for trial in self.running.values():
            text = str(trial.number)
            if trial.curve:
                step, live = trial.curve[-1]
                text += f" (step {step:.0f}: {live:.4f})"
            parts.append(text)
        return f"   of {self.total} trials running: {', '.join(parts)}"


def table_header(fields: Sequence[str]) -> str:
    """The header of the table of trials; `table_row` fits under it."""
    names = [f"{short_name(field):>10}" for field in fields]
    return "  ".join(["trial", *names, *FIGURE_HEADINGS, "    time", " seed"])


def table_row(trial: Trial, fields: Sequence[str]) -> str:
    """A trial as a row of the table."""
    values = []
    for field in fields:
        # The header's columns are ten wide, and wider where the name is.
        width = max(10, len(short_name(field)))
        values.append(f"{format_value(trial.params[field]):>{width}}")

    if trial.figures is not None:
        figures = trial.figures
        results = [f"{figures.score:8.4f}", f"{figures.agreement:9.1%}", f"{figures.neighbours_kept:5.0%}"]
    else:
        results = [f"{trial.problem or trial.status:>26}"]
    return "  ".join([f"{trial.number:5}", *values, *results, f"{clock(trial.seconds):>8}", f"{trial.seed:5}"])


@dataclass(frozen=True)
class TuneOptions:
    """How Ray Tune runs trials.

    Attributes:
        count: number of trials.
        concurrent: trials at a time.
        cpus: what each trial itself takes; the processes that it starts take their own.
        scheduler: stops trials early; None: all run to the end.
        storage: folder or URL for Tune's own files, which are never read again.
        reuse_actors: whether a process does one trial after another.
    """

    count: int
    concurrent: int
    cpus: float
    scheduler: ContinuedASHA | None
    storage: str
    reuse_actors: bool


def run_trials(
    trainable: Callable[..., None],
    shared: Mapping[str, Any],
    queue: TrialQueue,
    monitor: TrialMonitor,
    options: TuneOptions,
) -> None:
    """Run the trials of a queue by Ray Tune.

    Args:
        trainable: runs one trial, called with its config and `shared`.
        shared: what every trial is called with besides its config.
        queue: the trials.
        monitor: records and shows them.
        options: how many at a time, and with which resources.
    """
    # Tune's own tables and warnings would break ours.
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    # A trial reports live metrics first and figures last, so that not every report has the score.
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C stops the sweep as it stops any run

    # `tune.with_parameters` puts what is shared into the object store once, not into the config of every trial.
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trainable, **shared), {"CPU": options.cpus}),
        tune_config=tune.TuneConfig(
            num_samples=options.count,
            search_alg=queue,
            scheduler=options.scheduler,
            max_concurrent_trials=options.concurrent,
            time_budget_s=monitor.seconds,
            reuse_actors=options.reuse_actors,
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=options.storage,
            verbose=0,
            callbacks=[monitor],
            failure_config=tune.FailureConfig(max_failures=2),
        ),
    )
    tuner.fit()
