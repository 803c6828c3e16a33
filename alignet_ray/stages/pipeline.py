"""The line: name every node's artifact by what goes into it, skip what is finished, run the rest in order."""

import contextlib
import importlib
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from alignet_ray import runtime, tracking
from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.screen import Screen, clock
from alignet_ray.stages import STAGES, Node, Work, graph
from alignet_ray.stages.watchdog import watched
from alignet_ray.store import Artifact, Store, digest
from alignet_ray.tracking import Session, Tracker

log = logging.getLogger(__name__)
SCHEMA = 2
"""Layout of artifacts and their manifests; artifacts of an earlier schema are not reused, and never deleted unasked."""
SPREAD = ("embed", "align", "cluster", "label", "distill")
"""Stages whose work goes to the nodes of a cluster: before each the nodes are waited for and looked over."""


@dataclass(frozen=True)
class Step:
    """One node of a run: its artifact, and why it will or will not be made."""

    node: Node
    artifact: Artifact
    recipe: dict[str, Any]
    state: str
    why: str
    size: str


def module(stage: str) -> ModuleType:
    """A stage's module, imported when it is needed."""
    return importlib.import_module(f"alignet_ray.stages.{stage}")


def targets(cfg: Config, stage: str | None) -> list[str]:
    """Node names that a verb asks for; a verb for `embed` means the teacher's embeddings."""
    names = [n.name for n in graph(cfg)]
    if stage is None:
        return names
    if stage == "embed":
        return ["embed@corpus"] + (["embed@objects"] if cfg.objects.table else [])
    return [n for n in names if n.split("@")[0] == stage]


def needed(cfg: Config, names: Iterable[str]) -> list[Node]:
    """The named nodes with all that they read, in order."""
    nodes = {n.name: n for n in graph(cfg)}
    wanted, queue = set(), list(names)
    while queue:
        name = queue.pop()
        if name not in wanted:
            wanted.add(name)
            queue += nodes[name].parents
    return [n for n in nodes.values() if n.name in wanted]


def generated_world(cfg: Config, state: Path) -> tuple[str, Path] | None:
    """Name and folder of the generated world that a config asks for; None if it does not.

    Raises:
        UserError: no world has that name.
    """
    if not (cfg.corpus.path or "").startswith("synthetic:"):
        return None
    from alignet_ray.synthetic import world

    name = str(cfg.corpus.path).partition(":")[2]
    if name not in world.WORLDS:
        raise UserError(f"no generated world named {name!r}: there are {', '.join(world.WORLDS)}")
    return name, state / "worlds" / f"{name}-{digest([world.VERSION, asdict(world.WORLDS[name])], 8)}"


def resolve(cfg: Config, state: Path, screen: Screen) -> Config:
    """Replace `synthetic:NAME` by the paths of that generated world, which is made here if it is not there yet."""
    found = generated_world(cfg, state)
    if found is None:
        return cfg
    from alignet_ray.synthetic import world

    name, folder = found
    if not (folder / "world.json").exists():
        screen.heading("world", f"drawing {name!r} and training its base network")
        with screen.progress(world.WORLDS[name].base.steps, "steps") as bar:
            world.materialise(name, folder, lambda done, total: bar.add(done - bar.done))
    paths = world.paths(name, folder)
    changes: dict[str, Any] = {"corpus__path": paths["corpus"]}
    changes |= {"objects__table": cfg.objects.table or paths["table"]}
    changes |= {"objects__concepts": cfg.objects.concepts or paths["concepts"]}
    changes |= {"human__triplets": cfg.human.triplets or paths["triplets"]}
    side = world.WORLDS[name].size
    if cfg.embed.model == (cfg.corpus.path,):
        changes |= {"embed__model": (paths["model"],), "embed__size": cfg.embed.size or side}
    if cfg.distill.model == cfg.corpus.path:
        changes |= {"distill__model": paths["model"], "distill__size": cfg.distill.size or side}
    return cfg.replace(**changes)


def plan(
    cfg: Config, store: Store, names: Iterable[str] | None = None, pinned: Mapping[str, str] | None = None
) -> list[Step]:
    """What a run would do, node by node, without starting Ray.

    Args:
        cfg: the configuration, its generated world resolved.
        store: where artifacts lie.
        names: nodes wanted; all by default.
        pinned: ids of nodes that are taken as they are, whatever `cfg` says of them; they make no steps.

    Raises:
        UserError: an input that a node reads is missing.
    """
    prints: dict[str, Any] = {}
    ids: dict[str, str] = dict(pinned or {})
    known = [manifest for manifest in manifests(store) if not _is_outdated(manifest)]
    steps = []
    for node in needed(cfg, names or targets(cfg, None)):
        if pinned and node.name in pinned:
            continue
        stage = module(node.stage)
        recipe = {
            "inputs": stage.inputs(cfg, node.role),
            "parents": {p: ids[p] for p in node.parents},
            "role": node.role,
            "version": stage.VERSION,
            "sources": [_fingerprint(s, prints) for s in stage.sources(cfg, node.role)],
        }
        ids[node.name] = digest(recipe)
        artifact = store.artifact(node.stage, ids[node.name])
        state, why = _state(artifact, node, recipe, known)
        estimate = getattr(stage, "estimate", None) if state != "finished" else None
        size = estimate(cfg, node.role, recipe["sources"]) if estimate else ""
        steps.append(Step(node, artifact, recipe, state, why, size))
    return steps


def manifests(store: Store) -> list[dict[str, Any]]:
    """artifact.json of every finished artifact."""
    return [artifact.manifest for artifact in store.all(list(STAGES)) if artifact.finished]


def _is_outdated(manifest: dict[str, Any]) -> bool:
    return int(manifest.get("schema", SCHEMA)) < SCHEMA


def outdated(store: Store) -> set[tuple[str, str]]:
    """(stage, id) of every finished artifact of an earlier schema."""
    finished = [artifact for artifact in store.all(list(STAGES)) if artifact.finished]
    return {(artifact.stage, artifact.id) for artifact in finished if _is_outdated(artifact.manifest)}


def outdated_note(store: Store) -> str:
    """One line about artifacts of an earlier schema; empty if there are none."""
    count = len(outdated(store))
    if not count:
        return ""
    return f"{count} artifacts under {store.root} were made before version 0.2 and are not reused; nothing deletes them"


def unmade(cfg: Config) -> list[dict[str, Any]]:
    """The rows of a plan whose generated world is not drawn yet, so that nothing has a name."""
    why = "its generated world is drawn first"
    return [{"node": n.name, "id": "", "state": "missing", "why": why, "size": ""} for n in graph(cfg)]


def _fingerprint(source: str, seen: dict[str, Any]) -> Any:
    if source not in seen:
        path = Path(source).expanduser()
        if "://" in source or path.is_dir():
            seen[source] = importlib.import_module("alignet_ray.images.listing").fingerprint(source)
        elif path.is_file():
            stat = path.stat()
            seen[source] = [path.name, stat.st_size, stat.st_mtime_ns]
        else:
            raise UserError(f"{source} does not exist: check the path")
    return seen[source]


def _state(artifact: Artifact, node: Node, recipe: dict[str, Any], known: list[dict[str, Any]]) -> tuple[str, str]:
    """Finished, partial or missing, and the reason: what differs from the newest artifact of the same node."""
    if artifact.finished:
        return "finished", "is there already"
    if artifact.files(deep=True):
        return "partial", "was interrupted: finished parts are kept"
    alike = [m for m in known if m.get("node") == node.name]
    if not alike:
        return "missing", "never made under this root"
    last = max(alike, key=lambda m: m["finished"])["recipe"]
    changed = [k for k in recipe if k not in ("inputs", "parents") and recipe[k] != last.get(k)]
    for group in ("inputs", "parents"):
        keys = recipe[group].keys() | last[group].keys()
        changed += sorted(k for k in keys if recipe[group].get(k) != last[group].get(k))
    more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
    return "missing", "changed: " + ", ".join(changed[:4] or ["nothing known"]) + more


def run(cfg: Config, screen: Screen | None = None, names: Iterable[str] | None = None) -> dict[str, Artifact]:
    """Run the named nodes (all by default) and what they need; finished ones are reused.

    Returns:
        The artifacts by node name.

    Raises:
        UserError: something that the user can mend; what was finished before it stays.
    """
    screen = screen or Screen()
    with opened(cfg, screen) as (resolved, store, state):
        if note := outdated_note(store):
            screen.line(note)
        steps = plan(resolved, store, names)
        store.write_ref(cfg.name, {"nodes": {s.node.name: s.artifact.id for s in steps}, "config": cfg.to_yaml()})
        todo = [s for s in steps if s.state != "finished"]
        if todo:
            refuse(resolved, steps)
            screen.line(f"{len(todo)} of {len(steps)} steps to do; logs in {log_file(cfg, state)}")
            with tracked(resolved, state) as (session, parent):
                carry_out(resolved, store, steps, session, parent, screen)
        else:
            screen.line(f"nothing to do: all {len(steps)} steps are finished under {store.root}")
        return {s.node.name: s.artifact for s in steps}


def log_file(cfg: Config, state: Path) -> Path:
    """Where a run's log goes."""
    return state / "logs" / f"{cfg.name}.log"


@contextlib.contextmanager
def opened(cfg: Config, screen: Screen) -> Iterator[tuple[Config, Store, Path]]:
    """Within it the root is held by this process, whose output but for the screen goes to the run's log.

    Yields:
        The config with its generated world resolved, the store, the local state folder.
    """
    state = runtime.state_dir(cfg)
    with runtime.terminable(), runtime.lock(state), runtime.log_to(log_file(cfg, state), screen):
        yield resolve(cfg, state, screen), Store.open(cfg.store.root), state


@contextlib.contextmanager
def tracked(cfg: Config, state: Path, name: str = "") -> Iterator[tuple[Session, Tracker]]:
    """Within it there is an MLflow run that others can be children of; Ray, once started, stops at its end."""
    session = Session.open(cfg, state)
    session.kill_orphans(str(state))
    tags = {tracking.STATE: str(state)} | runtime.tags()
    parent = session.begin(name or cfg.name, cfg, tags)
    status = "FAILED"
    try:
        with tracking.system_metrics(parent):
            yield session, parent
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        session.end(parent, status)
        session.flush()
        runtime.stop()


def refuse(cfg: Config, steps: Iterable[Step]) -> None:
    """Raise a UserError for what can be known to fail before anything starts."""
    for step in steps:
        if step.state != "finished" and (check := getattr(module(step.node.stage), "refuse", None)):
            check(cfg, step.node.role)


def carry_out(cfg: Config, store: Store, steps: list[Step], session: Session, parent: Tracker, screen: Screen) -> None:
    """Do the unfinished steps, with Ray started at the first of them."""
    if all(step.state == "finished" for step in steps):
        return
    logs = runtime.start(cfg)
    if logs:
        screen.line(f"Ray's worker logs in {logs}")
    fleet = runtime.ClusterNodes(cfg, screen.line)
    for step in steps:
        if step.state == "finished":
            screen.line(f"-- {step.node.name} {step.artifact.id}: reused")
        else:
            if step.node.stage in SPREAD:
                fleet.ready()
            _step(cfg, store, step, {s.node.name: s.artifact for s in steps}, session, parent, screen)


def _step(
    cfg: Config,
    store: Store,
    step: Step,
    artifacts: dict[str, Artifact],
    session: Session,
    parent: Tracker,
    screen: Screen,
) -> None:
    """Run one node, in an MLflow run of its own."""
    node, start = step.node, time.time()
    screen.heading(node.name, " ".join(filter(None, (step.artifact.id, step.size, f"({step.why})"))))
    tracker = session.begin(node.name, None, {"alignet.artifact": step.artifact.id}, parent.run_id)
    status = "FAILED"
    try:
        make(cfg, store, step, artifacts, session, tracker, screen)
        screen.line(f"   done in {clock(time.time() - start)}")
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        session.end(tracker, status)


def make(
    cfg: Config,
    store: Store,
    step: Step,
    artifacts: Mapping[str, Artifact],
    session: Session,
    tracker: Tracker,
    screen: Screen,
) -> None:
    """Run one node and finish its artifact; what it read and its figures go to `tracker`."""
    node, start = step.node, time.time()
    parents = {name: artifacts[name] for name in node.parents}
    work = Work(cfg, node, parents, store.draft(node.stage, step.artifact.id), tracker, screen, {})
    with watched(screen, node.name, cfg.ray.stall_minutes):
        module(node.stage).run(work)
    seconds = time.time() - start
    work.out.finish(_manifest(work, step.recipe, seconds))
    session.lineage(tracker, parents.values())
    figures = {k: float(v) for k, v in work.facts.items() if isinstance(v, int | float)}
    tracker.log_batch(figures | {"seconds": seconds}, 0)


def _manifest(work: Work, recipe: dict[str, Any], seconds: float) -> dict[str, Any]:
    """artifact.json, but for the sizes that `Draft.finish` adds."""
    return {
        "schema": SCHEMA,
        "node": work.node.name,
        "id": work.out.id,
        "recipe": recipe,
        "config": work.cfg.model_dump(mode="json"),
        "facts": work.facts,
        "finished": time.time(),
        "seconds": round(seconds, 3),
        "host": {"cpus": os.cpu_count()},
        **runtime.provenance(),
    }


def reachable(store: Store) -> set[tuple[str, str]]:
    """(stage, id) of every artifact that some ref names."""
    refs = (store.read_ref(name) or {} for name in store.refs())
    return {(node.split("@")[0], id) for ref in refs for node, id in ref.get("nodes", {}).items()}


def describe(step: Step) -> dict[str, Any]:
    """A step as a row for a table."""
    return {"node": step.node.name, "id": step.artifact.id, "state": step.state, "why": step.why, "size": step.size}


def farewell(cfg: Config, artifacts: dict[str, Artifact], screen: Screen) -> None:
    """The end of a run: the table of scores, where the report is, how to open MLflow and how to load the model."""
    last = artifacts.get("evaluate")
    if last is None or not last.finished:
        for name, artifact in artifacts.items():
            screen.line(f"{name:16} {artifact.uri}")
        return
    for line in last.manifest["facts"].get("table", []):
        screen.line(line)
    screen.line(f"\nreport   {last.uri}/report.html")
    uri = tracking.resolve_uri(cfg, runtime.state_dir(cfg))
    screen.line(f"mlflow   mlflow ui --backend-store-uri {tracking.hide(uri)}")
    student = artifacts["distill@student"].uri
    screen.line(f'model    model, preprocess = alignet_ray.load("{student}")')
    if "register" in artifacts:
        version = artifacts["register"].read_json("version.json")
        screen.line(f'         or alignet_ray.load("{version["model"]}") with MLFLOW_TRACKING_URI={tracking.hide(uri)}')
