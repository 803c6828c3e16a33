"""What all typed views share: the files of one artifact, finished or being written."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import safetensors.numpy

from alignet_ray.store import Artifact, Draft, JsonObject

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record")


@dataclass(frozen=True)
class ArtifactView:
    """A typed view of one artifact.

    Attributes:
        files: the artifact's folder; a `Draft` where the view is to write.
    """

    files: Artifact

    @property
    def id(self) -> str:
        """The artifact's id."""
        return self.files.id

    @property
    def draft(self) -> Draft:
        """The folder to write to; only a stage that makes the artifact has one."""
        # Only a mistake of ours leads here: finished artifacts never change.
        assert isinstance(self.files, Draft), f"{self.files.uri} is finished and cannot be written to"
        return self.files


def part_name(number: int, folder: str = "") -> str:
    """File name of one part of a table: `part-00007.parquet`, in a folder where the artifact holds several tables."""
    name = f"part-{number:05d}.parquet"
    if folder:
        return f"{folder}/{name}"
    return name


def merged_name(numbers: range) -> str:
    """File name of several parts that became one: `part-00000-00127.parquet`."""
    return f"part-{numbers[0]:05d}-{numbers[-1]:05d}.parquet"


def part_numbers(name: str) -> range:
    """Numbers of the parts that a file holds, by its name."""
    first, _, last = name.rpartition("part-")[2].removesuffix(".parquet").partition("-")
    return range(int(first), int(last or first) + 1)


def to_rows(records: "Iterable[DataclassInstance | NamedTuple]") -> list[JsonObject]:
    """Dataclasses or named tuples as dictionaries, for JSON and for tables."""
    return [_to_row(record) for record in records]


def _to_row(record: "DataclassInstance | NamedTuple") -> JsonObject:
    if isinstance(record, tuple):
        return record._asdict()
    return asdict(record)


def from_rows(kind: type[Record], rows: Iterable[Mapping[str, Any]]) -> list[Record]:
    """Inverse of `to_rows`."""
    return [kind(**row) for row in rows]


def safetensors_of(arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    """Arrays as the content of a safetensors file."""
    # safetensors writes memory as it lies, so rows must come first.
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return bytes(safetensors.numpy.save(contiguous, metadata))


def write_json_lines(draft: Draft, name: str, rows: list[dict[str, float]]) -> None:
    """Write one JSON object a line."""
    lines = [json.dumps(row) + "\n" for row in rows]
    draft.write_bytes(name, "".join(lines).encode())


def read_json_lines(files: Artifact, name: str) -> list[dict[str, float]]:
    """Read one JSON object a line; an empty list where the file is not there."""
    if not files.has(name):
        return []

    # An empty line is what an editor leaves at the end of a file.
    lines = files.read_bytes(name).decode().splitlines()
    return [json.loads(line) for line in lines if line.strip()]
