"""Shards are opened in any number of threads, once each."""

import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest
from support.image_files import write_tar

from alignet_ray.artifacts.schemas import IMAGES
from alignet_ray.errors import UserError
from alignet_ray.images.file_kinds import LeftOut
from alignet_ray.images.listing import fingerprint, list_batches, list_images
from alignet_ray.images.listings import Listings
from alignet_ray.images.shards import OpenedShard, ShardOpener, open_shard


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Plain files before, between and after six tar files, one of them without an image."""
    root = tmp_path / "images"
    for number in range(5):
        members = {f"dog/{name}.jpg": b"\xff\xd8" + bytes(name) for name in range(number)}
        write_tar(root / f"b{number}.tar", members | {"notes.txt": b"n"})
    write_tar(root / "b9.tar", {"readme": b"r"})
    for name in ("a/1.jpg", "b2/1.jpg", "c/1.jpg", "c/list.doc"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"\xff\xd8")
    return root


def rows_by(shards: ShardOpener, folder: Path) -> tuple[pa.Table, LeftOut]:
    left_out = LeftOut()
    return pa.Table.from_batches(list_batches(str(folder), left_out, shards=shards), schema=IMAGES), left_out


def slowly(uri: str, path: str) -> OpenedShard:
    """The first shards take longest."""
    time.sleep((9 - int(path[1])) / 200)
    return open_shard(uri, path)


@pytest.mark.parametrize("at_once", [1, 2, 5, 50])
def test_rows_and_counts_do_not_depend_on_how_many_are_opened_at_a_time(folder: Path, at_once: int) -> None:
    expected, left_out = rows_by(ShardOpener(), folder)
    assert expected["image_id"].to_pylist() == list(range(13))
    assert expected["path"].to_pylist() == sorted(expected["path"].to_pylist(), key=str.encode)
    assert left_out.files.count == 7
    assert rows_by(ShardOpener(None, slowly, at_once), folder) == (expected, left_out)


def test_a_shard_that_stays_the_same_is_opened_once(folder: Path, tmp_path: Path) -> None:
    opened: list[str] = []
    lock = threading.Lock()

    def noted(uri: str, path: str) -> OpenedShard:
        with lock:
            opened.append(path)
        return open_shard(uri, path)

    shards = ShardOpener(tmp_path / "cache", noted, 3)
    first = rows_by(shards, folder)
    assert sorted(opened) == ["b0.tar", "b1.tar", "b2.tar", "b3.tar", "b4.tar", "b9.tar"]
    assert rows_by(shards, folder) == first
    assert len(opened) == 6

    # One more file, and one that changed.
    write_tar(folder / "b5.tar", {"cat/1.jpg": b"\xff\xd8"})
    write_tar(folder / "b1.tar", {"cat/1.jpg": b"\xff\xd8", "cat/2.jpg": b"\xff\xd8"})
    assert rows_by(shards, folder) == rows_by(ShardOpener(), folder)
    assert sorted(opened[6:]) == ["b1.tar", "b5.tar"]
    assert not list((tmp_path / "cache").glob(".*")), "no half file is left"


def test_a_listing_that_was_stopped_goes_on(folder: Path, tmp_path: Path) -> None:
    opened: list[str] = []

    def stopped(uri: str, path: str) -> OpenedShard:
        if path == "b3.tar":
            raise KeyboardInterrupt
        return open_shard(uri, path)

    def noted(uri: str, path: str) -> OpenedShard:
        opened.append(path)
        return open_shard(uri, path)

    taken = {str(folder): fingerprint(str(folder))}
    with pytest.raises(KeyboardInterrupt):
        Listings(tmp_path, taken, ShardOpener(tmp_path, stopped, 1)).table(str(folder))
    table = Listings(tmp_path, taken, ShardOpener(tmp_path, noted, 1)).table(str(folder))
    assert table == list_images(str(folder))
    # One more may have been opened ahead of the one that failed.
    assert {"b3.tar", "b9.tar"} <= set(opened) <= {"b3.tar", "b4.tar", "b9.tar"}


@pytest.mark.parametrize("size", [0, 100, -4])
def test_kept_rows_that_lost_their_end_are_made_again(folder: Path, tmp_path: Path, size: int) -> None:
    taken = {str(folder): fingerprint(str(folder))}
    for _ in range(2):
        found = Listings(tmp_path, taken, ShardOpener(tmp_path)).table(str(folder))
        assert found == list_images(str(folder))
        kept = list(tmp_path.glob("*.parquet"))
        assert len(kept) == 7
        for file in kept:
            file.write_bytes(file.read_bytes()[:size])


def test_a_damaged_shard_is_named_and_not_kept(folder: Path, tmp_path: Path) -> None:
    (folder / "b2.tar").write_bytes((folder / "b4.tar").read_bytes()[:700])
    cache = tmp_path / "cache"
    for _ in range(2):
        with pytest.raises(UserError, match=r"b2\.tar is not a whole tar file"):
            rows_by(ShardOpener(cache, open_shard, 2), folder)
    assert len(list(cache.iterdir())) <= 5
