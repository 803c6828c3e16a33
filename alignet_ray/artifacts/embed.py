"""The embed artifact: the images of one job, their embeddings in parts, and the networks that made them."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from alignet_ray.artifacts import schemas
from alignet_ray.artifacts.base import ArtifactView, from_rows, merged_name, part_name, part_numbers, to_rows
from alignet_ray.artifacts.schemas import IMAGE_ROWS
from alignet_ray.artifacts.spans import NO_OFFSET, Span
from alignet_ray.artifacts.student_files import DataConfig, EmbeddingSource
from alignet_ray.store import Artifact

IMAGES = "images.parquet"
ERRORS = "errors.parquet"
NETWORKS = "model.json"

PART_BYTES = 64_000_000
"""Bytes of embeddings from which parts are large enough: stores take as long for small files, and each costs a request.
"""

ERRORS_KEY = b"alignet.errors"
"""Parquet metadata of a part: its images in quarantine, so that part and quarantine are one atomic file."""
TWELVE_BIT_KEY = b"alignet.dark"
"""Parquet metadata of a part: paths of its images whose 16 bits hold values of 12, which come out nearly black."""
COSINES_KEY = b"alignet.cosines"
"""Parquet metadata of the first part, where JPEGs are decoded fast: cosines to the exact embeddings."""


class EmbeddedRows(NamedTuple):
    """Some rows of an embedding table.

    Attributes:
        ids: image_ids.
        vectors: embeddings in the stored number format.
    """

    ids: Int[np.ndarray, " n"]
    vectors: Float[np.ndarray, "n d"]


class ImageRow(NamedTuple):
    """A row of the image table: `schemas.IMAGES`."""

    image_id: int
    path: str
    label: str
    size: int
    offset: int

    @property
    def span(self) -> Span | None:
        """Where the image lies in a tar file; None for one that lies in none."""
        if self.offset == NO_OFFSET:
            return None
        return Span(self.offset, self.size)


class QuarantinedImage(NamedTuple):
    """An image that could not be used, and why."""

    image_id: int
    path: str
    reason: str


class PartQuarantine(NamedTuple):
    """A part, the units in it, and their images without an embedding."""

    name: str
    units: tuple[int, ...]
    quarantined: list[QuarantinedImage]


class PartNotes(NamedTuple):
    """What a part says of its images besides their embeddings; it stands in the metadata of its file.

    Attributes:
        quarantined: images that have no embedding.
        twelve_bit: paths of those whose 16 bits hold values of 12, which come out nearly black.
        cosines: of fast-decoded to exact embeddings, where they were compared.
    """

    quarantined: list[QuarantinedImage]
    twelve_bit: list[str]
    cosines: list[float]

    def add(self, other: "PartNotes") -> None:
        """Say of the images of another part what it says."""
        self.quarantined.extend(other.quarantined)
        self.twelve_bit.extend(other.twelve_bit)
        self.cosines.extend(other.cosines)

    def to_metadata(self) -> dict[bytes, str]:
        """As metadata of a Parquet file."""
        return {
            ERRORS_KEY: json.dumps(to_rows(self.quarantined)),
            TWELVE_BIT_KEY: json.dumps(self.twelve_bit),
            COSINES_KEY: json.dumps(self.cosines),
        }

    @classmethod
    def from_metadata(cls, stored: Mapping[bytes, bytes]) -> "PartNotes":
        """Inverse of `to_metadata`; what an earlier version did not write is empty."""
        quarantined = from_rows(QuarantinedImage, json.loads(stored.get(ERRORS_KEY, b"[]")))
        twelve_bit = list(json.loads(stored.get(TWELVE_BIT_KEY, b"[]")))
        return cls(quarantined, twelve_bit, list(json.loads(stored.get(COSINES_KEY, b"[]"))))


@dataclass(frozen=True)
class EmbedArtifact(ArtifactView):
    """Images and their embeddings.

    Work is cut into units of consecutive images, each with one part of the embeddings.
    """

    # The images

    def images(self, columns: list[str] | None = None) -> pa.Table:
        """Table IMAGES of all listed images, quarantined ones too."""
        return self.files.read_table(IMAGES, columns)

    def image_paths(self) -> dict[int, str]:
        """Path of every listed image under the source's root."""
        table = self.images(["image_id", "path"])
        return dict(zip(table["image_id"].to_pylist(), table["path"].to_pylist(), strict=True))

    def image_labels(self) -> dict[int, str]:
        """Class folder of every listed image."""
        table = self.images(["image_id", "label"])
        return dict(zip(table["image_id"].to_pylist(), table["label"].to_pylist(), strict=True))

    def image_count(self) -> int:
        """Number of listed images."""
        filesystem, path = self.files.where(IMAGES)
        return int(pq.read_metadata(path, filesystem=filesystem).num_rows)

    def image_blocks(self, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The table IMAGES in pieces, of which one at a time is in memory."""
        filesystem, path = self.files.where(IMAGES)
        with pq.ParquetFile(path, filesystem=filesystem) as table:
            yield from table.iter_batches(IMAGE_ROWS, columns=columns)

    def unit_images(self, unit: int, unit_size: int) -> list[ImageRow]:
        """Rows of the image table that belong to one unit, without reading the others.

        Args:
            unit: its number.
            unit_size: images of a unit; the last one may have fewer.
        """
        rows: list[ImageRow] = []
        first = unit * unit_size
        # Where groups and units do not divide each other, a unit may lie in two groups.
        for group in range(first // IMAGE_ROWS, (first + unit_size - 1) // IMAGE_ROWS + 1):
            table = _image_group(self.files, group)
            start = max(0, first - group * IMAGE_ROWS)
            part = table.slice(start, first + unit_size - group * IMAGE_ROWS - start)
            columns = [part[name].to_pylist() for name in schemas.IMAGES.names]
            rows += [ImageRow(*values) for values in zip(*columns, strict=True)]
        return rows

    def write_images(self, batches: Iterable[pa.RecordBatch]) -> int:
        """Write the table IMAGES as it comes, and return the number of its rows.

        Args:
            batches: schema IMAGES; every one but the last has `IMAGE_ROWS` rows.
        """
        rows = 0
        with (
            self.draft.atomic(IMAGES) as temporary,
            # Classes repeat, so that a dictionary of them is all that a reader holds.
            pq.ParquetWriter(temporary, schemas.IMAGES, compression="zstd", use_dictionary=["label"]) as writer,
        ):
            for batch in batches:
                assert rows % IMAGE_ROWS == 0, "a short batch before the last one"
                schemas.check(pa.Table.from_batches([batch]), schemas.IMAGES)
                writer.write_batch(batch, row_group_size=IMAGE_ROWS)
                rows += len(batch)
        return rows

    def write_quarantine(self, table: pa.Table) -> None:
        """Write the table ERRORS of images that could not be used."""
        self.draft.write_table(ERRORS, table)

    # The networks

    def has_networks(self) -> bool:
        """Whether the description of the networks is written: no part is older than it."""
        return self.files.has(NETWORKS)

    def networks(self) -> EmbeddingSource:
        """Where the embeddings come from."""
        source: EmbeddingSource = self.files.read_json(NETWORKS)
        return source

    def preprocessing(self) -> list[DataConfig]:
        """Preprocessing of every network (timm's data configuration)."""
        return [member["preprocessing"] for member in self.networks()["members"]]

    def write_networks(self, source: EmbeddingSource) -> None:
        """Write where the embeddings come from, before any part."""
        self.draft.write_json(NETWORKS, source)

    # The embeddings

    def finished_units(self) -> set[int]:
        """Numbers of the units whose part is written."""
        units: set[int] = set()
        for name in self.files.parts():
            units.update(part_numbers(name))
        return units

    def write_part(
        self,
        unit: int,
        table: pa.Table,
        quarantined: Sequence[QuarantinedImage],
        twelve_bit: Sequence[str],
        cosines: Sequence[float] | None = None,
    ) -> None:
        """Write the embeddings of one unit, with what is to be said of its images, as one atomic file.

        Args:
            unit: number of the unit.
            table: columns of `schemas.embeddings`.
            quarantined: images of the unit without an embedding.
            twelve_bit: paths of those that came out nearly black.
            cosines: of fast-decoded to exact embeddings, where they were compared.
        """
        # In the file's own metadata: a second file could be lost between the two writes.
        notes = PartNotes(list(quarantined), list(twelve_bit), list(cosines or []))
        self.draft.write_table(part_name(unit), table.replace_schema_metadata(notes.to_metadata()))

    def notes(self) -> Iterator[PartNotes]:
        """What is to be said of the images of all finished units, part by part."""
        for name in self._whole_parts():
            yield self._part_notes(name)

    def quarantines(self) -> Iterator[PartQuarantine]:
        """The parts that lack images, those inside merged ones too."""
        for name in self.files.parts():
            quarantined = self._part_notes(name).quarantined
            if quarantined:
                yield PartQuarantine(name, tuple(part_numbers(name)), quarantined)

    def remove_part(self, name: str) -> None:
        """Remove a part, so that its units are made again."""
        self.draft.remove(name)

    def fast_cosines(self) -> list[float]:
        """Cosines of fast-decoded embeddings to exact ones; empty where all images were decoded exactly."""
        return self._part_notes(self._whole_parts()[0]).cosines

    # Many parts, made into few

    def unit_groups(self, units: int, unit_size: int) -> list[range]:
        """Units whose parts are to become one; none where all of them together would make no more than one.

        Args:
            units: number of units, all of them finished.
            unit_size: images of a unit.
        """
        row_bytes = 0
        for column in self._part_schema():
            if isinstance(column.type, pa.FixedShapeTensorType):
                row_bytes += math.prod(column.type.shape) * column.type.value_type.bit_width // 8
        size = math.ceil(PART_BYTES / (row_bytes * unit_size))
        if units <= size:
            return []
        groups = [range(first, min(first + size, units)) for first in range(0, units, size)]
        # A unit that is left alone at the end is one part already.
        return [group for group in groups if len(group) > 1]

    def merge_units(self, units: range) -> None:
        """Make the parts of some units one part; one that is there already replaces what an interruption left of them.

        Raises:
            UserError: a part is gone or damaged.
        """
        single = [part_name(unit) for unit in units]
        target = merged_name(units)
        if not self.files.has(target):
            notes = PartNotes([], [], [])
            tables = []
            for name in single:
                tables.append(self.files.read_table(name))
                notes.add(self._part_notes(name))
            table = pa.concat_tables([table.replace_schema_metadata() for table in tables])
            self.draft.write_table(target, table.replace_schema_metadata(notes.to_metadata()))
        # Only now: a reader before that finds the rows twice, which `_whole_parts` knows, and never not at all.
        for name in single:
            self.draft.remove(name)

    def width(self) -> int:
        """Width of the stored embeddings."""
        return int(self._part_schema().field("embedding").type.shape[0])

    def has_triplet_logits(self) -> bool:
        """Whether a student's head wrote its outputs beside the embeddings."""
        return "triplet_logits" in self._part_schema().names

    def blocks(self, column: str = "embedding") -> Iterator[EmbeddedRows]:
        """Embeddings part by part, in the order of the parts.

        Args:
            column: `embedding`, or `triplet_logits` where a student with a head made it.
        """
        for table in self.files.iter_parts(columns=["image_id", column]):
            # numpy wants one piece of memory, which for tensor columns combine_chunks does not always give.
            vectors = table[column].combine_chunks()
            if isinstance(vectors, pa.ChunkedArray):
                vectors = pa.concat_arrays(vectors.chunks)
            yield EmbeddedRows(table["image_id"].to_numpy(), vectors.to_numpy_ndarray())

    def embeddings(self, column: str = "embedding", only: Int[np.ndarray, " k"] | None = None) -> EmbeddedRows:
        """All embeddings, or those of some images, by ascending image_id.

        Args:
            column: as for `blocks`.
            only: image_ids to keep; those without an embedding (quarantined images) are left out.
        """
        ids: list[np.ndarray] = []
        vectors: list[np.ndarray] = []
        for block in self.blocks(column):
            # Chosen part by part, so that the others never lie in memory together.
            keep: slice | np.ndarray = slice(None)
            if only is not None:
                keep = np.isin(block.ids, only)
            ids.append(block.ids[keep])
            vectors.append(block.vectors[keep])

        # Parts are in the order of their units; sorted by id, two artifacts of the same images match row by row.
        all_ids = np.concatenate(ids)
        order = np.argsort(all_ids, kind="stable")
        return EmbeddedRows(all_ids[order], np.concatenate(vectors)[order])

    def embedded_ids(self) -> Int[np.ndarray, " n"]:
        """image_ids that have an embedding, ascending."""
        # Parquet reads columns by themselves, so this costs none of the vectors.
        blocks = [table["image_id"].to_numpy() for table in self.files.iter_parts(columns=["image_id"])]
        return np.sort(np.concatenate(blocks))

    def _part_notes(self, name: str) -> PartNotes:
        # The footer of the file alone is read, not its vectors.
        filesystem, path = self.files.where(name)
        return PartNotes.from_metadata(pq.read_metadata(path, filesystem=filesystem).metadata or {})

    def _whole_parts(self) -> list[str]:
        """Names of the parts, without those that a merged one holds as well."""
        names = self.files.parts()
        merged: set[int] = set()
        for name in names:
            if len(part_numbers(name)) > 1:
                merged.update(part_numbers(name))
        return [name for name in names if len(part_numbers(name)) > 1 or part_numbers(name)[0] not in merged]

    def _part_schema(self) -> pa.Schema:
        # All parts have one schema, so any of them answers.
        filesystem, path = self.files.where(self.files.parts()[0])
        return pq.read_schema(path, filesystem=filesystem)


@lru_cache(maxsize=2)
def _image_group(files: Artifact, group: int) -> pa.Table:
    """A row group of the image table; kept, since the units in it are asked for one after the other."""
    filesystem, path = files.where(IMAGES)
    with pq.ParquetFile(path, filesystem=filesystem) as table:
        if group >= table.num_row_groups:
            return schemas.IMAGES.empty_table()
        return table.read_row_group(group)
