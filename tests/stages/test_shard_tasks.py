"""Large folders' shards are opened in Ray's tasks: with the same rows, and the same line about a damaged one."""

from pathlib import Path

import pytest
from support.image_files import write_tar

from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.images.file_kinds import LeftOut
from alignet_ray.images.listing import fingerprint, list_images
from alignet_ray.images.shards import open_shard
from alignet_ray.screen import Screen
from alignet_ray.stages import shard_tasks


@pytest.fixture
def folder(tmp_path: Path) -> str:
    for number in range(7):
        members = {f"dog/{name}.jpg": b"\xff\xd8" for name in range(3 * number)}
        write_tar(tmp_path / "images" / f"{number}.tar", members | {"notes.txt": b"n"})
    return str(tmp_path / "images")


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    return Config().replace(store__root=str(tmp_path / "runs"))


def found_bytes(uri: str, size: float) -> dict[str, object]:
    return {uri: {"files": 1, "bytes": size, "sha256": ""}}


def test_large_folders_take_tasks(cfg: Config) -> None:
    assert not shard_tasks.takes_tasks(cfg, found_bytes("images", 3e9))
    assert shard_tasks.takes_tasks(cfg, found_bytes("images", 6e9))
    # What travels takes longer than what is jumped over.
    assert shard_tasks.takes_tasks(cfg, found_bytes("s3://bucket/images", 3e9))
    assert shard_tasks.takes_tasks(cfg.replace(ray__force=True), found_bytes("images", 1))
    assert not shard_tasks.takes_tasks(cfg, {"people.txt": ["people.txt", 10**15, 0]})


def test_tasks_give_the_same_rows(cfg: Config, folder: str, ray_session: None) -> None:
    expected_left_out = LeftOut()
    expected = list_images(folder, expected_left_out)

    listings = shard_tasks.run_listings(cfg.replace(ray__force=True), {folder: fingerprint(folder)}, Screen())
    assert listings.shards.open_one is not open_shard
    left_out = LeftOut()
    assert listings.table(folder, left_out) == expected
    assert left_out == expected_left_out

    # Other folders of the same run are small.
    here = shard_tasks.run_listings(cfg, {folder: fingerprint(folder)}, Screen())
    assert here.shards.open_one is open_shard
    assert here.table(folder) == expected


def test_a_damaged_shard_of_a_task_is_one_line(cfg: Config, folder: str, ray_session: None) -> None:
    (Path(folder) / "3.tar").write_bytes(b"no tar file" * 100)
    listings = shard_tasks.run_listings(cfg.replace(ray__force=True), {folder: fingerprint(folder)}, Screen())
    with pytest.raises(UserError) as refused:
        listings.table(folder)
    assert str(refused.value).startswith(f"{folder}/3.tar is not a whole tar file (")
    assert "\n" not in str(refused.value)
