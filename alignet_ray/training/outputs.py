"""Writes a trained network into its artifact: a student, or a network teacher, which has the same layout."""

import tempfile
from pathlib import Path

from alignet_ray.artifacts.distill import DistillArtifact
from alignet_ray.artifacts.student_files import Provenance
from alignet_ray.models.embedding_network import EmbeddingNetwork, save_network
from alignet_ray.store import Draft


def write_network(out: Draft, network: EmbeddingNetwork, provenance: Provenance) -> None:
    """Write a student's folder into an artifact, which may lie on remote storage.

    Args:
        out: the artifact that is being made.
        network: with its head.
        provenance: what model.json says of its origin.
    """
    # safetensors write to local paths only, so the folder is made here and then copied.
    with tempfile.TemporaryDirectory() as folder:
        save_network(Path(folder), network, provenance)
        DistillArtifact(out).write_student(Path(folder))
