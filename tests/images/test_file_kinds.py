import os
from pathlib import Path

import pytest

from alignet_ray.errors import UserError
from alignet_ray.images.file_kinds import LeftOut, Tally, is_hidden
from alignet_ray.images.listing import fingerprint, list_images


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
    assert left_out.text() == (
        "4 files are no images and left out: 2 .heic, 1 no suffix, 1 .csv (first: 'cow/README'); "
        "3 hidden or system names are left out (first: '__MACOSX/')"
    )


@pytest.mark.parametrize(
    "folder",
    [
        "#snapshot/dog",
        "~snapshot",
        "@__thumb",
        "$Recycle.Bin/S-1-5",
        "__macosx",
        "Network Trash Folder",
        "dog/@eaDir/1.jpg",
    ],
)
def test_what_file_servers_keep_beside_the_pictures_is_no_class(tmp_path: Path, folder: str) -> None:
    """A snapshot holds every picture a second time."""
    for name in ("dog/1.jpg", f"{folder}/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"A")
    left_out = LeftOut()
    assert list_images(str(tmp_path), left_out)["path"].to_pylist() == ["dog/1.jpg"]
    assert left_out.hidden.count == 1


def test_a_folder_of_other_files_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"no images under .*: 1 \.zip \(first: 'photos\.zip'\)"):
        list_images(str(tmp_path))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "a.jpg").write_bytes(b"A")
    left_out = LeftOut()
    assert len(list_images(str(tmp_path), left_out)) == 1
    assert left_out.files.first == "pipe"
    assert dict(left_out.kinds) == {"no suffix": 1, ".jpg": 1}


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_folders_without_any_image_are_counted_each_with_all_below_it(tmp_path: Path) -> None:
    touch(tmp_path, "dog/1.jpg", "bird/1.heic", "cat/readme.txt")
    (tmp_path / "empty" / "below" / "deeper").mkdir(parents=True)
    (tmp_path / "dog" / "puppy").mkdir()
    left_out = LeftOut()
    list_images(str(tmp_path), left_out)
    assert left_out.folders == Tally(4, "dog/puppy/")
    assert "4 folders hold no image (first: 'dog/puppy/')" in left_out.text()


def test_hidden_names_are_counted_if_they_would_be_listed_otherwise(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "._a.jpg", ".DS_Store", ".gitattributes", ".cache/b.jpg", "@eaDir/a.jpg/thumb.jpg")
    left_out = LeftOut()
    assert list_images(str(tmp_path), left_out)["path"].to_pylist() == ["a.jpg"]
    assert left_out.hidden.count == 3
    assert not left_out.concerns_user
    assert is_hidden("a/.b/c.jpg")
    assert not is_hidden("a.b/c.jpg")


def test_the_results_of_earlier_runs_among_the_images_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    before = fingerprint(str(tmp_path))
    touch(tmp_path, "runs/run.lock", "runs/logs/run.log", "runs/refs/run.json", "runs/embed/0/errors.parquet")
    left_out = LeftOut()
    assert list_images(str(tmp_path), left_out)["path"].to_pylist() == ["a.jpg"]
    assert fingerprint(str(tmp_path)) == before
    assert left_out.hidden == Tally(1, "runs/")
