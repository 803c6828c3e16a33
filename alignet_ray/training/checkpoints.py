"""Checkpoints of a training run: one atomic file each, read without unpickling; the newest two are kept."""

import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from alignet_ray.store import Artifact, Draft
from alignet_ray.training.loop import Training, TrainingState

FOLDER = "checkpoints"
KEPT = 2
"""Checkpoints that are kept."""


class Checkpoint(TrainingState):
    """Content of a checkpoint's file; the metrics are a JSON text."""

    metrics: str


@dataclass
class MetricsLog:
    """Metrics of a run so far.

    Attributes:
        rows: of metrics.jsonl.
        recent: figures of each update since the last row.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    recent: list[dict[str, float]] = field(default_factory=list)


def latest(out: Artifact) -> str | None:
    """Name of the newest checkpoint; None without any."""
    names = out.files(FOLDER, ".pt")
    return names[-1] if names else None


def step_of(name: str) -> int:
    """Updates done when a checkpoint was written."""
    return int(Path(name).stem.split("-")[1])


def save(out: Draft, training: Training, metrics: MetricsLog) -> None:
    """Write a checkpoint with the metrics so far, then remove all but the newest ones."""
    checkpoint: Checkpoint = {**training.state(), "metrics": json.dumps(asdict(metrics))}
    sink = io.BytesIO()
    torch.save(checkpoint, sink)

    # One atomic write: a run that is killed here still finds the whole checkpoint before.
    out.write_bytes(f"{FOLDER}/step-{training.step:08d}.pt", sink.getvalue())

    for name in out.files(FOLDER, ".pt")[:-KEPT]:
        out.remove(name)


def resume(out: Draft, training: Training) -> MetricsLog:
    """Go on from the newest checkpoint, if there is one; returns the metrics so far."""
    name = latest(out)
    if name is None:
        return MetricsLog()
    source = io.BytesIO(out.read_bytes(name))
    checkpoint: Checkpoint = torch.load(source, map_location="cpu", weights_only=True)
    training.resume(checkpoint)
    return MetricsLog(**json.loads(checkpoint["metrics"]))
