"""Fetches a data set of the catalogue into a folder of its own: terms accepted once, every file checked.

FOLDER/NAME/TERMS.txt           licence, terms and citation, with the day on which they were accepted
FOLDER/NAME/checksums.sha256    of the finished files; `sha256sum --check` reads it
FOLDER/NAME/...                 the files
"""

import datetime
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from alignet_ray.data import download
from alignet_ray.data.catalogue import DataFile, DataSet, size_text
from alignet_ray.data.files import replacing
from alignet_ray.errors import UserError
from alignet_ray.screen import Screen

TERMS = "TERMS.txt"
CHECKSUMS = "checksums.sha256"

WIDTH = 100
"""Columns of the text of the terms."""


class Fetched(NamedTuple):
    """A file of a data set that is there.

    Attributes:
        path: where.
        checksum: its sha256.
        is_published: whether that is the published one; else nobody has published one.
        is_new: whether it was fetched now.
    """

    path: Path
    checksum: str
    is_published: bool
    is_new: bool


def require_fetchable(entry: DataSet) -> None:
    """Refuse a data set that its terms or its addresses keep this program from fetching.

    Raises:
        UserError: with the reason and the page.
    """
    if not entry.can_be_fetched:
        raise UserError(f"{entry.name} is not fetched by this command, as {entry.obstacle}: see {entry.page}")


def terms_text(entry: DataSet) -> str:
    """What somebody who fetches a data set must know."""
    lines = [f"{entry.name}: {entry.title}", "", f"licence   {entry.licence}"]
    lines += textwrap.wrap(entry.terms, WIDTH, initial_indent="terms     ", subsequent_indent=" " * 10)
    lines += [f"page      {page}" for page in (entry.page, *entry.more)]
    lines += textwrap.wrap(entry.citation, WIDTH, initial_indent="cite      ", subsequent_indent=" " * 10)
    return "\n".join(lines) + "\n"


def are_accepted(entry: DataSet, parent: Path) -> bool:
    """Whether the terms, as they are today, were accepted for this folder before."""
    try:
        remembered = (parent / entry.name / TERMS).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    # The whole text is compared: whoever accepted other terms has not accepted these.
    return remembered.partition("\n\n")[2] == terms_text(entry)


def fetch(entry: DataSet, parent: Path, screen: Screen, accept: Callable[[], bool]) -> list[Fetched]:
    """Fetch what is missing of a data set.

    Args:
        entry: a data set with files.
        parent: the folder around that of the data set.
        screen: shows the progress.
        accept: asks for the terms; not called if they were accepted for this folder before.

    Raises:
        UserError: the terms are not accepted, the data set cannot be fetched, or as `download.fetch`.
    """
    require_fetchable(entry)
    if not are_accepted(entry, parent):
        # Nothing is written before the answer, not even a folder.
        if not accept():
            raise UserError(f"the terms of {entry.name} are not accepted: nothing was fetched")
        _remember(entry, parent)

    folder = parent / entry.name
    fetched = []
    for source in entry.files:
        fetched.append(_fetch_file(source, folder, screen, entry.page))
        # After every file: a later one may fail, and what is there must be trusted by the next try.
        _record(fetched, folder)
    return fetched


def _remember(entry: DataSet, parent: Path) -> None:
    """Write the accepted terms beside the data, where whoever finds the data finds them."""
    folder = parent / entry.name
    folder.mkdir(parents=True, exist_ok=True)
    today = datetime.date.today().isoformat()
    with replacing(folder / TERMS) as temporary:
        temporary.write_text(f"accepted on {today}\n\n{terms_text(entry)}", encoding="utf-8")


def _fetch_file(source: DataFile, folder: Path, screen: Screen, page: str) -> Fetched:
    """Fetch one file, unless it is there already.

    Raises:
        UserError: there is another file of its name, or as `download.fetch`.
    """
    target = folder / source.name
    if target.exists():
        checksum = _trusted(source, target)
        return Fetched(target, checksum, source.sha256 is not None, is_new=False)

    # A size that no source states is not guessed; the progress line has the server's.
    size = "size unknown"
    if source.bytes is not None:
        size = size_text(source.bytes)
    screen.line(f"{source.name} ({size}) from {source.url}")
    checksum = download.fetch(source, target, screen, page)
    return Fetched(target, checksum, source.sha256 is not None, is_new=True)


def _trusted(source: DataFile, target: Path) -> str:
    """The sha256 of a file that is there already.

    Raises:
        UserError: it is not the file that was published or fetched.
    """
    checksum = download.sha256_of(target)
    # Without a published checksum only the one of an earlier fetch tells a whole file from any other.
    expected = source.sha256 or _recorded(target.parent).get(source.name)
    if checksum != expected:
        raise UserError(f"{target} is not the file that this command fetches: move it away, and fetch again")
    return checksum


def _recorded(folder: Path) -> dict[str, str]:
    """File name -> sha256 of the finished files."""
    try:
        lines = (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    # Two blanks, as sha256sum writes them; a name may hold single ones.
    recorded: dict[str, str] = {}
    for line in lines:
        checksum, _, name = line.partition("  ")
        recorded[name] = checksum
    return recorded


def _record(fetched: list[Fetched], folder: Path) -> None:
    """Write down the checksums of the finished files, in the form that `sha256sum` reads."""
    # Lines of other files stay: the entry may have had more of them in an earlier version.
    recorded = _recorded(folder)
    for file in fetched:
        recorded[file.path.name] = file.checksum
    lines = [f"{checksum}  {name}\n" for name, checksum in recorded.items()]
    with replacing(folder / CHECKSUMS) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
