"""Runs a study: the pipeline once for every fold and seed, then the page; what is finished is reused."""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from alignet_ray.artifacts.base import from_rows
from alignet_ray.artifacts.distill import DistillArtifact
from alignet_ray.artifacts.evaluate import EvaluateArtifact
from alignet_ray.artifacts.soften import SoftenArtifact
from alignet_ray.config import Config, Objects
from alignet_ray.core.scores import Score
from alignet_ray.errors import UserError
from alignet_ray.screen import Screen, clock, table
from alignet_ray.stages import ask_answers, pipeline, report_inputs, side_by_side
from alignet_ray.store import Artifact, JsonObject, Store, digest
from alignet_ray.study import report, tracked
from alignet_ray.study.folder import FrozenSettings, StudyFolder
from alignet_ray.study.pooling import FoldScores, pool

MAX_FIELDS = 4
"""Settings that a line names."""


class FoldPlan(NamedTuple):
    """One run of a study.

    Attributes:
        seed, fold: which it is.
        cfg: its settings.
    """

    seed: int
    fold: int
    cfg: Config

    @property
    def nodes(self) -> list[str]:
        """What it makes: all but the registered model, since a study is no candidate for use."""
        return [name for name in pipeline.targets(self.cfg, None) if not name.startswith("register")]


def run(cfg: Config, screen: Screen | None = None) -> StudyFolder:
    """Run every fold with every seed, and write the page anew after each.

    Returns:
        The study's folder.

    Raises:
        UserError: something that the user can fix; finished runs stay.
    """
    screen = screen or Screen()
    # People may answer between two folds, which all read the same answers.
    cfg = ask_answers.pin(cfg)
    plans = list(fold_plans(cfg))
    if "evaluate" not in plans[0].nodes:
        raise UserError("a study scores models on annotated objects: give --human.triplets (or --human.comparisons)")

    # A generated world is drawn by the first run that opens it, and only then has the study's inputs their ids.
    with pipeline.opened(plans[0].cfg, screen) as (resolved, store, state):
        folder, known = _open_folder(resolved, store)
    if not folder.is_begun:
        for line in _earlier_studies(cfg, store):
            screen.line(line)
    frozen = folder.freeze(cfg)
    for warning in _set_aside(cfg, frozen):
        screen.line(f"warning: {warning}")

    pages = _Pages(cfg, resolved, folder, frozen, plans, screen)
    if cfg.study.concurrent > 1:
        settings = [plan.cfg for plan in plans]
        name = f"{cfg.name} folds side by side"
        side_by_side.run(name, settings, plans[0].nodes, cfg.study.concurrent, screen, known, pages.add)
    else:
        for number, plan in enumerate(plans):
            screen.heading("study", f"run {number + 1} of {len(plans)}: fold {plan.fold}, seed {plan.seed}")
            pages.add(number, pipeline.run(plan.cfg, screen, plan.nodes, known))

    tracked.record(resolved, folder, lines(folder), state, screen)
    return folder


class _Pages:
    """Writes the study's page anew after every run that has ended.

    Args:
        cfg: the study's settings.
        resolved: the same, generated worlds resolved.
        folder: the study's.
        frozen: its settings as they were written before the first run.
        plans: all of its runs.
        screen: shows how many are finished.
    """

    def __init__(
        self,
        cfg: Config,
        resolved: Config,
        folder: StudyFolder,
        frozen: FrozenSettings,
        plans: Sequence[FoldPlan],
        screen: Screen,
    ) -> None:
        self.cfg = cfg
        self.resolved = resolved
        self.folder = folder
        self.frozen = frozen
        self.plans = plans
        self.screen = screen
        self.began = time.monotonic()
        self.finished: dict[int, report.FoldRun] = {}

    def add(self, number: int, artifacts: dict[str, Artifact]) -> None:
        """Take over the scores of a run that has ended, and write the page."""
        self.finished[number] = _read_run(self.plans[number], artifacts)
        # In the order of the folds, in whatever order they end.
        runs = [self.finished[done] for done in sorted(self.finished)]
        people = report_inputs.people(self.resolved, SoftenArtifact(artifacts["soften"]))
        study = _study(self.cfg, self.frozen, runs, people)
        self.folder.write(study.scores, report.build(study), report.markdown(study), report.latex(study))

        count, total = len(runs), len(self.plans)
        left = (time.monotonic() - self.began) / count * (total - count)
        if left:
            self.screen.line(
                f"   {count} of {total} runs are finished, about {clock(left)} left: {self.folder.page_uri()}"
            )


def _set_aside(cfg: Config, frozen: FrozenSettings) -> Iterator[str]:
    """Settings that a study does not follow, one line each."""
    default = Objects().folds
    if cfg.objects.fold is not None or cfg.objects.folds not in (default, cfg.study.folds):
        folds = cfg.study.folds
        yield f"objects.fold and objects.folds are set aside: a study runs all of its folds, {folds} (study.folds)"
    if cfg.study.chosen != frozen.chosen:
        stated = frozen.chosen or "not stated"
        yield f"study.chosen stays as it was written down on {frozen.when}, before the first fold: {stated}"


def _earlier_studies(cfg: Config, store: Store) -> Iterator[str]:
    """One line about each study of the same name, for whoever meant to go on with one of them."""
    for artifact in store.all(["study"]):
        earlier = StudyFolder(store.draft("study", artifact.id))
        if not earlier.is_begun:
            continue
        fields = earlier.differences(cfg)
        if fields is None:
            continue
        differs = ", ".join(fields[:MAX_FIELDS]) or "what its files hold"
        if len(fields) > MAX_FIELDS:
            differs += f" and {len(fields) - MAX_FIELDS} more"
        yield (
            f"a new study: {differs} differs from the study {artifact.id}, whose page stays ({earlier.page_uri()}); "
            "with its settings it goes on"
        )


def fold_plans(cfg: Config) -> Iterator[FoldPlan]:
    """All runs of a study, seed by seed; the folds of one seed share what no fold changes."""
    for seed in range(cfg.seed, cfg.seed + cfg.study.seeds):
        for fold in range(cfg.study.folds):
            name = f"{cfg.name}-study-seed{seed}-fold{fold}"
            settings = cfg.replace(name=name, seed=seed, objects__fold=fold, objects__folds=cfg.study.folds)
            yield FoldPlan(seed, fold, settings)


def lines(folder: StudyFolder) -> list[str]:
    """What a study ends with on the screen: the table of agreement, and where the page is."""
    # The kinds of triplets would make the table wider than a terminal.
    shown = []
    for row in report.agreement_rows(folder.scores()):
        narrow = {column: row[column] for column in ("model", "all triplets", "gain over base", "p")}
        shown.append(narrow)
    about = "odd-one-out agreement with people, %, over all finished runs"
    return [about, *table(shown).splitlines(), "", f"study    {folder.page_uri()}"]


def _open_folder(cfg: Config, store: Store) -> tuple[StudyFolder, JsonObject]:
    """The study's folder, named by what its scores depend on, and the fingerprints of all that its runs read."""
    scored = []
    known: JsonObject = {}
    for plan in fold_plans(cfg):
        # All folds read the same files, in the state in which the first one found them.
        steps = pipeline.plan(plan.cfg, store, plan.nodes, known=known)
        known |= pipeline.fingerprints(steps)
        scored += [step.artifact.id for step in steps if step.node.name == "evaluate"]
    return StudyFolder(store.draft("study", digest(scored))), known


def _read_run(plan: FoldPlan, artifacts: dict[str, Artifact]) -> report.FoldRun:
    evaluation = EvaluateArtifact(artifacts["evaluate"])
    interpolation = None
    if "distill@student" in artifacts:
        interpolation = DistillArtifact(artifacts["distill@student"]).interpolation().chosen
    scores = from_rows(Score, evaluation.scores().to_pylist())
    seconds = {name: artifact.read_manifest().seconds for name, artifact in artifacts.items()}
    return report.FoldRun(
        result=FoldScores(plan.seed, plan.fold, scores),
        name=plan.cfg.name,
        test_objects=evaluation.facts().test_objects,
        interpolation=interpolation,
        seconds=seconds,
    )


def _seeds(count: int) -> str:
    """Their number, where there are several."""
    if count == 1:
        return ""
    return f", {count} seeds"


def _study(cfg: Config, frozen: FrozenSettings, finished: list[report.FoldRun], people: str) -> report.Study:
    return report.Study(
        title=f"{cfg.name}: {cfg.study.folds} folds of the objects" + _seeds(cfg.study.seeds),
        people=people,
        frozen=frozen.when,
        chosen=frozen.chosen,
        folds=cfg.study.folds,
        seeds=cfg.study.seeds,
        runs=finished,
        scores=pool([run.result for run in finished]),
        settings=frozen.text,
    )
