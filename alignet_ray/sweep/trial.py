"""What a sweep can try, and one trial: a stage with some fields replaced, in a process of Ray Tune. Part of `sweep`."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from alignet_ray import runtime
from alignet_ray.config import Config
from alignet_ray.core import similarity, teacher_metrics
from alignet_ray.errors import UserError
from alignet_ray.human.dataset import AlignmentDataset, human_model
from alignet_ray.screen import Screen
from alignet_ray.stages import judged, pipeline
from alignet_ray.store import Artifact, Store, digest
from alignet_ray.sweep.learning_curves import Course
from alignet_ray.sweep.search_space import Space, parse
from alignet_ray.sweep.selection import FINISHED, Trial
from alignet_ray.tracking import Session, Tracker

log = logging.getLogger(__name__)
LOSS_FIELDS = ("objective", "tau", "normalize", "head", "valid")
"""Fields of distill that make held-out losses incomparable."""


@dataclass(frozen=True)
class SweepObjective:
    """What a sweep of one stage makes and looks at.

    Attributes:
        nodes: what each trial makes, the swept node first.
        beside: what its judgement reads besides.
        live: the metric that is reported while it trains; live_mode: whether less of it is better.
        mode: whether less of the score is better.
        score: its name for a person.
        judge: config and artifacts -> figures on validation objects.
    """

    nodes: tuple[str, ...]
    beside: tuple[str, ...]
    live: str
    live_mode: str
    mode: str
    score: str
    judge: Callable[[Config, Mapping[str, Artifact]], dict[str, float]]


def judge_map(cfg: Config, artifacts: Mapping[str, Artifact]) -> dict[str, float]:
    """A teacher, by its own report: cross-entropy of people's choices between validation objects."""
    report = artifacts["align"].read_json("report.json")
    names = ("accuracy", "accuracy_low", "accuracy_high", "cross_entropy")
    score, found = report["validation_aligned_cross_entropy"], {n: report[f"validation_aligned_{n}"] for n in names}
    return {"score": score, **_renamed(found), "kept": report["neighbours_kept"]}


def judge_student(cfg: Config, artifacts: Mapping[str, Artifact]) -> dict[str, float]:
    """A student, by the cosines of its embedding: agreement with people on validation objects, whom none trained on."""
    soften = artifacts["soften"]
    cache = runtime.state_dir(cfg) / "cache"
    human = human_model(soften, cfg.soften.num_samples, cfg.seed)
    base = AlignmentDataset(soften, artifacts["embed@base"], cache, human)
    student = AlignmentDataset(soften, artifacts["embed@student"], cache, human)
    side = student.soft_triplets(student.objects["validation"])
    found = teacher_metrics.figures(similarity.unit_rows(student.features), side, cfg.seed)
    kept = teacher_metrics.overlap(base.features, student.features)
    return {"score": found["accuracy"], **_renamed(found), "kept": kept}


def _renamed(found: Mapping[str, float]) -> dict[str, float]:
    names = {"agreement": "accuracy", "agreement_low": "accuracy_low", "agreement_high": "accuracy_high"}
    return {ours: float(found[theirs]) for ours, theirs in names.items()} | {"entropy": float(found["cross_entropy"])}


GOALS = {
    "align": SweepObjective(("align",), (), "align_cross_entropy", "min", "min", "cross-entropy (nats)", judge_map),
    "distill": SweepObjective(
        ("distill@student", "embed@student"),
        ("soften", "embed@base"),
        "valid_agreement",
        "max",
        "max",
        "agreement with people",
        judge_student,
    ),
}
"""The stages that can be swept."""


def read_space(cfg: Config) -> tuple[str, Space]:
    """The stage that is swept, and the space.

    Raises:
        UserError: no space, fields of several stages, unknown fields, values that do not fit, or nothing to choose by.
    """
    space = parse(cfg.sweep.space)
    stages = {name.partition(".")[0] for name in space}
    if len(stages) != 1 or not stages <= set(GOALS):
        raise UserError(
            "--sweep.space needs fields of align or of distill, not of both: align.lr=loguniform(1e-3,1e-1) for example"
        )
    stage = stages.pop()
    if not judged(cfg) or (stage == "align" and cfg.align.from_):
        raise UserError("a sweep needs people's answers to choose by: give --human.triplets, and no --align.from")
    for name, domain in list(space.items()):
        if name not in cfg.flat():
            raise UserError(f"--sweep.space: there is no field {name}: `alignet-ray show` lists them")
        made = [_checked(cfg, name, value) for value in domain.values]
        module = pipeline.module(stage)
        if not domain.is_range:  # as the config has them: 0 of a float is 0.0
            space[name] = replace(domain, values=tuple(c.flat()[name] for c in made))
        if len({digest(module.inputs(c, "student" if stage == "distill" else "")) for c in made}) < len(made):
            raise UserError(f"--sweep.space: {name} changes no result, so there is nothing to choose")
    return stage, space


def _checked(cfg: Config, name: str, value: Any) -> Config:
    try:
        return cfg.replace(**{name.replace(".", "__"): value})
    except ValidationError as error:
        raise UserError(f"--sweep.space: {name} cannot be {value!r}: {error.errors()[0]['msg']}") from error


@dataclass(frozen=True)
class TrialSetup:
    """What all trials share; small, since everything large lies in the store.

    Attributes:
        cfg: the given settings, generated worlds resolved.
        goal: what is swept.
        pinned: ids of everything upstream.
        session, parent: where trials are tracked.
    """

    cfg: Config
    goal: SweepObjective
    pinned: dict[str, str]
    session: Session
    parent: Tracker

    def config(self, params: Mapping[str, Any], seed: int) -> Config:
        """A trial's config; another seed changes its draws, not the split of objects, which lies upstream."""
        return self.cfg.replace(seed=seed, **{name.replace(".", "__"): value for name, value in params.items()})

    def steps(self, cfg: Config, store: Store) -> list[pipeline.Step]:
        """What a trial with this config makes."""
        return pipeline.plan(cfg, store, self.goal.nodes, self.pinned)


def alternatives(space: Space) -> list[str]:
    """Fields whose values are names."""
    return [name for name, domain in space.items() if domain.is_named]


def courses(setup: TrialSetup, store: Store, trials: Sequence[Trial], space: Space) -> list[Course]:
    """Held-out curves of the finished trainings of students; none where their losses are not of one kind."""
    if {f"distill.{name}" for name in LOSS_FIELDS} & set(space):
        return []
    found = []
    for each in (t for t in trials if t.status == FINISHED):
        cfg = setup.config(each.params, each.seed)
        rows = setup.steps(cfg, store)[0].artifact.read_bytes("metrics.jsonl").splitlines()
        looks = [row for row in map(json.loads, rows) if "valid_loss" in row]
        found.append(
            Course(
                number=each.number,
                seed=each.seed,
                group=", ".join(str(each.params[name]) for name in alternatives(space)),
                images=[row["step"] * pipeline.module("distill").images_per_step(cfg) for row in looks],
                loss=[row["valid_loss"] for row in looks],
                agreement=[row["valid_agreement"] for row in looks],
            )
        )
    return found


@dataclass(frozen=True)
class TuneTracker(Tracker):
    """A trial's tracker: hands the live metric to Ray Tune as well."""

    live: str = ""

    def log_batch(self, metrics: dict[str, float], step: int) -> None:
        """Log, and report; Tune may end the trial here."""
        super().log_batch(metrics, step)
        if self.live in metrics:
            from ray import tune

            tune.report({"step": step, "live": float(metrics[self.live]), "run_id": self.run_id, "score": None})


def run(config: dict[str, Any], setup: TrialSetup) -> None:
    """A trial, as Ray Tune calls it; its last report holds the figures, or what went wrong."""
    from ray import tune

    job, found = config["job"], {}
    tracker = Tracker()
    try:
        cfg = setup.config(job["params"], job["seed"])
        tracker = _begin(setup, cfg, job)
        figures = _carry_out(setup, cfg, tracker)
        tracker.log_batch({f"validation_{name}": value for name, value in figures.items()}, 0)
        found = {"figures": figures, "score": figures["score"]}
    except UserError as error:
        found = {"problem": str(error), "score": None}
    except Exception as error:  # one bad setting must not end the sweep: it is shown with its reason
        log.exception("trial %s", job)
        found = {"problem": f"{type(error).__name__}: {str(error).strip().splitlines()[-1][:300]}", "score": None}
    tune.report({**found, "run_id": tracker.run_id})


def _begin(setup: TrialSetup, cfg: Config, job: Mapping[str, Any]) -> TuneTracker:
    tags = {f"sweep.{name}": str(value) for name, value in job["params"].items()}
    tags |= {"sweep.trial": str(job["number"]), "sweep.seed": str(job["seed"])}
    tracker = setup.session.begin(f"trial {job['number']} seed {job['seed']}", cfg, tags, setup.parent.run_id)
    return TuneTracker(tracker.uri, tracker.run_id, tracker.spool, setup.goal.live)


def _carry_out(setup: TrialSetup, cfg: Config, tracker: TuneTracker) -> dict[str, float]:
    store, screen = Store.open(cfg.store.root), Screen()
    artifacts = {name: store.artifact(name.split("@")[0], id) for name, id in setup.pinned.items()}
    for step in setup.steps(cfg, store):
        if step.state != "finished":
            pipeline.make(cfg, store, step, artifacts, setup.session, tracker, screen)
        artifacts[step.node.name] = step.artifact
    return setup.goal.judge(setup.cfg, artifacts)
