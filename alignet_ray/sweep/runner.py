"""sweep: try settings of `align` or `distill` with Ray Tune, select on validation objects, test the winner once.

Every trial makes ordinary artifacts, named by what went into them. A sweep that was killed therefore continues with
what it has, and the winner's full run reuses its trial. What belongs to the sweep itself lies in `<root>/sweep/<id>/`.
"""

import shlex
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from alignet_ray import cluster_nodes, runtime
from alignet_ray.artifacts.align import AlignArtifact
from alignet_ray.artifacts.evaluate import EvaluateArtifact
from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.screen import Screen, clock
from alignet_ray.stages import ask_answers, pipeline
from alignet_ray.store import Artifact, Draft, Reference, Store, digest
from alignet_ray.sweep import report, selection
from alignet_ray.sweep.search_space import Space, grid_size, sample_points
from alignet_ray.sweep.selection import Finalist, Trial
from alignet_ray.sweep.trial import (
    OBJECTIVES,
    TrialSetup,
    alternatives,
    learning_curves,
    read_space,
    run_trial,
    with_one_worker,
)

if TYPE_CHECKING:
    from alignet_ray.sweep.tune import ContinuedASHA, TrialQueue


def run(cfg: Config, screen: Screen | None = None) -> Artifact:
    """Make what is upstream, run the trials that are missing, select the winner, and run it through the pipeline.

    Returns:
        The sweep's folder: trials/, winner.yaml, sweep.html.

    Raises:
        UserError: something that the user can fix; finished trials stay.
    """
    screen = screen or Screen()
    stage, space = read_space(cfg)
    # People may answer between the trials and the run of the winner.
    cfg = ask_answers.pin(cfg)
    objective = OBJECTIVES[stage]
    with pipeline.opened(cfg, screen) as (resolved, store, state):
        with screen.told_if_long(pipeline.READING_INPUTS):
            steps = pipeline.plan(resolved, store, [*objective.nodes, *objective.also_needed])
        pipeline.refuse(resolved, steps)
        # Upstream is what all trials read; the objective's own nodes are made anew by every trial.
        upstream = [step for step in steps if step.node.name not in objective.nodes]
        swept = next(step for step in steps if step.node.name == objective.nodes[0])

        # What ran before under this id is found again in its folder: that is how a killed sweep goes on.
        id = _sweep_id(resolved, swept.artifact, space)
        _require_readable(store.draft("sweep", id))
        screen.line(f"sweep {id} over {stage}; logs in {pipeline.log_file(cfg, state)}")

        with pipeline.tracked(resolved, state, f"{cfg.name} sweep") as (session, parent):
            uses_ray_train = stage == "distill" or cfg.align.map == "network"
            runtime.start(resolved, dashboard=uses_ray_train)
            pipeline.carry_out(resolved, store, upstream, session, parent, screen)
            # Where all upstream artifacts are there, nobody has waited for nodes yet.
            cluster_nodes.ClusterNodes(resolved, screen.line).ready()

            # Trials differ in the swept stage alone, so all of them read the same upstream artifacts.
            pinned = pipeline.ids_of(upstream)
            setup = TrialSetup(resolved, objective, pinned, pipeline.fingerprints(steps), session, parent)
            sweep = SweepRunner(setup, stage, space, store, store.draft("sweep", id), screen)
            sweep.search()
            sweep.repeat()
            sweep.conclude()
        return sweep.draft


def _require_readable(draft: Draft) -> None:
    """Refuse a damaged file of an earlier sweep now, and not after what is upstream has been made."""
    from alignet_ray.sweep.tune import TrialLedger

    TrialLedger(draft)


def winner_name(cfg: Config) -> str:
    """Name of the run that a sweep's winner becomes."""
    return f"{cfg.name}-sweep"


def _sweep_id(cfg: Config, swept: Artifact, space: Space) -> str:
    """Equal for sweeps that continue each other: the given settings, the space and the searcher."""
    domains = {field: [domain.kind, *domain.values] for field, domain in space.items()}
    return digest({"given": swept.id, "space": domains, "searcher": cfg.sweep.searcher})


class Room(NamedTuple):
    """How trials fit on the cluster.

    Attributes:
        in_process: whether a trial works in its own process, and does not start workers of Ray Train.
        concurrent: trials at a time.
    """

    in_process: bool
    concurrent: int


class SweepRunner:
    """A sweep whose upstream artifacts are made: `search`, `repeat`, `conclude`.

    Attributes:
        setup: what all trials share.
        stage: the swept stage.
        space: the values of its fields.
        draft: the sweep's folder.
        ledger: the trials so far.
    """

    def __init__(self, setup: TrialSetup, stage: str, space: Space, store: Store, draft: Draft, screen: Screen) -> None:
        from alignet_ray.sweep.tune import TrialLedger

        self.setup = setup
        self.stage = stage
        self.space = space
        self.store = store
        self.draft = draft
        self.screen = screen
        self.cfg = setup.cfg
        self.objective = setup.objective
        self.ledger = TrialLedger(draft)
        self.alternatives = alternatives(space)
        self.began = time.monotonic()

    def search(self) -> None:
        """Every trial that is not done yet, with the given seed; the scheduler stops hopeless ones."""
        flat = self.cfg.flat()

        # The given values are trial 0, so that the report can say what the sweep gained.
        given = {field: flat[field] for field in self.space}
        if self.cfg.sweep.searcher == "random":
            self._search_at_random(given)
        else:
            self._search_with_optuna(given)

    def _search_at_random(self, given: dict[str, object]) -> None:
        """The given setting first, then random draws; fields declared as `grid` go through their values in turn."""
        wanted = self.cfg.sweep.trials
        seed = self.cfg.seed
        points = sample_points(self.space, wanted, seed, given)
        if len(points) < wanted:
            self.screen.line(f"the space has {len(points)} different settings: all are tried")
        cells = grid_size(self.space)
        if cells > wanted:
            # One more than the cells, since the given setting is a trial too.
            self.screen.line(f"warning: the grid has {cells} cells: --sweep.trials {cells + 1} searches all of them")

        trials = [Trial(number, params, seed) for number, params in enumerate(points)]
        self._run_missing(trials, may_stop_early=True)

    def _search_with_optuna(self, given: dict[str, object]) -> None:
        """The given setting first, then suggestions near the settings that did well."""
        from alignet_ray.sweep.tune import SuggestedTrials, optuna_searcher

        seed = self.cfg.seed

        # Trials of an earlier run that were cut off are completed first, for Optuna to learn from.
        begun = self.ledger.of_seed(seed)
        if not begun:
            begun = [Trial(0, given, seed)]
        self._run_missing(begun, may_stop_early=True)

        # Other random numbers than the first time, so that a continued sweep does not suggest the same again.
        count = max(0, self.cfg.sweep.trials - len(begun))
        known = selection.ranked(self.ledger.all(), self.objective.mode, seed)
        searcher = optuna_searcher(self.space, self.objective.mode, seed + len(begun), known)
        queue = SuggestedTrials(count, searcher, seed, len(begun))
        self._tune(queue, count, self.cfg.sweep.trials, may_stop_early=True)

    def repeat(self) -> None:
        """Train the finalists with other seeds, to the end."""
        repeats = self.cfg.sweep.repeats
        seed = self.cfg.seed
        finalists = selection.finalists(self.ledger.all(), self.objective.mode, seed, self.alternatives)

        # Only other seeds show how much of a difference between settings is the randomness of training.
        trials = []
        for offset in range(1, repeats + 1):
            trials += [Trial(finalist.number, finalist.params, seed + offset) for finalist in finalists]
        if trials:
            self.screen.line(f"the best {len(finalists)} again, with {repeats} other seeds")
        # Not stopped early: a finalist's scores are comparable only if all of its trainings ran to the end.
        self._run_missing(trials, may_stop_early=False)

    def _run_missing(self, trials: Sequence[Trial], may_stop_early: bool) -> None:
        """Run those of the trials that the ledger does not know as done."""
        from alignet_ray.sweep.tune import TrialQueue

        missing = [trial for trial in trials if not self.ledger.is_done(trial.number, trial.seed)]
        self._tune(TrialQueue(missing), len(missing), len(trials), may_stop_early)

    def _tune(self, queue: "TrialQueue", count: int, total: int, may_stop_early: bool) -> None:
        """Run `count` of `total` trials; the others are done."""
        from alignet_ray.sweep import tune

        if count < total:
            self.screen.line(f"{total - count} of {total} trials are done already")
        seconds_left = self._seconds_left()
        if not count or (seconds_left is not None and seconds_left <= 0):
            return

        room = self._room()
        # A trial that starts workers of Ray Train only waits for them, and they take the cores.
        cpus = 0.1
        if room.in_process:
            cpus = 1.0
        scheduler = None
        if may_stop_early:
            scheduler = self._early_stopping()

        fields = list(self.space)
        self.screen.line(f"{count} trials, {room.concurrent} at a time\n{tune.table_header(fields)}")
        monitor = tune.TrialMonitor(self.ledger, fields, self.setup.session, self.screen, total, seconds_left)
        options = tune.TuneOptions(
            count=count,
            concurrent=room.concurrent,
            cpus=cpus,
            scheduler=scheduler,
            storage=self.draft.uri,
            reuse_actors=room.in_process,
        )
        try:
            shared = {"setup": self.setup, "concurrent": room.concurrent}
            tune.run_trials(run_trial, shared, queue, monitor, options)
        finally:
            self.draft.remove_folder("sweep")  # what Tune wrote for itself

    def _seconds_left(self) -> float | None:
        if self.cfg.sweep.minutes is None:
            return None
        return 60 * self.cfg.sweep.minutes - self._elapsed()

    def _elapsed(self) -> float:
        return time.monotonic() - self.began

    def _early_stopping(self) -> "ContinuedASHA | None":
        """ASHA, asynchronous successive halving (Li et al., 2020), on the live metric; None where it is off."""
        from alignet_ray.sweep.tune import ContinuedASHA

        if not self.cfg.sweep.halving:
            return None

        # ASHA's budget is counted in updates of what is trained, and each kind of training has its own number.
        if self.stage == "distill":
            steps = self.cfg.distill.steps
        elif self.cfg.align.map == "network":
            steps = self.cfg.align.network.steps
        else:
            steps = self.cfg.align.steps

        # The first decision falls after 1/factor^2 of the steps, the second after 1/factor.
        factor = max(2, self.cfg.sweep.halving)
        return ContinuedASHA(
            self.ledger.of_seed(self.cfg.seed),
            time_attr="step",
            metric="live",
            mode=self.objective.live_mode,
            grace_period=max(1, steps // factor**2),
            # One more than there are: ASHA would stop a trial at its last step, before it reports its figures.
            max_t=steps + 1,
            reduction_factor=factor,
        )

    def _room(self) -> Room:
        """How many trials fit on the cluster at a time."""
        gpus, cpus = cluster_nodes.cluster_resources()
        # A map is fitted by the trial itself in seconds; a network takes workers that Ray Train starts.
        in_process = self.stage == "align" and self.cfg.align.map != "network"
        if in_process:
            fits = cpus // 2  # one for the trial, one for its folds
        else:
            fits = self._trials_of_ray_train(cpus, gpus)
        return Room(in_process, self.cfg.sweep.concurrent or max(1, fits))

    def _trials_of_ray_train(self, cpus: int, gpus: float) -> int:
        """How many trials fit that start workers of Ray Train."""
        cfg = with_one_worker(self.cfg)
        if self.stage == "distill":
            workers = cfg.distill.workers or 1
            gpus_per_worker = cfg.distill.gpus_per_worker
        else:
            workers = cfg.align.network.workers or 1
            gpus_per_worker = 1

        if gpus:
            return int(gpus / (workers * gpus_per_worker))
        # One slot stays for the trials themselves and the driver; a small machine has more slots than cores.
        return min(cpus - 1, cluster_nodes.cores()) // workers

    def conclude(self) -> None:
        """Select the winner, make what is missing of it, delete what stopped trials left, and write the report."""
        trials = self.ledger.all()
        ranking = self._ranking(trials)
        best = ranking[0]

        # The base seed, not the best of the repeats: picking the luckiest seed would flatter the winner.
        winner = self.setup.config(best.params, self.cfg.seed).replace(name=winner_name(self.cfg))
        self.draft.write_bytes("winner.yaml", winner.to_yaml().encode())
        self.screen.line(f"\nwinner: trial {best.number}, {report.describe_params(best.params)}")

        artifacts = self._run_winner(winner, trials)
        # Test scores are read only here: after the selection, and only the winner's.
        test_lines = self._test_lines(artifacts)
        self._write_report(trials, ranking, test_lines)
        self.screen.line(f"report   {self.draft.uri}/sweep.html")
        self.screen.line(f"again    alignet-ray run --config {shlex.quote(f'{self.draft.uri}/winner.yaml')}")
        self.screen.line(f"done in {clock(self._elapsed())}")

    def _ranking(self, trials: Sequence[Trial]) -> list[Finalist]:
        """The finalists, the winner first."""
        ranking = selection.compare_finalists(trials, self.objective.mode, self.cfg.seed, self.alternatives)
        if not ranking:
            # Trials of one sweep mostly fail for one reason, so the first message is enough.
            problems = sorted({trial.problem for trial in trials if trial.problem})
            problems = problems or ["none finished: give it more --sweep.minutes"]
            raise UserError(f"no trial of the sweep has a score: {problems[0]}")
        return ranking

    def _run_winner(self, winner: Config, trials: Sequence[Trial]) -> dict[str, Artifact]:
        """Make the winner's run: name it, delete what stopped trials left, and do the steps that are missing.

        Nothing is registered: that takes a run of the winner's settings.

        Returns:
            The winner's artifacts by node. With `sweep.full` these are the whole pipeline up to `evaluate`; without it
            those that its trial made.
        """
        artifacts = {}
        nodes = dict(self.setup.pinned)
        steps = self._winner_steps(winner)
        for step in steps:
            artifacts[step.node.name] = step.artifact
            nodes[step.node.name] = step.artifact.id

        # The name comes first: `alignet-ray gc` keeps what a run's name refers to, so from here on it spares the winner
        # and the finished artifacts of all trials.
        reference = Reference(nodes | self._trial_nodes(trials), winner.to_yaml())
        self.store.write_ref(winner.name, reference.follows(self.store.read_ref(winner.name)))
        self._delete_stopped(trials)

        # Its trial made some of these artifacts already, under the same ids: they are found finished.
        pipeline.carry_out(winner, self.store, steps, self.setup.session, self.setup.parent, self.screen)

        # Finished: what the name stood for before need not be kept any longer.
        self.store.write_ref(winner.name, reference)
        return artifacts

    def _test_lines(self, artifacts: Mapping[str, Artifact]) -> list[str]:
        """The winner's scores on test objects as lines of text; none where they were not computed."""
        if "evaluate" in artifacts:
            return EvaluateArtifact(artifacts["evaluate"]).facts().table

        # Without an evaluation: a fitted teacher was tested in its own stage, a student was not.
        if self.stage == "align":
            return self._teacher_test_lines(artifacts["align"])
        return []

    def _winner_steps(self, winner: Config) -> list[pipeline.Step]:
        """What the winner makes: the whole pipeline, or what its trial made."""
        if winner.sweep.full:
            return pipeline.plan(winner, self.store, ["evaluate"], known=self.setup.fingerprints)
        return self.setup.steps(winner, self.store)

    def _trial_nodes(self, trials: Sequence[Trial]) -> dict[str, str]:
        """The finished artifacts of all trials, under names of their own in the winner's reference."""
        # gc keeps what a reference names: so the sweep can go on, or be reported again, without training anew.
        nodes = {}
        for trial in trials:
            cfg = self.setup.config(trial.params, trial.seed)
            for step in self.setup.steps(cfg, self.store):
                if step.state == "finished":
                    nodes[f"{step.node.stage}@trial{trial.number}-{trial.seed}"] = step.artifact.id
        return nodes

    def _delete_stopped(self, trials: Sequence[Trial]) -> None:
        """Delete the checkpoints of trials that were stopped for good."""
        for trial in trials:
            # One that the time limit cut off is still `running`, and continues from its checkpoint next time.
            if trial.status != selection.STOPPED:
                continue
            cfg = self.setup.config(trial.params, trial.seed)
            for step in self.setup.steps(cfg, self.store):
                if step.state == "partial":
                    self.store.delete(step.artifact)

    def _teacher_test_lines(self, align: Artifact) -> list[str]:
        """Accuracy on test objects before and after alignment, with its interval, and the noise ceiling."""
        test = AlignArtifact(align).report().splits["test"]
        lines = []
        for name in ("base", "aligned"):
            figures = test.spaces[name]
            interval = f"{figures.accuracy_low:.1%} to {figures.accuracy_high:.1%}"
            lines.append(f"{name:8} {figures.accuracy:.1%}  ({interval})")
        return [*lines, f"ceiling  {test.ceiling:.1%}"]

    def _write_report(self, trials: Sequence[Trial], ranking: Sequence[Finalist], test_lines: Sequence[str]) -> None:
        # Only the log of distill has the held-out losses that these curves are made of.
        curves = []
        if self.stage == "distill":
            curves = learning_curves(self.setup, self.store, trials, self.space)

        outcome = report.Outcome(
            title=f"alignet_ray: sweep of {self.stage}, {self.cfg.name}",
            score_name=self.objective.score_name,
            mode=self.objective.mode,
            space=self.space,
            trials=trials,
            ranking=ranking,
            seed=self.cfg.seed,
            test_lines=test_lines,
            curves=curves,
        )

        self.draft.write_bytes("sweep.html", report.build(outcome).encode())
        files = (self.draft.local("sweep.html"), self.draft.local("winner.yaml"))
        self.setup.session.attach(self.setup.parent, *files)
