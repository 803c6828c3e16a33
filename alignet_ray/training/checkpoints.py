"""Checkpoints of a training run: one atomic file each, read without unpickling; the newest two are kept."""

import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from alignet_ray.store import Artifact, Draft
from alignet_ray.training.loop import Training

FOLDER = "checkpoints"


def latest(out: Artifact) -> str | None:
    """Name of the newest checkpoint."""
    names = out.files(FOLDER, ".pt")
    return names[-1] if names else None


def step_of(name: str | None) -> int:
    """Updates done when a checkpoint was written; 0 without one."""
    return int(Path(name).stem.split("-")[1]) if name else 0


@dataclass
class Notes:
    """What a run has to say so far: rows of metrics, and the figures of the updates since the last row."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    recent: list[dict[str, float]] = field(default_factory=list)


def save(out: Draft, training: Training, notes: Notes) -> None:
    """Write a checkpoint with the notes so far, then remove all but the newest two."""
    sink = io.BytesIO()
    torch.save({**training.state(), "notes": json.dumps(asdict(notes))}, sink)
    out.write_bytes(f"{FOLDER}/step-{training.step:08d}.pt", sink.getvalue())
    for name in out.files(FOLDER, ".pt")[:-2]:
        out.remove(name)


def resume(out: Draft, training: Training) -> Notes:
    """Go on from the newest checkpoint, if there is one; returns the notes so far."""
    name = latest(out)
    if name is None:
        return Notes()
    state: dict[str, Any] = torch.load(io.BytesIO(out.read_bytes(name)), map_location="cpu", weights_only=True)
    training.resume(state)
    return Notes(**json.loads(state["notes"]))
