"""The command line: one verb a stage, and the verbs about runs. A stage is imported only when it is called."""

import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from alignet_ray.cli.parse import parse, unknown
from alignet_ray.config import Config
from alignet_ray.config.presets import PRESETS
from alignet_ray.errors import UserError

if TYPE_CHECKING:
    from alignet_ray.capacity import ClusterSpec

STAGE_VERBS = ("embed", "soften", "align", "cluster", "label", "distill", "evaluate", "register")
EXPORTS = {"embed": ("npy", "safetensors"), "label": ("npz",)}
OVERVIEW = """alignet-ray: vision models that see similarity as people do.

usage: alignet-ray VERB [PRESET] [--config FILE] [--section.field VALUE ...] [--debug]

whole runs   run       the whole line; finished steps are reused
             plan      what `run` would do, and why, without doing it
                       with --on.gpus N --on.images N: hours and money there
             sweep     try settings of align or distill, choose, run the best
                       --sweep.space "align.identity_penalty=loguniform(1e-5,1e-2)" ...
stages       embed soften align cluster label distill evaluate register
                       the line up to that stage; embed --export npy|safetensors
                       also writes the embeddings as one file, label --export npz
                       the triplets in DeepMind's format
results      ls        artifacts and runs under a root        --store.root DIR
                       --models: the model registry, with aliases and scores
             show      a preset, a run or an artifact, as YAML or JSON;
                       models:/NAME@ALIAS: its card and all that it is made of
             rollback  NAME: the champion before is champion again
             compare   the scores of several runs side by side
             verify    is this triplet file, folder or transform sane?
             rm, gc    delete an artifact or a run's name; all that no run names
use          demo      a local page: three pictures, base against aligned
             export    a model --to timm, onnx or thingsvision
measure      bench     ours against plain loops, side by side

presets      {presets}
             `alignet-ray run PRESET --help` lists every field with its value.
"""


def main(argv: list[str] | None = None) -> None:
    """Entry point: exits 0 on success, 2 on a mistake that the user can mend, 1 on a bug of ours, 130 when stopped."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [a for a in args if a != "--debug"]
    try:
        _dispatch(args)
    except KeyboardInterrupt:
        print("\nstopped: finished steps are kept; the same command goes on from there", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if debug:
            traceback.print_exc()
        mistake = mendable(error)
        if mistake:
            print(f"alignet-ray: {mistake}", file=sys.stderr)
            sys.exit(2)
        if not debug:
            last = str(error).strip().splitlines() or [""]
            print(
                f"alignet-ray: this should not happen: {type(error).__name__}: {last[-1][:500]}\n"
                "run it again with --debug for the traceback",
                file=sys.stderr,
            )
        sys.exit(1)


def mendable(error: BaseException) -> str | None:
    """The message of the user's mistake inside an error, which workers wrap several times; None if there is none."""
    for inner in _chain(error):
        if isinstance(inner, UserError) and "\n" not in str(inner).strip():
            return str(inner)
        if isinstance(inner, OSError) and inner.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f" while writing {inner.filename}" if inner.filename else ""
            return f"the disk is full{where}: free some room (alignet-ray gc) and run it again"
        if "No space left on device" in str(inner):
            return "the disk is full: free some room (alignet-ray gc) and run it again"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    queue: list[BaseException | None] = [error]
    seen = set()
    while queue:
        inner = queue.pop(0)
        if inner is None or id(inner) in seen:
            continue
        seen.add(id(inner))
        yield inner
        failures = getattr(inner, "worker_failures", None) or {}
        queue += [getattr(inner, "cause", None), inner.__cause__, inner.__context__, *failures.values()]


def _dispatch(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help", "help"):
        print(OVERVIEW.format(presets=" ".join(PRESETS)))
        return
    if args[0] in ("-V", "--version"):
        from alignet_ray import __version__

        print(__version__)
        return
    verb, *rest = args
    if verb in STAGE_VERBS:
        _run(verb, rest)
    elif verb in VERBS:
        VERBS[verb](rest)
    else:
        raise UserError(unknown("verb", verb, (*VERBS, *STAGE_VERBS)))


def _run(stage: str, args: list[str]) -> None:
    form, args = _export(stage, args) if stage in EXPORTS else ("", args)
    cfg = parse(stage or "run", args)
    from alignet_ray.screen import Screen
    from alignet_ray.stages import pipeline

    screen = Screen()
    artifacts = pipeline.run(cfg, screen, pipeline.targets(cfg, stage) if stage else None)
    screen.line()
    pipeline.farewell(cfg, artifacts, screen)
    if form:
        from alignet_ray import runtime
        from alignet_ray.data import export

        folder = runtime.state_dir(cfg) / "exports"
        if stage == "embed":
            files = [export.embeddings(artifacts["embed@corpus"], form, folder)]
        else:
            files = export.triplets(artifacts["label@aligned"], artifacts["embed@corpus"], folder)
        for file in files:
            screen.line(f"exported         {file}")


def _export(stage: str, args: list[str]) -> tuple[str, list[str]]:
    """The format behind `--export`, which is no part of the config: it changes no result."""
    if "--export" not in args:
        return "", args
    at = args.index("--export")
    form = args[at + 1] if at + 1 < len(args) else ""
    if form not in EXPORTS[stage]:
        raise UserError(f"{stage} --export needs a format: {' or '.join(EXPORTS[stage])}")
    return form, [*args[:at], *args[at + 2 :]]


def _plan(args: list[str]) -> None:
    from alignet_ray import capacity

    on, args = capacity.split(args)
    cfg = parse("plan", args)
    if on:
        _plan_on(cfg, on)
        return
    from alignet_ray import runtime
    from alignet_ray.screen import Screen, table
    from alignet_ray.stages import pipeline
    from alignet_ray.store import Store

    state = runtime.state_dir(cfg)
    found = pipeline.generated_world(cfg, state)
    if found and not (found[1] / "world.json").exists():
        rows = pipeline.unmade(cfg)
    else:
        resolved = pipeline.resolve(cfg, state, Screen())
        rows = [pipeline.describe(s) for s in pipeline.plan(resolved, Store.open(cfg.store.root))]
    print(table(rows))
    todo = sum(r["state"] != "finished" for r in rows)
    print(f"\n{todo} of {len(rows)} steps to do" if todo else "\nnothing to do: everything is finished")


def _plan_on(cfg: Config, on: "ClusterSpec") -> None:
    """Hours, storage and money on a cluster that need not be there."""
    from alignet_ray import capacity
    from alignet_ray.screen import table

    result = capacity.plan(cfg, on)
    print(table(capacity.describe(result)))
    print("\n" + "\n".join(capacity.verdict(cfg, result)))


def _late(name: str) -> Callable[[list[str]], None]:
    """A verb of results.py, imported when it is called."""

    def call(args: list[str]) -> None:
        from alignet_ray.cli import results

        getattr(results, name)(args)

    return call


def _sweep(args: list[str]) -> None:
    cfg = parse("sweep", args)
    from alignet_ray.sweep import runner

    runner.run(cfg)


def _demo(args: list[str]) -> None:
    from alignet_ray.demo import server

    server.main(args)


def _export_model(args: list[str]) -> None:
    from alignet_ray.models import formats

    formats.main(args)


VERBS: dict[str, Callable[[list[str]], None]] = {
    "run": lambda args: _run("", args),
    "plan": _plan,
    "sweep": _sweep,
    "demo": _demo,
    "export": _export_model,
    **{name: _late(name) for name in ("show", "ls", "rm", "gc", "compare", "verify", "rollback", "bench")},
}
