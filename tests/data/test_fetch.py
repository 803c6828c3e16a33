"""A data set in a folder of its own: terms accepted once, files that are trusted only where their checksum is known."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alignet_ray.data import download
from alignet_ray.data.catalogue import DataFile, DataSet, data_sets
from alignet_ray.data.fetch import CHECKSUMS, TERMS, Fetched, are_accepted, fetch, terms_text
from alignet_ray.errors import UserError
from alignet_ray.screen import Screen
from tests.support.file_server import FileServer, serving

ANSWERS = b"0 1 2\n" * 1000
NAMES = b"cat\ndog\n"


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FileServer, FileServer]]:
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0, 0.0))
    with serving(ANSWERS) as answers, serving(NAMES) as names:
        yield answers, names


@pytest.fixture
def entry(servers: tuple[FileServer, FileServer]) -> DataSet:
    """A data set of two files, of which one has a published checksum."""
    answers, names = servers
    files = (
        DataFile(url=answers.url, name="answers.txt", sha256=hashlib.sha256(ANSWERS).hexdigest()),
        DataFile(url=names.url, name="names.txt"),
    )
    return data_sets()["vice"].model_copy(update={"name": "pets", "files": files})


def yes() -> bool:
    return True


def never() -> bool:
    raise AssertionError("was asked")


def fetched(entry: DataSet, folder: Path, accept: Callable[[], bool]) -> list[Fetched]:
    return fetch(entry, folder, Screen(), accept)


def test_all_files_come_with_their_terms_and_checksums(entry: DataSet, tmp_path: Path) -> None:
    files = fetched(entry, tmp_path, yes)
    folder = tmp_path / "pets"
    assert [file.path for file in files] == [folder / "answers.txt", folder / "names.txt"]
    assert [file.is_published for file in files] == [True, False]
    assert all(file.is_new for file in files)
    assert (folder / "answers.txt").read_bytes() == ANSWERS

    accepted, _, terms = (folder / TERMS).read_text().partition("\n\n")
    assert accepted.startswith("accepted on 20")
    assert terms == terms_text(entry)
    assert "Muttenthaler" in terms
    sums = [
        f"{hashlib.sha256(content).hexdigest()}  {name}"
        for content, name in ((ANSWERS, "answers.txt"), (NAMES, "names.txt"))
    ]
    assert (folder / CHECKSUMS).read_text().splitlines() == sums


def test_terms_are_asked_for_once(entry: DataSet, tmp_path: Path) -> None:
    fetched(entry, tmp_path, yes)
    assert are_accepted(entry, tmp_path)
    again = fetched(entry, tmp_path, never)
    assert not any(file.is_new for file in again)
    assert [file.is_published for file in again] == [True, False]


def test_terms_that_have_changed_are_asked_for_again(entry: DataSet, tmp_path: Path) -> None:
    fetched(entry, tmp_path, yes)
    stricter = entry.model_copy(update={"terms": "Not on Sundays."})
    assert not are_accepted(stricter, tmp_path)
    with pytest.raises(AssertionError, match="was asked"):
        fetched(stricter, tmp_path, never)


def test_nothing_is_fetched_without_the_terms(
    entry: DataSet, servers: tuple[FileServer, FileServer], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="the terms of pets are not accepted: nothing was fetched"):
        fetched(entry, tmp_path, lambda: False)
    assert not list(tmp_path.iterdir())
    assert not servers[0].asked


def test_files_that_are_there_are_not_asked_for_again(
    entry: DataSet, servers: tuple[FileServer, FileServer], tmp_path: Path
) -> None:
    answers, names = servers
    names.statuses = [404]
    with pytest.raises(UserError, match="is not there"):
        fetched(entry, tmp_path, yes)
    fetched(entry, tmp_path, never)
    assert len(answers.asked) == 1
    assert len(names.asked) == 2


@pytest.mark.parametrize("name", ["answers.txt", "names.txt"])
def test_a_file_that_was_changed_is_not_trusted(entry: DataSet, tmp_path: Path, name: str) -> None:
    fetched(entry, tmp_path, yes)
    (tmp_path / "pets" / name).write_bytes(b"half")
    with pytest.raises(UserError, match=f"{name} is not the file that this command fetches: move it away"):
        fetched(entry, tmp_path, yes)


def test_a_file_of_somebody_else_is_not_trusted(entry: DataSet, tmp_path: Path) -> None:
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets" / "names.txt").write_bytes(NAMES)
    with pytest.raises(UserError, match=r"names\.txt is not the file that this command fetches"):
        fetched(entry, tmp_path, yes)
    assert (tmp_path / "pets" / "names.txt").read_bytes() == NAMES


@pytest.mark.parametrize("name", ["things-images", "imagenet", "levels", "alignet-triplets", "king"])
def test_what_the_terms_or_the_page_do_not_allow_is_not_fetched(name: str, tmp_path: Path) -> None:
    entry = data_sets()[name]
    with pytest.raises(UserError) as refused:
        fetched(entry, tmp_path, never)
    assert str(refused.value) == f"{name} is not fetched by this command, as {entry.obstacle}: see {entry.page}"
    assert not list(tmp_path.iterdir())
