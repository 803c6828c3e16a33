"""register: the student becomes a version in MLflow's model registry, with a card that says what it is and how good."""

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alignet_ray import registry, tracking
from alignet_ray.config import Config
from alignet_ray.stages import Work
from alignet_ray.store import Artifact

VERSION = 5
CARD = """# {name}

A {backbone} student, aligned with human similarity judgements by alignet_ray {version}.

## Recipe
* teacher: {teacher} ({map} map), aligned with people's odd-one-out answers
* student: {backbone} at {size} px, triplet head of {head} dimensions
* artifact: distill/{id}, seed {seed}; whole configuration in the run's parameters

## Scores on objects that no training saw
{scores}

## Use
    model, preprocess = alignet_ray.load("models:/{name}@{alias}")
    model(preprocess(image)[None]).embedding

By HTTP, preprocessed float32 images in, both outputs back; the model named by the version's tag `alignet.images` takes
image files instead (base64):

    mlflow models serve -m "models:/{name}@{alias}" --env-manager local

## Limits
The similarity it learned is that of the people whose answers it was given.
The base weights ({backbone}) keep their own licence{licence}.
"""


def inputs(cfg: Config, role: str) -> dict[str, Any]:
    """The registered name and alias."""
    return cfg.register.result_fields()


def sources(cfg: Config, role: str) -> list[str]:
    """Nothing besides artifacts."""
    return []


def estimate(cfg: Config, role: str, sources: list[Any]) -> str:
    """For the plan."""
    return f"1 version of {cfg.register.name}"


def run(work: Work) -> None:
    """Log the student with signature, input example and card, register it and move its aliases."""
    from alignet_ray.models import serving
    from alignet_ray.models.model_spec import MODEL_FILE
    from alignet_ray.models.student import BACKBONE, HEAD

    student = work.parents["distill@student"]
    info = student.read_json("model.json")
    work.out.write_bytes("card.md", _card(work, student, info).encode())
    widths = {"embedding": info["width"]} | ({"triplet_logits": info["head"]["width"]} if info["head"] else {})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "student"
        folder.mkdir()
        for name in (BACKBONE, MODEL_FILE, *([HEAD] if info["head"] else [])):  # and not the checkpoints beside them
            shutil.copy(student.local(name), folder)
        student_model = tracking.LoggedStudent(
            code=Path(serving.__file__),
            folder=folder,
            size=info["preprocessing"]["input_size"][1],
            widths=widths,
            requirements=serving.requirements(),
        )
        registration = registry.Registration(
            name=work.cfg.register.name,
            alias=work.cfg.register.alias,
            card=work.out.local("card.md"),
            tags=registry.version_tags(work.parents, _figures(work.parents.get("evaluate"))),
        )
        version = asdict(registry.register(work.tracker, student_model, registration))
    if _is_champion(work):
        registry.promote(work.tracker.uri, version["name"], version["version"])
    work.out.write_json("version.json", version)
    work.facts["version"] = version["version"]
    work.screen.line(f"   {version['model']} is version {version['version']} of {version['name']}")


def _card(work: Work, student: Artifact, info: dict[str, Any]) -> str:
    """The model card, from what the artifacts say."""
    from alignet_ray import __version__

    return CARD.format(
        name=work.cfg.register.name,
        alias=work.cfg.register.alias,
        backbone=info["model"],
        size=info["preprocessing"]["input_size"][1],
        head=info["head"]["width"] if info["head"] else 0,
        teacher=" + ".join(work.cfg.embed.model),
        map=work.cfg.align.map,
        id=student.id,
        seed=work.cfg.seed,
        version=__version__,
        licence=_licence(info["architecture"], info["model"]),
        scores=_scores(work.parents.get("evaluate")),
    )


def _scores(evaluated: Artifact | None) -> str:
    """The card's section on scores."""
    if evaluated is None:
        return "Not scored: no human judgements came with this run; its teacher was a stored transform."
    facts = evaluated.manifest["facts"]
    headline = "\n".join(map(str, facts.get("table", [])))
    judged = f"Judged on {facts.get('test_objects')} test objects."
    return f"```\n{headline}\n```\n{judged} All scores: evaluate/{evaluated.id}/scores.parquet.\n{_verdict(facts)}"


def _licence(architecture: str, spec: str) -> str:
    """What timm knows about the licence of its weights; weights from a file are their owner's."""
    if "@" in spec:
        return ": ask whoever made that file"
    from timm.models import get_pretrained_cfg

    known = get_pretrained_cfg(architecture, allow_unregistered=True)
    return f": {known.license}" if known and known.license else ""


def _figures(evaluated: Artifact | None) -> dict[str, str]:
    """What a list of versions says: agreement with people of base and student, in percent with intervals; the gate."""
    if evaluated is None:
        return {}
    rows = evaluated.read_table("scores.parquet").to_pylist()
    shown = {("base", "pre_logits"): "base", ("student", "pre_logits"): "student", ("student", "head"): "head"}
    figures = {
        shown[r["model"], r["layer"]]: f"{100 * r['value']:.1f} ({100 * r['low']:.1f}-{100 * r['high']:.1f})"
        for r in rows
        if r["metric"] == "odd_one_out" and not r["level"] and (r["model"], r["layer"]) in shown
    }
    return figures | {"gate": "passed" if evaluated.manifest["facts"].get("champion") else "not passed"}


def _is_champion(work: Work) -> bool:
    """Whether evaluate's gate lets this student be the champion."""
    evaluated = work.parents.get("evaluate")
    return bool(evaluated and evaluated.manifest["facts"].get("champion"))


def _verdict(facts: dict[str, Any]) -> str:
    """The gate's decision and its reasons."""
    decision = "passed: this version is the champion" if facts.get("champion") else "not passed: a candidate only"
    return f"\nGate {decision}\n" + "".join(f"* {reason}\n" for reason in facts.get("reasons", []))
