"""`alignet-ray data` as a user types it."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from alignet_ray.cli import data as command
from alignet_ray.cli.main import main
from alignet_ray.data import download
from alignet_ray.data.catalogue import DataFile, data_sets
from tests.support.file_server import FileServer, serving

Capture = pytest.CaptureFixture[str]


def printed(capsys: Capture, *args: str) -> str:
    main(["data", *args])
    return capsys.readouterr().out


def refused(capsys: Capture, *args: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["data", *args])
    message = capsys.readouterr().err
    assert stop.value.code == 2, message
    assert message.startswith("alignet-ray: ")
    assert len(message.strip().splitlines()) == 1
    return message


@pytest.fixture
def pets(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A catalogue with one more entry, whose file is on loopback."""
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0, 0.0))
    with serving(b"0 1 2\n" * 1000) as server:
        file = DataFile(url=server.url, name="answers.txt")
        entry = data_sets()["vice"].model_copy(update={"name": "pets", "files": (file,)})
        monkeypatch.setattr(command, "data_sets", lambda: {**data_sets(), "pets": entry})
        yield server


def answered(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """A terminal where somebody types these answers; the questions."""
    questions: list[str] = []
    left = list(answers)

    def ask(question: str) -> str:
        questions.append(question)
        return left.pop(0)

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", ask)
    return questions


def test_the_table_has_every_data_set_with_its_terms_and_its_option(capsys: Capture) -> None:
    head, _, *rows, _, last = printed(capsys).splitlines()
    assert head.split("  ")[0] == "name"
    for column in ("what", "size", "terms", "where", "cite", "plugs in as"):
        assert column in head
    assert [row.split()[0] for row in rows] == list(data_sets())
    for row, entry in zip(rows, data_sets().values(), strict=True):
        for cell in (entry.title, entry.size, entry.licence, entry.cite, f"--{entry.plugs_in_as[0]}"):
            assert cell in row
    assert last.startswith("alignet-ray data NAME")


def test_a_terminal_gets_two_tables_that_fit(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed(capsys))
    assert max(map(len, text.splitlines())) <= 120
    # Names and options are whole words, for copying.
    for entry in data_sets().values():
        assert len(re.findall(rf"^{entry.name} ", text, re.M)) == 2
        assert re.search(rf" --{entry.plugs_in_as[0]}\s", text)


def test_one_data_set_with_all_that_is_known(capsys: Capture) -> None:
    text = printed(capsys, "vice")
    entry = data_sets()["vice"]
    assert entry.licence in text
    assert entry.page in text
    assert "NeurIPS" in text
    assert "alignet-ray data vice --fetch DATA" in text
    assert str(entry.files[0].sha256) in text
    assert "--human.embedding DATA/vice/final_embedding.npy" in text
    assert "no checksum is published" in printed(capsys, "nights")
    assert "as stated by https://github.com/" in printed(capsys, "things-triplets")

    by_hand = printed(capsys, "imagenet")
    assert "by hand, as it is for registered users only: see https://image-net.org/" in by_hand
    assert "--fetch" not in by_hand


def test_json_for_programs(capsys: Capture) -> None:
    listed = json.loads(printed(capsys, "--json"))
    assert [entry["name"] for entry in listed] == list(data_sets())
    one = json.loads(printed(capsys, "vice", "--json"))
    assert one["run"] == data_sets()["vice"].at().run
    assert one in listed


def test_fetch_asks_for_the_terms_once_and_says_what_comes_next(
    pets: FileServer, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = answered(monkeypatch, "y")
    text = printed(capsys, "pets", "--fetch", str(tmp_path))
    assert questions == ["accept these terms? [y/N] "]
    assert "GPL-3.0" in text
    assert f"wrote  {tmp_path}/pets/answers.txt  sha256 " in text
    assert "(no checksum is published; this one is kept beside it)" in text
    assert f"--human.embedding {tmp_path}/pets/final_embedding.npy" in text

    text = printed(capsys, "pets", "--fetch", str(tmp_path))
    assert len(questions) == 1
    assert f"there  {tmp_path}/pets/answers.txt" in text
    assert len(pets.asked) == 1


def test_no_is_no(pets: FileServer, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered(monkeypatch, "")
    assert "are not accepted: nothing was fetched" in refused(capsys, "pets", "--fetch", str(tmp_path))
    assert not pets.asked
    assert not list(tmp_path.iterdir())


def test_a_script_accepts_by_an_option(
    pets: FileServer, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    message = refused(capsys, "pets", "--fetch", str(tmp_path))
    assert "the terms of pets must be accepted, and this is not a terminal: add --accept-terms" in message
    assert "wrote" in printed(capsys, "pets", "--fetch", str(tmp_path), "--accept-terms")


def test_what_breaks_goes_on_with_the_same_command(pets: FileServer, capsys: Capture, tmp_path: Path) -> None:
    args = ("pets", "--fetch", str(tmp_path), "--accept-terms")
    pets.breaks_after = [2000, 0, 0, 0]
    assert "2.0 kB are kept, and the same command goes on from there" in refused(capsys, *args)
    pets.asked.clear()
    assert "wrote" in printed(capsys, *args)
    assert pets.asked == [("bytes=2000-", '"one"')]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("vise",), "unknown data set 'vise': did you mean 'vice'?"),
        (("vice", "--accept-terms"), "--accept-terms goes with --fetch FOLDER"),
        (("vice", "--fetch", "DATA", "--json"), "--json and --fetch do not go together"),
        (("--fetch", "DATA"), "--fetch needs the name of a data set"),
        (
            ("imagenet", "--fetch", "DATA"),
            "imagenet is not fetched by this command, as it is for registered users only",
        ),
        (("things-images", "--fetch", "DATA"), "its archive has a password"),
        (("vice", "--fetch"), "--fetch needs a value"),
        (("vice", "--to", "DATA"), "unknown option '--to'"),
    ],
)
def test_mistakes_are_one_line(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *args)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_one_line(pets: FileServer, capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = refused(capsys, "pets", "--fetch", str(tmp_path / "file"), "--accept-terms")
    assert f"cannot use {tmp_path}/file/pets: Not a directory" in message
    assert not pets.asked
