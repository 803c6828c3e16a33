"""A student on the Hugging Face hub: its folder with a model card, uploaded, and read again as `hf://OWNER/NAME`.

The folder is timm's own (model.safetensors, config.json), so that timm loads the backbone by itself; beside it lie the
triplet head and model.json, with which `alignet_ray.load` has the whole student.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignet_ray.artifacts.evaluate import EvaluateArtifact
from alignet_ray.artifacts.student_files import HEAD_FILE, IMPORTED, MODEL_FILE, TIMM_WEIGHTS, StudentDescription
from alignet_ray.data.files import writing_tensors
from alignet_ray.errors import UserError, first_line
from alignet_ray.models import hub
from alignet_ray.models.backbone import Backbone
from alignet_ray.models.model_spec import HUB, ModelKind, ModelSpec
from alignet_ray.store import Store

CARD_FILE = "README.md"

FILES = (MODEL_FILE, HEAD_FILE, TIMM_WEIGHTS, "config.json", CARD_FILE)
"""What a student's repository holds; nothing else is downloaded."""

CARD = """
# {title}

{architecture} at {size} px, {origin}

## Use

```python
import alignet_ray

model = alignet_ray.load("hf://OWNER/NAME")
model.odd_one_out("dog.jpg", "cat.jpg", "car.jpg")  # three probabilities
model.embed("IMAGES")
```

The backbone alone loads in timm: `timm.create_model("hf-hub:OWNER/NAME", pretrained=True)`.

## Scores
{scores}

## Whose similarity
{people}

## Limits
Its similarity is that of the people whose judgements it was trained on, for images like those it was trained on.

## Licences
The base weights ({base}) keep their own licence{licence}. The human judgements have terms of their own.
"""


ALIGNED = """fine-tuned with [alignet_ray](https://doi.org/10.1038/s41586-025-09631-6) so that its
similarities agree with people's: which of three images is the odd one out?"""
"""What the card says of a student that a run has trained."""

CONVERTED = """with weights that other people trained ({base}), converted by alignet_ray. What they
were trained for, and how well they agree with people, is for these people to say."""
"""What the card says of an imported network."""


def write_folder(name: str, folder: Path, root: str | None = None, tracking_uri: str | None = None) -> str:
    """A student's folder for a model hub: timm's files, the head, model.json and a model card.

    Args:
        name: a student's folder, or `models:/NAME@ALIAS`.
        folder: where it goes.
        root: the store with the run's scores; None: the one that the student's folder lies in.
        tracking_uri: MLflow server of a `models:/` name.

    Raises:
        UserError: `name` is no student.
    """
    source = hub.locate(name, tracking_uri)
    if source is None:
        raise UserError(f"{name} is a backbone without a head: --to timm writes it")
    student, _ = hub.load(source)
    description = StudentDescription.read(source)
    save_backbone(student.backbone, folder)

    if (source / HEAD_FILE).is_file():
        shutil.copyfile(source / HEAD_FILE, folder / HEAD_FILE)
    # A hub is public: a checkpoint of this machine is named without its folder.
    public = replace(description, model=ModelSpec.parse(description.model).identity)
    (folder / MODEL_FILE).write_text(json.dumps(public.to_json(), indent=1), encoding="utf-8")

    evaluated = _evaluation(public, root or str(source.resolve().parent.parent))
    (folder / CARD_FILE).write_text(card(public, evaluated), encoding="utf-8")
    return f'alignet_ray.load("{folder}")'


def save_backbone(backbone: Backbone, folder: Path) -> None:
    """A backbone as timm's own folder: TIMM_WEIGHTS and config.json (preprocessing included)."""
    from timm.models import save_for_hf

    # Without a number of classes timm would build its own classifier, for which there are no weights.
    config = {"pretrained_cfg": {**backbone.data_config, "num_classes": 0}}
    folder.mkdir(parents=True, exist_ok=True)
    with writing_tensors(folder / TIMM_WEIGHTS):
        save_for_hf(backbone.net, str(folder), model_config=config, safe_serialization=True)


def card(description: StudentDescription, evaluated: EvaluateArtifact | None) -> str:
    """The model card: a YAML header that hubs read, and Markdown that people read."""
    from huggingface_hub import ModelCardData

    title = f"{description.architecture}, aligned with human similarity judgements"
    tags = ["timm", "alignet", "image-similarity", "human-alignment"]
    origin = ALIGNED

    # Nothing here knows what an imported network was trained for.
    if description.provenance.get("role") == IMPORTED:
        title = f"{description.architecture}, converted"
        tags = ["timm", "image-similarity"]
        origin = CONVERTED.format(base=description.model)

    known_licence = licence(description.architecture, description.model)
    header = ModelCardData(
        license=known_licence or "other",
        library_name="timm",
        pipeline_tag="image-feature-extraction",
        tags=tags,
        model_name=title,
        eval_results=_results(evaluated),
    )

    scores = "Not scored: the run had no human judgements, or its root is not at hand."
    people = "Not known here."
    if evaluated is not None:
        scores = "```\n" + "\n".join(evaluated.facts().table) + "\n```"
        people = _people(evaluated.files.read_manifest().config)

    licence_note = ""
    if known_licence:
        licence_note = f": {known_licence}"
    body = CARD.format(
        title=title,
        architecture=description.architecture,
        size=description.preprocessing["input_size"][-1],
        origin=origin,
        scores=scores,
        people=people,
        base=description.model,
        licence=licence_note,
    )
    return f"---\n{header.to_yaml()}\n---\n{body}"


def licence(architecture: str, model: str) -> str:
    """What timm knows about the licence of a network's weights; empty where it knows nothing.

    Args:
        architecture: timm's name of the network.
        model: the name that it was loaded by; only the owner of a file knows the file's licence.
    """
    if ModelSpec.parse(model).kind is ModelKind.CHECKPOINT:
        return ""
    # Weights have licences of their own, often stricter than their code's.
    from timm.models import get_pretrained_cfg

    known = get_pretrained_cfg(architecture, allow_unregistered=True)
    if known is None or not known.license:
        return ""
    return str(known.license)


def download(name: str) -> Path:
    """The folder of `hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION`; what was fetched before is not fetched again.

    Raises:
        UserError: there is no such repository, it holds no student, or the hub does not answer.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = name.removeprefix(HUB).partition("@")
    try:
        fetched = snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=list(FILES),
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
    except Exception as error:  # its own errors, those of its HTTP library, and of files
        raise UserError(f"{name} cannot be fetched: {first_line(error)}") from error

    # A repository of something else is fetched without an error, and without these files.
    folder = Path(fetched)
    if not (folder / MODEL_FILE).is_file():
        raise UserError(f"{name} is not a student of alignet_ray: it holds no {MODEL_FILE}")
    return folder


def upload(folder: Path, repository: str, private: bool = True) -> str:
    """Upload a folder that `write_folder` made; the hub's token comes from the environment (HF_TOKEN).

    Args:
        folder: the student's folder.
        repository: OWNER/NAME; made if it is not there.
        private: whether a new repository is for its owner alone.

    Returns:
        The name to load it by.

    Raises:
        UserError: the hub refuses it, or does not answer.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=list(FILES))
    except Exception as error:  # its own errors, and those of its HTTP library
        raise UserError(f"{repository} cannot be uploaded to: {first_line(error)}") from error
    return f"{HUB}{repository}"


def _evaluation(description: StudentDescription, root: str) -> EvaluateArtifact | None:
    """The finished evaluation of the student under a root; None without one."""
    student = description.provenance.get("artifact")
    if student is None:
        return None
    for artifact in Store.open(root).all(["evaluate"]):
        if artifact.finished and artifact.read_manifest().recipe.parents.get("distill@student") == student:
            return EvaluateArtifact(artifact)
    return None


def _results(evaluated: EvaluateArtifact | None) -> list[Any] | None:
    """Headline scores as the hub's metadata, in percent; intervals stand in the names, for which it has no field."""
    from huggingface_hub import EvalResult

    if evaluated is None:
        return None

    # The headline is agreement over all triplets of test objects, once for each layer.
    results = []
    for row in evaluated.scores().to_pylist():
        headline = (row["dataset"], row["metric"], row["level"]) == ("objects", "odd_one_out", "")
        if headline and row["model"] == "student":
            interval = f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
            results.append(
                EvalResult(
                    task_type="image-feature-extraction",
                    dataset_type="test-objects",
                    dataset_name="objects that no training saw",
                    metric_type="odd_one_out",
                    metric_name=f"agreement with people, %, {row['layer']} {interval}",
                    metric_value=round(100 * row["value"], 1),
                )
            )
    return results or None


def _people(config: Mapping[str, Any]) -> str:
    """Whose choices the scores are about, by the run's settings; files without their folders."""
    human = config.get("human", {})
    if human.get("embedding"):
        return f"People's choices as the published embedding {Path(human['embedding']).name} predicts them."
    files = [Path(human[kind]).name for kind in ("triplets", "comparisons") if human.get(kind)]
    if files:
        return f"People's choices as a model of the answers in {' and '.join(files)} predicts them."
    return "Not known here."
