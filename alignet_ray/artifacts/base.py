"""What all typed views share: the files of one artifact, finished or being written."""

import json
from dataclasses import dataclass

from alignet_ray.store import Artifact, Draft


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
        assert isinstance(self.files, Draft), f"{self.files.uri} is finished and cannot be written to"
        return self.files


def part_name(number: int, folder: str = "") -> str:
    """File name of one part of a table: `part-00007.parquet`, in a folder where the artifact holds several tables."""
    name = f"part-{number:05d}.parquet"
    return f"{folder}/{name}" if folder else name


def part_number(name: str) -> int:
    """Number of the part with this file name."""
    return int(name.rpartition("part-")[2].removesuffix(".parquet"))


def write_json_lines(draft: Draft, name: str, rows: list[dict[str, float]]) -> None:
    """Write one JSON object a line."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    draft.write_bytes(name, text.encode())


def read_json_lines(files: Artifact, name: str) -> list[dict[str, float]]:
    """Read one JSON object a line; an empty list where the file is not there."""
    if not files.has(name):
        return []
    lines = files.read_bytes(name).decode().splitlines()
    return [json.loads(line) for line in lines if line.strip()]
