"""Stored transforms for tests."""

from pathlib import Path
from typing import Any

from alignet_ray.artifacts.transforms import dump_transform
from alignet_ray.core.affine import AffineTransform


def save_transform(path: str | Path, transform: AffineTransform, provenance: dict[str, Any] | None = None) -> None:
    """Write a transform to a local file in the format that its suffix says."""
    target = Path(path)
    target.write_bytes(dump_transform(target.suffix, transform, provenance))
