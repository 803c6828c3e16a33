"""Which image triplets a corpus gives: the two sides of its images, and the mixture of draws that a config asks for."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int

from alignet_ray.config import Label
from alignet_ray.core import sampling
from alignet_ray.errors import UserError
from alignet_ray.store import Artifact

Side = Literal["train", "valid"]
SIDES: tuple[Side, ...] = ("train", "valid")
KINDS = {
    "cluster_border": ("border", "cluster"),
    "within_cluster": ("within", "cluster"),
    "class_border": ("border", "class"),
    "within_class": ("within", "class"),
    "between_class": ("between", "class"),
    "uniform": ("uniform", "cluster"),
}
"""Config field -> kind of draw, and the groups that it draws from."""


@dataclass(frozen=True)
class SampledCorpus:
    """The images that triplets are drawn from.

    Attributes:
        ids: image_ids, ascending.
        clusters: cluster of each.
        classes: class folder of each, as a number.
        held_out: whether an image is set aside for validation.
    """

    ids: Int[np.ndarray, " n"]
    clusters: Int[np.ndarray, " n"]
    classes: Int[np.ndarray, " n"]
    held_out: Bool[np.ndarray, " n"]

    @classmethod
    def of(cls, cluster: Artifact, embed: Artifact, share: float, seed: int) -> "SampledCorpus":
        """The images that `cluster` clustered; a fixed `share` of them is set aside."""
        table = cluster.read_parts().sort_by("image_id")
        ids = table["image_id"].to_numpy()
        classes, _ = classes_of(embed, ids)
        return cls(ids, table["cluster"].to_numpy(), classes, sampling.held_out(ids, share, seed))

    def on(self, side: Side) -> Bool[np.ndarray, " n"]:
        """Which images belong to a side."""
        return self.held_out if side == "valid" else ~self.held_out

    def groups(self, by: str, side: Side) -> sampling.Groups:
        """The images of one side by cluster or by class."""
        return sampling.group_by(np.where(self.on(side), self.clusters if by == "cluster" else self.classes, -1))


def classes_of(embed: Artifact, ids: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " n"], list[str]]:
    """Class folder of every image as a number, and the folders' names by number (in the order in which they come)."""
    images = embed.read_table("images.parquet", ["image_id", "label"]).sort_by("image_id")
    rows = np.searchsorted(images["image_id"].to_numpy(), ids)
    classes = images["label"].take(pa.array(rows)).combine_chunks().dictionary_encode()
    return classes.indices.to_numpy(zero_copy_only=False), classes.dictionary.to_pylist()


class Drawn(NamedTuple):
    """The triplets of one side.

    Attributes:
        triplets: image_ids.
        note: what a person should know of it; empty if all is as asked for.
    """

    triplets: Int[np.ndarray, "n 3"]
    note: str


def draw(label: Label, corpus: SampledCorpus, seed: int, side: Side) -> Drawn:
    """Distinct triplets of one side: for training exactly as many as asked for, for validation as many as there are.

    Raises:
        UserError: the images do not give so many, or lie in no class folders where a draw by class is asked for.
    """
    asked = label.train if side == "train" else label.valid
    images = int(corpus.on(side).sum())
    if images < 3:
        raise UserError(
            f"{images} of {len(corpus.ids)} images are for {side} triplets; a triplet needs 3: "
            "change --label.held-out, or add images"
        )
    plan, note = _plan(label, corpus, asked, side), ""
    if side == "valid":
        plan, note = _possible(plan, corpus.groups("cluster", side), images)
    try:
        return Drawn(corpus.ids[sampling.mixture(plan, seed, SIDES.index(side))], note)
    except sampling.Exhausted as error:
        raise UserError(
            f"--label.{side} {asked}: the {images} images for it give only {error.found} distinct triplets of kind "
            f"{error.kind!r}: lower it, mix in --label.uniform, or add images"
        ) from error


Plan = list[tuple[str, sampling.Groups, int]]


def _plan(label: Label, corpus: SampledCorpus, asked: int, side: Side) -> Plan:
    """How many triplets of which kind from which groups."""
    weights = {name: float(getattr(label, name)) for name in KINDS}
    if not sum(weights.values()):
        raise UserError("all kinds of draw have weight 0: give one, say --label.cluster-border 1")
    counts = {name: n for name, n in sampling.shares(weights, asked).items() if weights[name]}
    if any(KINDS[name][1] == "class" for name in counts) and len(np.unique(corpus.classes)) < 2:
        raise UserError("draws by class need images in two or more class folders: use the draws by cluster")
    return [(KINDS[name][0], corpus.groups(KINDS[name][1], side), n) for name, n in counts.items()]


def _possible(plan: Plan, everything: sampling.Groups, images: int) -> tuple[Plan, str]:
    """A validation draw cut down to what its few images can give; triplets of any kind if they give none of these."""
    cut = [(kind, groups, min(n, sampling.count(kind, groups))) for kind, groups, n in plan]
    asked, found = sum(n for *_, n in plan), sum(n for *_, n in cut)
    if found == asked:
        return plan, ""
    if found:
        return cut, f"the {images} images set aside for validation give {found:,} triplets, not the {asked:,} asked for"
    anything = min(asked, sampling.count("uniform", everything))
    note = f"the {images} images set aside for validation give no triplet of the kinds asked for: any three are taken"
    return [("uniform", everything, anything)], note
