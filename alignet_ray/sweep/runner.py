"""sweep: try settings of `align` or `distill` by Ray Tune, choose on validation objects, score the winner once.

Every trial makes ordinary artifacts, named by what went into them, so a sweep that was killed goes on with what it has,
and the winner's full run reuses its trial. What belongs to the sweep itself lies in `<root>/sweep/<id>/`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignet_ray import runtime
from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.screen import Screen, clock
from alignet_ray.stages import pipeline
from alignet_ray.store import Artifact, Draft, Store, digest
from alignet_ray.sweep import report as page
from alignet_ray.sweep import selection, trial
from alignet_ray.sweep.search_space import Space, cells, points
from alignet_ray.sweep.selection import Trial
from alignet_ray.sweep.trial import GOALS, TrialSetup, read_space


def run(cfg: Config, screen: Screen | None = None) -> Artifact:
    """Make what is upstream, run the trials that are missing, name the winner, and run it through the line.

    Returns:
        The sweep's folder: trials/, winner.yaml, sweep.html.

    Raises:
        UserError: something that the user can mend; finished trials stay.
    """
    screen = screen or Screen()
    stage, space = read_space(cfg)
    with pipeline.opened(cfg, screen) as (resolved, store, state):
        goal = GOALS[stage]
        steps = pipeline.plan(resolved, store, [*goal.nodes, *goal.beside])
        pipeline.refuse(resolved, steps)
        upstream = [s for s in steps if s.node.name not in goal.nodes]
        given = next(s for s in steps if s.node.name == goal.nodes[0])
        named = {name: [d.kind, *d.values] for name, d in space.items()}
        id = digest({"given": given.artifact.id, "space": named, "searcher": cfg.sweep.searcher})
        screen.line(f"sweep {id} over {stage}; logs in {pipeline.log_file(cfg, state)}")
        with pipeline.tracked(resolved, state, f"{cfg.name} sweep") as (session, parent):
            runtime.start(resolved, dashboard=stage == "distill" or cfg.align.map == "network")
            pipeline.carry_out(resolved, store, upstream, session, parent, screen)
            pinned = {s.node.name: s.artifact.id for s in upstream}
            setup = TrialSetup(resolved, goal, pinned, session, parent)
            sweep = SweepRunner(setup, stage, space, store, store.draft("sweep", id), screen)
            sweep.search()
            sweep.repeat()
            sweep.conclude()
        return sweep.draft


@dataclass
class SweepRunner:
    """A sweep whose upstream is made."""

    setup: TrialSetup
    stage: str
    space: Space
    store: Store
    draft: Draft
    screen: Screen

    def __post_init__(self) -> None:
        from alignet_ray.sweep.tune import TrialLedger

        self.cfg, self.goal = self.setup.cfg, self.setup.goal
        self.ledger, self.began = TrialLedger(self.draft), time.monotonic()
        self.alternatives = trial.alternatives(self.space)

    def search(self) -> None:
        """Every trial that is not done yet, with the given seed; the scheduler stops hopeless ones."""
        from alignet_ray.sweep.tune import Queue, optuna

        options, seed = self.cfg.sweep, self.cfg.seed
        first = {name: self.cfg.flat()[name] for name in self.space}
        here = [t for t in self.ledger.all() if t.seed == seed]
        if options.searcher == "random":
            wanted = points(self.space, options.trials, seed, first)
            if len(wanted) < options.trials:
                self.screen.line(f"the space has {len(wanted)} different settings: all are tried")
            grid = cells(self.space)
            if grid > options.trials:
                self.screen.line(f"warning: the grid has {grid} cells: --sweep.trials {grid + 1} goes through them all")
            todo = [Trial(n, params, seed) for n, params in enumerate(wanted) if not self.ledger.is_done(n, seed)]
            self._tune(Queue(todo), len(todo), len(wanted), True)
            return
        if not here:
            here = [Trial(0, first, seed)]
        todo = [t for t in here if not self.ledger.is_done(t.number, seed)]
        self._tune(Queue(todo), len(todo), len(here), True)
        more = max(0, options.trials - len(here))
        known = selection.ranked(self.ledger.all(), self.goal.mode, seed)
        inner = optuna(self.space, self.goal.mode, seed + len(here), known)
        self._tune(Queue([], more, inner, seed, len(here)), more, options.trials, True)

    def repeat(self) -> None:
        """The finalists with other seeds, to the end."""
        from alignet_ray.sweep.tune import Queue

        seed = self.cfg.seed
        final = selection.finalists(self.ledger.all(), self.goal.mode, seed, self.alternatives)
        every = [Trial(t.number, t.params, seed + 1 + i) for i in range(self.cfg.sweep.repeats) for t in final]
        todo = [t for t in every if not self.ledger.is_done(t.number, t.seed)]
        if every:
            self.screen.line(f"the best {len(final)} again, with {self.cfg.sweep.repeats} other seeds")
        self._tune(Queue(todo), len(todo), len(every), False)

    def _tune(self, queue: Any, count: int, total: int, halve: bool) -> None:
        from alignet_ray.sweep import tune

        left = None if self.cfg.sweep.minutes is None else 60 * self.cfg.sweep.minutes - self._elapsed()
        if total - count:
            self.screen.line(f"{total - count} of {total} trials are done already")
        if not count or (left is not None and left <= 0):
            return
        light, concurrent = self._room()
        self.screen.line(f"{count} trials, {concurrent} at a time\n{tune.head(list(self.space))}")
        watch = tune.LiveTable(self.ledger, list(self.space), self.setup.session, self.screen, total, left)
        try:
            tune.tuned(
                trial.run,
                {"setup": self.setup},
                queue,
                watch,
                count=count,
                concurrent=concurrent,
                cpus=1 if light else 0.1,
                asha=self._asha() if halve and self.cfg.sweep.halving else None,
                storage=self.draft.uri,
                reuse=light,
            )
        finally:
            self._tidy()

    def _elapsed(self) -> float:
        return time.monotonic() - self.began

    def _asha(self) -> Any:
        from ray.tune.schedulers import ASHAScheduler

        section = getattr(self.cfg, self.stage)
        steps = section.network.steps if self.stage == "align" and section.map == "network" else section.steps
        factor = max(2, self.cfg.sweep.halving)
        return ASHAScheduler(
            time_attr="step",
            metric="live",
            mode=self.goal.live_mode,
            grace_period=max(1, steps // factor**2),
            max_t=steps + 1,
            reduction_factor=factor,
        )

    def _room(self) -> tuple[bool, int]:
        """Whether a trial works in its own process, and how many fit at a time.

        A light trial takes a CPU and leaves one for its folds; one by Ray Train takes what its processes do.
        """
        import ray

        offered: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        cpus, gpus = int(offered.get("CPU", 1)), offered.get("GPU", 0.0)
        light = self.stage == "align" and self.cfg.align.map != "network"
        if light:
            fits = cpus // 2
        else:
            section = self.cfg.distill if self.stage == "distill" else self.cfg.align.network
            workers, share = (
                section.workers or int(gpus) or 2,
                self.cfg.distill.gpus_per_worker if self.stage == "distill" else 1,
            )
            fits = int(gpus / (workers * share)) if gpus else (cpus - 1) // workers
        return light, self.cfg.sweep.concurrent or max(1, fits)

    def _tidy(self) -> None:
        """Remove what Tune wrote."""
        self.draft.remove_folder("sweep")

    def conclude(self) -> None:
        """Choose and say so, drop what stopped trials left, run the winner, write the page."""
        seed, trials = self.cfg.seed, self.ledger.all()
        ranking = selection.contenders(trials, self.goal.mode, seed, self.alternatives)
        if not ranking:
            reasons = {t.problem for t in trials if t.problem} or {"none finished: give it more --sweep.minutes"}
            raise UserError(f"no trial of the sweep has a score: {sorted(reasons)[0]}")
        best = ranking[0]
        winner = self.setup.config(best.params, seed).replace(name=f"{self.cfg.name}-sweep")
        self.draft.write_bytes("winner.yaml", winner.to_yaml().encode())
        self.screen.line(f"\nwinner: trial {best.number}, {page.words(best.params)}")
        outcome = page.Outcome(
            title=f"alignet_ray: sweep of {self.stage}, {self.cfg.name}",
            score=self.goal.score,
            mode=self.goal.mode,
            space=self.space,
            trials=trials,
            ranking=ranking,
            seed=seed,
            courses=trial.courses(self.setup, self.store, trials, self.space) if self.stage == "distill" else [],
            test=self._test(winner, trials),
        )
        self.draft.write_bytes("sweep.html", page.build(outcome).encode())
        self.setup.session.attach(self.setup.parent, self.draft.local("sweep.html"), self.draft.local("winner.yaml"))
        self.screen.line(f"report   {self.draft.uri}/sweep.html")
        self.screen.line(f"again    alignet-ray run --config {self.draft.uri}/winner.yaml   ({clock(self._elapsed())})")

    def _test(self, winner: Config, trials: Sequence[Trial]) -> list[str]:
        """The winner alone on test objects, in lines; its artifacts and all trials' are kept by a ref."""
        full, setup = winner.sweep.full, self.setup
        steps = pipeline.plan(winner, self.store, ["evaluate"]) if full else setup.steps(winner, self.store)
        nodes = setup.pinned | {step.node.name: step.artifact.id for step in steps}
        for each in trials:
            for step in setup.steps(setup.config(each.params, each.seed), self.store):
                if step.state == "finished":
                    nodes[f"{step.node.stage}@trial{each.number}-{each.seed}"] = step.artifact.id
                elif each.status == selection.STOPPED and step.state == "partial":
                    self.store.delete(step.artifact)  # checkpoints of no more use
        self.store.write_ref(winner.name, {"nodes": nodes, "config": winner.to_yaml()})
        pipeline.carry_out(winner, self.store, steps, setup.session, setup.parent, self.screen)
        if full:
            return list(steps[-1].artifact.manifest["facts"]["table"])
        if self.stage == "distill":
            return []
        report = self.store.artifact("align", nodes["align"]).read_json("report.json")
        return [
            f"{space:8} {report[f'test_{space}_accuracy']:.1%}  "
            f"({report[f'test_{space}_accuracy_low']:.1%} to {report[f'test_{space}_accuracy_high']:.1%})"
            for space in ("base", "aligned")
        ] + [f"ceiling  {report['test_ceiling']:.1%}"]
