"""Checkpoints of a training run: one atomic file each, read without unpickling; the newest two are kept."""

import io
import json
from pathlib import Path
from typing import Any

import torch

from alignet_ray.models.training import Training
from alignet_ray.store import Artifact, Draft

FOLDER = "checkpoints"


def latest(out: Artifact) -> str | None:
    """Name of the newest checkpoint."""
    names = out.files(FOLDER, ".pt")
    return names[-1] if names else None


def step_of(name: str | None) -> int:
    """Updates done when a checkpoint was written; 0 without one."""
    return int(Path(name).stem.split("-")[1]) if name else 0


def save(out: Draft, training: Training, history: list[dict[str, Any]]) -> None:
    """Write a checkpoint with the metrics so far, then remove all but the one before it."""
    sink = io.BytesIO()
    torch.save({**training.state(), "history": json.dumps(history)}, sink)
    older = out.files(FOLDER, ".pt")
    out.write_bytes(f"{FOLDER}/step-{training.step:08d}.pt", sink.getvalue())
    for name in older[:-1]:
        out.remove(name)


def resume(out: Draft, training: Training) -> list[dict[str, Any]]:
    """Go on from the newest checkpoint, if there is one; returns the metrics so far."""
    name = latest(out)
    if name is None:
        return []
    state: dict[str, Any] = torch.load(io.BytesIO(out.read_bytes(name)), map_location="cpu", weights_only=True)
    training.resume(state)
    history: list[dict[str, Any]] = json.loads(state["history"])
    return history
