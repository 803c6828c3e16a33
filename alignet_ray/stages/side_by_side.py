"""Several runs side by side: what they share is made once, the rest of each run in a task of Ray's of its own."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from alignet_ray import cluster_nodes, runtime
from alignet_ray.config import Config
from alignet_ray.errors import UserError, first_line
from alignet_ray.screen import Screen
from alignet_ray.stages import ask_answers, generated_world, pipeline, run_page, shard_tasks
from alignet_ray.stages.pipeline import Step
from alignet_ray.store import Artifact, JsonObject, Store
from alignet_ray.tracking import Session, Tracker

log = logging.getLogger(__name__)

UPDATE_SECONDS = 2.0
"""Time between two updates of the progress line."""

RETRIES = 2
"""How often a run whose process was lost goes on in another one; its finished steps stay."""


@dataclass(frozen=True)
class OneRun:
    """One of the runs.

    Attributes:
        cfg: its settings, its generated world resolved.
        steps: what it makes, parents first.
    """

    cfg: Config
    steps: list[Step]

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """Its artifacts by node name."""
        return pipeline.artifacts_of(self.steps)

    def left(self) -> list[Step]:
        """Its steps that are not finished by now."""
        return [step for step in self.steps if not step.artifact.finished]


def _steps_left(runs: Sequence[OneRun]) -> int:
    """Steps of all runs that are not finished by now; those that several runs need count for each."""
    return sum(len(one.left()) for one in runs)


@dataclass(frozen=True)
class TaskSetup:
    """What a run's task gets. Small, so that it travels: everything large lies in the store.

    Attributes:
        cfg: the run's settings.
        names: nodes to make.
        fingerprints: of the files and folders that the runs read, taken once for all of them.
        session: where it is tracked.
        parent: the tracking run of all runs.
        concurrent: runs at a time, whose trainings share the cores.
    """

    cfg: Config
    names: list[str]
    fingerprints: JsonObject
    session: Session
    parent: Tracker
    concurrent: int


def run(
    title: str,
    cfgs: Sequence[Config],
    names: Sequence[str],
    concurrent: int,
    screen: Screen,
    known: Mapping[str, Any],
    finished: Callable[[int, dict[str, Artifact]], None],
) -> None:
    """Make several runs, some of them at a time; what is finished is reused.

    Args:
        title: of all of them, on the tracking server.
        cfgs: settings of each, under names of their own.
        names: nodes that each makes.
        concurrent: runs at a time, at most.
        screen: shows what happens.
        known: as for `pipeline.plan`.
        finished: is called with the number of every run that has ended, and its artifacts, in whatever order they end.

    Raises:
        UserError: a run failed. Those that were going on are finished first, no others are begun.
    """
    with pipeline.opened(cfgs[0], screen) as (first, store, state):
        runs = []
        for cfg in cfgs:
            resolved = generated_world.resolve(ask_answers.resolve(cfg, screen), state, screen)
            steps = pipeline.plan(resolved, store, names, known=known)
            if not all(step.finished for step in steps):
                pipeline.refuse(resolved, steps)
            # Before any work, so that `gc` never takes an unfinished artifact for garbage.
            pipeline.refer(cfg, resolved, store, steps, names)
            runs.append(OneRun(resolved, steps))

        if not _steps_left(runs):
            screen.line(f"nothing to do: all {len(runs)} runs are finished under {store.root}")
            for number, one in enumerate(runs):
                finished(number, one.artifacts)
            return

        with pipeline.tracked(first, state, title) as (session, parent):
            runtime.start(first)
            _make_shared(runs, store, session, parent, screen)
            cluster_nodes.ClusterNodes(first, screen.line).ready()
            _make_rest(runs, names, concurrent, session, parent, screen, finished)


def shared(runs: Sequence[OneRun]) -> list[tuple[OneRun, list[Step]]]:
    """Runs with those of their steps that another run needs as well; each step with the first run that has it.

    What two runs share, they share with all that it was made of: ids hash those of their parents.
    """
    users: Counter[str] = Counter()
    for one in runs:
        users.update(pipeline.ids_of(one.steps).values())

    seen: set[str] = set()
    found = []
    for one in runs:
        steps = [step for step in one.steps if users[step.artifact.id] > 1]
        ids = set(pipeline.ids_of(steps).values())
        if ids - seen:
            found.append((one, steps))
            seen |= ids
    return found


def _make_shared(runs: Sequence[OneRun], store: Store, session: Session, parent: Tracker, screen: Screen) -> None:
    """Make in the driver, one after the other, what several runs need: two tasks must not make the same artifact."""
    for one, steps in shared(runs):
        # An earlier run's share may have made some of them meanwhile.
        now = []
        for step in steps:
            if step.artifact.finished:
                step = replace(step, state="finished")
            now.append(step)
        pipeline.carry_out(one.cfg, store, now, session, parent, screen)


def _make_rest(
    runs: Sequence[OneRun],
    names: Sequence[str],
    concurrent: int,
    session: Session,
    parent: Tracker,
    screen: Screen,
    finished: Callable[[int, dict[str, Artifact]], None],
) -> None:
    """Make what is left of every run in its own task; a line shows how far they are."""
    import ray

    queue = list(range(len(runs)))
    total = _steps_left(runs)
    pending: dict[Any, int] = {}
    failures: list[str] = []
    with screen.progress(total, "steps") as bar:
        while queue or pending:
            # After a failure no further run is begun; those that work are waited for.
            while queue and len(pending) < concurrent and not failures:
                number = queue.pop(0)
                cfg = runs[number].cfg
                taken = pipeline.fingerprints(runs[number].steps)
                setup = TaskSetup(cfg, list(names), taken, session, parent, concurrent)
                pending[_submit(setup)] = number
            if not pending:
                break

            ended, _ = ray.wait(list(pending), timeout=UPDATE_SECONDS)
            done = total - _steps_left(runs)
            bar.add(done - bar.done, _where([runs[number] for number in pending.values()]))

            for task in ended:
                number = pending.pop(task)
                message = _outcome(task)
                if message:
                    failures.append(f"{runs[number].cfg.name}: {message}")
                else:
                    finished(number, runs[number].artifacts)

    if failures:
        raise UserError("; ".join(failures))


def _where(runs: Sequence[OneRun]) -> str:
    """What the runs that go on are doing."""
    places = []
    for one in runs:
        left = one.left()
        if left:
            places.append(f"{one.cfg.name}: {left[0].node.name}")
    return ", ".join(places)


def _submit(setup: TaskSetup) -> Any:
    """Start a run's task beside the driver, whose local folders it needs; its stages ask for CPUs and GPUs."""
    import ray
    import torch
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # As many threads as this process takes, so that sums are the same; Ray would give a task without CPUs one.
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    task = ray.remote(carry_out).options(
        num_cpus=0,
        max_retries=RETRIES,
        scheduling_strategy=here,
        runtime_env={"env_vars": threads},
        name=f"run {setup.cfg.name}",
    )
    return task.remote(setup)


def _outcome(task: Any) -> str:
    """What went wrong in a task that has ended; empty if nothing did."""
    import ray

    try:
        message: str = ray.get(task)
    except ray.exceptions.RayError as error:
        log.exception("a run's task")
        return f"its process was lost ({first_line(error)}): run it again, finished steps are kept"
    return message


def carry_out(setup: TaskSetup) -> str:
    """Make what is left of a run, in this process.

    Returns:
        What went wrong; empty if nothing did. An exception would come back with a traceback in its text.
    """
    cfg = setup.cfg
    tracker = setup.session.begin(cfg.name, cfg, {}, setup.parent.run_id)
    try:
        with run_page.ended(setup.session, tracker):
            _make(setup, tracker)
    except UserError as error:
        return str(error)
    except Exception as error:  # another run may do without this fault; its reason is in Ray's logs
        log.exception("run %s", cfg.name)
        return run_page.why_failed(error)
    return ""


def _make(setup: TaskSetup, tracker: Tracker) -> None:
    # An open store belongs to its process, so the plan is made anew.
    store = Store.open(setup.cfg.store.root)
    listings = shard_tasks.listings_here(setup.cfg, setup.fingerprints)
    runner = pipeline.Runner(setup.cfg, store, setup.session, Screen(), listings, setup.concurrent)
    steps = pipeline.plan(setup.cfg, store, setup.names, known=setup.fingerprints)
    artifacts = pipeline.artifacts_of(steps)
    for step in steps:
        if not step.finished:
            pipeline.run_step(runner, step, artifacts, tracker)
    run_page.fill(setup.cfg, artifacts, setup.session, tracker)
