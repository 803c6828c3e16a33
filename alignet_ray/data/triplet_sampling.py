"""Sampling of image triplets: the training and validation images of a corpus, and the mixture of triplet kinds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int

from alignet_ray.artifacts.cluster import ClusterArtifact
from alignet_ray.artifacts.embed import EmbedArtifact
from alignet_ray.artifacts.label import SUBSETS, Subset
from alignet_ray.artifacts.schemas import positions_of
from alignet_ray.config import Label
from alignet_ray.core import sampling
from alignet_ray.errors import UserError
from alignet_ray.store import Artifact

Grouping = Literal["cluster", "class"]


class TripletKind(NamedTuple):
    """A way to sample triplets.

    Attributes:
        sampler: name in `core.sampling`.
        grouping: the groups that it samples from.
    """

    sampler: str
    grouping: Grouping


TRIPLET_KINDS = {
    "cluster_border": TripletKind("border", "cluster"),
    "within_cluster": TripletKind("within", "cluster"),
    "class_border": TripletKind("border", "class"),
    "within_class": TripletKind("within", "class"),
    "between_class": TripletKind("between", "class"),
    "uniform": TripletKind("uniform", "cluster"),
}
"""Field of the config section `label` that holds a kind's weight -> the kind."""


@dataclass(frozen=True)
class ImagePool:
    """The images that triplets are sampled from.

    Attributes:
        ids: image_ids, ascending.
        clusters: cluster of each.
        classes: class folder of each, as a number.
        held_out: whether an image is set aside for validation triplets.
    """

    ids: Int[np.ndarray, " n"]
    clusters: Int[np.ndarray, " n"]
    classes: Int[np.ndarray, " n"]
    held_out: Bool[np.ndarray, " n"]

    @classmethod
    def of(cls, cluster: Artifact, embed: Artifact, held_out_share: float, seed: int) -> "ImagePool":
        """The images that a cluster artifact holds; a fixed share of them is set aside."""
        ids, clusters = ClusterArtifact(cluster).labels()
        classes, _ = class_numbers(embed, ids)
        return cls(ids, clusters, classes, sampling.held_out(ids, held_out_share, seed))

    def in_subset(self, subset: Subset) -> Bool[np.ndarray, " n"]:
        """Which images belong to a subset."""
        if subset == "valid":
            return self.held_out
        return ~self.held_out

    def groups(self, grouping: Grouping, subset: Subset) -> sampling.Groups:
        """The images of one subset by cluster or by class."""
        labels = self.classes
        if grouping == "cluster":
            labels = self.clusters
        return sampling.group_by(np.where(self.in_subset(subset), labels, -1))  # -1: in no group


def class_numbers(embed: Artifact, ids: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " n"], list[str]]:
    """Class folder of every image as a number, and the folders' names by number (in the order in which they come)."""
    numbers = np.empty(len(ids), np.int32)
    number_of: dict[str, int] = {}
    done = 0
    # Block by block, so that the names of a huge corpus never lie in memory. Ids ascend, here and in the table.
    for block in EmbedArtifact(embed).image_blocks(["image_id", "label"]):
        listed = block["image_id"].to_numpy()
        inside = ids[done : np.searchsorted(ids, listed[-1], side="right")]
        classes = block["label"].take(pa.array(positions_of(listed, inside))).dictionary_encode()

        # Arrow's dictionary numbers the names of a block in the order in which it meets them.
        number_of_block = [number_of.setdefault(name, len(number_of)) for name in classes.dictionary.to_pylist()]
        indices = classes.indices.to_numpy(zero_copy_only=False)
        numbers[done : done + len(inside)] = np.array(number_of_block, np.int32)[indices]
        done += len(inside)
    assert done == len(ids), "image_ids that are not listed"
    return numbers, list(number_of)


class SampledTriplets(NamedTuple):
    """The triplets of one subset.

    Attributes:
        triplets: image_ids.
        warning: why they are not as asked for; empty if they are.
    """

    triplets: Int[np.ndarray, "n 3"]
    warning: str


class _PlanEntry(NamedTuple):
    """How many triplets of one kind to sample, from which groups."""

    sampler: str
    groups: sampling.Groups
    number: int


def sample_triplets(
    pool: ImagePool, subset: Subset, count: int, weights: Mapping[str, float], seed: int
) -> SampledTriplets:
    """Distinct triplets of one subset.

    Args:
        pool: the images.
        subset: training triplets are exactly `count`; validation triplets at most, as many as the images give.
        count: how many.
        weights: weight of each of TRIPLET_KINDS in the mixture.
        seed: of the run.

    Raises:
        UserError: the images do not give that many, or lie in no class folders where a kind needs classes.
    """
    images = int(pool.in_subset(subset).sum())
    _require_three(subset, images, len(pool.ids))
    plan = _mixture_plan(pool, subset, count, weights)
    warning = ""
    # Few images are set aside, so fewer validation triplets than asked for are no error.
    if subset == "valid":
        plan, warning = _reduced_plan(plan, pool.groups("cluster", subset), images)

    try:
        positions = sampling.mixture([*plan], seed, SUBSETS.index(subset))
    except sampling.Exhausted as error:
        raise _too_few(subset, count, images, error) from error
    return SampledTriplets(pool.ids[positions], warning)


def require_triplets(section: Label, images: int) -> None:
    """Refuse a number of triplets that so many images cannot give, whatever their clusters and classes are.

    Raises:
        UserError: no image can be in a triplet, or there are fewer training triplets.
    """
    held_out = sampling.held_out_count(images, section.held_out)
    _require_three("train", images - held_out, images)
    _require_three("valid", held_out, images)
    possible = math.comb(images - held_out, 3)
    if section.train > possible:
        raise _too_few("train", section.train, images - held_out, sampling.Exhausted("uniform", possible))


def _require_three(subset: Subset, images: int, total: int) -> None:
    if images < 3:
        raise UserError(
            f"{images} of {total} images are for {subset} triplets; a triplet needs 3: "
            "change --label.held-out, or add images"
        )


def _too_few(subset: Subset, count: int, images: int, exhausted: sampling.Exhausted) -> UserError:
    advice = "lower it, mix in --label.uniform, or add images"
    if exhausted.kind == "uniform":
        advice = "lower it, or add images"
    return UserError(
        f"--label.{subset} {count}: the {images} images for it give only {exhausted.found} distinct triplets of kind "
        f"{exhausted.kind!r}: {advice}"
    )


def _mixture_plan(pool: ImagePool, subset: Subset, count: int, weights: Mapping[str, float]) -> list[_PlanEntry]:
    """Share the count among the kinds in proportion to their weights."""
    by_kind = {name: float(weights[name]) for name in TRIPLET_KINDS}
    if not sum(by_kind.values()):
        raise UserError("all kinds of triplets have weight 0: give one a weight, as in --label.cluster-border 1")

    plan = []
    for name, number in sampling.shares(by_kind, count).items():
        if not by_kind[name]:
            continue
        kind = TRIPLET_KINDS[name]
        if kind.grouping == "class" and len(np.unique(pool.classes)) < 2:
            raise UserError("kinds by class need images in two or more class folders: use the kinds by cluster")
        plan.append(_PlanEntry(kind.sampler, pool.groups(kind.grouping, subset), number))
    return plan


def _reduced_plan(plan: list[_PlanEntry], all_images: sampling.Groups, images: int) -> tuple[list[_PlanEntry], str]:
    """A validation plan reduced to what its few images can give; triplets of any kind if they give none of these."""
    reduced = []
    for entry in plan:
        possible = sampling.count(entry.sampler, entry.groups)
        reduced.append(entry._replace(number=min(entry.number, possible)))

    wanted = sum(entry.number for entry in plan)
    available = sum(entry.number for entry in reduced)
    if available == wanted:
        return plan, ""
    if available:
        warning = (
            f"the {images} images set aside for validation give {available:,} triplets, not the {wanted:,} asked for"
        )
        return reduced, warning

    anything = min(wanted, sampling.count("uniform", all_images))
    warning = (
        f"the {images} images set aside for validation give no triplet of the kinds asked for: any three are taken"
    )
    return [_PlanEntry("uniform", all_images, anything)], warning


def require_images(batch_size: int, images: int) -> None:
    """Refuse a batch of more distinct images than there are.

    Raises:
        UserError: there are fewer.
    """
    if batch_size > images:
        raise UserError(
            f"a batch of {batch_size} distinct images, but only {images} to train on: set a smaller "
            "--distill.batch-size"
        )
