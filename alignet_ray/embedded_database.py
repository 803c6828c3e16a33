"""MLflow's database in a file: checks that it can be written, and keeps the files of new runs beside it"""

import contextlib
import sqlite3
from pathlib import Path

from alignet_ray.errors import UserError

BUSY_SECONDS = 5
"""How long another process that writes is waited for."""

UNWRITABLE = ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_FULL", "SQLITE_IOERR")
"""How SQLite's names begin for what keeps it from writing; a full disk is one of the last two."""


def file_of(address: str) -> Path | None:
    """The file of an SQLite address; None for servers and databases in memory."""
    if not address.startswith("sqlite"):
        return None
    from sqlalchemy import make_url

    database = make_url(address).database
    if not database:
        return None
    return Path(database)


def require_writable(address: str) -> None:
    """Refuse a database that takes no rows, as of another user: MLflow would say so after the work, on fifty lines.

    Args:
        address: of the database; a server's is not looked at.

    Raises:
        UserError: with the reason.
    """
    file = file_of(address)
    if file is None or not file.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(file, BUSY_SECONDS, isolation_level=None)) as connection:
            # Permission bits do not tell (network mounts, containers), so a page is written on trial.
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"PRAGMA user_version = {version}")
            connection.execute("ROLLBACK")
    except sqlite3.DatabaseError as error:
        # Locked: somebody writes, so it can be written. What is no database MLflow names better.
        if getattr(error, "sqlite_errorname", "").startswith(UNWRITABLE):
            raise UserError(
                f"cannot write MLflow's database {file} ({error}): free some room, or give the permission for the file "
                "and its folder, or name a server with --tracking.uri"
            ) from error


def keep_files_beside(address: str, experiment: str, place: Path) -> None:
    """Let files of new runs go beside the database, also after its folder was moved or copied.

    MLflow stores where an experiment's files go as an absolute path. In a copy it would write among those of the
    original, and after a move make the old folder again.

    Args:
        address: of the database; a server's is left alone.
        experiment: its name.
        place: the folder of files beside the database.
    """
    file = file_of(address)
    if file is None or not file.exists() or file.resolve().parent != place.resolve().parent:
        return
    try:
        with contextlib.closing(sqlite3.connect(file, BUSY_SECONDS)) as connection, connection:
            # Only folders of this kind: a place that somebody chose by hand stays.
            connection.execute(
                "UPDATE experiments SET artifact_location = ?1 "
                "WHERE name = ?2 AND artifact_location != ?1 AND artifact_location LIKE ?3",
                (place.as_uri(), experiment, f"file://%/{place.name}"),
            )
    except sqlite3.DatabaseError:
        # Empty, or of another version: MLflow makes its tables, or says what is wrong.
        return
