"""Pipeline runner: content-addressed artifacts; finished steps are skipped."""

import contextlib
import importlib
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from alignet_ray import cluster_nodes, root_lease, root_lock, runtime, tracking
from alignet_ray.config import Config
from alignet_ray.errors import UserError, require_existing, require_regular
from alignet_ray.images.listings import Listings
from alignet_ray.run_log import log_to
from alignet_ray.screen import Screen, clock
from alignet_ray.stages import (
    Node,
    Work,
    ask_answers,
    embed_jobs,
    generated_world,
    graph,
    human_inputs,
    kept,
    plan_reasons,
    run_page,
    shard_tasks,
)
from alignet_ray.stages.amounts import refuse_amounts
from alignet_ray.stages.watchdog import watched
from alignet_ray.store import Artifact, JsonObject, Manifest, Recipe, Reference, Store, digest
from alignet_ray.tracking import Session, Tracker

DISTRIBUTED = ("embed", "align", "cluster", "label", "distill")
"""Stages that use all nodes of a cluster: before each of them the nodes are waited for and checked."""

WITHOUT_RAY = ("evaluate", "register")
"""Stages that work in the calling process alone: Ray is not started for them."""

READING_INPUTS = "reading names and dates of all input files: artifacts are named by them"
"""What is said while a plan takes long."""

NEVER_MADE = "never made under this root"
"""Why a step is to do that has no artifact here, not even one of other settings."""


@dataclass(frozen=True)
class Step:
    """One node of a run, and what happens to its artifact.

    Attributes:
        node: the node.
        artifact: where its result is or will be.
        recipe: all that the artifact's id is a hash of.
        sources: files and folders that it reads besides artifacts; the recipe has their fingerprints.
        state: `finished`, `partial` (interrupted) or `missing`.
        why: the reason for the state.
        size: how much there is to do, in words.
    """

    node: Node
    artifact: Artifact
    recipe: Recipe
    sources: list[str]
    state: str
    why: str
    size: str

    @property
    def finished(self) -> bool:
        """Whether there is nothing to do."""
        return self.state == "finished"


class Runner(NamedTuple):
    """What the steps of a run share; fields as in `Work`."""

    cfg: Config
    store: Store
    session: Session
    screen: Screen
    listings: Listings
    concurrent: int = 1


# Planning


def module(stage: str) -> ModuleType:
    """A stage's module, imported when it is needed."""
    return importlib.import_module(f"alignet_ray.stages.{stage}")


def targets(cfg: Config, stage: str | None) -> list[str]:
    """Node names that a command asks for: all, or those of one stage; `embed` means the teacher's embeddings.

    Raises:
        UserError: the run has no such stage.
    """
    names = [node.name for node in graph(cfg)]
    if stage is None:
        return names
    if stage == "embed":
        wanted = ["embed@corpus"]
        if cfg.objects.table or human_inputs.has_answers(cfg) or not embed_jobs.has_images(cfg):
            wanted.append("embed@objects")
        return [name for name in wanted if name in names]
    wanted = [name for name in names if name.partition("@")[0] == stage]
    if not wanted:
        stages = ", ".join(dict.fromkeys(name.partition("@")[0] for name in names))
        raise UserError(f"with these settings there is no stage {stage}: a run has {stages}")
    return wanted


def needed(cfg: Config, names: Iterable[str]) -> list[Node]:
    """The named nodes with everything that they depend on, in order."""
    nodes = {node.name: node for node in graph(cfg)}

    # The graph is walked from the named nodes up to the roots; its own order, parents first, is kept in the result.
    wanted: set[str] = set()
    queue = list(names)
    while queue:
        name = queue.pop()
        if name not in wanted:
            wanted.add(name)
            queue += nodes[name].parents
    return [node for node in nodes.values() if node.name in wanted]


def plan(
    cfg: Config,
    store: Store,
    names: Iterable[str] | None = None,
    pinned: Mapping[str, str] | None = None,
    known: Mapping[str, Any] | None = None,
) -> list[Step]:
    """What a run would do, node by node, without starting Ray.

    Args:
        cfg: the configuration, its generated world resolved.
        store: where artifacts are.
        names: nodes wanted; all by default.
        pinned: artifact ids of nodes that are taken as they are, whatever `cfg` says; they make no steps.
        known: fingerprints of files and folders that are not to be looked at again: of a plan before this one.

    Raises:
        UserError: an input that a node reads is missing.
    """
    pinned = dict(pinned or {})
    ids = dict(pinned)
    taken = dict(known or {})
    earlier = [manifest for manifest in kept.manifests(store) if not manifest.is_outdated]

    # A recipe holds the ids of its parents, which hash theirs (a Merkle tree): a change anywhere upstream gives every
    # artifact below it another id. Parents come first in the graph, so their ids are known here.
    steps = []
    for node in needed(cfg, names or targets(cfg, None)):
        if node.name in pinned:
            continue

        stage_sources = module(node.stage).sources(cfg, node.role)
        recipe = _recipe(cfg, node, ids, stage_sources, taken)
        ids[node.name] = recipe.id
        artifact = store.artifact(node.stage, ids[node.name])

        state, why = _state(artifact, node, recipe, stage_sources, earlier)
        size = ""
        if state != "finished":
            size = _size(cfg, node, recipe)
        steps.append(Step(node, artifact, recipe, stage_sources, state, why, size))
    return steps


def _recipe(
    cfg: Config, node: Node, ids: Mapping[str, str], sources: Sequence[str], fingerprints: JsonObject
) -> Recipe:
    """All that a node's result depends on."""
    stage = module(node.stage)
    return Recipe(
        inputs=stage.inputs(cfg, node.role),
        parents={parent: ids[parent] for parent in node.parents},
        role=node.role,
        version=stage.VERSION,
        sources=[_fingerprint(source, fingerprints) for source in sources],
    )


def fingerprints(steps: Iterable[Step]) -> JsonObject:
    """Fingerprint of every file and folder that the steps read besides artifacts."""
    taken: JsonObject = {}
    for step in steps:
        taken |= dict(zip(step.sources, step.recipe.sources, strict=True))
    return taken


def _fingerprint(source: str, known: JsonObject) -> Any:
    """Name, size and modification time of a file, or a summary of all files in a folder.

    Args:
        source: path or URL.
        known: fingerprints computed so far, which this one is added to.

    Raises:
        UserError: it does not exist.
    """
    if source not in known:
        path = Path(source).expanduser()
        if "://" in source or path.is_dir():
            # Imported late: listing remote folders needs libraries that a plan may not need.
            known[source] = importlib.import_module("alignet_ray.images.listing").fingerprint(source)
        else:
            require_existing(source)
            require_regular(path)
            # Not the content: hashing gigabytes of weights or responses would make every plan slow.
            stat = path.stat()
            known[source] = [path.name, stat.st_size, stat.st_mtime_ns]
    return known[source]


def _state(
    artifact: Artifact, node: Node, recipe: Recipe, sources: Sequence[str], earlier: list[Manifest]
) -> tuple[str, str]:
    """A step's state and the reason: what differs from the newest artifact of the same node."""
    if artifact.finished:
        # Now rather than after hours: another artifact's folder under this name, or half a copy.
        artifact.read_manifest()
        return "finished", "is there already"
    if artifact.files(deep=True):
        return "partial", "was interrupted: finished parts are kept"

    same_node = [manifest for manifest in earlier if manifest.node == node.name]
    if not same_node:
        return "missing", NEVER_MADE

    newest = max(same_node, key=lambda manifest: manifest.finished)
    return "missing", plan_reasons.text(recipe, newest.recipe, sources)


def _size(cfg: Config, node: Node, recipe: Recipe) -> str:
    estimate = getattr(module(node.stage), "estimate", None)
    if estimate is None:
        return ""
    return str(estimate(cfg, node.role, recipe.sources))


def describe(step: Step) -> dict[str, str]:
    """A step as a row of a table."""
    return {"node": step.node.name, "id": step.artifact.id, "state": step.state, "why": step.why, "size": step.size}


def describe_plan(cfg: Config) -> list[dict[str, str]]:
    """Rows of the plan of a whole run, without starting Ray or making a generated world.

    Raises:
        UserError: an input that a node reads is missing, or cannot be used.
    """
    from alignet_ray.synthetic.world import is_materialised

    state = runtime.state_path(cfg)
    world = generated_world.name_and_folder(cfg, state)
    if world and not is_materialised(world[1]):
        # What the world brings is sound; files that are given beside it can be read already.
        if any(node.stage == "evaluate" for node in graph(cfg)):
            module("evaluate").refuse(cfg, "")
        return unmade(cfg)
    # A plan leaves nothing behind; a snapshot has the same name wherever it is written.
    with tempfile.TemporaryDirectory() as place:
        resolved = generated_world.resolve(ask_answers.resolve(cfg, Screen(), Path(place)), state, Screen())
        steps = plan(resolved, Store.open(cfg.store.root))
        # What a run would refuse at once is no plan.
        refuse(resolved, steps)
        return [describe(step) for step in steps]


def unmade(cfg: Config) -> list[dict[str, str]]:
    """Rows of a plan whose generated world does not exist yet, so that no artifact has an id."""
    why = "its generated world is drawn first"
    return [{"node": node.name, "id": "", "state": "missing", "why": why, "size": ""} for node in graph(cfg)]


# Running


def run(
    cfg: Config,
    screen: Screen | None = None,
    names: Iterable[str] | None = None,
    known: Mapping[str, Any] | None = None,
) -> dict[str, Artifact]:
    """Run the named nodes (all by default) and what they need; finished ones are reused.

    Args:
        cfg: the configuration.
        screen: shows what happens.
        names: of the nodes.
        known: as for `plan`.

    Returns:
        The artifacts by node name.

    Raises:
        UserError: something that the user can fix; steps finished before it are kept.
    """
    screen = screen or Screen()
    with opened(cfg, screen) as (resolved, store, state):
        if note := kept.outdated_note(store):
            screen.line(note)

        with screen.told_if_long(READING_INPUTS):
            steps = plan(resolved, store, names, known=known)
        unfinished = [step for step in steps if not step.finished]
        if unfinished:
            refuse(resolved, steps)
        refer(cfg, resolved, store, steps, names)

        if unfinished:
            screen.line(f"{len(unfinished)} of {len(steps)} steps to do; logs in {log_file(cfg, state)}")
            with tracked(resolved, state) as (session, parent):
                session.inputs(parent, run_page.data_sets(_files_read(steps)))
                carry_out(resolved, store, steps, session, parent, screen)
                run_page.fill(resolved, artifacts_of(steps), session, parent)
        else:
            screen.line(f"nothing to do: all {len(steps)} steps are finished under {store.root}")

        # From here on the name stands for these results alone; single stages do not replace a finished run.
        if names is None:
            store.write_ref(cfg.name, _reference(cfg, steps))
        return artifacts_of(steps)


def artifacts_of(steps: Iterable[Step]) -> dict[str, Artifact]:
    """The artifacts that steps make, by node name."""
    return {step.node.name: step.artifact for step in steps}


def ids_of(steps: Iterable[Step]) -> dict[str, str]:
    """Their ids, by node name."""
    return {step.node.name: step.artifact.id for step in steps}


def refer(cfg: Config, resolved: Config, store: Store, steps: Sequence[Step], names: Iterable[str] | None) -> None:
    """Let a run's name stand for its artifacts before any work, so that `gc` never takes unfinished ones for garbage.

    Args:
        cfg: the configuration as it was given.
        resolved: the same, its generated world resolved.
        store: where artifacts are.
        steps: what the run makes.
        names: nodes that were asked for; None: all.
    """
    reference = _reference(cfg, steps)
    if names is not None:
        before = _finished_before(resolved, store, fingerprints(steps))
        reference = replace(reference, nodes=before | reference.nodes)
    store.write_ref(cfg.name, reference.follows(store.read_ref(cfg.name)))


def _reference(cfg: Config, steps: Iterable[Step]) -> Reference:
    return Reference(ids_of(steps), cfg.to_yaml())


def _finished_before(cfg: Config, store: Store, known: Mapping[str, Any]) -> dict[str, str]:
    """Ids of the whole run's nodes that are finished with these settings.

    After `alignet-ray run`, `alignet-ray label` still speaks of the same run, whose student `gc` must not take.
    """
    try:
        steps = plan(cfg, store, known=known)
    except UserError:  # an input of a later stage is not there yet, so that stage was never made
        return {}
    return ids_of(step for step in steps if step.finished)


def _files_read(steps: Iterable[Step]) -> Iterator[run_page.FileRead]:
    """Every file and folder that a step reads besides artifacts, with its fingerprint."""
    for step in steps:
        for source, fingerprint in zip(step.sources, step.recipe.sources, strict=True):
            yield run_page.FileRead(source, digest(fingerprint), step.node.stage)


def log_file(cfg: Config, state: Path) -> Path:
    """Where a run's log goes."""
    return state / root_lock.LOGS / f"{cfg.name}.log"


@contextlib.contextmanager
def opened(cfg: Config, screen: Screen) -> Iterator[tuple[Config, Store, Path]]:
    """Context in which this process holds the root's lock, and all output except the screen's goes to the run's log.

    Yields:
        The config with its generated world and the answers of its study resolved, the store, the local state folder.
    """
    created = root_lock.missing_folders(runtime.state_path(cfg))
    state = runtime.state_dir(cfg)
    # The lock comes before the log: a run that is refused must not write into the log of the one that holds it. It is
    # held while a root is removed, so that no other run starts there meanwhile.
    with (
        runtime.terminable(),
        root_lock.hold(cfg.store.root, state, screen.line),
        root_lock.removed_if_refused(created),
        log_to(log_file(cfg, state), screen),
    ):
        resolved = generated_world.resolve(ask_answers.resolve(cfg, screen), state, screen)
        yield resolved, Store.open(cfg.store.root), state


@contextlib.contextmanager
def tracked(cfg: Config, state: Path, name: str = "") -> Iterator[tuple[Session, Tracker]]:
    """Context with an MLflow run that others can be children of; at its end Ray is stopped."""
    session = Session.open(cfg, state, runtime.source_tags())
    session.kill_orphans(str(state))
    tags = {tracking.STATE: str(state)} | runtime.tags()
    parent = session.begin(name or cfg.name, cfg, tags)
    try:
        with run_page.ended(session, parent), tracking.system_metrics(parent):
            yield session, parent
    finally:
        session.flush()
        runtime.stop()


def refuse(cfg: Config, steps: Iterable[Step]) -> None:
    """Raise a UserError for what is known to fail before anything starts."""
    for step in steps:
        check = getattr(module(step.node.stage), "refuse", None)
        if check and not step.finished:
            check(cfg, step.node.role)


def carry_out(cfg: Config, store: Store, steps: list[Step], session: Session, parent: Tracker, screen: Screen) -> None:
    """Do the unfinished steps; Ray is started for the first of them that needs it."""
    if all(step.finished for step in steps):
        return
    root_lock.require_writable(store.root, [step.node.stage for step in steps if not step.finished])

    unfinished = [step.node for step in steps if not step.finished]
    needs_ray = any(node.stage not in WITHOUT_RAY for node in unfinished)
    found = fingerprints(steps)

    # Counting the images is quick but for large shards, which all machines open together.
    lists_in_tasks = needs_ray and shard_tasks.takes_tasks(cfg, found)
    if lists_in_tasks:
        _start_ray(cfg, screen)
    listings = shard_tasks.run_listings(cfg, found, screen)
    refuse_amounts(cfg, [node.name for node in unfinished], listings)
    if needs_ray and not lists_in_tasks:
        _start_ray(cfg, screen)

    # Distributed steps wait for the nodes that the config asks for; others start at once.
    nodes = cluster_nodes.ClusterNodes(cfg, screen.line)
    artifacts = artifacts_of(steps)
    runner = Runner(cfg, store, session, screen, listings)
    for step in steps:
        if step.finished:
            screen.line(f"-- {step.node.name} {step.artifact.id}: reused")
            continue
        # Nodes may have joined or left during the last stage.
        if step.node.stage in DISTRIBUTED:
            nodes.ready()
        run_step(runner, step, artifacts, parent)


def _start_ray(cfg: Config, screen: Screen) -> None:
    """Start Ray, or join a cluster, and say where to look at it."""
    started = runtime.start(cfg)
    if started:
        screen.line(f"Ray's worker logs in {started.logs}")
        if started.dashboard:
            screen.line(runtime.dashboard_line(started))


def run_step(runner: Runner, step: Step, artifacts: Mapping[str, Artifact], parent: Tracker) -> None:
    """Run one node, in an MLflow run of its own."""
    start = time.time()
    details = [step.artifact.id, step.size]
    # Under a new root that is so of every step.
    if step.why != NEVER_MADE:
        details.append(f"({step.why})")
    runner.screen.heading(step.node.name, " ".join(filter(None, details)))

    tags = {"alignet.artifact": step.artifact.id}
    # The student is uploaded to the server, which may have been away while other steps worked.
    needs_server = step.node.stage == "register"
    tracker = runner.session.begin(step.node.name, None, tags, parent.run_id, needs_server)
    with run_page.ended(runner.session, tracker):
        make(runner, step, artifacts, tracker)
        runner.screen.line(f"   done in {clock(time.time() - start)}")


def make(runner: Runner, step: Step, artifacts: Mapping[str, Artifact], tracker: Tracker) -> None:
    """Run one node and finish its artifact; the artifacts that it read and its figures go to `tracker`."""
    node = step.node
    start = time.time()
    parents = {name: artifacts[name] for name in node.parents}
    draft = runner.store.draft(node.stage, step.artifact.id)
    work = Work(runner.cfg, node, parents, draft, tracker, runner.screen, runner.listings, runner.concurrent)

    with watched(runner.screen, node.name, runner.cfg.ray.stall_minutes):
        module(node.stage).run(work)

    seconds = time.time() - start
    manifest = _manifest(work, step.recipe, seconds)
    root_lease.require(runner.store.root)
    work.out.finish(manifest.to_json())
    runner.session.lineage(tracker, parents.values())
    # Names of their own: under the names of the training's curves they would be a point at step 0, after the last one.
    results = {f"result/{name}": value for name, value in _numbers(_facts(work)).items()}
    tracker.log_batch(results | {"result/seconds": seconds}, 0)


def _manifest(work: Work, recipe: Recipe, seconds: float) -> Manifest:
    """Content of artifact.json, except for the sizes that `Draft.finish` adds."""
    # What made the artifact: a difference between two machines can be looked up years later.
    code = runtime.provenance()
    return Manifest(
        node=work.node.name,
        id=work.out.id,
        recipe=recipe,
        config=work.cfg.model_dump(mode="json"),
        facts=_facts(work),
        finished=time.time(),
        seconds=round(seconds, 3),
        host={"cpus": os.cpu_count()},
        commit=code.commit,
        python=code.python,
        versions=code.versions,
    )


def _facts(work: Work) -> JsonObject:
    """The stage's facts and warnings, without what is unknown."""
    facts: JsonObject = {}
    if work.facts is not None:
        facts = asdict(work.facts)
    if work.warnings:
        facts["warnings"] = work.warnings
    return {name: value for name, value in facts.items() if value is not None}


def _numbers(facts: JsonObject) -> dict[str, float]:
    """The numbers among facts, also those of a dictionary among them, by name."""
    numbers: dict[str, float] = {}
    for name, value in facts.items():
        if isinstance(value, int | float):
            numbers[name] = float(value)
        elif isinstance(value, dict):
            numbers |= _numbers(value)
    return numbers
