"""Writes a trained network into its artifact: a student, or a network teacher, which has the same layout."""

import tempfile
from pathlib import Path

from alignet_ray.artifacts.distill import DistillArtifact
from alignet_ray.artifacts.student_files import Provenance
from alignet_ray.models.student import Student, save_student
from alignet_ray.store import Draft


def write_network(out: Draft, student: Student, provenance: Provenance) -> None:
    """Write a student's folder into an artifact, which may lie on remote storage.

    Args:
        out: the artifact that is being made.
        student: the network with its head.
        provenance: what model.json says of its origin.
    """
    # safetensors write to local paths only, so the folder is made here and then copied.
    with tempfile.TemporaryDirectory() as folder:
        save_student(Path(folder), student, provenance)
        DistillArtifact(out).write_student(Path(folder))
