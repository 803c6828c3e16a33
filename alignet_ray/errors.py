"""UserError: an error that the user can fix, shown as its message alone; and what such messages are made of."""

import difflib
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

MAX_CHARACTERS = 200
"""Characters that a message takes over from another library's."""


class UserError(ValueError):
    """A mistake in the user's input; its message says what is wrong and how to fix it, in one line.

    The command line prints the message and exits with code 2. Any other exception is an internal error.
    """


class RemoteError(OSError):
    """What the client of a server raised; its message begins with the client's own type of error."""


def first_line(error: Exception) -> str:
    """The first line of an error's message, for messages of one line; damaged files may make it long."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:MAX_CHARACTERS]


def array_problem(error: Exception) -> str:
    """Why NumPy cannot read an array, in one line; its own advice about arrays of objects would have pickles opened."""
    if "allow_pickle" in str(error) or "Python objects in dtype" in str(error):
        return "it holds Python objects, which are never unpickled: save plain numbers or texts, as with .astype(float)"
    return first_line(error)


def in_one_line(error: Exception) -> str:
    """The beginning of an error's whole message in one line, for compilers, whose reason stands below their name."""
    return " ".join(str(error).split())[:MAX_CHARACTERS]


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name that was probably meant; None where none is near."""
    # Of `--section.field` the field says what is meant: equal sections alone would make any two of their fields alike.
    section, _, field = name.rpartition(".")
    if section:
        return _nearest_field(name, section, field, known)
    return next(iter(difflib.get_close_matches(name, known, 1)), None)


def _nearest_field(name: str, section: str, field: str, known: Sequence[str]) -> str | None:
    """`nearest` for a dotted name."""
    # The field's usual abbreviation: `lr` for a learning rate.
    initials = "".join(word[0] for word in re.split("[-_]", field) if word)
    if len(initials) > 1 and f"{section}.{initials}" in known:
        return f"{section}.{initials}"

    # A section in place of a field of it.
    for other in known:
        if other.startswith(f"{name}."):
            return other

    same_field = [other for other in known if difflib.get_close_matches(field, [other.rpartition(".")[2]], 1, 0.7)]
    if same_field:
        return max(same_field, key=lambda other: difflib.SequenceMatcher(None, name, other).ratio())
    # Fields of the section itself may be less alike, such as `epochs` and `steps`.
    of_section = [other for other in known if other.rpartition(".")[0] == section]
    fields = [other.rpartition(".")[2] for other in of_section]
    close = difflib.get_close_matches(field, fields, 1)
    if close:
        return f"{section}.{close[0]}"
    return None


def require_named(path: object, what: str) -> None:
    """Refuse an empty path, which would mean the working directory.

    Args:
        path: as the user gave it.
        what: it is a path of, for the message.

    Raises:
        UserError: it is empty.
    """
    if not str(path).strip():
        raise UserError(f"the path of {what} is empty: give its name (for the working directory, a point)")


def path_text(path: object, what: str) -> str:
    """A path that a caller gives as text or as a `Path`, as text.

    Args:
        path: as the user gave it.
        what: it is a path of, for the message.

    Raises:
        UserError: it is of another kind, or empty.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"{type(path).__name__} is no path of {what}: give it as text")
    require_named(path, what)
    return str(path)


def require_existing(path: str) -> None:
    """Refuse a local path where nothing is; of an address only its server could tell.

    Raises:
        UserError: it does not exist.
    """
    if "://" not in path and not Path(path).expanduser().exists():
        raise UserError(f"{path} does not exist: check the path")


def require_regular(path: str | os.PathLike[str]) -> None:
    """Refuse a pipe, a socket or a device: opening one can wait for ever, and it can be read only once.

    What does not exist passes: whoever opens it says so.

    Raises:
        UserError: it is neither a file nor a folder.
    """
    # A name that no file system can hold (a null byte in it) is a ValueError.
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UserError(f"{os.fspath(path)} is a pipe or a device: save its content to a file and give that")
