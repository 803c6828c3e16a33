import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from alignet_ray.errors import UserError
from alignet_ray.images.listing import fingerprint, list_images, read_bytes
from alignet_ray.images.storage import LeftOut, class_list


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def rows(uri: str) -> dict[str, str]:
    table = list_images(uri)
    assert table["image_id"].to_pylist() == list(range(len(table)))
    assert table["path"].to_pylist() == sorted(table["path"].to_pylist(), key=str.encode)
    return dict(zip(table["path"].to_pylist(), table["label"].to_pylist(), strict=True))


def test_tar_shards_list_their_images_by_name(tmp_path: Path) -> None:
    members = {"b.jpg": b"B", "b.cls": b"7\n", "a.png": b"AA", "a.cls": b"cat", "c.json": b"{}", "./dog/d.jpg": b"DDD"}
    write_tar(tmp_path / "shard-0.tar", members)
    (tmp_path / "shard-0.tar0.jpg").write_bytes(b"beside")
    found = rows(str(tmp_path))
    assert found == {
        "shard-0.tar/a.png": "cat",
        "shard-0.tar/b.jpg": "7",
        "shard-0.tar/dog/d.jpg": "dog",
        "shard-0.tar0.jpg": "",
    }
    contents = [read_bytes(str(tmp_path), path) for path in found]
    assert contents == [b"AA", b"B", b"DDD", b"beside"]


def test_a_tar_without_classes_gives_its_folders_or_a_name_that_is_a_class(tmp_path: Path) -> None:
    write_tar(tmp_path / "train" / "nested.tar", {"cat/1.jpg": b"1", "./train/dog/2.jpg": b"2", "3.jpg": b"3"})
    write_tar(tmp_path / "train" / "n02085620.tar", {"n02085620_1.JPEG": b"4", "5.JPEG": b"5"})
    write_tar(tmp_path / "train" / "dog.tar", {"dog_1.jpg": b"6", "dog-2.jpg": b"7"})
    write_tar(tmp_path / "train" / "00001.tar", {"a.jpg": b"8", "b.jpg": b"9"})
    assert rows(str(tmp_path)) == {
        "train/00001.tar/a.jpg": "",
        "train/00001.tar/b.jpg": "",
        "train/dog.tar/dog-2.jpg": "dog",
        "train/dog.tar/dog_1.jpg": "dog",
        "train/n02085620.tar/5.JPEG": "n02085620",
        "train/n02085620.tar/n02085620_1.JPEG": "n02085620",
        "train/nested.tar/3.jpg": "",
        "train/nested.tar/cat/1.jpg": "cat",
        "train/nested.tar/train/dog/2.jpg": "dog",
    }


def test_a_cut_tar_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", {"a.jpg": bytes(5000), "b.jpg": bytes(5000)})
    (tmp_path / "x.tar").write_bytes((tmp_path / "x.tar").read_bytes()[:3000])
    with pytest.raises(UserError, match=r"x\.tar is not a whole tar file"):
        list_images(str(tmp_path))


@pytest.mark.parametrize("nested", [True, False])
def test_parquet_rows_keep_their_order_over_row_groups(tmp_path: Path, nested: bool) -> None:
    images = [f"image {i}".encode() for i in range(25)]
    column = pa.array([{"bytes": data, "path": None} for data in images]) if nested else pa.array(images)
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    table = pa.table({"image": column, "label": [i % 2 for i in range(25)]})
    if nested:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "data.parquet", row_group_size=10)
    found = rows(str(tmp_path))
    assert [read_bytes(str(tmp_path), path) for path in found] == images
    assert list(found.values())[:3] == (["cat", "dog", "cat"] if nested else ["0", "1", "0"])


def test_a_table_without_images_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": ["a", "b"]}), tmp_path / "data.parquet")
    with pytest.raises(UserError, match="has no column of encoded images"):
        list_images(str(tmp_path))
    (tmp_path / "data.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="is not a whole Parquet file"):
        list_images(str(tmp_path))


def test_imagenets_own_layout(tmp_path: Path) -> None:
    names = [
        "train/n01/a.JPEG",
        "train/n02/b.JPEG",
        "val/ILSVRC2012_val_00000001.JPEG",
        "val/ILSVRC2012_val_00000002.JPEG",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    before = fingerprint(str(tmp_path))
    classes = ["ImageId,PredictionString", "ILSVRC2012_val_00000002,n02 1 2 3 4", "ILSVRC2012_val_00000001,n07 5 6 7 8"]
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join(classes))
    assert list(rows(str(tmp_path)).values()) == ["n01", "n02", "n07", "n02"]
    assert fingerprint(str(tmp_path)) != before


def test_class_lists_in_their_three_layouts() -> None:
    assert class_list("val_0.JPEG\tn03\t0\t32\t44\t62\n") == {"val_0": "n03"}
    assert class_list("n01\nn02\n") == {"ILSVRC2012_val_00000001": "n01", "ILSVRC2012_val_00000002": "n02"}


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An s3:// prefix on a server of our own, on loopback; the environment names it, as a user's would."""
    pytest.importorskip("moto.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    log = (tmp_path_factory.mktemp("s3") / "server.log").open("w")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    names = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    names["AWS_ENDPOINT_URL"] = endpoint
    before = {name: os.environ.get(name) for name in names}
    os.environ |= names
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        fs = pafs.S3FileSystem(endpoint_override=endpoint, scheme="http", allow_bucket_creation=True)
        fs.create_dir("pictures")
        yield f"s3://pictures/set?endpoint_override=127.0.0.1:{port}&scheme=http"
    finally:
        server.terminate()
        server.wait()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def write_corpus(folder: Path) -> None:
    """Images one by one, in a shard and in a table."""
    for name in ("a/x.jpg", "a/.hidden.jpg", "b.png", "a-b/y.jpg", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    write_tar(folder / "s.tar", {"m.jpg": b"member", "m.cls": b"3"})
    pq.write_table(pa.table({"jpg": [b"one", b"two"]}), folder / "t.parquet")


def test_s3_gives_the_same_list_as_the_folder(bucket: str, tmp_path: Path) -> None:
    write_corpus(tmp_path)
    fs, base = pafs.FileSystem.from_uri(bucket)
    pafs.copy_files(str(tmp_path), base, destination_filesystem=fs)
    assert rows(bucket) == rows(str(tmp_path))
    for path in rows(bucket):
        assert read_bytes(bucket, path) == read_bytes(str(tmp_path), path)
    assert fingerprint(bucket) == fingerprint(bucket)
    with pytest.raises(UserError, match=r"cannot list|no images under"):
        list_images(bucket.replace("/set", "/elsewhere"))


def test_a_url_that_only_fsspec_knows_gives_the_same_list_as_the_folder(tmp_path: Path) -> None:
    import fsspec

    write_corpus(tmp_path)
    url = "memory://corpus"
    fsspec.filesystem("memory").put(str(tmp_path), "/corpus", recursive=True)
    assert rows(url) == rows(str(tmp_path))
    for path in rows(url):
        assert read_bytes(url, path) == read_bytes(str(tmp_path), path)
    assert len(fingerprint(url)) == len(fingerprint(str(tmp_path)))
    with pytest.raises(UserError, match="nowhere"):
        list_images("nowhere://bucket/set")


def classes_in_parquet(path: Path, labels: list[int | None], names: list[str] | None) -> dict[str, str]:
    """Labels that are read from a Parquet file as Hugging Face's datasets write it."""
    table = pa.table({"image": [b"x"] * len(labels), "label": pa.array(labels, pa.int64())})
    if names:
        about = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({b"huggingface": json.dumps(about).encode()})
    pq.write_table(table, path / "data.parquet")
    return rows(str(path))


@pytest.mark.parametrize("names", [["ant", "bee", "cat"], None])
def test_a_withheld_class_is_unknown_and_never_the_last_one(tmp_path: Path, names: list[str] | None) -> None:
    found = classes_in_parquet(tmp_path, [-1, None, 0, 2], names)
    assert list(found.values()) == (["", "", "ant", "cat"] if names else ["", "", "0", "2"])


@pytest.mark.parametrize("label", [3, -2])
def test_a_class_without_a_name_is_refused(tmp_path: Path, label: int) -> None:
    says = rf"data\.parquet: row 1: class {label}, but the file names 3 classes \(0 to 2\)"
    with pytest.raises(UserError, match=says):
        classes_in_parquet(tmp_path, [0, label], ["ant", "bee", "cat"])


def test_whatever_a_decoder_reads_is_listed_and_all_else_is_counted(tmp_path: Path) -> None:
    jpeg = b"\xff\xd8\xff\xe0" + bytes(20)
    for name in ("dog/1.jpg", "bird/1.JFIF", "frog/1.jpe", "fish/1.avif", "cow/1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jpeg)
    for name in ("dog/@eaDir/thumb.jpg", "__MACOSX/dog/1.jpg", ".thumbnails/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(jpeg)
    for name in ("fish/2.heic", "fish/3.heic", "labels.csv", "cow/README"):
        (tmp_path / name).write_bytes(b"text")

    left_out = LeftOut()
    table = list_images(str(tmp_path), left_out)
    assert set(table["label"].to_pylist()) == {"dog", "bird", "frog", "fish", "cow"}
    assert len(table) == 5
    assert left_out.text() == ("4 files are no images and left out: 2 .heic, 1 no suffix, 1 .csv (first: 'cow/README')")


def test_other_files_of_a_tar_are_counted_too(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "x.tar", {"a.jpg": b"A", "a.cls": b"1", "a.json": b"{}", "__MACOSX/a.jpg": b"", "b.heic": b"H"}
    )
    left_out = LeftOut()
    assert len(list_images(str(tmp_path), left_out)) == 1
    assert dict(left_out.counts) == {".json": 1, ".heic": 1}
    assert left_out.first == "x.tar/a.json"


def test_a_folder_of_other_files_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"no images under .*: 1 \.zip \(first: 'photos\.zip'\)"):
        list_images(str(tmp_path))


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
            assert list(rows(root)) == paths
            assert read_bytes(root, paths[-1]) == last
            assert fingerprint(root)["files"] == 1


def test_a_single_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"photos\.zip is neither an image nor a \.tar or \.parquet file"):
        list_images(str(tmp_path / "photos.zip"))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "a.jpg").write_bytes(b"A")
    left_out = LeftOut()
    assert len(list_images(str(tmp_path), left_out)) == 1
    assert left_out.first == "pipe"
    assert dict(left_out.counts) == {"no suffix": 1, ".jpg": 1}
