"""The distill artifact: a student's folder, its training metrics, and checkpoints while it is trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alignet_ray.artifacts.base import ArtifactView, read_json_lines, write_json_lines
from alignet_ray.artifacts.student_files import BACKBONE_FILE, HEAD_FILE, MODEL_FILE, StudentDescription

METRICS = "metrics.jsonl"
STUDENT_FILES = (BACKBONE_FILE, MODEL_FILE, HEAD_FILE)
"""Files of a student's folder; the head may be missing."""


@dataclass(frozen=True)
class DistillArtifact(ArtifactView):
    """A trained student."""

    def folder(self) -> Path:
        """Local folder that `models.embedding_network.load_network` reads."""
        return self.files.local()

    def description(self) -> StudentDescription:
        """model.json: architecture, preprocessing, head, tau and provenance."""
        return StudentDescription.from_json(self.files.read_json(MODEL_FILE))

    def student_files(self) -> list[Path]:
        """Local paths of the student's files, without checkpoints and metrics."""
        return [self.files.local(name) for name in STUDENT_FILES if self.files.has(name)]

    def write_student(self, folder: Path) -> None:
        """Copy the files of a student's local folder."""
        # One by one, since the draft may lie in an object store.
        for file in sorted(folder.iterdir()):
            self.draft.write_bytes(file.name, file.read_bytes())

    def metrics(self) -> list[dict[str, float]]:
        """Rows of training metrics, each with its `step`; empty where there are none."""
        return read_json_lines(self.files, METRICS)

    def write_metrics(self, rows: Sequence[dict[str, float]]) -> None:
        """Write the training metrics."""
        write_json_lines(self.draft, METRICS, list(rows))
