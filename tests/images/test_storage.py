from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from support.image_files import labels_of, write_tar
from support.object_server import object_server

from alignet_ray.errors import UserError
from alignet_ray.images import storage
from alignet_ray.images.listing import fingerprint, list_images, read_bytes
from alignet_ray.images.storage import class_list


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
    assert list(labels_of(str(tmp_path)).values()) == ["n01", "n02", "n07", "n02"]
    assert fingerprint(str(tmp_path)) != before


def test_class_lists_in_their_three_layouts() -> None:
    assert class_list("val_0.JPEG\tn03\t0\t32\t44\t62\n") == {"val_0": "n03"}
    assert class_list("n01\nn02\n") == {"ILSVRC2012_val_00000001": "n01", "ILSVRC2012_val_00000002": "n02"}


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An s3:// prefix on a server of our own, on loopback; the environment names it, as a user's would."""
    with object_server("pictures") as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        server = environment["AWS_ENDPOINT_URL"].removeprefix("http://")
        yield f"s3://pictures/set?endpoint_override={server}&scheme=http"


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
    assert labels_of(bucket) == labels_of(str(tmp_path))
    for path in labels_of(bucket):
        assert read_bytes(bucket, path) == read_bytes(str(tmp_path), path)
    assert fingerprint(bucket) == fingerprint(bucket)
    with pytest.raises(UserError, match=r"cannot list|no images under"):
        list_images(bucket.replace("/set", "/elsewhere"))


def test_a_server_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dead(pafs.FileSystem):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

        def get_file_info(self, *_: object) -> None:
            raise OSError("Connection refused\nand more")

    monkeypatch.setattr(storage, "remote_root", lambda uri: (Dead(), "set"))
    with pytest.raises(UserError, match=r"^cannot list s3://pictures/set: Connection refused$"):
        list_images("s3://pictures/set")


def test_a_url_that_only_fsspec_knows_gives_the_same_list_as_the_folder(tmp_path: Path) -> None:
    import fsspec

    write_corpus(tmp_path)
    url = "memory://corpus"
    fsspec.filesystem("memory").put(str(tmp_path), "/corpus", recursive=True)
    assert labels_of(url) == labels_of(str(tmp_path))
    for path in labels_of(url):
        assert read_bytes(url, path) == read_bytes(str(tmp_path), path)
    assert len(fingerprint(url)) == len(fingerprint(str(tmp_path)))
    with pytest.raises(UserError, match="nowhere"):
        list_images("nowhere://bucket/set")


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../secret.png", "cats/../../secret.png", "shard.tar/../../secret.png"]
)
def test_a_path_from_elsewhere_stays_under_the_root(path: str, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    root = tmp_path / "images"
    (root / "cats").mkdir(parents=True)
    with pytest.raises(OSError, match="leads out of"):
        read_bytes(str(root), path)
    (root / "cats" / "..png").write_bytes(b"a name with dots")
    assert read_bytes(str(root), "cats/..png") == b"a name with dots"
