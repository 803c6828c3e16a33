"""Features of the judged objects' images beside what people say about the objects, read from two artifacts."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import safetensors.numpy
from jaxtyping import Float32, Int64

from alignet_ray.config import Config
from alignet_ray.core import alignment, triplet_set
from alignet_ray.data import embeddings
from alignet_ray.errors import UserError
from alignet_ray.human.objects import held_out_ids
from alignet_ray.store import Artifact

HELD_OUT = 60_000
"""Largest number of triplets among held-out objects that a score is computed on."""


def human_model(cfg: Config, soften: Artifact) -> triplet_set.HumanModel:
    """The model of human choices in a soften artifact."""
    stored = safetensors.numpy.load(soften.read_bytes("embedding.safetensors"))
    return triplet_set.HumanModel(stored["mu"], stored["sigma"], cfg.soften.num_samples, cfg.seed)


def map_settings(cfg: Config, kind: alignment.MapKind) -> alignment.FitSettings:
    """The section `align` as the settings of a transform."""
    names = ("rank", "identity_penalty", "alpha", "tau", "lr", "batch_size", "steps", "patience")
    return alignment.FitSettings(kind, **{name: getattr(cfg.align, name) for name in names})


def features_model(embed: Artifact) -> dict[str, Any]:
    """model.json of an embed artifact, with the width that its table really has."""
    stored = embed.read_json("model.json") if embed.has("model.json") else {}
    fs, path = embed.where(embed.parts()[0])
    tensor = pq.read_schema(path, filesystem=fs).field("embedding").type
    return stored | {"width": int(tensor.shape[0])}


def split_images(soften: Artifact, ids: Int64[np.ndarray, " n"]) -> dict[str, dict[int, Int64[np.ndarray, " _"]]]:
    """Per side of the split, the objects that have readable images: object -> positions of its images in `ids`.

    An image that shows a training object and a held-out one, too, is not shown to training.

    Raises:
        UserError: a side has fewer than three objects.
    """
    row_of = {int(i): row for row, i in enumerate(ids)}
    found: dict[str, dict[int, Int64[np.ndarray, " _"]]] = {"train": {}, "validation": {}, "test": {}}
    table = soften.read_table("objects.parquet")
    held_out = set(held_out_ids(table).tolist())
    for row in table.to_pylist():
        hidden = held_out if row["split"] == "train" else set()
        if rows := [row_of[i] for i in row["image_ids"] if i in row_of and i not in hidden]:
            found[row["split"]][row["object"]] = np.array(rows)
    for split, members in found.items():
        if len(members) < 3:
            raise UserError(f"{len(members)} {split} objects have readable images; at least 3 are needed")
    return found


class AlignmentDataset:
    """What `align` learns from.

    Attributes:
        features: where they lie; another process opens the same copy.
        x: features of all images, (n, p) float32, memory-mapped.
        objects: the numbers of the objects with images on each side of the split.
        images: feature rows of every object.
        teacher: model.json of the features.
        human: the model of human choices.
    """

    def __init__(self, cfg: Config, soften: Artifact, embed: Artifact, cache: Path) -> None:
        self.cfg, self.soften = cfg, soften
        self.features = embeddings.Features(embed, cache)
        ids, x = self.features.open()
        self.x: Float32[np.ndarray, "n p"] = _features(x)
        self.teacher = features_model(embed)
        self.human = human_model(cfg, soften)
        split = split_images(soften, ids)
        self.objects = {side: list(members) for side, members in split.items()}
        self.images = {o: rows for members in split.values() for o, rows in members.items()}

    @cached_property
    def answers(self) -> Int64[np.ndarray, "n 3"]:
        """The answers as people gave them."""
        table = self.soften.read_parts(columns=["i", "j", "k"])
        return np.stack([table[c].to_numpy() for c in "ijk"], axis=1)

    def side(self, objects: Sequence[int], limit: int = HELD_OUT) -> triplet_set.TripletSet:
        """Objects to be judged on: the human model's probabilities."""
        return triplet_set.soft_targets(objects, self.images, self.human, limit)

    def train_side(self, objects: Sequence[int]) -> triplet_set.TripletSet:
        """Objects to learn from: the human model's probabilities, or the answers alone.

        Raises:
            UserError: no answer is about three of these objects.
        """
        if self.cfg.align.objective == "soft":
            return self.side(objects, self.cfg.align.triplets)
        side = triplet_set.hard_targets(objects, self.images, self.answers)
        if len(side.triplets) == 0:
            raise UserError(
                f"align.objective hard needs answers about objects with images: none of {len(self.answers):,} is about "
                "three training objects; use align.objective soft"
            )
        return side


def _features(x: np.ndarray) -> Float32[np.ndarray, "n p"]:
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).any(axis=1).sum())
        raise UserError(f"{bad} of the objects' embeddings are not finite (NaN or infinity)")
    if np.ptp(x, axis=0).max() == 0:
        raise UserError("the objects' embeddings are all the same: does embed.model have trained weights?")
    return x
