"""The embed artifact: the images of one job, their embeddings in parts, and the networks that made them."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from alignet_ray.artifacts import schemas
from alignet_ray.artifacts.base import ArtifactView, from_rows, part_name, part_number
from alignet_ray.artifacts.schemas import NO_OFFSET, Span
from alignet_ray.artifacts.student_files import DataConfig, EmbeddingSource
from alignet_ray.store import Artifact

IMAGES = "images.parquet"
IMAGE_ROWS = 65_536
"""Rows of a row group of the image table: few groups, as all of them are described in the footer that a reader begins
with, and none so large that a process could not hold it."""
ERRORS = "errors.parquet"
NETWORKS = "model.json"

ERRORS_KEY = b"alignet.errors"
"""Parquet metadata of a part: its images in quarantine, so that part and quarantine are one atomic file."""
DARK_KEY = b"alignet.dark"
"""Parquet metadata of a part: paths of its images that came out nearly black."""
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
        return {part_number(name) for name in self.files.parts()}

    def write_part(
        self,
        unit: int,
        table: pa.Table,
        quarantined: Sequence[QuarantinedImage],
        dark: Sequence[str],
        cosines: Sequence[float] | None = None,
    ) -> None:
        """Write the embeddings of one unit, with what is to be said of its images, as one atomic file.

        Args:
            unit: number of the unit.
            table: columns of `schemas.embeddings`.
            quarantined: images of the unit without an embedding.
            dark: paths of those that came out nearly black.
            cosines: of fast-decoded to exact embeddings, where they were compared.
        """
        # In the file's own metadata: a second file could be lost between the two writes.
        notes = {
            ERRORS_KEY: json.dumps([image._asdict() for image in quarantined]),
            DARK_KEY: json.dumps(list(dark)),
        }
        if cosines is not None:
            notes[COSINES_KEY] = json.dumps(list(cosines))
        self.draft.write_table(part_name(unit), table.replace_schema_metadata(notes))

    def quarantined(self, unit: int) -> list[QuarantinedImage]:
        """Images of a finished unit that have no embedding."""
        notes = self._part_metadata(unit)
        return from_rows(QuarantinedImage, json.loads(notes[ERRORS_KEY]))

    def dark_images(self, unit: int) -> list[str]:
        """Paths of a finished unit's images that came out nearly black."""
        return list(json.loads(self._part_metadata(unit).get(DARK_KEY, b"[]")))

    def fast_cosines(self) -> list[float]:
        """Cosines of fast-decoded embeddings to exact ones; empty where all images were decoded exactly."""
        stored = self._part_metadata(0).get(COSINES_KEY, b"[]")
        return list(json.loads(stored))

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

    def _part_metadata(self, unit: int) -> dict[bytes, bytes]:
        # The footer of the file alone is read, not its vectors.
        filesystem, path = self.files.where(part_name(unit))
        return dict(pq.read_metadata(path, filesystem=filesystem).metadata or {})

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
