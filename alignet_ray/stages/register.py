"""register: the student into MLflow's model registry, with a model card."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignet_ray import registry
from alignet_ray.artifacts.base import from_rows
from alignet_ray.artifacts.distill import DistillArtifact
from alignet_ray.artifacts.evaluate import EvaluateArtifact, EvaluateFacts
from alignet_ray.artifacts.register import RegisterArtifact
from alignet_ray.config import Config
from alignet_ray.core.scores import Score
from alignet_ray.evals import gate
from alignet_ray.logged_student import LoggedStudent, log_scores
from alignet_ray.models.model_hub import licence
from alignet_ray.models.model_spec import ModelKind, ModelSpec
from alignet_ray.stages import Work, champion
from alignet_ray.stages.champion import AgainstChampion
from alignet_ray.store import Artifact, JsonObject

VERSION = 10

CARD = """# {name}

A `{backbone}` student, aligned with human similarity judgements by alignet_ray {version}.

## Agreement with people
{scores}

## Use
In Python:

```python
model = alignet_ray.load("models:/{name}@{alias}")
model.embed("IMAGES")
```

By HTTP, with image files in base64 (or preprocessed images, as `{{"inputs": [...]}}`):

```
mlflow models serve -m "models:/{name}@{alias}" --env-manager local
curl http://127.0.0.1:5000/invocations -H "Content-Type: application/json" \\
     -d '{{"dataframe_split": {{"columns": ["image"], "data": [["BASE64"]]}}}}'
```

## Recipe
* teacher: `{teacher}` ({map} map), aligned with human odd-one-out responses
* student: `{backbone}` at {size} px, {head}
* artifact: `distill/{id}`, seed {seed}; the whole configuration is in the run's parameters

## Limits
The student's similarity is that of the people whose responses it was trained on.
The base weights (`{backbone}`) keep their own licence{licence}.
"""

CARD_ROWS = {
    ("base", "pre_logits"): "base network",
    ("teacher", "aligned"): "aligned teacher",
    ("student", "pre_logits"): "**student**, embedding",
    ("student", "head"): "**student**, triplet head",
    ("control", "pre_logits"): "unaligned control",
    ("human", ""): "noise ceiling",
}
"""(model, layer) of the scores that the card shows -> their names there."""

AGREEMENT_NAMES = {
    ("base", "pre_logits"): "base",
    ("student", "pre_logits"): "student",
    ("student", "head"): "head",
}
"""(model, layer) of the scores that a list of versions shows -> their names there."""


@dataclass
class RegisterFacts:
    """What artifact.json says of a registration: the number of the model version."""

    version: str


def inputs(cfg: Config, role: str) -> JsonObject:
    """The registered name and alias."""
    return cfg.register.result_fields()


def sources(cfg: Config, role: str) -> list[str]:
    """Nothing besides artifacts."""
    return []


def estimate(cfg: Config, role: str, sources: list[Any]) -> str:
    """What is registered."""
    return f"1 version of {cfg.register.name}"


def run(work: Work) -> None:
    """Log the student with signature, input example and card, register it and move its aliases."""
    from alignet_ray.models import serving

    artifact = RegisterArtifact(work.out)
    student = DistillArtifact(work.parents["distill@student"])
    description = student.description()

    # A run without human data is registered unscored.
    evaluated = None
    facts = None
    if "evaluate" in work.parents:
        evaluated = EvaluateArtifact(work.parents["evaluate"])
        facts = evaluated.facts()

    # Only who passed the gate may take the champion's place.
    against = None
    passed = facts is not None and facts.verdict == gate.Verdict.YES
    if passed:
        against = champion.compare(work)
    is_champion = passed and (against is None or against.verdict == gate.Verdict.YES)
    card = artifact.write_card(_card(work, student, evaluated, against))

    # The signature tells servers and other programs the shape of every output.
    widths = {"embedding": description.width}
    if description.head:
        widths["triplet_logits"] = description.head.width

    with tempfile.TemporaryDirectory() as temporary:
        # A folder of its own, without the checkpoints beside the student.
        folder = Path(temporary) / "student"
        folder.mkdir()
        for file in student.student_files():
            shutil.copy(file, folder)
        logged = LoggedStudent(
            code=Path(serving.__file__),
            folder=folder,
            widths=widths,
            requirements=serving.requirements(),
        )
        registration = registry.Registration(
            name=work.cfg.register.name,
            alias=work.cfg.register.alias,
            card=card,
            tags=registry.version_tags(_made_of(work), _score_tags(evaluated)),
        )
        registered = registry.register(work.tracker, logged, registration)

    if evaluated is not None:
        scores = from_rows(Score, evaluated.scores().to_pylist())
        log_scores(work.tracker, registered.model_id, scores, evaluated.id)
    if is_champion:
        registry.promote(work.tracker.uri, registered.name, registered.version)
    artifact.write_version(registered)
    work.facts = RegisterFacts(registered.version)
    work.screen.line(f"   {registered.model} is version {registered.version} of {registered.name}")
    for line in _champion_lines(against):
        work.screen.line(f"   {line}")


def _made_of(work: Work) -> dict[str, Artifact]:
    """The artifacts that a version names: all others are found through their manifests."""
    return {node: artifact for node, artifact in work.parents.items() if node in ("distill@student", "evaluate")}


def _champion_lines(against: AgainstChampion | None) -> list[str]:
    """How the student compares with the champion, for people; nothing without one."""
    if against is None:
        return []
    consequence = f"version {against.version} stays the champion"
    if against.verdict == gate.Verdict.YES:
        consequence = f"it takes the place of version {against.version}"
    return [f"Better than the champion, on validation objects: {against.verdict} ({consequence})", *against.reasons]


def _card(
    work: Work, student: DistillArtifact, evaluated: EvaluateArtifact | None, against: AgainstChampion | None
) -> str:
    """The model card (Markdown)."""
    from alignet_ray import __version__

    cfg = work.cfg
    description = student.description()
    head = description.head
    head_text = "no triplet head"
    if head:
        head_text = f"triplet head of {head.width} dimensions"

    # A card is for others: models are named without the folders of this machine.
    backbone = ModelSpec.parse(description.model).identity
    teachers = [ModelSpec.parse(model).identity for model in cfg.embed.model]
    return CARD.format(
        name=cfg.register.name,
        alias=cfg.register.alias,
        backbone=backbone,
        size=description.preprocessing["input_size"][1],
        head=head_text,
        teacher=" + ".join(teachers),
        map=cfg.align.map,
        id=student.id,
        seed=cfg.seed,
        version=__version__,
        licence=_licence(description.architecture, description.model),
        scores=_card_scores(evaluated, against),
    )


def _card_scores(evaluated: EvaluateArtifact | None, against: AgainstChampion | None) -> str:
    """The card's section on scores."""
    if evaluated is None:
        return "Not scored: this run had no human judgements; its teacher was a stored transform."

    facts = evaluated.facts()
    scores = _agreement(evaluated)
    rows = []
    for key, name in CARD_ROWS.items():
        if key in scores:
            rows.append(f"| {name} | {_with_interval(scores[key])} |")

    answers = scores["student", "pre_logits"]["n"]
    about = (
        f"On {answers:,} odd-one-out questions about {facts.test_objects} test objects, which no training used; "
        f"95 % intervals over objects, chance 33.3 %."
    )
    table = "\n".join(["| model, and the layer compared | agreement, % |", "|---|---|", *rows])
    return f"{about}\n\n{table}\n\nAll scores: `evaluate/{evaluated.id}`.\n{_gate_decision(facts, against)}"


def _gate_decision(facts: EvaluateFacts, against: AgainstChampion | None) -> str:
    """The gate's verdict with its reasons, and how the student compares with the champion, if there was one."""
    consequence = "a candidate only"
    if facts.verdict == gate.Verdict.YES:
        consequence = "it may become the champion"
        if against is None:
            consequence = "this version is the champion"
    reasons = "".join(f"* {reason}\n" for reason in facts.reasons)
    question = "Nearer to people and no worse at anything else, on validation objects"
    # A list needs an empty line before it, or it is text of the paragraph.
    decision = f"\n{question}: **{facts.verdict}** ({consequence})\n\n{reasons}"
    if against is not None:
        comparison, *details = _champion_lines(against)
        decision += f"\n{comparison}\n\n" + "".join(f"* {detail}\n" for detail in details)
    return decision


def _licence(architecture: str, model: str) -> str:
    """What follows "keep their own licence" in the card."""
    if ModelSpec.parse(model).kind is ModelKind.CHECKPOINT:
        return ": ask the owner of that file"
    known = licence(architecture, model)
    if not known:
        return ""
    return f": {known}"


def _score_tags(evaluated: EvaluateArtifact | None) -> dict[str, str]:
    """For lists of versions: human agreement of base and student in percent with intervals, and the gate's decision."""
    if evaluated is None:
        return {}

    tags = {}
    scores = _agreement(evaluated)
    for key, name in AGREEMENT_NAMES.items():
        if key in scores:
            tags[name] = _with_interval(scores[key])
    tags["gate"] = evaluated.facts().verdict
    return tags


def _agreement(evaluated: EvaluateArtifact) -> dict[tuple[str, str], JsonObject]:
    """(model, layer) -> its agreement with people on the test objects, a row of the scores table."""
    found = {}
    for row in evaluated.scores().to_pylist():
        if (row["dataset"], row["metric"], row["level"]) == ("objects", "odd_one_out", ""):
            found[row["model"], row["layer"]] = row
    return found


def _with_interval(score: JsonObject) -> str:
    """A score in percent, with its interval."""
    return f"{100 * score['value']:.1f} ({100 * score['low']:.1f}-{100 * score['high']:.1f})"
