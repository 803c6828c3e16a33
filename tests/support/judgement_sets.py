"""Sets of human judgements on disk, with images of their own and planted answers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image


def write_images(folder: Path, names: list[str], seed: int = 0) -> None:
    """Small pictures of noise: no two have the same bytes."""
    rng = np.random.default_rng(seed)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(folder / name)


def write_set(folder: Path, names: list[str], description: Mapping[str, Any], seed: int = 0) -> str:
    """A folder with images and a `set.yaml`; the file of judgements is the caller's to write."""
    write_images(folder / "images", names, seed)
    (folder / "set.yaml").write_text(yaml.safe_dump(dict(description)))
    return str(folder)
