"""One trial of a sweep: a stage with some fields replaced, run by Ray Tune and scored on validation objects."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from alignet_ray import runtime
from alignet_ray.artifacts.align import AlignArtifact
from alignet_ray.artifacts.distill import DistillArtifact
from alignet_ray.config import Config
from alignet_ray.core import similarity, teacher_metrics
from alignet_ray.errors import UserError, nearest
from alignet_ray.human.dataset import AlignmentDataset, human_model
from alignet_ray.screen import Screen
from alignet_ray.stages import expects_human_data, pipeline, shard_tasks
from alignet_ray.store import Artifact, JsonObject, Store, digest
from alignet_ray.sweep.learning_curves import LearningCurve
from alignet_ray.sweep.search_space import Domain, Space, parse
from alignet_ray.sweep.selection import FINISHED, Mode, Trial, TrialConfig, ValidationFigures
from alignet_ray.tracking import Session, Tracker

log = logging.getLogger(__name__)

RANGE_OF_INTEGERS = {"uniform": "randint", "loguniform": "lograndint"}
"""Ranges of numbers, and the same for whole numbers."""

GOLDEN = 0.381966
"""A place between two bounds that is hardly ever a whole number: the golden section."""

LOSS_FIELDS = ("objective", "tau", "normalize", "head", "valid")
"""Fields of distill that make held-out losses incomparable."""


@dataclass(frozen=True)
class SweepObjective:
    """What the sweep of one stage makes, and what it optimises.

    Attributes:
        nodes: what each trial makes, the swept node first.
        also_needed: further nodes that the score reads.
        live_metric: reported during training, for early stopping.
        live_mode: whether less or more of it is better.
        score_name: the score, for a person.
        mode: whether less or more of the score is better.
        evaluate: config and artifacts -> figures on validation objects.
    """

    nodes: tuple[str, ...]
    also_needed: tuple[str, ...]
    live_metric: str
    live_mode: Mode
    score_name: str
    mode: Mode
    evaluate: Callable[[Config, Mapping[str, Artifact]], ValidationFigures]


def evaluate_teacher(cfg: Config, artifacts: Mapping[str, Artifact]) -> ValidationFigures:
    """A teacher, by its own report: the score is the cross-entropy of people's choices between validation objects."""
    # The report has test figures too. Selection never reads them, and leaving them out would give a trial another
    # artifact than the same setting has in a plain run: the winner would be fitted again.
    report = AlignArtifact(artifacts["align"]).report()
    aligned = report.splits["validation"].spaces["aligned"]
    return ValidationFigures(
        score=aligned.cross_entropy,
        agreement=aligned.accuracy,
        agreement_low=aligned.accuracy_low,
        agreement_high=aligned.accuracy_high,
        cross_entropy=aligned.cross_entropy,
        neighbours_kept=report.neighbours_kept,
    )


def evaluate_student(cfg: Config, artifacts: Mapping[str, Artifact]) -> ValidationFigures:
    """A student, by the cosines of its embedding: the score is its agreement with people on validation objects."""
    soften = artifacts["soften"]
    cache = runtime.cache_dir(cfg)
    # With the seed of the sweep, not of the trial: all students are scored against the same human probabilities.
    human = human_model(soften, cfg.soften.num_samples, cfg.seed)
    base = AlignmentDataset(soften, artifacts["embed@base"], cache, human)
    student = AlignmentDataset(soften, artifacts["embed@student"], cache, human)

    # Unit rows make dot products cosines, by which a student is used; overlap normalises for itself.
    triplets = student.soft_triplets(student.objects["validation"])
    figures = teacher_metrics.figures(similarity.unit_rows(student.features), triplets, cfg.seed)
    return ValidationFigures(
        score=figures["accuracy"],
        agreement=figures["accuracy"],
        agreement_low=figures["accuracy_low"],
        agreement_high=figures["accuracy_high"],
        cross_entropy=figures["cross_entropy"],
        neighbours_kept=teacher_metrics.overlap(base.features, student.features),
    )


OBJECTIVES = {
    "align": SweepObjective(
        nodes=("align",),
        also_needed=(),
        live_metric="cross_entropy",
        live_mode="min",
        score_name="cross-entropy (nats)",
        mode="min",
        evaluate=evaluate_teacher,
    ),
    "distill": SweepObjective(
        nodes=("distill@student", "embed@student"),
        also_needed=("soften", "embed@base"),
        live_metric="valid_agreement",
        live_mode="max",
        score_name="agreement with people",
        mode="max",
        evaluate=evaluate_student,
    ),
}
"""The stages that can be swept."""


def read_space(cfg: Config) -> tuple[str, Space]:
    """The stage that is swept, and the search space.

    Raises:
        UserError: no space, fields of several stages, unknown fields, values that do not fit, or no human responses to
            select by.
    """
    space = parse(cfg.sweep.space)
    if not space:
        raise UserError("a sweep needs --sweep.space: --sweep.space 'align.lr=loguniform(1e-3,1e-1)' for example")
    stages = {field.partition(".")[0] for field in space}
    for field in space:
        if field.partition(".")[0] not in OBJECTIVES:
            raise UserError(
                f"--sweep.space: {field} is no field of align or of distill, which are what a sweep can search"
                f"{_suggestion(cfg, field)}"
            )
    if len(stages) != 1:
        raise UserError("--sweep.space needs fields of align or of distill, not of both: sweep one, then the other")

    # Without people's answers there are no validation objects; a map that is taken over (align.from) is not fitted.
    stage = stages.pop()
    if not expects_human_data(cfg) or (stage == "align" and cfg.align.from_):
        raise UserError(
            "a sweep selects by people's answers: give --human.triplets (or --human.comparisons), and no --align.from"
        )

    checked = {}
    for field, domain in space.items():
        checked[field] = _checked_domain(cfg, stage, field, domain)
    return stage, checked


def _checked_domain(cfg: Config, stage: str, field: str, domain: Domain) -> Domain:
    """The domain with its values as the config holds them, each of which must change the stage's result."""
    if field not in cfg.flat():
        suggestion = _suggestion(cfg, field) or ": `alignet-ray show` lists them"
        raise UserError(f"--sweep.space: there is no field {field}{suggestion}")

    # What goes into an artifact's id tells whether a value changes its result; the bounds of a range stand for it.
    role = OBJECTIVES[stage].nodes[0].partition("@")[2]
    inputs_of = pipeline.module(stage).inputs
    values = []
    inputs = set()
    for value in domain.values:
        changed = _replaced(cfg, field, value)
        values.append(changed.flat()[field])
        inputs.add(digest(inputs_of(changed, role)))

    if len(inputs) < len(values):
        raise UserError(f"--sweep.space: {field} changes no result, so there is nothing to select")

    # The bounds of a range are no settings of their own and stay as they were written.
    if domain.is_range:
        # Bounds may be whole numbers where the field takes no others; draws between them are not.
        low, high = domain.values
        if not domain.is_integer and not _takes(cfg, field, low + GOLDEN * (high - low)):
            raise UserError(
                f"--sweep.space: {field} takes whole numbers: write {RANGE_OF_INTEGERS[domain.kind]}(...) instead of "
                f"{domain.kind}(...)"
            )
        return domain

    # The config turns 0 of a float field into 0.0.
    return replace(domain, values=tuple(values))


def _suggestion(cfg: Config, field: str) -> str:
    """What was probably meant by an unknown field, as the end of a message; empty where nothing is near."""
    known = [name for name in cfg.flat() if name.partition(".")[0] in OBJECTIVES]
    meant = nearest(field, known)
    # A name without its section is that of a field all the same.
    if meant is None:
        same_field = [name for name in known if name.endswith(f".{field}")]
        meant = min(same_field, key=len, default=None)
    if meant in (None, field):
        return ""
    return f": did you mean {meant}?"


def _takes(cfg: Config, field: str, value: Any) -> bool:
    """Whether a field can have a value."""
    try:
        _replaced(cfg, field, value)
    except UserError:
        return False
    return True


def _replaced(cfg: Config, field: str, value: Any) -> Config:
    try:
        return cfg.replace(**_keywords({field: value}))
    except UserError as error:
        raise UserError(f"--sweep.space: {field} cannot be {value!r} ({error})") from error


def _keywords(params: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted field names as `Config.replace` takes them: `align__lr` for `align.lr`."""
    return {field.replace(".", "__"): value for field, value in params.items()}


@dataclass(frozen=True)
class TrialSetup:
    """What all trials share. Small, so that it travels to their processes: everything large lies in the store.

    Attributes:
        cfg: the given settings, generated worlds resolved.
        objective: what is swept.
        pinned: ids of everything upstream.
        fingerprints: of the files and folders that are read, taken once for all trials: a corpus of a million files is
            not listed by each of them.
        session: where trials are tracked.
        parent: the sweep's own tracking run.
    """

    cfg: Config
    objective: SweepObjective
    pinned: dict[str, str]
    fingerprints: JsonObject
    session: Session
    parent: Tracker

    def config(self, params: Mapping[str, Any], seed: int) -> Config:
        """A trial's config; another seed changes its draws, not the split of objects, which is made upstream."""
        return self.cfg.replace(seed=seed, **_keywords(params))

    def steps(self, cfg: Config, store: Store) -> list[pipeline.Step]:
        """What a trial with this config makes."""
        return pipeline.plan(cfg, store, self.objective.nodes, self.pinned, self.fingerprints)


def with_one_worker(cfg: Config) -> Config:
    """A trial's settings where the number of training processes is not given: one, so that trials run side by side.

    Several processes for one trial would exchange gradients at every update, and leave the other trials waiting.
    """
    changes: dict[str, int] = {}
    if cfg.distill.workers is None:
        changes["distill__workers"] = cfg.distill.min_workers or 1
    if cfg.align.network.workers is None:
        changes["align__network__workers"] = 1
    return cfg.replace(**changes)


def alternatives(space: Space) -> list[str]:
    """Fields whose values are names."""
    return [field for field, domain in space.items() if domain.is_named]


def learning_curves(setup: TrialSetup, store: Store, trials: Sequence[Trial], space: Space) -> list[LearningCurve]:
    """Held-out curves of the finished trainings of students; none where their losses are not comparable."""
    if {f"distill.{field}" for field in LOSS_FIELDS} & set(space):
        return []

    group_fields = alternatives(space)
    curves = []
    for trial in trials:
        # A stopped training has a curve too, but no figures to be ranked by.
        if trial.status == FINISHED:
            group = ", ".join(str(trial.params[field]) for field in group_fields)
            curves.append(_learning_curve(setup, store, trial, group))
    return curves


def _learning_curve(setup: TrialSetup, store: Store, trial: Trial, group: str) -> LearningCurve:
    """The held-out curve of one training, read from its artifact."""
    # Ways to form batches take different numbers of images for an update: images are comparable, updates are not.
    cfg = setup.config(trial.params, trial.seed)
    images_per_step = cfg.distill.images_per_step
    student = next(step.artifact for step in setup.steps(cfg, store) if step.node.stage == "distill")

    images = []
    losses = []
    agreements = []
    for row in DistillArtifact(student).metrics():
        # Rows between two validations have training figures alone.
        if "valid_loss" in row:
            images.append(row["step"] * images_per_step)
            losses.append(row["valid_loss"])
            agreements.append(row["valid_agreement"])
    return LearningCurve(trial.number, trial.seed, group, images, losses, agreements)


@dataclass(frozen=True)
class TuneTracker(Tracker):
    """A trial's tracker, which also reports the live metric to Ray Tune."""

    live_metric: str = ""

    def log_curve(self, metrics: dict[str, float], step: int) -> None:
        """Log, and report; Tune may end the trial here."""
        super().log_curve(metrics, step)
        if self.live_metric in metrics:
            from ray import tune

            live = float(metrics[self.live_metric])
            tune.report({"step": step, "live": live, "run_id": self.run_id, "score": None})


def run_trial(config: TrialConfig, setup: TrialSetup, concurrent: int = 1) -> None:
    """A trial, as Ray Tune calls it; its last report holds the figures, or the problem.

    Args:
        config: which trial it is.
        setup: what all trials share.
        concurrent: trials at a time, which share the cores.
    """
    from ray import tune

    trial = Trial(**config["job"])

    # A tracker that tracks nothing, for a trial that fails before its run on the tracking server begins.
    tracker = Tracker()
    result: dict[str, Any]
    try:
        cfg = with_one_worker(setup.config(trial.params, trial.seed))
        tracker = _begin(setup, cfg, trial)
        figures = _make_and_evaluate(setup, cfg, tracker, concurrent)
        metrics = {f"result/validation_{name}": value for name, value in asdict(figures).items()}
        tracker.log_batch(metrics, 0)
        result = {"figures": asdict(figures), "score": figures.score}
    except UserError as error:
        result = {"problem": str(error), "score": None}
    except Exception as error:  # one bad setting must not end the sweep: it is shown with its reason
        # The last line of a message says the reason; Ray puts the whole traceback of a worker before it.
        log.exception("trial %s", trial)
        lines = str(error).strip().splitlines() or [""]
        result = {"problem": f"{type(error).__name__}: {lines[-1][:300]}", "score": None}
    tune.report({**result, "run_id": tracker.run_id})


def _begin(setup: TrialSetup, cfg: Config, trial: Trial) -> TuneTracker:
    tags = {"sweep.trial": str(trial.number), "sweep.seed": str(trial.seed)}
    for field, value in trial.params.items():
        tags[f"sweep.{field}"] = str(value)
    name = f"trial {trial.number} seed {trial.seed}"
    tracker = setup.session.begin(name, cfg, tags, setup.parent.run_id)
    return TuneTracker(tracker.uri, tracker.run_id, tracker.spool, setup.objective.live_metric)


def _make_and_evaluate(setup: TrialSetup, cfg: Config, tracker: TuneTracker, concurrent: int) -> ValidationFigures:
    store = Store.open(cfg.store.root)
    listings = shard_tasks.listings_here(cfg, setup.fingerprints)
    runner = pipeline.Runner(cfg, store, setup.session, Screen(), listings, concurrent)

    # Ids travel to the trial, not artifacts: an open store belongs to its process.
    artifacts: dict[str, Artifact] = {}
    for node, id in setup.pinned.items():
        artifacts[node] = store.artifact(node.split("@")[0], id)

    for step in setup.steps(cfg, store):
        # A trial that a killed sweep finished without recording it is not made again.
        if step.state != "finished":
            pipeline.make(runner, step, artifacts, tracker)
        artifacts[step.node.name] = step.artifact

    # By the given config, not the trial's: every setting is scored with the same draws.
    return setup.objective.evaluate(setup.cfg, artifacts)
