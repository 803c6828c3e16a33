"""The distill artifact: a student's folder, its training metrics, and checkpoints while it is trained."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alignet_ray.artifacts.base import ArtifactView, read_json_lines, write_json_lines
from alignet_ray.artifacts.student_files import BACKBONE_FILE, HEAD_FILE, MODEL_FILE, StudentDescription

METRICS = "metrics.jsonl"
INTERPOLATION = "interpolation.json"
STUDENT_FILES = (BACKBONE_FILE, MODEL_FILE, HEAD_FILE)
"""Files of a student's folder; the head may be missing."""


@dataclass(frozen=True)
class ScoreChange:
    """A score (fraction) and its difference to the pretrained network's, with a 95 % interval over objects."""

    value: float
    change: float
    low: float
    high: float


@dataclass(frozen=True)
class InterpolatedStudent:
    """A student between its pretrained weights (0) and its trained ones (1), on validation objects.

    Attributes:
        interpolation: how far from the pretrained weights.
        agreement: agreement of the embeddings with people (fraction).
        head_agreement: agreement of the head; None without one.
        neighbours_kept: share of each image's ten nearest neighbours that it has before training, too.
        kept: scores of telling objects apart: few_shot_1, few_shot_5, same_object; those that enough objects allow.
        mean_change: all of them in one: an object's value is the mean of its scores; None where there are none.
    """

    interpolation: float
    agreement: float
    head_agreement: float | None
    neighbours_kept: float
    kept: dict[str, ScoreChange]
    mean_change: ScoreChange | None

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "InterpolatedStudent":
        """Inverse of `dataclasses.asdict`."""
        kept = {name: ScoreChange(**change) for name, change in stored["kept"].items()}
        mean_change = None
        if stored["mean_change"]:
            mean_change = ScoreChange(**stored["mean_change"])
        return cls(**{**stored, "kept": kept, "mean_change": mean_change})


@dataclass(frozen=True)
class Interpolation:
    """The student's place between its pretrained weights (0) and its trained ones (1).

    Attributes:
        chosen: the share of the way.
        reason: why this one.
        points: the shares that were tried, ascending; empty where the settings fixed one or nothing could be tried.
    """

    chosen: float
    reason: str
    points: list[InterpolatedStudent]


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

    def interpolation(self) -> Interpolation:
        """Where the student is between its pretrained weights and its trained ones."""
        stored = self.files.read_json(INTERPOLATION)
        points = [InterpolatedStudent.from_json(point) for point in stored["points"]]
        return Interpolation(stored["chosen"], stored["reason"], points)

    def write_interpolation(self, interpolation: Interpolation) -> None:
        """Write where the student is between its pretrained weights and its trained ones."""
        self.draft.write_json(INTERPOLATION, asdict(interpolation))
