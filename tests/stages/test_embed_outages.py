"""Images that could not be read for a while are embedded by the next call."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alignet_ray.artifacts.embed import EmbedArtifact
from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.images import storage
from alignet_ray.stages import Work, embed
from alignet_ray.stages.embed_outages import forget_outages

IMAGES = 40
UNIT = 16
"""Images of a unit, where there are so few."""

Make = Callable[..., Work]

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(IMAGES):
        pixels = np.full((40, 40, 3), number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number:02}.png")
    (tmp_path / "images" / "05.png").write_bytes(b"no picture")
    return tmp_path / "images"


@pytest.fixture
def cfg(folder: Path) -> Config:
    changes = {"corpus__path": str(folder), "embed__model": ("random:test_vit",), "embed__size": 32}
    return Config().replace(embed__max_bad=0.1, **changes)


def unreachable(monkeypatch: pytest.MonkeyPatch, names: set[str]) -> None:
    read = storage.read

    def lost(uri: str, path: str, span: object = None) -> bytes:
        if path in names:
            raise OSError(116, "Stale file handle")
        return read(uri, path)

    monkeypatch.setattr(storage, "read", lost)


def embed_here(cfg: Config, make_work: Make) -> Work:
    work = make_work(cfg, "embed@corpus", force=False)
    embed.run(work)
    return work


def test_an_outage_is_not_remembered(cfg: Config, make_work: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as outage:
        unreachable(outage, {f"{number:02}.png" for number in range(20, 30)})
        with pytest.raises(UserError, match="11 of 40 images cannot be used"):
            embed_here(cfg, make_work)
    artifact = EmbedArtifact(make_work(cfg, "embed@corpus", force=False).out)
    assert 0 in artifact.finished_units()

    work = embed_here(cfg, make_work)
    assert work.facts.rows == IMAGES - 1
    assert work.facts.reused_parts == 1, "the first unit lacks what nobody can read, and stays"
    ids = EmbedArtifact(work.out).files.read_parts()["image_id"].to_pylist()
    assert sorted(ids) == [number for number in range(IMAGES) if number != 5]


def test_what_is_still_away_stays_away(cfg: Config, make_work: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    unreachable(monkeypatch, {f"{number:02}.png" for number in range(20, 30)})
    for _ in range(2):
        with pytest.raises(UserError, match="11 of 40 images cannot be used"):
            embed_here(cfg, make_work)


def test_merged_parts_are_made_again_as_a_whole(
    cfg: Config, folder: Path, make_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as outage:
        unreachable(outage, {"20.png"})
        artifact = EmbedArtifact(embed_here(cfg, make_work).out)
    artifact.merge_units(range(3))
    assert forget_outages(artifact, str(folder), UNIT) == 1
    assert not artifact.finished_units()

    # Nothing is left to be forgotten.
    assert forget_outages(artifact, str(folder), UNIT) == 0
