"""Data sets of the field: what they are, under which terms, how they are cited, and which options take them.

The entries are in `catalogue.yaml`. A fact that no source states stands there as "see the page".
"""

import shlex
from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

ENTRIES = Path(__file__).with_name("catalogue.yaml")

EXAMPLE_FOLDER = "DATA"
"""Where the commands of an entry suppose its files, as long as nobody has said where they are."""


class _Part(BaseModel):
    # A misspelt key of the YAML must not pass for a fact that nobody knows.
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataFile(_Part):
    """One file that can be fetched.

    Attributes:
        url: where it is; an address that stays the same wherever the server has one.
        name: its name in the data set's folder.
        bytes: its size; None where no source states it.
        sha256: its checksum; None where none is published.
        checksum_from: who publishes the checksum, where it is not the commit that the address names.
    """

    url: str
    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    bytes: int | None = None
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    checksum_from: str | None = None


class DataSet(_Part):
    """One data set.

    Attributes:
        name: what it is called on the command line.
        title: what it holds, in one line.
        size: how large it is.
        licence: the licence in a few words.
        terms: what one may do with it and what not.
        access: how one comes to it: `open` files, a `password` or a `registration` at its page, or by reading the
            `page`.
        reason: why it is not fetched, where the access does not say it.
        page: its page.
        more: further pages.
        cite: author and year.
        citation: the article to cite.
        plugs_in_as: options that take it, without the two hyphens.
        files: what is fetched; none unless the access is open.
        prepare: shell commands that bring the files into a form that the options take.
        run: a command of this program that then works with it.
        notes: layout, pitfalls, and what else helps to use it.
    """

    name: str
    title: str
    size: str
    licence: str
    terms: str
    access: Literal["open", "password", "registration", "page"] = "open"
    reason: str | None = None
    page: str
    more: tuple[str, ...] = ()
    cite: str
    citation: str
    plugs_in_as: tuple[str, ...]
    files: tuple[DataFile, ...] = ()
    prepare: tuple[str, ...] = ()
    run: str
    notes: tuple[str, ...] = ()

    @property
    def can_be_fetched(self) -> bool:
        """Whether its terms and addresses let this program fetch it."""
        return self.access == "open" and bool(self.files)

    @property
    def obstacle(self) -> str:
        """Why it cannot be fetched, as the end of a sentence."""
        if self.reason:
            return self.reason
        # The kind of access is the reason, unless the entry has a better one.
        if self.access == "password":
            return "its archive has a password, which its page gives with the terms"
        if self.access == "registration":
            return "it is for registered users only"
        return "how it can be had stands on its page"

    def at(self, parent: Path | str = EXAMPLE_FOLDER) -> "DataSet":
        """The entry with commands that find the files in `parent/NAME`."""
        places = {"{folder}": f"{parent}/{self.name}", "{data}": str(parent)}

        # Not str.format: the commands hold Python code, which may have braces of its own.
        def placed(command: str) -> str:
            for name, place in places.items():
                command = command.replace(name, place)
            return command

        # A folder with a blank in its name must not become two words of the shell.
        def quoted(command: str) -> str:
            return shlex.join(placed(word) for word in shlex.split(command))

        fill = placed
        if shlex.quote(str(parent)) != str(parent):
            fill = quoted
        return self.model_copy(update={"prepare": tuple(map(fill, self.prepare)), "run": fill(self.run)})


@cache
def data_sets() -> dict[str, DataSet]:
    """All entries by name, in the order in which they are shown."""
    # Typed here, once: a wrong key is found by the first test that lists the data sets.
    entries = yaml.safe_load(ENTRIES.read_text(encoding="utf-8"))
    return {name: DataSet(name=name, **entry) for name, entry in entries.items()}


def size_text(size: int) -> str:
    """A number of bytes for people: `311.6 kB`, `3.8 MB`, `1.2 GB`."""
    # Decimal units, as servers and disks are sold and measured.
    if size < 1000:
        return f"{size} bytes"
    if size < 1000**2:
        return f"{size / 1000:.1f} kB"
    if size < 1000**3:
        return f"{size / 1000**2:.1f} MB"
    return f"{size / 1000**3:.1f} GB"
