"""Commands that make something: run, the stages, plan, study, sweep."""

import json
from pathlib import Path

from alignet_ray.cli.options import EmbedOptions, LabelOptions, PlanOptions, RunOptions
from alignet_ray.errors import UserError
from alignet_ray.screen import Screen, open_screen, print_table


def run(options: RunOptions) -> None:
    """Run the whole pipeline."""
    from alignet_ray.stages import farewell, pipeline

    # The table and the report's address are the result: they are printed with --quiet as well.
    screen = Screen()
    with open_screen(options.quiet) as shown:
        artifacts = pipeline.run(options.settings, shown)
    screen.line()
    farewell.say(options.settings, artifacts, screen)


def stage(options: RunOptions, name: str) -> None:
    """Run the pipeline up to one stage."""
    from alignet_ray import runtime
    from alignet_ray.data import export
    from alignet_ray.stages import farewell, pipeline

    cfg = options.settings
    screen = Screen()
    with open_screen(options.quiet) as shown:
        artifacts = pipeline.run(cfg, shown, pipeline.targets(cfg, name))
    screen.line()
    farewell.say(cfg, artifacts, screen)

    # A copy for other programs is no artifact, so it lies beside them.
    folder = runtime.state_dir(cfg) / "exports"
    files: list[Path] = []
    if isinstance(options, EmbedOptions) and options.export:
        files = [export.embeddings(artifacts["embed@corpus"], options.export, folder)]
    if isinstance(options, LabelOptions) and options.export:
        files = export.triplets(artifacts["label@aligned"], artifacts["embed@corpus"], folder)
    for file in files:
        screen.line(f"exported         {file}")


def plan(options: PlanOptions) -> None:
    """Show what a run would do; with options `--on.*`, what it would take on a cluster that need not exist."""
    if any(flag.startswith("--on.") for flag in options.given):
        _plan_cluster(options)
        return

    from alignet_ray.stages import pipeline

    rows = pipeline.describe_plan(options.settings)
    if options.json:
        print(json.dumps(rows, indent=1))
        return

    print_table(rows)
    print()
    todo = sum(row["state"] != "finished" for row in rows)
    if todo:
        print(f"{todo} of {len(rows)} steps to do")
    else:
        print("nothing to do: everything is finished")


def _plan_cluster(options: PlanOptions) -> None:
    """Hours, storage and money on a cluster."""
    from alignet_ray import capacity, capacity_memory

    result = capacity.plan(options.settings, options.on)
    # Hours of a run that cannot even start would be taken for a promise.
    if problems := capacity_memory.too_large(options.settings, result):
        raise UserError("this run cannot be done: " + "; ".join(problems))
    rows = capacity.describe(result)
    verdict = capacity.verdict(options.settings, result)
    if options.json:
        print(json.dumps({"steps": rows, "verdict": verdict}, indent=1))
        return
    print_table(rows)
    print("\n" + "\n".join(verdict))


def study(options: RunOptions) -> None:
    """Run the same settings on every fold of the objects, and pool their scores."""
    from alignet_ray.study import runner

    screen = Screen()
    with open_screen(options.quiet) as shown:
        folder = runner.run(options.settings, shown)
    screen.line()
    for line in runner.lines(folder):
        screen.line(line)


def sweep(options: RunOptions) -> None:
    """Tune the settings of a stage."""
    from alignet_ray.sweep import runner

    with open_screen(options.quiet) as screen:
        runner.run(options.settings, screen)
