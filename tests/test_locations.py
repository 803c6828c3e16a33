"""Files by path or URL: local paths become absolute, clients of URLs are kept, and new credentials count."""

import io
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from fsspec import AbstractFileSystem, register_implementation
from support.ignored_case import lists_as

from alignet_ray.errors import UserError
from alignet_ray.images.listing import fingerprint
from alignet_ray.images.listing import read_bytes as image_bytes
from alignet_ray.locations import filesystem, other_case, read_bytes

BUCKET = "s3://bucket/images?region=none"


def test_a_local_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fs, path = filesystem("images")
    assert isinstance(fs, pafs.LocalFileSystem)
    assert path == str(tmp_path.resolve() / "images")


def test_the_client_of_a_url_is_kept_until_the_credentials_change(monkeypatch: pytest.MonkeyPatch) -> None:
    first, path = filesystem(BUCKET)
    assert path == "bucket/images"
    assert filesystem(BUCKET)[0] is first

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "else")
    assert filesystem(BUCKET)[0] is not first


def test_a_url_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match=r"cannot open nothing://there: "):
        filesystem("nothing://there")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_bytes(str(tmp_path / "nothing"))


def test_a_name_that_the_file_system_takes_for_another_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "night").touch()
    assert other_case(str(tmp_path / "night")) is None
    assert other_case(str(tmp_path / "Night")) is None  # not there: this file system keeps case
    lists_as(monkeypatch, {"night": "Night"})
    assert other_case(str(tmp_path / "night")) == "Night"


def test_another_unicode_form_is_no_other_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "caf\u00e9").touch()
    lists_as(monkeypatch, {"caf\u00e9": "cafe\u0301"})
    assert other_case(str(tmp_path / "caf\u00e9")) is None


class LostConnection(Exception):
    """An error of a server's client, no OSError: as httpx, gcsfs and others have."""


class LostFile(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise LostConnection("peer closed the connection")


class LostServer(AbstractFileSystem):  # type: ignore[misc]
    """A server that names one file, and whose connection is then lost; in the folder `none` at once."""

    protocol = "lost"

    def info(self, path: str, **_: object) -> dict[str, object]:
        if "none" in path:
            raise LostConnection("name or service not known")
        return {"name": path, "size": 3, "type": "file"}

    def ls(self, path: str, detail: bool = True, **_: object) -> list[dict[str, object]]:
        return [self.info(path)]

    def open(self, path: str, mode: str = "rb", **_: object) -> LostFile:
        return LostFile(b"abc")


def test_whatever_a_servers_client_raises_is_one_line() -> None:
    register_implementation("lost", LostServer, clobber=True)
    with pytest.raises(UserError, match=r"^cannot read lost://none/a\.csv: LostConnection: name or service not known$"):
        read_bytes("lost://none/a.csv")
    with pytest.raises(
        UserError, match=r"^cannot read lost://host/a\.csv: LostConnection: peer closed the connection$"
    ):
        read_bytes("lost://host/a.csv")
    with pytest.raises(UserError, match=r"^cannot list lost://none: LostConnection"):
        fingerprint("lost://none")
    with pytest.raises(OSError, match="peer closed"):
        image_bytes("lost://host", "a.jpg")
