from pathlib import Path

import pytest
from support.image_files import labels_of, write_tar

from alignet_ray.artifacts.spans import Span
from alignet_ray.errors import UserError
from alignet_ray.images import tar_shards
from alignet_ray.images.file_kinds import LeftOut, Tally
from alignet_ray.images.listing import list_images, read_bytes


def test_tar_shards_list_their_images_by_name(tmp_path: Path) -> None:
    members = {"b.jpg": b"B", "b.cls": b"7\n", "a.png": b"AA", "a.cls": b"cat", "c.json": b"{}", "./dog/d.jpg": b"DDD"}
    write_tar(tmp_path / "shard-0.tar", members)
    (tmp_path / "shard-0.tar0.jpg").write_bytes(b"beside")
    found = labels_of(str(tmp_path))
    assert found == {
        "shard-0.tar/a.png": "cat",
        "shard-0.tar/b.jpg": "7",
        "shard-0.tar/dog/d.jpg": "dog",
        "shard-0.tar0.jpg": "",
    }
    contents = [read_bytes(str(tmp_path), path) for path in found]
    assert contents == [b"AA", b"B", b"DDD", b"beside"]


def test_suffixes_may_be_capitals(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", {"a.JPG": b"A", "a.CLS": b"7", "b.JPG": b"B", "b.Cls": b"-1"})
    assert labels_of(str(tmp_path)) == {"x.tar/a.JPG": "7", "x.tar/b.JPG": ""}


def test_a_tar_without_classes_gives_its_folders_or_a_name_that_is_a_class(tmp_path: Path) -> None:
    write_tar(tmp_path / "train" / "nested.tar", {"cat/1.jpg": b"1", "./train/dog/2.jpg": b"2", "3.jpg": b"3"})
    write_tar(tmp_path / "train" / "n02085620.tar", {"n02085620_1.JPEG": b"4", "5.JPEG": b"5"})
    write_tar(tmp_path / "train" / "dog.tar", {"dog_1.jpg": b"6", "dog-2.jpg": b"7"})
    write_tar(tmp_path / "train" / "00001.tar", {"a.jpg": b"8", "b.jpg": b"9"})
    assert labels_of(str(tmp_path)) == {
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


def test_other_files_of_a_tar_are_counted_too(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "x.tar", {"a.jpg": b"A", "a.cls": b"1", "a.json": b"{}", "__MACOSX/a.jpg": b"", "b.heic": b"H"}
    )
    left_out = LeftOut()
    assert len(list_images(str(tmp_path), left_out)) == 1
    assert dict(left_out.kinds) == {".json": 1, ".heic": 1}
    assert left_out.files.first == "x.tar/a.json"
    assert left_out.hidden == Tally(1, "x.tar/__MACOSX/a.jpg")


def test_dots_in_names_do_not_mix_the_classes_of_images(tmp_path: Path) -> None:
    """WebDataset counts 22.05.png and 22.06.png to one sample, 22: the last class would be that of both."""
    members = {"22.05.png": b"A", "22.05.cls": b"3", "22.06.png": b"B", "22.06.cls": b"4"}
    members |= {"x.left.jpg": b"C", "x.right.jpg": b"D", "x.cls": b"5", "22.07.png": b"E", "v1.2/y.png": b"F"}
    write_tar(tmp_path / "a.tar", members)
    assert labels_of(str(tmp_path)) == {
        "a.tar/22.05.png": "3",
        "a.tar/22.06.png": "4",
        "a.tar/22.07.png": "",
        "a.tar/v1.2/y.png": "v1.2",
        "a.tar/x.left.jpg": "5",
        "a.tar/x.right.jpg": "5",
    }


def test_a_withheld_class_is_unknown(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"1.png": b"A", "1.cls": b"-1", "2.png": b"B", "2.cls": b" 0\n"})
    assert labels_of(str(tmp_path)) == {"a.tar/1.png": "", "a.tar/2.png": "0"}


def test_a_name_that_stands_twice_is_counted_and_the_last_content_read(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("1.png", b"old"), ("2.png", b"B"), ("1.png", b"newer")])
    left_out = LeftOut()
    assert len(list_images(str(tmp_path), left_out)) == 2
    assert read_bytes(str(tmp_path), "a.tar/1.png") == b"newer"
    assert left_out.concerns_user
    assert left_out.text() == "1 names stand in a tar more than once (first: 'a.tar/1.png')"


@pytest.mark.parametrize(("compress", "kind"), [("gzip", "gzip"), ("bz2", "bzip2"), ("lzma", "xz")])
def test_a_compressed_tar_says_so(tmp_path: Path, compress: str, kind: str) -> None:
    path = tmp_path / "a.tar"
    write_tar(path, {"1.png": b"A"})
    path.write_bytes(__import__(compress).compress(path.read_bytes()))
    with pytest.raises(UserError, match=rf"a\.tar is compressed by {kind}: unpack it"):
        list_images(str(tmp_path))


def test_a_member_that_is_gone_is_the_images_own_fault(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"1.png": b"A"})
    with pytest.raises(OSError, match=r"a\.tar holds no 2\.png"):
        read_bytes(str(tmp_path), "a.tar/2.png")


def test_a_place_from_the_listing_needs_no_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar(tmp_path / "a.tar", {"1.png": b"A", "1.cls": b"0", "2.png": b"BBB"})
    listed = list_images(str(tmp_path)).to_pylist()

    def search(uri: str, path: str) -> None:
        raise AssertionError("looked through the tar file")

    monkeypatch.setattr(tar_shards, "_tar_index", search)
    spans = {row["path"]: Span(row["offset"], row["bytes"]) for row in listed}
    assert read_bytes(str(tmp_path), "a.tar/2.png", spans["a.tar/2.png"]) == b"BBB"
    with pytest.raises(OSError, match=r"a\.tar ends inside 2\.png"):
        read_bytes(str(tmp_path), "a.tar/2.png", Span(spans["a.tar/2.png"].offset, 10**6))


def test_a_tar_behind_a_url_is_read_through_with_the_same_rows(tmp_path: Path) -> None:
    for number in range(12):
        members = {f"{number}.png": b"A" * (number + 1), f"{number}.cls": b"7", "x/y.jpg": b"B", "notes.txt": b"C"}
        write_tar(tmp_path / f"{number:02}.tar", members)
    (tmp_path / "05x.png").write_bytes(b"beside")
    here, there = LeftOut(), LeftOut()
    assert list_images(tmp_path.as_uri(), there).equals(list_images(str(tmp_path), here))
    assert there == here
    assert there.files.count == 12
