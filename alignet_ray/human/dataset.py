"""Features of the annotated objects' images together with the human model of the objects: what `align` learns from."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int64

from alignet_ray.artifacts.embed import EmbedArtifact
from alignet_ray.artifacts.soften import SoftenArtifact
from alignet_ray.core import triplet_set
from alignet_ray.data.embeddings import SharedFeatures
from alignet_ray.errors import UserError
from alignet_ray.store import Artifact, JsonObject

SCORED_TRIPLETS = 60_000
"""Largest number of triplets that a score is computed on; drawn at random where objects have more."""

MIN_OBJECTS = 3
"""Objects with readable images that each split needs: a triplet has three."""

ImageRows = Mapping[int, Int64[np.ndarray, " _"]]
"""Object -> feature rows of its images."""


def human_model(soften: Artifact, draws: int, seed: int) -> triplet_set.HumanModel:
    """The model of human choices in a soften artifact.

    Args:
        soften: a finished soften artifact.
        draws, seed: of the posterior, when choice probabilities are computed.
    """
    posterior = SoftenArtifact(soften).posterior()
    return triplet_set.HumanModel(posterior.mu, posterior.sigma, draws, seed)


def features_model(embed: Artifact) -> JsonObject:
    """The networks behind an embed artifact, with the width that its table really has."""
    artifact = EmbedArtifact(embed)
    source: JsonObject = {}
    # Stored embeddings of somebody else come without networks.
    if artifact.has_networks():
        source |= artifact.networks()
    return source | {"width": artifact.width()}


def split_images(
    soften: Artifact, ids: Int64[np.ndarray, " n"], needed: Sequence[str] = ("train", "validation", "test")
) -> dict[str, dict[int, Int64[np.ndarray, " _"]]]:
    """Per split, the objects that have readable images: object -> positions of its images in `ids`.

    An image that shows both a training object and a held-out one is not used for training.

    Args:
        soften: the objects and their split.
        ids: of the images.
        needed: splits that must have three objects.

    Raises:
        UserError: one of them has fewer.
    """
    # Images that could not be read have no embedding, and so no position.
    position_of = {int(image_id): position for position, image_id in enumerate(ids)}
    artifact = SoftenArtifact(soften)
    held_out = set(artifact.held_out_image_ids().tolist())

    splits: dict[str, dict[int, Int64[np.ndarray, " _"]]] = {"train": {}, "validation": {}, "test": {}}
    for row in artifact.objects().to_pylist():
        positions: list[int] = []
        for image_id in row["image_ids"]:
            # A held-out image stays out of training even where it also shows a training object.
            is_taken = row["split"] == "train" and image_id in held_out
            if image_id in position_of and not is_taken:
                positions.append(position_of[image_id])
        if positions:
            splits[row["split"]][row["object"]] = np.array(positions)

    for split in needed:
        members = splits[split]
        if len(members) < MIN_OBJECTS:
            raise UserError(f"{len(members)} {split} objects have readable images; at least {MIN_OBJECTS} are needed")
    return splits


class AlignmentDataset:
    """Features of the annotated objects' images, and triplets of the objects with human choice probabilities.

    Attributes:
        shared: where the features lie; another process opens the same copy.
        features: of all images, (n, p) float32, memory-mapped.
        objects: per split, the objects that have images.
        image_rows: feature rows of every object.
        teacher: the networks that made the features, and their width.
        human: the model of human choices.
    """

    def __init__(self, soften: Artifact, embed: Artifact, cache: Path, human: triplet_set.HumanModel) -> None:
        """Open the features.

        Args:
            soften: the human responses and the split of objects.
            embed: embeddings of the objects' images.
            cache: local folder of shared feature matrices.
            human: as `human_model` reads it from `soften`.

        Raises:
            UserError: features that are not finite or all the same, or too few objects in a split.
        """
        self.soften = soften
        self.human = human
        self.teacher = features_model(embed)
        self.shared = SharedFeatures(embed, cache)
        matrix = self.shared.open()
        self.features: Float32[np.ndarray, "n p"] = _checked(matrix.features)

        # The listing of objects and the embeddings may differ: images in quarantine have no row.
        splits = split_images(soften, matrix.ids)
        self.objects = {split: list(members) for split, members in splits.items()}
        self.image_rows: dict[int, Int64[np.ndarray, " _"]] = {}
        for members in splits.values():
            self.image_rows.update(members)

    @cached_property
    def responses(self) -> Int64[np.ndarray, "n 3"]:
        """The human responses, rows (pair, pair, odd)."""
        return SoftenArtifact(self.soften).responses()

    def soft_triplets(self, objects: Sequence[int], limit: int = SCORED_TRIPLETS) -> triplet_set.TripletSet:
        """At most `limit` triplets among these objects, with the human model's choice probabilities."""
        return triplet_set.soft_targets(objects, self.image_rows, self.human, limit)

    def training_triplets(
        self, objects: Sequence[int], objective: Literal["soft", "hard"], limit: int
    ) -> triplet_set.TripletSet:
        """Triplets to learn from.

        Args:
            objects: training objects.
            objective: `soft`: at most `limit` triplets with the human model's probabilities; `hard`: the responses.
            limit: see there.

        Raises:
            UserError: no response is about three of these objects.
        """
        if objective == "soft":
            return self.soft_triplets(objects, limit)
        triplets = triplet_set.hard_targets(objects, self.image_rows, self.responses)
        if len(triplets.triplets) == 0:
            raise UserError(
                f"align.objective hard needs responses about objects with images: none of {len(self.responses):,} is "
                "about three training objects; use align.objective soft"
            )
        return triplets


def _checked(features: np.ndarray) -> Float32[np.ndarray, "n p"]:
    if not np.isfinite(features).all():
        count = int((~np.isfinite(features)).any(axis=1).sum())
        raise UserError(f"{count} of the objects' embeddings are not finite (NaN or infinity)")
    if np.ptp(features, axis=0).max() == 0:
        raise UserError("the objects' embeddings are all the same: does embed.model have trained weights?")
    return features
