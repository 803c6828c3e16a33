"""Names that users choose, checked where they are parsed: of runs, registered models, aliases and local folders."""

import re
import unicodedata

MAX_BYTES = 200
"""Bytes of a name: file systems take 255, and a suffix and a temporary's marks are added to it."""


def check_run_name(name: str) -> str:
    """A run's name, which is also the name of files under the root.

    Raises:
        ValueError: it is empty, begins with a dot, is too long, or would lead to another folder.
    """
    # Whatever an operating system's file name may hold, a run's name must not lead out of its folder.
    is_file_name = name.isprintable() and not re.search(r"[/\\]", name)
    if not name.strip() or name.startswith(".") or not is_file_name or not _is_encodable(name):
        raise ValueError(f"a run's name is a file's name: not empty, without / and not beginning with a dot ({name!r})")
    # `alignet-ray rm -v` would be an option; and a blank at the end is not seen where names are listed.
    if name.startswith("-") or name != name.strip():
        raise ValueError(f"a run's name does not begin with - and has no blanks around it ({name!r})")
    # File systems count bytes, not characters.
    if len(name.encode()) > MAX_BYTES:
        raise ValueError(f"a run's name has at most {MAX_BYTES} bytes, this has {len(name.encode())}")
    # One form of accented letters: two runs whose names look the same would be two files.
    return unicodedata.normalize("NFC", name)


def check_model_name(name: str) -> str:
    """The name of a registered model, as MLflow's registry takes it and `models:/NAME@ALIAS` can be read.

    Raises:
        ValueError: it is empty, or has a character with a meaning of its own.
    """
    # These characters have a meaning in the address `models:/NAME@ALIAS`, or in the URLs of MLflow's pages.
    if not name.strip() or name != name.strip() or re.search(r"[/:@\\%?#'\"]", name) or name in (".", ".."):
        raise ValueError(f"the name of a registered model is not empty and has none of / : @ \\ % ? # ' \" ({name!r})")
    return name


def check_alias(alias: str) -> str:
    """The alias of a version, as MLflow's registry takes it.

    Raises:
        ValueError: it is empty, has other characters than letters, digits, _ and -, or means a version by itself.
    """
    if not re.fullmatch(r"[\w-]{1,255}", alias):
        raise ValueError(f"an alias has letters, digits, _ and - only ({alias!r})")
    # MLflow reads these as the newest version and as version numbers.
    if alias.lower() == "latest" or re.fullmatch(r"v\d+", alias, re.IGNORECASE):
        raise ValueError(f"the alias {alias!r} is MLflow's own: choose another")
    return alias


def check_set_name(name: str) -> str:
    """The name of a set of human judgements, which is also part of a node's name and of a folder's.

    Raises:
        ValueError: it has other characters than letters, digits, dot, _ and -, or is too long.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,59}", name):
        raise ValueError(f"a set's name has letters, digits, dot, _ and - only, at most 60 ({name!r})")
    return name


def _is_encodable(name: str) -> bool:
    """Whether it is text; a name that was not UTF-8 on the command line has stray surrogates in it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_local_folder(folder: str | None) -> str | None:
    """A folder whose files are mapped into memory.

    Raises:
        ValueError: it is behind a URL.
    """
    if folder is not None and "://" in folder:
        raise ValueError("its files are mapped into memory: give a folder of the machine")
    return folder
