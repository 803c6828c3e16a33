from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.stages import Work, embed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(40):
        path = tmp_path / "images" / f"c{i % 4}" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


def config(folder: Path, **changes: Any) -> Config:
    settings = {"corpus__path": str(folder), "embed__model": ("random:test_vit",), "embed__size": 32} | changes
    return Config().replace(**settings)


def rows(work: Work) -> dict[int, np.ndarray]:
    table = work.out.read_parts()
    vectors = table["embedding"].combine_chunks().to_numpy_ndarray()
    return dict(zip(table["image_id"].to_pylist(), vectors, strict=True))


def test_two_actors_embed_every_image(ray_session: None, folder: Path, make_work: Callable[..., Work]) -> None:
    work = make_work(config(folder), "embed@corpus")
    embed.run(work)
    found = rows(work)
    assert list(found) == list(range(40))
    assert len(work.facts["actors"]) == 2
    assert work.out.read_table("errors.parquet").num_rows == 0


def test_unknown_model_is_told(ray_session: None, folder: Path, make_work: Callable[..., Work]) -> None:
    with pytest.raises(UserError, match="did you mean"):
        embed.run(make_work(config(folder, embed__model=("random:resnet1888",)), "embed@corpus"))
