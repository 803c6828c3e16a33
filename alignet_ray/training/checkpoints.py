"""Checkpoints of a training run: one atomic file each, read without unpickling; the newest two are kept."""

import io
import json
from concurrent.futures import Future, ThreadPoolExecutor
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


class CheckpointWriter:
    """Writes checkpoints in a thread, while training goes on: on shared storage a file of weights takes seconds.

    To be used with `contextlib.closing`: at the end the last checkpoint is waited for.
    """

    def __init__(self, out: Draft) -> None:
        self.out = out
        self.thread = ThreadPoolExecutor(1)
        self.writing: Future[None] | None = None

    def save(self, training: Training, metrics: MetricsLog) -> None:
        """Begin to write a checkpoint; one that is still being written is waited for.

        Raises:
            OSError: the one before could not be written.
        """
        self.wait()
        # Training changes its tensors in place, so what is written is a copy, in main memory.
        checkpoint: Checkpoint = {**training.state(), "metrics": json.dumps(asdict(metrics))}
        copied = torch.utils._pytree.tree_map_only(torch.Tensor, _copy, checkpoint)
        self.writing = self.thread.submit(_write, self.out, copied)

    def wait(self) -> None:
        """Wait for the checkpoint that is being written.

        Raises:
            OSError: it could not be written.
        """
        writing, self.writing = self.writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Wait for the last checkpoint without raising its error: the caller has another, or has called `wait`."""
        self.thread.shutdown()


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)


def _write(out: Draft, checkpoint: Checkpoint) -> None:
    """Write a checkpoint's file, then remove all but the newest ones."""
    sink = io.BytesIO()
    torch.save(checkpoint, sink)

    # One atomic write: a run that is killed here still finds the whole checkpoint before.
    out.write_bytes(f"{FOLDER}/step-{checkpoint['step']:08d}.pt", sink.getvalue())

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
