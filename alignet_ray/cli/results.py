"""Verbs about what runs left behind: show, ls, rm, gc, compare, verify, rollback; and bench."""

import argparse
import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any

from alignet_ray import registry, runtime, tracking
from alignet_ray.cli.parse import parse
from alignet_ray.config import Config
from alignet_ray.config.presets import PRESETS
from alignet_ray.errors import Parser, UserError
from alignet_ray.screen import table
from alignet_ray.stages import STAGES, pipeline
from alignet_ray.store import Artifact, Store


def _arguments(verb: str, about: str) -> Parser:
    parser = Parser(prog=f"alignet-ray {verb}", description=about)
    parser.add_argument(
        "--store.root", dest="root", default=Config().store.root, help="folder that holds all artifacts"
    )
    if verb in ("ls", "show", "rollback"):
        parser.add_argument("--tracking.uri", dest="tracking", help="MLflow server with the model registry")
    return parser


def _store(root: str) -> Store:
    if "://" not in root and not Path(root).expanduser().is_dir():
        raise UserError(f"{root} is not a folder: name the root with --store.root DIR")
    return Store.open(root)


def find(store: Store, name: str) -> Artifact:
    """An artifact by id, the beginning of an id, or `stage/id`.

    Raises:
        UserError: none, or several.
    """
    stage, _, id = name.rpartition("/")
    hits = [a for a in store.all([stage] if stage else list(STAGES)) if a.id.startswith(id)]
    if len(hits) != 1:
        raise UserError(f"{len(hits) or 'no'} artifacts are called {name!r}: `alignet-ray ls` lists them")
    return hits[0]


def show(args: list[str]) -> None:
    """A preset (with changes) as YAML that --config reloads exactly; a run's config; an artifact's manifest."""
    if not args or args[0].startswith("-") or args[0] in PRESETS:
        print(parse("show", args).to_yaml(), end="")
        return
    parser = _arguments("show", "a preset, run, artifact or registered model")
    parser.add_argument("name")
    chosen = parser.parse_args(args)
    if chosen.name.startswith("models:/"):
        print(registry.describe(_registry(chosen), chosen.name))
        return
    store = _store(chosen.root)
    ref = store.read_ref(chosen.name)
    if ref is not None:
        print(ref["config"], end="")
        return
    artifact = find(store, chosen.name)
    if not artifact.finished:
        raise UserError(f"{artifact.uri} is unfinished: run its pipeline again to finish it")
    print(json.dumps(artifact.manifest, indent=1))


def _registry(chosen: argparse.Namespace) -> str:
    """The registry's address: a server, or the root's embedded database."""
    cfg = Config().replace(store__root=chosen.root, tracking__uri=chosen.tracking)
    return tracking.resolve_uri(cfg, Path(chosen.root).expanduser().resolve())


def rollback(args: list[str]) -> None:
    """The alias `champion` back to the champion before."""
    parser = _arguments("rollback", "give the alias champion back to the champion before")
    parser.add_argument("name", help="registered model")
    parser.add_argument("--to", help="version that becomes the champion")
    chosen = parser.parse_args(args)
    before, now = registry.rollback(_registry(chosen), chosen.name, chosen.to)
    print(f"champion of {chosen.name}: version {now}" + (f" (was {before})" if before else ""))


def ls(args: list[str]) -> None:
    """Runs and artifacts under a root; or, with --models, what is in the model registry."""
    parser = _arguments("ls", "runs and artifacts under a root")
    parser.add_argument("--models", action="store_true", help="registered models with aliases and scores instead")
    chosen = parser.parse_args(args)
    if chosen.models:
        print(table(registry.versions(_registry(chosen))))
        return
    store = _store(chosen.root)
    runs = [{"run": name, "nodes": len((store.read_ref(name) or {}).get("nodes", {}))} for name in store.refs()]
    print(table(runs) + "\n")
    kept = pipeline.reachable(store)
    print(table([_row(a, kept) for a in store.all(list(STAGES))]))


def _row(artifact: Artifact, kept: set[tuple[str, str]]) -> dict[str, Any]:
    named = "yes" if (artifact.stage, artifact.id) in kept else "no"
    if not artifact.finished:
        return {
            "artifact": f"{artifact.stage}/{artifact.id}",
            "node": "?",
            "MB": None,
            "when": "unfinished",
            "in a run": named,
        }
    manifest = artifact.manifest
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(manifest["finished"]))
    size = round(manifest["bytes"] / 1e6, 1)
    name = f"{artifact.stage}/{artifact.id}"
    return {"artifact": name, "node": manifest["node"], "MB": size, "when": when, "in a run": named}


def rm(args: list[str]) -> None:
    """Delete artifacts by id, or a run's name (its artifacts stay until gc)."""
    parser = _arguments("rm", "delete artifacts, or a run's name")
    parser.add_argument("names", nargs="+")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    chosen = parser.parse_args(args)
    store = _store(chosen.root)
    for name in chosen.names:
        if name in store.refs():
            if _confirmed(chosen.yes, f"forget the run {name!r}"):
                store.delete_ref(name)
            continue
        artifact = find(store, name)
        if _confirmed(chosen.yes, f"delete {artifact.uri}"):
            store.delete(artifact)


def gc(args: list[str]) -> None:
    """Delete every artifact that no run's name reaches, and the cache, while no run is going on."""
    parser = _arguments("gc", "delete artifacts that no run names, and the cache")
    parser.add_argument("--state-dir", dest="state", default=None, help="local folder of the runs of a remote root")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    chosen = parser.parse_args(args)
    store = _store(chosen.root)
    kept = pipeline.reachable(store)
    state = runtime.state_dir(Config().replace(store__root=chosen.root, state_dir=chosen.state))
    with runtime.lock(state):
        if note := pipeline.outdated_note(store):
            print(note)
        spared = kept | pipeline.outdated(store)
        loose = [a for a in store.all(list(STAGES)) if (a.stage, a.id) not in spared]
        cache = [path for path in (state / "cache").glob("*") if path.is_file()]
        if not loose and not cache:
            print("nothing to delete: every artifact belongs to a run")
            return
        print(table([_row(a, kept) for a in loose]))
        size = sum(path.stat().st_size for path in cache) / 1e6
        print(f"and {len(cache)} files of the cache, {size:,.0f} MB, made again when a run wants them")
        if _confirmed(chosen.yes, f"delete these {len(loose)} artifacts and the cache"):
            for artifact in loose:
                store.delete(artifact)
            for path in cache:
                path.unlink()


def _confirmed(yes: bool, what: str) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UserError(f"will not {what} unasked: add --yes")
    return input(f"{what}? [y/N] ").strip().lower() in ("y", "yes")


def compare(args: list[str]) -> None:
    """The scores of several runs side by side."""
    from alignet_ray.evals import compare as comparison

    parser = _arguments("compare", "the scores of several runs side by side")
    parser.add_argument("runs", nargs="+", help="run names or evaluate artifacts")
    parser.add_argument("--levels", action="store_true", help="also parts of the triplets, gains and their p values")
    chosen = parser.parse_args(args)
    store = _store(chosen.root)
    tables = {}
    for name in chosen.runs:
        ref = store.read_ref(name)
        artifact = store.artifact("evaluate", ref["nodes"]["evaluate"]) if ref else find(store, f"evaluate/{name}")
        if not artifact.finished:
            raise UserError(f"{name} has no scores yet: finish it with `alignet-ray run`")
        tables[name] = artifact.read_table("scores.parquet")
    print(comparison.text(tables, chosen.levels))


def verify(args: list[str]) -> None:
    """Is this triplet file, folder or transform sane? Exit code 1 if it is not."""
    from alignet_ray import verify as doctor

    sys.exit(doctor.main(args))


def bench(args: list[str]) -> None:
    """Ours against plain loops, side by side (jobs/bench.py of a checkout)."""
    script = Path(__file__).parents[2] / "jobs" / "bench.py"
    if not script.exists():
        raise UserError("bench runs from a checkout: python jobs/bench.py in the repository")
    sys.argv = [str(script), *args]
    runpy.run_path(str(script), run_name="__main__")
