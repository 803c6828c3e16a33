"""What evaluations read, out of artifacts and files: the spaces of all models, the judged objects, people's answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int
from safetensors.numpy import load_file

from alignet_ray.artifacts.transforms import load_transform
from alignet_ray.config import Config
from alignet_ray.data import embeddings, stored
from alignet_ray.errors import UserError
from alignet_ray.evals.annotated_objects import AnnotatedObjects
from alignet_ray.evals.ood import OodFolder
from alignet_ray.evals.spaces import MODEL_TITLES, EmbeddingSpace
from alignet_ray.stages.embed_jobs import ELSEWHERE
from alignet_ray.store import Artifact

Parents = Mapping[str, Artifact]
STUDENTS = ("base", "student", "control")


@dataclass(frozen=True)
class Listing:
    """The judged objects' images: path and label (class folder) of every image_id that was embedded."""

    paths: dict[int, str]
    labels: dict[int, str]

    @property
    def ids(self) -> dict[str, int]:
        """path -> image_id."""
        return {path: image_id for image_id, path in self.paths.items()}


def name(spec: str) -> str:
    """What a model of `evaluate.models` is called in tables: files and folders by their last part."""
    folder = "@" not in spec and not spec.startswith(("models:/", stored.STAGE))
    return Path(spec).name if folder else spec


def check_names(cfg: Config) -> None:
    """Refuse models that could not be told apart.

    Raises:
        UserError: naming the two.
    """
    seen = {known: known for known in MODEL_TITLES}
    for spec in cfg.evaluate.models:
        if name(spec) in seen:
            raise UserError(
                f"evaluate.models: {spec} and {seen[name(spec)]} would both be called {name(spec)!r}: rename one"
            )
        seen[name(spec)] = spec


def spaces(cfg: Config, parents: Parents, listing: Listing) -> list[EmbeddingSpace]:
    """Every layer of every model: the base first, the teacher last."""
    found = [space for model in STUDENTS for space in _layers(model, parents.get(f"embed@{model}"))]
    for i, spec in enumerate(cfg.evaluate.models):
        if stored.is_stored(spec):
            found.append(EmbeddingSpace(name(spec), "pre_logits", *stored.read(spec, cfg.store.root, listing.ids)))
        else:
            found += _layers(name(spec), parents[f"embed@other{i}"])
    ids, x = embeddings.load(parents["embed@objects"])
    align = parents["align"]
    if align.has(embeddings.TRANSFORM):
        x = load_transform(str(align.local(embeddings.TRANSFORM)))(x)
    return [*found, EmbeddingSpace("teacher", "aligned", ids, x, "dot")]


def _layers(model: str, artifact: Artifact | None) -> list[EmbeddingSpace]:
    if artifact is None:
        return []
    found = [EmbeddingSpace(model, "pre_logits", *embeddings.load(artifact))]
    if "triplet_logits" in artifact.read_table(artifact.parts()[0]).column_names:
        found.append(EmbeddingSpace(model, "head", *embeddings.load(artifact, "triplet_logits")))
    return found


def elsewhere(cfg: Config, parents: Parents) -> OodFolder | None:
    """The folder of other images in the models' spaces; None if the config names none."""
    if not cfg.evaluate.ood:
        return None
    names = {model: model for model in STUDENTS}
    names |= {f"other{i}": name(spec) for i, spec in enumerate(cfg.evaluate.models)}
    there = {model: parents[at] for model in names if (at := f"embed@{ELSEWHERE}{model}") in parents}
    found = [space for model, artifact in there.items() for space in _layers(names[model], artifact)]
    listing = next(iter(there.values())).read_table("images.parquet", ["image_id", "label"])
    labels = dict(zip(listing["image_id"].to_pylist(), listing["label"].to_pylist(), strict=True))
    return OodFolder({space.name: space for space in found}, labels)


def listing(embed: Artifact) -> Listing:
    """The images of an embed artifact that have an embedding."""
    table = embed.read_table("images.parquet", ["image_id", "path", "label"])
    kept = set(embed.read_parts(columns=["image_id"])["image_id"].to_pylist())
    rows = [row for row in table.to_pylist() if row["image_id"] in kept]
    return Listing({r["image_id"]: r["path"] for r in rows}, {r["image_id"]: r["label"] for r in rows})


def judged(soften: Artifact, split: str) -> AnnotatedObjects:
    """The objects of one split, with images or without."""
    table = soften.read_table("objects.parquet")
    human = load_file(soften.local("embedding.safetensors"))
    image_ids = [np.array(ids, np.int64) for ids in table["image_ids"].to_pylist()]
    names = [name.replace("_", " ").rstrip("0123456789") for name in table["name"].to_pylist()]
    categories = table["category"].to_pylist()
    every = AnnotatedObjects(table["object"].to_numpy(), names, categories, image_ids, human["mu"], human["sigma"])
    return every.take(np.flatnonzero(np.array(table["split"].to_pylist()) == split))


def answers(soften: Artifact) -> Int[np.ndarray, "n 3"]:
    """The raw answers of people: rows (pair, pair, odd) of object numbers."""
    table = soften.read_parts(columns=["i", "j", "k"])
    return np.stack([table[column].to_numpy() for column in "ijk"], axis=1)
