"""The label artifact: triplets of images with the teacher's similarities, for training and for validation."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64

from alignet_ray.artifacts import schemas
from alignet_ray.artifacts.base import ArtifactView
from alignet_ray.store import JsonObject

HELD_OUT = "held_out.parquet"
STATISTICS = "stats.json"

Subset = Literal["train", "valid"]
SUBSETS: tuple[Subset, ...] = ("train", "valid")
"""Folders of the two tables of triplets."""

IMAGE_COLUMNS = schemas.TRIPLETS.names[:3]
SIMILARITY_COLUMNS = schemas.TRIPLETS.names[3:]


@dataclass(frozen=True)
class SubsetStats:
    """Figures of one table of labelled triplets.

    Attributes:
        triplets, ties: counts; a tie is a triplet whose two largest similarities are equal.
        entropy, margin: means. Entropy of the choice probabilities in nats (0 .. ln 3); margin is the probability of
            the first pair less that of the second.
        entropy_histogram, margin_histogram: counts in equal bins over their ranges.
        border: share of triplets with two images of one cluster and one of another; None where none were drawn here.
        odd_is_the_other: share of triplets that are such and whose odd one is the image of the other cluster.
        agreement: for labels of the raw teacher: share of triplets with the aligned teacher's odd one.
        image_uses: fewest, median and most triplets that an image of this subset is in.
        images_used: images that are in any triplet.
        cluster_uses, class_uses: uses of every cluster and class.
    """

    triplets: int
    ties: int
    entropy: float
    margin: float
    entropy_histogram: list[int]
    margin_histogram: list[int]
    border: float | None = None
    odd_is_the_other: float | None = None
    agreement: float | None = None
    image_uses: dict[str, float] | None = None
    images_used: int | None = None
    cluster_uses: list[int] = field(default_factory=list)
    class_uses: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class LabelStats:
    """Figures of a label artifact.

    Attributes:
        scale: factor of the teacher's dot products; other than 1 for the raw teacher.
        held_out_images: images set aside for validation.
        train, valid: figures of the two tables.
        images: images of the corpus; None where another artifact's triplets were relabelled.
        read, permuted: rows of an imported file, and those whose pairs had to be reordered; None without an import.
    """

    scale: float
    held_out_images: int
    train: SubsetStats
    valid: SubsetStats
    images: int | None = None
    read: int | None = None
    permuted: int | None = None

    def to_json(self) -> JsonObject:
        """The statistics as JSON, without what is unknown."""
        stored = _known(asdict(self))
        for subset in SUBSETS:
            stored[subset] = _known(stored[subset])
        return stored

    @classmethod
    def from_json(cls, stored: JsonObject) -> "LabelStats":
        """Inverse of `to_json`."""
        # The figures of the two tables are dataclasses of their own.
        values = dict(stored)
        for subset in SUBSETS:
            values[subset] = SubsetStats(**stored[subset])
        return cls(**values)


def _known(values: JsonObject) -> JsonObject:
    """Values without those that are None: their fields have None as default."""
    return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class LabelArtifact(ArtifactView):
    """Labelled triplets of images."""

    def part_names(self, subset: Subset) -> list[str]:
        """File names of the finished parts of one table."""
        return self.files.parts(subset)

    def read_part(self, name: str) -> pa.Table:
        """One part, a table TRIPLETS."""
        return self.files.read_table(name)

    def has_part(self, name: str) -> bool:
        """Whether this part is written."""
        return self.files.has(name)

    def write_part(
        self, name: str, triplets: Int64[np.ndarray, "n 3"], similarities: Float32[np.ndarray, "n 3"]
    ) -> None:
        """Write labelled triplets (image_ids, odd one last; similarities 01, 02, 12) as one part."""
        # Three columns each: readers that need the triplets alone leave half of the file unread.
        table = pa.table([*triplets.T, *similarities.T], schema=schemas.TRIPLETS)
        self.draft.write_table(name, schemas.check(table, schemas.TRIPLETS))

    def triplets(self, subset: Subset) -> Iterator[pa.Table]:
        """The parts of one table, one by one."""
        return self.files.iter_parts(subset)

    def held_out(self) -> Int64[np.ndarray, " n"]:
        """image_ids set aside for validation: training triplets use none of them."""
        ids: Int64[np.ndarray, " n"] = self.files.read_table(HELD_OUT)["image_id"].to_numpy()
        return ids

    def write_held_out(self, ids: Int64[np.ndarray, " n"]) -> None:
        """Write the image_ids set aside for validation."""
        self.draft.write_table(HELD_OUT, pa.table({"image_id": ids}))

    def has_stats(self) -> bool:
        """Whether figures were written."""
        return self.files.has(STATISTICS)

    def stats(self) -> LabelStats:
        """Figures of both tables."""
        return LabelStats.from_json(self.files.read_json(STATISTICS))

    def write_stats(self, stats: LabelStats) -> None:
        """Write the figures."""
        self.draft.write_json(STATISTICS, stats.to_json())
