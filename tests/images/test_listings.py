"""A folder is listed once, and the rows of that listing are what all later steps see."""

from pathlib import Path

import numpy as np
import pytest

from alignet_ray.errors import UserError
from alignet_ray.images import listings
from alignet_ray.images.file_kinds import LeftOut
from alignet_ray.images.listing import fingerprint, list_images
from alignet_ray.images.listings import Listings
from alignet_ray.screen import Screen


@pytest.fixture
def folder(tmp_path: Path) -> str:
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/notes.txt"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"x")
    return str(tmp_path / "images")


def test_later_steps_see_the_folder_as_the_run_found_it(folder: str, tmp_path: Path) -> None:
    kept = Listings(tmp_path / "cache", {folder: fingerprint(folder)})
    left_out = LeftOut()
    first = kept.table(folder, left_out)
    assert first.equals(list_images(folder))
    assert left_out.text() == "1 files are no images and left out: 1 .txt (first: 'b/notes.txt')"

    # A new file would move every id after it by one.
    (Path(folder) / "a" / "0.png").write_bytes(b"x")
    again = LeftOut()
    assert kept.table(folder, again).equals(first)
    assert again == left_out
    assert kept.paths(folder, np.array([2, 0])) == ["b/1.png", "a/1.png"]
    assert kept.count(folder) == 3
    assert Listings().count(folder) == 4

    # A run that begins now finds the new file; without a fingerprint the folder is looked at every time.
    assert len(Listings(tmp_path / "cache", {folder: fingerprint(folder)}).table(folder)) == 4
    assert len(Listings().table(folder)) == 4


def test_a_folder_that_changed_since_the_plan_is_refused(folder: str, tmp_path: Path) -> None:
    found = fingerprint(folder)
    (Path(folder) / "a" / "0.png").write_bytes(b"x")
    with pytest.raises(UserError, match="changed after the run began"):
        Listings(tmp_path / "cache", {folder: found}).table(folder)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"], "no half listing is left"


def test_a_long_listing_shows_how_far_it_is(folder: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    taken = {folder: fingerprint(folder)}
    with out.open("w") as stream:
        kept = Listings(tmp_path / "cache", taken, screen=Screen(stream, every=0))
        kept.table(folder)
        # What is kept already takes no time.
        kept.table(folder)
    lines = out.read_text().splitlines()
    assert [line.split("] ")[1].split(",")[0] for line in lines] == [f"{n}/3 files listed" for n in (1, 2, 3, 3)]


def test_a_folder_is_listed_once(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Listings(tmp_path / "cache", {folder: fingerprint(folder)})
    kept.table(folder)
    (file,) = (tmp_path / "cache").glob("*.parquet")

    # A run that was killed in the middle leaves half a file under another name, which the next one takes away.
    half = file.with_name(f".{file.name}.12345678")
    file.rename(half)
    kept.table(folder)
    assert file.exists()
    assert not half.exists()

    def refuse(*args: object) -> None:
        raise AssertionError("listed again")

    monkeypatch.setattr(listings, "list_batches", refuse)
    assert len(kept.table(folder)) == 3
