"""Files that a training process writes into its artifact: a network's folder, and rows of metrics."""

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from alignet_ray.models.student import Student, save_student
from alignet_ray.store import Draft

METRICS = "metrics.jsonl"


def write_network(out: Draft, student: Student, provenance: dict[str, Any]) -> None:
    """Write a student's folder (or a network teacher's, which has the same layout)."""
    with tempfile.TemporaryDirectory() as folder:
        save_student(Path(folder), student, provenance)
        for file in sorted(Path(folder).iterdir()):
            out.write_bytes(file.name, file.read_bytes())


def write_metrics(out: Draft, rows: Iterable[Mapping[str, float]]) -> None:
    """Write rows of metrics, one JSON object a line."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    out.write_bytes(METRICS, text.encode())


def read_metrics(out: Draft) -> list[dict[str, float]]:
    """Rows of metrics as they were written."""
    return [json.loads(line) for line in out.read_bytes(METRICS).splitlines()]
