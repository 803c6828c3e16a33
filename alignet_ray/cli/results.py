"""Commands on existing runs: show, ls, rm, gc, compare, rollback; and bench."""

import errno
import json
import os
import runpy
import sys
import time
from collections.abc import Sequence, Set
from contextlib import AbstractContextManager
from pathlib import Path

import pyarrow as pa
import yaml

from alignet_ray import registry, root_lease, root_lock, runtime, tracking
from alignet_ray.artifacts.evaluate import EvaluateArtifact
from alignet_ray.cli.main import unknown
from alignet_ray.cli.options import (
    BenchOptions,
    CollectOptions,
    CompareOptions,
    ListOptions,
    RemoveOptions,
    RollbackOptions,
    ShowOptions,
)
from alignet_ray.config import Config
from alignet_ray.config.presets import PRESETS
from alignet_ray.data.files import replacing
from alignet_ray.errors import UserError
from alignet_ray.screen import TableRow, print_table
from alignet_ray.stages import STAGES, kept
from alignet_ray.store import Artifact, Reference, Store

# Options of `show` that say where to look or how to print; all others change settings.
LOOKUP = {"--store.root", "--tracking.uri", "--json", "--debug"}


def find(store: Store, name: str) -> Artifact:
    """An artifact by id, the beginning of an id, or `stage/id`.

    Raises:
        UserError: none, or several.
    """
    stage, _, id = name.rpartition("/")
    # Every id begins with an empty text: `rm embed/` must not delete the only one there is.
    if not id:
        raise UserError(f"{name!r} names no artifact: an artifact is STAGE/ID, `alignet-ray ls` lists them")
    # Only stages are folders of artifacts: `rm ../other/ID` must not reach what lies elsewhere.
    if stage and stage not in STAGES:
        raise UserError(f"no artifacts are called {name!r}: an artifact is STAGE/ID, `alignet-ray ls` lists them")
    stages = list(STAGES)
    if stage:
        stages = [stage]
    matches = [artifact for artifact in store.all(stages) if artifact.id.startswith(id)]
    if len(matches) != 1:
        raise UserError(f"{len(matches) or 'no'} artifacts are called {name!r}: `alignet-ray ls` lists them")
    return matches[0]


def show(options: ShowOptions) -> None:
    """Print a registered model, a run's configuration, an artifact's record, or a preset with changes.

    Raises:
        UserError: nothing has that name.
    """
    name = options.preset or ""
    cfg = options.settings
    changes = set(options.given) - LOOKUP
    if name.startswith("models:/"):
        address = tracking.registry_uri(cfg.store.root, cfg.tracking.uri)
        description = registry.describe(address, name)
        if options.json:
            print(json.dumps(description.as_json(), indent=1))
        else:
            print(description.as_text())
        return

    # The run comes first: after `run smoke`, `show smoke` is about that run.
    reference = None
    if name and not changes and ("://" in cfg.store.root or Path(cfg.store.root).expanduser().is_dir()):
        reference = Store.open(cfg.store.root).read_ref(name)
    if reference is not None:
        if options.json:
            print(json.dumps(yaml.safe_load(reference.config), indent=1))
        else:
            _print_run(Store.open(cfg.store.root), reference)
        return

    # Without a run of that name, settings mean a configuration that is only written down.
    if not name or name in PRESETS or "--config" in changes:
        if options.json:
            print(json.dumps(cfg.model_dump(mode="json"), indent=1))
        else:
            print(cfg.to_yaml().rstrip())
        return
    # An artifact has no settings to change, so the name was meant for a preset.
    if changes:
        raise UserError(unknown("preset", name, PRESETS))

    artifact = find(Store.existing(cfg.store.root), name)
    if not artifact.finished:
        raise UserError(f"{artifact.uri} is unfinished: run its pipeline again to finish it")
    print(json.dumps(artifact.manifest | {"files": artifact.sizes()}, indent=1))


def _print_run(store: Store, reference: Reference) -> None:
    """A run's configuration as YAML, and the table that it ended with as a comment, so that the whole stays YAML."""
    print(reference.config.rstrip())

    # A run without human data, or one that was stopped, has no scores.
    id = reference.nodes.get("evaluate")
    if id is None or not store.artifact("evaluate", id).finished:
        return
    evaluation = EvaluateArtifact(store.artifact("evaluate", id))
    print("\n# Scores")
    for line in evaluation.facts().table:
        print(f"# {line}")
    print(f"# report: {evaluation.report_uri()}")


def rollback(options: RollbackOptions) -> None:
    """Give the alias `champion` back to the previous champion."""
    address = tracking.registry_uri(options.store.root, options.tracking.uri)
    before, now = registry.rollback(address, options.name, options.to)
    change = ""
    if before:
        change = f" (was {before})"
    print(f"champion of {options.name}: version {now}{change}")


def ls(options: ListOptions) -> None:
    """List runs and artifacts under a root; or, with --models, what is in the model registry."""
    if options.models:
        versions = registry.versions(tracking.registry_uri(options.store.root, options.tracking.uri))
        if options.json:
            print(json.dumps(versions, indent=1))
        else:
            print_table(versions)
        return

    store = Store.existing(options.store.root)
    runs: list[TableRow] = []
    for name in store.refs():
        reference = store.read_ref(name) or Reference()
        runs.append({"run": name, "nodes": len(reference.nodes)})

    # What no run uses is what gc would delete.
    used = kept.reachable(store)
    artifacts = [artifact_row(artifact, used) for artifact in store.all(list(STAGES))]
    if options.json:
        print(json.dumps({"runs": runs, "artifacts": artifacts}, indent=1))
        return
    print_table(runs)
    print()
    print_table(artifacts)


def artifact_row(artifact: Artifact, used: Set[tuple[str, str]]) -> TableRow:
    """What a list says about an artifact.

    Args:
        artifact: finished or not.
        used: (stage, id) of the artifacts that belong to a run.
    """
    row: TableRow = {"artifact": f"{artifact.stage}/{artifact.id}", "node": "?", "MB": None, "when": "unfinished"}
    if artifact.finished:
        # The others are still to be listed.
        try:
            manifest = artifact.read_manifest()
        except UserError:
            row["when"] = "damaged"
        else:
            row["node"] = manifest.node
            row["MB"] = round(manifest.bytes / 1e6, 1)
            row["when"] = time.strftime("%Y-%m-%d %H:%M", time.localtime(manifest.finished))

    row["in a run"] = "no"
    if (artifact.stage, artifact.id) in used:
        row["in a run"] = "yes"
    return row


def rm(options: RemoveOptions) -> None:
    """Delete artifacts by id, or a run's name (its artifacts stay until gc)."""
    if not options.names:
        raise UserError("alignet-ray rm needs names of runs or artifacts: `alignet-ray ls` lists them")
    store = Store.existing(options.store.root)
    with _no_run(options.store.root, options.state_dir):
        for name in options.names:
            # A run's name alone goes: other runs may use the same artifacts.
            if name in store.refs():
                if _confirmed(options.yes, f"forget the run {name!r}"):
                    store.delete_ref(name)
                continue
            artifact = find(store, name)
            if _confirmed(options.yes, f"delete {artifact.uri}"):
                store.delete(artifact)


def _no_run(root: str, state_dir: str | None) -> AbstractContextManager[None]:
    """Holds the lock of a root, so that nothing is deleted which a run is making or reading.

    A remote root has a lease; the lock in a local folder comes to it where the user names the folder.
    """
    if "://" in root and not state_dir:
        return root_lease.hold(root, root_lease.ClaimNotes(None), print)
    return root_lock.hold(root, _state(root, state_dir), print, makes_room=True)


def _state(root: str, state_dir: str | None) -> Path:
    """The local folder of runs. It is not written to on trial: what deletes must work on a full disk."""
    folder = runtime.state_path(Config().replace(store__root=root, state_dir=state_dir))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def gc(options: CollectOptions) -> None:
    """Delete every artifact that no run uses, and the cache, while no run is going on."""
    store = Store.existing(options.store.root)
    state = _state(options.store.root, options.state_dir)
    # A run in progress holds this lock, so nothing that it is making can be deleted.
    with root_lock.hold(options.store.root, state, print, makes_room=True):
        used = kept.reachable(store)
        if note := kept.outdated_note(store):
            print(note)

        # Artifacts of an earlier release are not read any more, but they are kept until somebody deletes them by name.
        spared = used | kept.outdated(store)
        unused = []
        for artifact in store.all(list(STAGES)):
            key = (artifact.stage, artifact.id)
            if key not in spared:
                unused.append(artifact)

        # A lock's file must not vanish while another process waits for it.
        found = (state / runtime.CACHE).glob("*")
        cached = [path for path in found if path.is_file() and path.suffix != ".lock"]
        if not unused and not cached:
            print("nothing to delete: every artifact belongs to a run")
            return

        things = []
        if unused:
            print_table([artifact_row(artifact, used) for artifact in unused])
            things.append(f"these {len(unused)} artifacts")
        else:
            print("every artifact belongs to a run")
        if cached:
            megabytes = sum(path.stat().st_size for path in cached) / 1e6
            print(f"cache: {len(cached)} files, {megabytes:,.1f} MB, made again when a run needs them")
            things.append("the cache")

        if _confirmed(options.yes, f"delete {' and '.join(things)}"):
            _delete(store, unused, cached)


def _delete(store: Store, artifacts: Sequence[Artifact], files: Sequence[Path]) -> None:
    """Delete artifacts and files, as many as can be.

    Raises:
        UserError: some of them may not be deleted; all others are.
    """
    # In a root that several people use, what belongs to one of them must not protect everything after it.
    failed: list[str] = []
    for artifact in artifacts:
        try:
            store.delete(artifact)
        except OSError as error:
            failed.append(f"{artifact.uri}: {os.strerror(error.errno or errno.EIO)}")
    for path in files:
        try:
            path.unlink()
        except OSError as error:
            failed.append(f"{path}: {error.strerror}")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(artifacts) + len(files)} could not be deleted (the first: {failed[0]}): whoever "
            "made them can"
        )


def _confirmed(yes: bool, action: str) -> bool:
    """Whether the user agrees.

    Raises:
        UserError: there is nobody to ask.
    """
    if yes:
        return True
    # A script that is asked would wait for ever.
    if not sys.stdin.isatty():
        raise UserError(f"will not {action} unasked: add --yes")
    return input(f"{action}? [y/N] ").strip().lower() in ("y", "yes")


def compare(options: CompareOptions) -> None:
    """Show the scores of several runs side by side."""
    from alignet_ray.evals import compare as comparison

    _require_comparison(options)
    store = Store.existing(options.store.root)
    tables = {name: _scores_of(store, name) for name in options.runs}
    if options.json:
        scores = []
        for name, table in tables.items():
            scores += [{"run": name, **row} for row in table.to_pylist()]
        print(json.dumps(scores, indent=1))
        return

    print(comparison.text(tables, options.levels))
    if options.page:
        _write_page(options.page, tables, options.levels)


def _require_comparison(options: CompareOptions) -> None:
    """Refuse what cannot be compared or written.

    Raises:
        UserError: no runs, one of them twice, or a page that is no page.
    """
    if not options.runs:
        raise UserError("alignet-ray compare needs runs: `alignet-ray ls` lists them")
    for name in options.runs:
        if options.runs.count(name) > 1:
            raise UserError(f"{name} is named twice: a run stands in one column")
    if options.page and options.json:
        raise UserError("--page and --json: give one of them, as JSON is all that is printed")
    if options.page and options.page.suffix != ".html":
        raise UserError(f"--page {options.page}: name an .html file")


def _scores_of(store: Store, name: str) -> pa.Table:
    """Scores of a run, which has one evaluation; an evaluation may also be named by its id, without a run.

    Raises:
        UserError: no such run, or it is not finished.
    """
    reference = store.read_ref(name)
    if reference and "evaluate" not in reference.nodes:
        raise UserError(f"{name} has no scores yet: finish it with `alignet-ray run`")
    if reference:
        artifact = store.artifact("evaluate", reference.nodes["evaluate"])
    else:
        artifact = _evaluation(store, name)
    if not artifact.finished:
        raise UserError(f"{name} has no scores yet: finish it with `alignet-ray run`")
    return EvaluateArtifact(artifact).scores()


def _write_page(target: Path, tables: dict[str, pa.Table], levels: bool) -> None:
    """Write the page of a comparison."""
    from alignet_ray.report import compare_page

    try:
        with replacing(target) as draft:
            draft.write_text(compare_page.build(tables, levels), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from error
    print(f"page     {target}")


def _evaluation(store: Store, name: str) -> Artifact:
    """An evaluation by its id, where no run is called so.

    Raises:
        UserError: there is none; most people meant a run.
    """
    if not any(artifact.id.startswith(name) for artifact in store.all(["evaluate"])):
        raise UserError(f"there is no run {name!r} under {store.root}: `alignet-ray ls` lists them")
    return find(store, f"evaluate/{name}")


def bench(options: BenchOptions) -> None:
    """Time this package against plain loops (jobs/bench.py of a checkout)."""
    script = Path(__file__).parents[2] / "jobs" / "bench.py"
    if not script.exists():
        raise UserError("bench runs from a checkout: python jobs/bench.py in the repository")

    # The script has a command line of its own, and parses sys.argv.
    sys.argv = [str(script), *options.names, "--sizes", options.sizes]
    if options.json:
        # Refused now and not after minutes of measuring.
        if not os.access(options.json.parent, os.W_OK):
            raise UserError(f"cannot write {options.json}: choose another file for --json")
        sys.argv += ["--json", str(options.json)]
    runpy.run_path(str(script), run_name="__main__")
