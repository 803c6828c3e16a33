"""Downloads one file, going on where an earlier try stopped; a half file is never taken for a whole one.

Written on the standard library, as none of the libraries at hand does all of it: huggingface_hub's `http_get` goes on
where it stopped, but does not notice that the file has changed meanwhile (If-Range, RFC 9110); fsspec starts anew.

    NAME.part        what has arrived
    NAME.part.json   of which version of the file, and how large the whole is
    NAME             the file, only ever complete and checked
"""

import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from email.message import Message
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlparse

from filelock import FileLock, Timeout

from alignet_ray.data.catalogue import DataFile, size_text
from alignet_ray.errors import UserError, first_line
from alignet_ray.screen import Screen

PAUSES = (1.0, 2.0, 5.0)
"""Seconds before each further try; it is given up when so many tries in a row have brought nothing."""

SILENCE = 60.0
"""Seconds without a byte after which the connection counts as broken."""

BLOCK = 1 << 18
"""Bytes that are read at a time."""

PASSING_STATUSES = (408, 425, 429, 500, 502, 503, 504)
"""Answers of a server that may be another one a little later."""

LOCK = ".fetch.lock"

BROKE_OFF = "the connection broke off"


BROKEN = (urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException)
"""Errors of the connection. Others, such as a full disk, are not cured by asking again."""


@dataclass(frozen=True)
class Version:
    """Which version of a file has arrived in part.

    Attributes:
        url: where it comes from.
        validator: what the server calls this version (a strong ETag, or the time of its last change); None where the
            server does not say.
        total: bytes of the whole; None where the server does not say.
    """

    url: str
    validator: str | None = None
    total: int | None = None


class PartialFile:
    """The part of a file that has arrived.

    Attributes:
        path: where it is.
        version: of which version it is a part.
    """

    def __init__(self, target: Path, source: DataFile) -> None:
        """Take up what an earlier try left, if it can still become the file.

        Args:
            target: the finished file.
            source: where it comes from.
        """
        self.path = target.with_name(f"{target.name}.part")
        self._record = target.with_name(f"{target.name}.part.json")
        self._has_checksum = source.sha256 is not None
        self.version = self._recorded(source)
        self.discard_unless_sure()

    def _recorded(self, source: DataFile) -> Version:
        fresh = Version(source.url)
        try:
            version = Version(**json.loads(self._record.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            version = fresh
        # Another address may be another file, and a part without a record may be anything.
        if version.url != source.url or version == fresh:
            self.discard()
            return fresh
        return version

    @property
    def size(self) -> int:
        """Bytes that have arrived."""
        if not self.path.exists():
            return 0
        return self.path.stat().st_size

    @property
    def complete(self) -> bool:
        """Whether all bytes are there."""
        return self.path.exists() and self.size == self.version.total

    def discard(self) -> None:
        """Forget what has arrived."""
        self.path.unlink(missing_ok=True)
        self._record.unlink(missing_ok=True)

    def discard_unless_sure(self) -> None:
        """Forget what has arrived if the rest of another version could be appended to it unnoticed.

        A name for the version prevents that, and a published checksum uncovers it.
        """
        if self.version.validator is None and not self._has_checksum:
            self.discard()

    def begin(self, version: Version) -> None:
        """Note which version arrives from now on.

        The record is written before the first byte: a part without it would be of no use.
        """
        self.version = version
        self._record.write_text(json.dumps(asdict(version)), encoding="utf-8")

    def become(self, target: Path) -> None:
        """Give the finished file its name, once it is safely on the disk."""
        # Without it a crash of the machine could leave the name and not the bytes.
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(self.path, target)
        self._record.unlink(missing_ok=True)


def fetch(source: DataFile, target: Path, screen: Screen, page: str) -> str:
    """Download a file to `target`, going on where an earlier try stopped.

    Args:
        source: its address, and its size and checksum where they are published.
        target: the finished file, which does not exist yet.
        screen: shows the progress.
        page: the data set's page, for messages.

    Returns:
        The sha256 of the file.

    Raises:
        UserError: the server cannot be reached, does not have the file, or breaks off again and again; the bytes are
            not those published; the disk is full; or another process fetches it.
    """
    with _alone(target.parent):
        partial = PartialFile(target, source)
        _receive_all(source, partial, screen, page)
        checksum = _checked(source, partial, page)
        partial.become(target)
    return checksum


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder: two processes that append to one part would spoil it."""
    # The system frees the lock when the process ends, however it ends; the empty file stays.
    held = FileLock(folder / LOCK)
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"another process is fetching into {folder}: wait for it, or choose another folder") from error
    try:
        yield
    finally:
        held.release()


def _receive_all(source: DataFile, partial: PartialFile, screen: Screen, page: str) -> None:
    """Ask for what is missing until all of it is there.

    Raises:
        UserError: as `fetch`.
    """
    # A process that was killed between the last byte and the renaming leaves a part that is complete.
    failures = 0
    while not partial.complete:
        before = partial.size
        try:
            _receive(source, partial, screen, page)
            return
        except urllib.error.HTTPError as error:
            _refuse_lasting(error, source, page)
            # The part is longer than the file, which must have changed.
            if error.code == 416:
                partial.discard()
            reason = f"the server answers {error.code}"
        except BROKEN as error:
            reason = _reason(error)

        partial.discard_unless_sure()

        # A try that brought something gives the server all its chances again.
        failures += 1
        if partial.size > before:
            failures = 0
        if failures >= len(PAUSES):
            _give_up(reason, source, partial)
        screen.line(f"   {reason}; {size_text(partial.size)} are here, trying again")
        time.sleep(PAUSES[failures])


def _receive(source: DataFile, partial: PartialFile, screen: Screen, page: str) -> None:
    """One request for what is missing.

    Raises:
        UserError: the server offers another file, or it has no room on the disk.
    """
    with urllib.request.urlopen(_request(partial), timeout=SILENCE) as response:
        headers: Message = response.headers
        _require_a_file(headers, source, page)

        # Only status 206 continues what is there; any other success brings the whole file from its first byte.
        if response.status == 206:
            version = _continued(headers, partial)
        else:
            version = Version(source.url, _validator(headers), _length(headers))
            partial.discard()

        _require_size(version, source, page)
        _require_room(version, partial)
        partial.begin(version)
        _copy(response, partial, screen)


def _continued(headers: Message, partial: PartialFile) -> Version:
    """The version that a part in the server's answer belongs to.

    Raises:
        ConnectionError: the part does not continue what is there, which is therefore forgotten.
    """
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
    known = partial.version

    # What the answer leaves out is as before: a server that was asked with If-Range need not repeat it.
    validator = _validator(headers) or known.validator
    total = known.total
    if match and match[2] != "*":
        total = int(match[2])
    version = Version(known.url, validator, total)
    if match and int(match[1]) == partial.size and version == known:
        return version
    partial.discard()
    raise ConnectionError("the file has changed on the server")


def _request(partial: PartialFile) -> urllib.request.Request:
    """A request for what is missing."""
    headers = {"User-Agent": "alignet-ray"}
    if partial.size:
        headers["Range"] = f"bytes={partial.size}-"
        # If the file has changed, the server sends all of it instead of a rest that does not fit.
        if partial.version.validator:
            headers["If-Range"] = partial.version.validator
    return urllib.request.Request(partial.version.url, headers=headers)


def _copy(response: Any, partial: PartialFile, screen: Screen) -> None:
    """Append what arrives to the part.

    Raises:
        ConnectionError: less arrived than was promised.
    """
    total = partial.version.total
    arrived = partial.size
    with partial.path.open("ab") as file:
        # Without a total there is nothing to measure the progress by.
        if total is None:
            for block in _blocks(response):
                file.write(block)
            return

        # The bar starts where an earlier try stopped; its rate counts only what comes now.
        unit, unit_bytes = _unit(total)
        with screen.progress(total // unit_bytes, unit, arrived // unit_bytes) as progress:
            for block in _blocks(response):
                file.write(block)
                arrived += len(block)
                progress.add(arrived // unit_bytes - progress.done)
            # A connection that is closed too early reads as the end of the file.
            if arrived != total:
                raise ConnectionError(BROKE_OFF)


def _blocks(response: Any) -> Iterator[bytes]:
    """What arrives, block by block.

    Raises:
        ConnectionError: whatever stopped it, so that it is told from an error of the disk.
    """
    while True:
        try:
            block = response.read(BLOCK)
        except OSError as error:
            raise ConnectionError(_reason(error)) from error
        if not block:
            return
        yield block


def _unit(total: int) -> tuple[str, int]:
    """The unit of the progress line for a file of this size."""
    if total >= 100_000_000:
        return "MB", 1_000_000
    if total >= 100_000:
        return "kB", 1_000
    return "bytes", 1


def _length(headers: Message) -> int | None:
    """Bytes of the whole file, if the server says it."""
    length = headers.get("Content-Length", "")
    if length.isdecimal():
        return int(length)
    return None


def _validator(headers: Message) -> str | None:
    """What the server calls this version of the file."""
    # A weak ETag (W/) stands for files that only mean the same, whose parts need not fit together.
    tag = headers.get("ETag", "")
    if tag.startswith('"'):
        return tag
    return headers.get("Last-Modified")


def _require_a_file(headers: Message, source: DataFile, page: str) -> None:
    """Refuse a page for people, which servers send instead of a file when they want a login.

    Raises:
        UserError: it is one.
    """
    if headers.get("Content-Type", "").startswith("text/html"):
        raise UserError(f"{source.url} answers with a web page instead of the file: see {page}")
    # What is unpacked by whoever reads it has another checksum and other positions than the file.
    if headers.get("Content-Encoding", "identity") != "identity":
        raise UserError(f"{source.url} is sent compressed, which cannot be checked: see {page}")


def _require_size(version: Version, source: DataFile, page: str) -> None:
    """Refuse a file of another size than the published one, before it is fetched.

    Raises:
        UserError: it has another size.
    """
    # An unknown size is no other size: the checksum decides then.
    if None in (version.total, source.bytes) or version.total == source.bytes:
        return
    raise UserError(
        f"{source.url} has {version.total:,} bytes instead of {source.bytes:,}: it was replaced; see {page}"
    )


def _require_room(version: Version, partial: PartialFile) -> None:
    """Refuse a file that the disk cannot hold, before it is fetched.

    Raises:
        UserError: saying how much room is missing.
    """
    if version.total is None:
        return
    folder = partial.path.parent
    free = shutil.disk_usage(folder).free
    missing = version.total - partial.size
    if missing > free:
        raise UserError(
            f"the disk is full: {size_text(missing)} are to come, and {folder} has room for {size_text(free)}; "
            "free some room, or choose another folder"
        )


def _refuse_lasting(error: urllib.error.HTTPError, source: DataFile, page: str) -> None:
    """Refuse an answer that another try would not change.

    Raises:
        UserError: saying what the server answered.
    """
    if error.code in PASSING_STATUSES or error.code == 416:
        return
    # The page says where a file has gone, or how to log in.
    if error.code in (404, 410):
        raise UserError(f"{source.url} is not there (the server answers {error.code}): see {page}") from error
    if error.code in (401, 403):
        raise UserError(f"{source.url} may not be read (the server answers {error.code}): see {page}") from error
    raise UserError(f"{source.url} cannot be fetched: the server answers {error.code}; see {page}") from error


def _reason(error: Exception) -> str:
    """What broke the connection, in a few words."""
    # urllib wraps what happens before the first byte, and leaves bare what happens after it.
    host_problem = getattr(error, "reason", None)
    if isinstance(error, TimeoutError) or isinstance(host_problem, TimeoutError):
        return f"the server was silent for {SILENCE:.0f} s"
    if isinstance(error, urllib.error.URLError):
        detail = getattr(host_problem, "strerror", None) or host_problem
        return f"the server is out of reach ({detail})"
    if isinstance(error, http.client.HTTPException | ConnectionResetError):
        return BROKE_OFF
    return first_line(error)


def _give_up(reason: str, source: DataFile, partial: PartialFile) -> NoReturn:
    """Say why the file did not come, and what is kept of it."""
    # Only what the next try can use is promised.
    kept = "try again later"
    if partial.size:
        kept = f"{size_text(partial.size)} are kept, and the same command goes on from there"
    raise UserError(f"cannot fetch {source.name} from {urlparse(source.url).netloc}: {reason}: {kept}")


def _checked(source: DataFile, partial: PartialFile, page: str) -> str:
    """The sha256 of what arrived.

    Raises:
        UserError: it is not the published one; what arrived is deleted, as going on could not help.
    """
    checksum = sha256_of(partial.path)
    if source.sha256 in (None, checksum):
        return checksum
    partial.discard()
    raise UserError(
        f"{source.name}: wrong bytes: sha256 {checksum[:16]}... instead of {str(source.sha256)[:16]}...; "
        f"what was fetched is deleted: try again, and if it stays so see {page}"
    )
