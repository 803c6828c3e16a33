"""One file from a server that breaks off, forgets, changes its mind or lies."""

import errno
import hashlib
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from alignet_ray.data import download
from alignet_ray.data.catalogue import DataFile
from alignet_ray.errors import UserError
from alignet_ray.screen import Screen
from tests.support.file_server import FileServer, serving

PAGE = "https://example.org/page"
CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0, 0.0))


@pytest.fixture
def files() -> Iterator[FileServer]:
    with serving(CONTENT) as server:
        yield server


def fetched(files: FileServer, folder: Path, **published: Any) -> tuple[Path, str]:
    """The file and what the screen said."""
    target = folder / "answers.csv"
    said = folder.with_name(f"{folder.name}.log")
    source = DataFile(url=files.url, name=target.name, **published)
    with said.open("w", encoding="utf-8") as stream:
        checksum = download.fetch(source, target, Screen(stream), PAGE)
    assert checksum == hashlib.sha256(target.read_bytes()).hexdigest()
    return target, said.read_text(encoding="utf-8")


def left(folder: Path) -> set[str]:
    """Files in the folder, but for the lock."""
    return {path.name for path in folder.iterdir()} - {download.LOCK}


def test_a_file_comes_whole_and_leaves_nothing_else(files: FileServer, tmp_path: Path) -> None:
    target, said = fetched(files, tmp_path, bytes=len(CONTENT), sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert left(tmp_path) == {"answers.csv"}
    assert files.asked == [(None, None)]
    assert "300/300 kB" in said


def test_after_a_break_only_the_rest_is_asked_for(files: FileServer, tmp_path: Path) -> None:
    files.breaks_after = [100_000, 50_000]
    target, said = fetched(files, tmp_path, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert files.asked == [(None, None), ("bytes=100000-", '"one"'), ("bytes=150000-", '"one"')]
    assert files.sent == [100_000, 50_000, 150_000]
    assert "the connection broke off; 100.0 kB are here, trying again" in said


def test_the_same_command_goes_on_where_an_earlier_one_stopped(files: FileServer, tmp_path: Path) -> None:
    files.breaks_after = [100_000, 0, 0, 0]
    with pytest.raises(UserError) as stopped:
        fetched(files, tmp_path, sha256=SHA256)
    assert "broke off: 100.0 kB are kept, and the same command goes on from there" in str(stopped.value)
    assert left(tmp_path) == {"answers.csv.part", "answers.csv.part.json"}

    files.asked.clear()
    target, _ = fetched(files, tmp_path, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert files.asked == [("bytes=100000-", '"one"')]
    assert left(tmp_path) == {"answers.csv"}


def test_the_time_of_the_last_change_names_a_version_too(files: FileServer, tmp_path: Path) -> None:
    files.etag = 'W/"weak"'
    files.modified = "Fri, 01 Aug 2025 10:00:00 GMT"
    files.breaks_after = [100_000]
    target, _ = fetched(files, tmp_path)
    assert files.asked[1] == ("bytes=100000-", files.modified)
    assert target.read_bytes() == CONTENT


def test_a_server_that_knows_no_ranges_sends_all_again(files: FileServer, tmp_path: Path) -> None:
    files.knows_ranges = False
    files.breaks_after = [100_000]
    target, _ = fetched(files, tmp_path, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert files.sent == [100_000, 300_000]


def interrupted(files: FileServer, folder: Path) -> None:
    """Leave the first third of the file."""
    files.breaks_after = [100_000, 0, 0, 0]
    with pytest.raises(UserError, match="are kept"):
        fetched(files, folder)
    assert (folder / "answers.csv.part").read_bytes() == CONTENT[:100_000]
    files.asked.clear()


@pytest.mark.parametrize("knows_if_range", [True, False])
def test_a_file_that_changed_between_two_tries_comes_from_its_first_byte(
    files: FileServer, tmp_path: Path, knows_if_range: bool
) -> None:
    interrupted(files, tmp_path)
    files.content = CONTENT[::-1]
    files.etag = '"two"'
    files.knows_if_range = knows_if_range
    target, _ = fetched(files, tmp_path)
    assert target.read_bytes() == CONTENT[::-1]


def test_a_file_that_became_shorter_comes_from_its_first_byte(files: FileServer, tmp_path: Path) -> None:
    interrupted(files, tmp_path)
    files.content = CONTENT[:1000]
    files.knows_if_range = False
    target, _ = fetched(files, tmp_path)
    assert target.read_bytes() == CONTENT[:1000]
    assert files.asked == [("bytes=100000-", '"one"'), (None, None)]


def test_without_a_name_of_the_version_only_a_checksum_lets_a_part_be_continued(
    files: FileServer, tmp_path: Path
) -> None:
    files.etag = ""
    files.breaks_after = [100_000]
    fetched(files, tmp_path)
    assert files.asked == [(None, None), (None, None)]

    (tmp_path / "answers.csv").unlink()
    files.asked.clear()
    files.breaks_after = [100_000]
    target, _ = fetched(files, tmp_path, sha256=SHA256)
    assert files.asked == [(None, None), ("bytes=100000-", None)]
    assert target.read_bytes() == CONTENT


def test_nothing_is_promised_of_a_part_that_cannot_be_continued(files: FileServer, tmp_path: Path) -> None:
    files.etag = ""
    files.breaks_after = [100_000] * 9
    with pytest.raises(UserError, match="the connection broke off: try again later"):
        fetched(files, tmp_path)
    assert len(files.asked) == 3
    assert left(tmp_path) == set()


def test_an_answer_that_does_not_repeat_the_version_continues_it(files: FileServer, tmp_path: Path) -> None:
    files.breaks_after = [100_000]
    files.repeats_version = False
    target, _ = fetched(files, tmp_path)
    assert target.read_bytes() == CONTENT
    assert files.sent == [100_000, 200_000]


def test_a_process_that_is_killed_leaves_a_part_that_is_continued(files: FileServer, tmp_path: Path) -> None:
    files.breaks_after = [100_000]
    code = (
        "import pathlib; from alignet_ray.data import download; from alignet_ray.data.catalogue import DataFile; "
        "from alignet_ray.screen import Screen; download.PAUSES = (60, 60); folder = pathlib.Path.cwd(); "
        f"source = DataFile(url={files.url!r}, name='answers.csv'); "
        f"download.fetch(source, folder / 'answers.csv', Screen(), {PAGE!r})"
    )
    process = subprocess.Popen([sys.executable, "-u", "-c", code], cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stdout is not None
    # Its first line says that the connection broke off, after which it waits for a minute.
    assert b"100.0 kB are here" in process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()
    assert left(tmp_path) == {"answers.csv.part", "answers.csv.part.json"}

    files.asked.clear()
    target, _ = fetched(files, tmp_path)
    assert target.read_bytes() == CONTENT
    assert files.asked == [("bytes=100000-", '"one"')]


@pytest.mark.parametrize(
    ("size", "last_line"),
    [(5, "5/5 bytes"), (300_000, "300/300 kB"), (1_180_000_000, "1,180/1,180 MB")],
)
def test_the_progress_is_counted_in_units_for_people(tmp_path: Path, size: int, last_line: str) -> None:
    unit, unit_bytes = download._unit(size)
    with (tmp_path / "log").open("w", encoding="utf-8") as stream:
        count = size // unit_bytes
        with Screen(stream).progress(count, unit) as progress:
            progress.add(count)
    assert last_line in (tmp_path / "log").read_text(encoding="utf-8")


def test_an_error_of_the_network_while_reading_is_a_broken_connection(
    files: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = http.client.HTTPResponse.read
    failures = [OSError(errno.ENETDOWN, "Network is down"), ssl.SSLEOFError("EOF occurred")]

    def unreliable(response: http.client.HTTPResponse, amount: int | None = None) -> bytes:
        if failures:
            raise failures.pop(0)
        return read(response, amount)

    monkeypatch.setattr(http.client.HTTPResponse, "read", unreliable)
    target, said = fetched(files, tmp_path)
    assert target.read_bytes() == CONTENT
    assert "Network is down" in said


@pytest.mark.parametrize(
    "record", [None, "", "[]", '{"url": "http://elsewhere/answers.csv", "validator": "\\"one\\""}']
)
def test_a_part_of_unknown_origin_is_not_continued(files: FileServer, tmp_path: Path, record: str | None) -> None:
    (tmp_path / "answers.csv.part").write_bytes(b"something else")
    if record is not None:
        (tmp_path / "answers.csv.part.json").write_text(record)
    target, _ = fetched(files, tmp_path)
    assert target.read_bytes() == CONTENT
    assert files.asked == [(None, None)]


def test_a_part_that_is_complete_is_not_asked_for_again(files: FileServer, tmp_path: Path) -> None:
    (tmp_path / "answers.csv.part").write_bytes(CONTENT)
    record = {"url": files.url, "validator": '"one"', "total": len(CONTENT)}
    (tmp_path / "answers.csv.part.json").write_text(json.dumps(record))
    target, _ = fetched(files, tmp_path, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert not files.asked


def test_wrong_bytes_never_get_the_files_name(files: FileServer, tmp_path: Path) -> None:
    files.content = CONTENT[:-1] + b"!"
    with pytest.raises(UserError) as refused:
        fetched(files, tmp_path, sha256=SHA256)
    assert f"wrong bytes: sha256 {hashlib.sha256(files.content).hexdigest()[:16]}" in str(refused.value)
    assert f"instead of {SHA256[:16]}" in str(refused.value)
    assert PAGE in str(refused.value)
    assert left(tmp_path) == set()


def test_a_file_of_another_size_is_refused_before_it_comes(files: FileServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has 300,000 bytes instead of 299,999: it was replaced; see https://example"):
        fetched(files, tmp_path, bytes=299_999)
    assert left(tmp_path) == set()


def test_without_a_length_the_checksum_decides(files: FileServer, tmp_path: Path) -> None:
    files.says_length = False
    target, _ = fetched(files, tmp_path, sha256=SHA256)
    assert target.read_bytes() == CONTENT

    target.unlink()
    files.breaks_after = [1000]
    with pytest.raises(UserError, match="wrong bytes"):
        fetched(files, tmp_path, sha256=SHA256)


def test_redirections_are_followed_with_the_range(files: FileServer, tmp_path: Path) -> None:
    with serving(b"") as front:
        front.moved_to = files.url
        files.breaks_after = [100_000]
        target, _ = fetched(front, tmp_path)
    assert target.read_bytes() == CONTENT
    assert files.asked == [(None, None), ("bytes=100000-", '"one"')]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, "is not there (the server answers 404): see https://example.org/page"),
        (410, "is not there (the server answers 410)"),
        (403, "may not be read (the server answers 403)"),
        (401, "may not be read (the server answers 401)"),
        (400, "cannot be fetched: the server answers 400"),
    ],
)
def test_an_answer_that_stays_is_not_asked_for_again(
    files: FileServer, tmp_path: Path, status: int, message: str
) -> None:
    files.statuses = [status]
    with pytest.raises(UserError) as refused:
        fetched(files, tmp_path)
    assert message in str(refused.value)
    assert files.url in str(refused.value)
    assert len(files.asked) == 1


def test_a_server_in_trouble_is_asked_again(files: FileServer, tmp_path: Path) -> None:
    files.statuses = [500, 503]
    target, said = fetched(files, tmp_path)
    assert target.read_bytes() == CONTENT
    assert "the server answers 503; 0 bytes are here, trying again" in said

    target.unlink()
    files.statuses = [500] * 9
    files.asked.clear()
    with pytest.raises(UserError, match=r"cannot fetch answers.csv from 127\.0\.0\.1:\d+: the server answers 500: try"):
        fetched(files, tmp_path)
    assert len(files.asked) == 3


def test_a_web_page_is_not_the_file(files: FileServer, tmp_path: Path) -> None:
    files.kind = "text/html; charset=utf-8"
    with pytest.raises(UserError, match="answers with a web page instead of the file: see https://example"):
        fetched(files, tmp_path)
    assert left(tmp_path) == set()


def test_a_file_that_is_compressed_on_its_way_is_refused(files: FileServer, tmp_path: Path) -> None:
    files.encoding = "gzip"
    with pytest.raises(UserError, match="is sent compressed"):
        fetched(files, tmp_path)


def test_a_server_out_of_reach_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nowhere = FileServer(b"", url=f"http://127.0.0.1:{port}/answers.csv")
    with pytest.raises(UserError) as refused:
        fetched(nowhere, tmp_path)
    assert str(refused.value) == (
        f"cannot fetch answers.csv from 127.0.0.1:{port}: the server is out of reach (Connection refused): "
        "try again later"
    )


def test_a_silent_server_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SILENCE", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/answers.csv"
        with pytest.raises(UserError, match="the server was silent for"):
            fetched(FileServer(b"", url=url), tmp_path)


def test_a_file_that_the_disk_cannot_hold_is_refused_before_it_comes(
    files: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2000))
    with pytest.raises(UserError, match=r"the disk is full: 300\.0 kB are to come, and .* has room for 2\.0 kB"):
        fetched(files, tmp_path)
    assert left(tmp_path) == set()


def test_a_disk_that_fills_up_is_not_taken_for_a_broken_connection(
    files: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "_copy", full)
    with pytest.raises(OSError, match="No space left"):
        fetched(files, tmp_path)
    assert len(files.asked) == 1


def test_two_processes_do_not_write_one_part(files: FileServer, tmp_path: Path) -> None:
    with FileLock(tmp_path / download.LOCK), pytest.raises(UserError, match="another process is fetching into"):
        fetched(files, tmp_path)
    assert not files.asked
