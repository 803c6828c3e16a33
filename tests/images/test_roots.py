from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.image_files import labels_of, write_tar

from alignet_ray.errors import UserError
from alignet_ray.images.listing import fingerprint, list_images, read_bytes
from alignet_ray.images.roots import is_file, read_start


def test_a_root_may_be_one_file(tmp_path: Path) -> None:
    (tmp_path / "one.jpg").write_bytes(b"J")
    write_tar(tmp_path / "two.tar", {"cat/1.jpg": b"1"})
    pq.write_table(pa.table({"image": [b"first", b"second"]}), tmp_path / "three.parquet")
    for name, paths, last in (
        ("one.jpg", ["one.jpg"], b"J"),
        ("two.tar", ["two.tar/cat/1.jpg"], b"1"),
        ("three.parquet", ["three.parquet/000000000", "three.parquet/000000001"], b"second"),
    ):
        for root in (str(tmp_path / name), f"file://{tmp_path / name}"):
            assert list(labels_of(root)) == paths
            assert read_bytes(root, paths[-1]) == last
            assert fingerprint(root)["files"] == 1


def test_a_single_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"photos\.zip is neither an image nor a \.tar or \.parquet file"):
        list_images(str(tmp_path / "photos.zip"))


def test_the_start_of_a_file_that_is_not_there_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"0123456789")
    assert read_start(str(tmp_path), "a.jpg", 4) == b"0123"
    assert read_start(str(tmp_path), "b.jpg", 4) == b""
    assert is_file(str(tmp_path), "a.jpg")
    assert not is_file(str(tmp_path), "b.jpg")
