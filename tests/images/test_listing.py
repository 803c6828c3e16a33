import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignet_ray.artifacts.schemas import IMAGES, check
from alignet_ray.errors import UserError
from alignet_ray.images.file_kinds import Member
from alignet_ray.images.listing import fingerprint, list_images, numbered, read_bytes
from alignet_ray.images.shards import rows_of


def test_order_is_that_of_utf8_bytes(tmp_path: Path) -> None:
    names = [
        "a/b.jpg",
        "a.jpg",
        "a-b/c.jpg",
        "B.png",
        "é/z.jpg",
        "z/é.jpg",
        "𝔘.png",
        "\uffee.png",
        "a/b/c.gif",
        "a/b0.jpg",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    table = check(list_images(str(tmp_path)), IMAGES)
    assert table["path"].to_pylist() == sorted(names, key=lambda name: name.encode())
    assert table["image_id"].to_pylist() == list(range(len(names)))
    labels = dict(zip(table["path"].to_pylist(), table["label"].to_pylist(), strict=True))
    assert labels["a/b/c.gif"] == "a"
    assert labels["a.jpg"] == ""
    assert set(table["bytes"].to_pylist()) == {1}


@settings(max_examples=30, deadline=None)
@given(names=st.lists(st.text("ab./-é", min_size=1, max_size=8), min_size=1, max_size=12, unique=True))
def test_walk_orders_any_tree_like_its_paths(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    root = tmp_path_factory.mktemp("tree")
    made = set()
    for name in names:
        parts = [part for part in name.split("/") if part.strip(".")]
        path = root.joinpath("x", *parts[:-1], (parts or ["n"])[-1] + ".png")
        if any(p.is_file() for p in path.parents) or path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        if not any(part.startswith(".") for part in path.relative_to(root).parts):
            made.add(path.relative_to(root).as_posix())
    found = list_images(str(root))["path"].to_pylist() if made else []
    assert found == sorted(made, key=str.encode)
    if made:
        assert list_images(root.as_uri()).equals(list_images(str(root))), "behind a URL the ids are the same"


def test_listing_leaves_out_what_is_not_an_image(tmp_path: Path) -> None:
    for name in ("a/x.jpg", "a/notes.txt", "a/.hidden.jpg", ".git/y.png", "a/._x.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert list_images(str(tmp_path))["path"].to_pylist() == ["a/x.jpg"]


def test_links_are_followed_but_never_round_in_circles(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.png").write_bytes(b"x")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "root" / "circle").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "dangling.png").symlink_to(tmp_path / "gone.png")
    assert list_images(str(tmp_path / "root"))["path"].to_pylist() == ["dangling.png", "linked/x.png"]


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: (p.mkdir(), (p / "x.txt").touch())])
def test_no_images_is_the_users_mistake(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "images")
    for ask in (list_images, fingerprint):
        with pytest.raises(UserError, match=r"does not exist|no images under"):
            ask(str(tmp_path / "images"))


def test_a_name_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(str(tmp_path)) + b"/\xff.jpg")).write_bytes(b"x")
    with pytest.raises(UserError, match="not UTF-8"):
        list_images(str(tmp_path))


def test_fingerprint_sees_new_changed_and_renamed_files(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    seen = {str(fingerprint(str(tmp_path))), str(fingerprint(str(tmp_path)))}
    assert len(seen) == 1
    (tmp_path / "b.jpg").write_bytes(b"y")
    seen.add(str(fingerprint(str(tmp_path))))
    (tmp_path / "b.jpg").write_bytes(b"yy")
    seen.add(str(fingerprint(str(tmp_path))))
    (tmp_path / "b.jpg").rename(tmp_path / "c.jpg")
    seen.add(str(fingerprint(str(tmp_path))))
    os.utime(tmp_path / "c.jpg", ns=(1, 1))
    seen.add(str(fingerprint(str(tmp_path))))
    assert len(seen) == 5
    assert fingerprint(str(tmp_path)).items() >= {"files": 2, "bytes": 3}.items()


def test_read_bytes_reads_what_was_listed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"content")
    table: pa.Table = list_images(str(tmp_path))
    assert read_bytes(str(tmp_path), table["path"][0].as_py()) == b"content"
    with pytest.raises(OSError):
        read_bytes(str(tmp_path), "a/gone.png")


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 7))
def test_ids_are_ranks_however_the_rows_come(sizes: list[int], rows: int) -> None:
    names = iter(range(sum(sizes)))
    blocks = [rows_of([Member(str(next(names)), "", 1) for _ in range(size)]) for size in sizes]
    batches = list(numbered(iter(blocks), rows))
    assert all(len(batch) == rows for batch in batches[:-1])
    assert all(0 < len(batch) <= rows for batch in batches)
    table = pa.Table.from_batches(batches, schema=IMAGES)
    assert table["image_id"].to_pylist() == list(range(sum(sizes)))
    assert table["path"].to_pylist() == [str(number) for number in range(sum(sizes))]
