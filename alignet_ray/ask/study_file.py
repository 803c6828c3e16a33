"""The file of a study: one SQLite database with its settings, its images, its people, and every answer.

A transaction that has returned is on the disk (write-ahead log, `synchronous=FULL`): neither a killed process nor a
power failure loses it. Answers are numbered in the order in which they arrived, and a number is never given twice.
"""

import hashlib
import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from alignet_ray.errors import UserError, first_line

SCHEMA = 1
"""Layout of the file, as SQLite's `user_version`; another one is refused."""

BUSY_SECONDS = 10
"""How long a write waits for another process that writes, such as `ask NAME --withdraw` beside a server."""

TABLES = """
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE objects (object INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT;
CREATE TABLE images (
    image INTEGER PRIMARY KEY,
    object INTEGER NOT NULL REFERENCES objects,
    path TEXT NOT NULL,
    bytes INTEGER NOT NULL
) STRICT;
CREATE TABLE left_out (path TEXT NOT NULL, reason TEXT NOT NULL) STRICT;
CREATE TABLE people (
    person INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    session TEXT NOT NULL UNIQUE,
    origin TEXT NOT NULL,
    started REAL NOT NULL,
    decision TEXT NOT NULL DEFAULT '' CHECK (decision IN ('', 'keep', 'leave out'))
) STRICT;
CREATE TABLE trials (
    trial INTEGER PRIMARY KEY AUTOINCREMENT,
    token TEXT NOT NULL UNIQUE,
    person INTEGER NOT NULL REFERENCES people ON DELETE CASCADE,
    place INTEGER NOT NULL,
    mode TEXT NOT NULL CHECK (mode IN ('odd', 'reference')),
    kind TEXT NOT NULL CHECK (kind IN ('random', 'active', 'catch', 'repeat')),
    image0 INTEGER NOT NULL REFERENCES images,
    image1 INTEGER NOT NULL REFERENCES images,
    image2 INTEGER NOT NULL REFERENCES images,
    expected INTEGER CHECK (expected BETWEEN 0 AND 2),
    repeats INTEGER REFERENCES trials,
    UNIQUE (person, place)
) STRICT;
CREATE TABLE answers (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    trial INTEGER NOT NULL UNIQUE REFERENCES trials ON DELETE CASCADE,
    choice INTEGER NOT NULL CHECK (choice BETWEEN 0 AND 2),
    rt REAL,
    at REAL NOT NULL
) STRICT;
CREATE TABLE withdrawals (at REAL NOT NULL, answers INTEGER NOT NULL) STRICT;
"""
"""`mode` says what is asked: which of three images is the odd one, or which of images 1 and 2 is more like image 0.
`expected` is the right answer of a catch trial, `repeats` the trial that is shown once more."""

Mode: TypeAlias = Literal["odd", "reference"]
Kind: TypeAlias = Literal["random", "active", "catch", "repeat"]
Decision: TypeAlias = Literal["", "keep", "leave out"]
"""What the researcher says about a person; "": the rule decides."""


@dataclass(frozen=True)
class StudySettings:
    """What a study asks, and of whom. It is fixed when the study begins.

    Attributes:
        images: folder (or URL) of the images.
        mode: what is asked, see `TABLES`.
        objects: whether every image is an object of its own, or every folder with all its images.
        trials: questions a person is asked, catch trials and repeats included.
        catch: share of questions with an obvious answer: the same image twice.
        repeats: share of questions that a person has answered before.
        break_every: questions between two breaks; 0: none.
        sampler: how questions are chosen.
        random_share: share of random questions among actively chosen ones, for an unbiased test.
        links_only: whether only people with a personal link may take part.
        hashed: whether names of participants are stored as keyed hashes.
        code: completion code; "": none.
        redirect: address that the last page leads to; "": none.
        text: instructions and consent, as Markdown.
        fingerprint: what the folder of the images held when the study began.
    """

    images: str
    mode: Mode = "odd"
    objects: Literal["images", "folders"] = "images"
    trials: int = 100
    catch: float = 0.04
    repeats: float = 0.06
    break_every: int = 50
    sampler: Literal["random", "active"] = "random"
    random_share: float = 0.2
    links_only: bool = False
    hashed: bool = False
    code: str = ""
    redirect: str = ""
    text: str = ""
    fingerprint: str = ""


class StudyImage(NamedTuple):
    """An image of a study: number, object, path under the study's folder of images, bytes of that file."""

    image: int
    object: int
    path: str
    bytes: int


class LeftOutImage(NamedTuple):
    """An image that cannot be shown, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Person:
    """Somebody who takes part.

    Attributes:
        person: number.
        name: the participant's name, as given or as a hash.
        origin: parameters of the recruiting service that the person came with.
        started: when, in seconds since 1970.
        decision: the researcher's, see `Decision`.
    """

    person: int
    name: str
    origin: dict[str, str]
    started: float
    decision: Decision


@dataclass(frozen=True)
class NewTrial:
    """A question that is about to be dealt.

    Attributes:
        mode: see `TABLES`.
        kind: why it is asked.
        images: three image numbers, in the order in which they are shown.
        expected: position of the right answer of a catch trial.
        repeats: number of the trial that it repeats.
    """

    mode: Mode
    kind: Kind
    images: tuple[int, int, int]
    expected: int | None = None
    repeats: int | None = None


@dataclass(frozen=True)
class Trial(NewTrial):
    """A question that was dealt to a person.

    Attributes:
        trial: number.
        token: name of the trial that only this person's browser knows.
        place: place among this person's questions, from 0.
    """

    trial: int = 0
    token: str = ""
    place: int = 0


@dataclass(frozen=True)
class Answer:
    """An answer with its question.

    Attributes:
        number: rank of arrival; gaps are answers that were withdrawn.
        person: who answered.
        trial: the question's number.
        place: its place among the person's questions.
        mode, kind, images, expected, repeats: as in `NewTrial`.
        choice: position of the chosen image, from 0.
        rt: milliseconds from when all three images were visible; None where the browser gave none.
        at: when it was stored, in seconds since 1970, by the server's clock.
    """

    number: int
    person: int
    trial: int
    place: int
    mode: Mode
    kind: Kind
    images: tuple[int, int, int]
    expected: int | None
    repeats: int | None
    choice: int
    rt: float | None
    at: float


class NotSaved(Exception):
    """The disk took no answer (it is full, or broken): nothing was stored, and the same answer may be sent again."""


class Refused(Exception):
    """A request that this person may not make; the message says why."""


class StudyFile:
    """Reads and writes the file of a study. One connection, which threads take turns with.

    Attributes:
        path: the file.
        settings: what the study asks.
        secret: key of the study's personal links and hashed names; it never leaves the file.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.RLock()
        stored = dict(connection.execute("SELECT key, value FROM settings"))
        known = {entry.name for entry in fields(StudySettings)}
        values = {key: value for key, value in json.loads(stored["settings"]).items() if key in known}
        self.settings = StudySettings(**values)
        self.secret = bytes.fromhex(stored["secret"])

    @classmethod
    def create(
        cls,
        path: Path,
        settings: StudySettings,
        objects: Sequence[str],
        images: Sequence[StudyImage],
        left_out: Sequence[LeftOutImage],
    ) -> "StudyFile":
        """Make the file of a new study.

        Raises:
            UserError: it cannot be written.
        """
        stored = {"settings": json.dumps(asdict(settings)), "secret": secrets.token_hex(32)}

        # Made beside its name and renamed at the end: a study that is there is whole.
        draft = path.with_name(f".{path.name}.new")
        draft.unlink(missing_ok=True)
        try:
            connection = _connect(draft)
            connection.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {SCHEMA};")
            connection.executemany("INSERT INTO settings VALUES (?, ?)", list(stored.items()))
            connection.executemany("INSERT INTO objects VALUES (?, ?)", list(enumerate(objects)))
            connection.executemany("INSERT INTO images VALUES (?, ?, ?, ?)", images)
            connection.executemany("INSERT INTO left_out VALUES (?, ?)", left_out)
            connection.execute("COMMIT")
            connection.close()

            # It holds who answered what, and the secret: nobody else on this machine may read it.
            draft.chmod(0o600)
            draft.rename(path)
        except (sqlite3.Error, OSError) as error:
            draft.unlink(missing_ok=True)
            raise UserError(f"cannot write {path}: {first_line(error)}") from error
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> "StudyFile":
        """Open the file of a study.

        Raises:
            UserError: it is damaged, or of another version of this program.
        """
        try:
            connection = _connect(path)
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version != SCHEMA:
                raise UserError(f"{path} has layout {version}, this program reads {SCHEMA}: use the program it is from")
            return cls(path, connection)
        except (sqlite3.Error, KeyError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            if place_problem := _place_problem(path, error):
                raise UserError(place_problem) from error
            raise UserError(f"{path} is no study, or is damaged: {first_line(error)}") from error

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()

    # The study

    def objects(self) -> list[str]:
        """Names of the objects, by number."""
        return [name for (name,) in self._read("SELECT name FROM objects ORDER BY object")]

    def images(self) -> list[StudyImage]:
        """The images, by number."""
        rows = self._read("SELECT image, object, path, bytes FROM images ORDER BY image")
        return [StudyImage(*row) for row in rows]

    def object_of(self) -> dict[int, int]:
        """The object of every image, by the image's number."""
        return {image.image: image.object for image in self.images()}

    def left_out(self) -> list[LeftOutImage]:
        """Images that could not be read when the study began."""
        return [LeftOutImage(*row) for row in self._read("SELECT path, reason FROM left_out ORDER BY path")]

    # People

    def add_person(self, name: str, origin: dict[str, str]) -> tuple[Person, str]:
        """A new participant, and the secret of the browser's session, of which only a hash is stored.

        Raises:
            Refused: somebody with this name takes part already.
            NotSaved: the disk is full.
        """
        session = secrets.token_urlsafe(24)
        values = (name, _hash(session), json.dumps(origin), time.time())
        try:
            with self._writing() as connection:
                connection.execute("INSERT INTO people (name, session, origin, started) VALUES (?, ?, ?, ?)", values)
        except sqlite3.IntegrityError as error:
            raise Refused("this participant has begun already, in another browser") from error
        person = self.person_named(name)
        assert person is not None, "it was stored"
        return person, session

    def renew_session(self, person: int) -> str:
        """A new secret for somebody who comes back with a personal link; the old one is void."""
        session = secrets.token_urlsafe(24)
        with self._writing() as connection:
            connection.execute("UPDATE people SET session = ? WHERE person = ?", (_hash(session), person))
        return session

    def people(self) -> list[Person]:
        """Everybody, by number."""
        return [_person(row) for row in self._read(f"{_PEOPLE} ORDER BY person")]

    def person_named(self, name: str) -> Person | None:
        """The participant of this name."""
        rows = self._read(f"{_PEOPLE} WHERE name = ?", name)
        return next(map(_person, rows), None)

    def person_of(self, session: str) -> Person | None:
        """The participant whose browser knows this secret."""
        rows = self._read(f"{_PEOPLE} WHERE session = ?", _hash(session))
        return next(map(_person, rows), None)

    def decide(self, person: int, decision: Decision) -> None:
        """Keep somebody's answers or leave them out, whatever the rule says."""
        with self._writing() as connection:
            connection.execute("UPDATE people SET decision = ? WHERE person = ?", (decision, person))

    def withdraw(self, person: int) -> int:
        """Delete a person with all answers, for good; returns the number of answers.

        SQLite overwrites what it deletes (`secure_delete`), and the write-ahead log, which still holds it, is emptied.
        """
        with self._writing() as connection:
            counted = "SELECT count(*) FROM answers JOIN trials USING (trial) WHERE person = ?"
            count: int = connection.execute(counted, (person,)).fetchone()[0]
            connection.execute("UPDATE trials SET repeats = NULL WHERE person = ?", (person,))
            connection.execute("DELETE FROM people WHERE person = ?", (person,))
            connection.execute("INSERT INTO withdrawals VALUES (?, ?)", (time.time(), count))
        with self._lock:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return count

    # Questions and answers

    def deal(self, person: int, trials: Sequence[NewTrial]) -> list[Trial]:
        """Store questions behind those that the person has; they are on the disk before anybody sees them.

        Raises:
            NotSaved: the disk is full.
        """
        dealt: list[Trial] = []
        with self._writing() as connection:
            place = connection.execute("SELECT count(*) FROM trials WHERE person = ?", (person,)).fetchone()[0]
            for position, trial in enumerate(trials, start=place):
                token = secrets.token_urlsafe(12)
                values = (token, person, position, trial.mode, trial.kind, *trial.images, trial.expected, trial.repeats)
                cursor = connection.execute(
                    "INSERT INTO trials (token, person, place, mode, kind, image0, image1, image2, expected, repeats) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    values,
                )
                number = cursor.lastrowid or 0
                dealt.append(Trial(**asdict(trial), trial=number, token=token, place=position))
        return dealt

    def answer(self, person: int, token: str, choice: int, rt: float | None) -> None:
        """Store an answer. The same answer again changes nothing, so that a browser may send it again when in doubt.

        Raises:
            Refused: no question of this person, or it was answered otherwise before.
            NotSaved: the disk is full.
        """
        with self._writing() as connection:
            found = connection.execute("SELECT trial, person FROM trials WHERE token = ?", (token,)).fetchone()
            if found is None or found[1] != person:
                raise Refused("this is no question of yours")
            stored = connection.execute(
                "INSERT INTO answers (trial, choice, rt, at) VALUES (?, ?, ?, ?) ON CONFLICT (trial) DO NOTHING",
                (found[0], choice, rt, time.time()),
            )
            if stored.rowcount == 0:
                before = connection.execute("SELECT choice FROM answers WHERE trial = ?", (found[0],)).fetchone()
                if before[0] != choice:
                    raise Refused("this question was answered before: the first answer counts")

    def trials_of(self, person: int) -> list[Trial]:
        """All questions of a person, in order."""
        return self._trials("person = ?", person)

    def open_trials(self, person: int) -> list[Trial]:
        """Questions of a person that have no answer yet, in order."""
        unanswered = "NOT EXISTS (SELECT 1 FROM answers WHERE answers.trial = trials.trial)"
        return self._trials(f"person = ? AND {unanswered}", person)

    def _trials(self, condition: str, *values: Any) -> list[Trial]:
        return [_trial(row) for row in self._read(f"{_TRIALS} WHERE {condition} ORDER BY place", *values)]

    def answered(self, person: int) -> int:
        """Number of a person's answers."""
        rows = self._read("SELECT count(*) FROM answers JOIN trials USING (trial) WHERE person = ?", person)
        return int(rows[0][0])

    def answers(self, up_to: int | None = None) -> list[Answer]:
        """All answers, or those up to a number, in the order in which they arrived."""
        limit = up_to
        if limit is None:
            limit = self.last_number()
        return [_answer(row) for row in self._read(f"{_ANSWERS} WHERE number <= ? ORDER BY number", limit)]

    def last_number(self) -> int:
        """Number of the newest answer; 0 without any."""
        return int(self._read("SELECT coalesce(max(number), 0) FROM answers")[0][0])

    def shown_images(self) -> list[tuple[int, int, int]]:
        """The three images of every question that was dealt to find out something (no catch trials, no repeats)."""
        rows = self._read("SELECT image0, image1, image2 FROM trials WHERE kind IN ('random', 'active') ORDER BY trial")
        return [(row[0], row[1], row[2]) for row in rows]

    def _read(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: on the disk when the block has ended, or never made."""
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException as error:
                # A failed COMMIT leaves the transaction open.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise NotSaved(first_line(error)) from error
                raise


_PEOPLE = "SELECT person, name, origin, started, decision FROM people"
_TRIALS = "SELECT mode, kind, image0, image1, image2, expected, repeats, trial, token, place FROM trials"
_ANSWERS = (
    "SELECT number, person, trial, place, mode, kind, image0, image1, image2, expected, repeats, choice, rt, at "
    "FROM answers JOIN trials USING (trial)"
)


def _connect(path: Path) -> sqlite3.Connection:
    # Transactions are begun and ended by `_writing` alone, hence no isolation level of the library's own.
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")
    return connection


def _place_problem(path: Path, error: Exception) -> str:
    """One line about a sound file that cannot be opened where it lies; "" where the file itself is the problem."""
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")):
        return (
            f"cannot write to {path.parent} ({first_line(error)}), as even reading a study must: give the permission, "
            "or copy the folder"
        )
    # Opening takes some kilobytes for the write-ahead log.
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return f"cannot open {path} ({first_line(error)}): if the disk is full, free some room; no answer is lost"
    if name.startswith("SQLITE_BUSY"):
        return f"{path} is being written by another process: call it again in a moment"
    return ""


def _hash(session: str) -> str:
    return hashlib.sha256(session.encode()).hexdigest()


def _person(row: tuple[Any, ...]) -> Person:
    person, name, origin, started, decision = row
    return Person(person, name, json.loads(origin), started, decision)


def _trial(row: tuple[Any, ...]) -> Trial:
    mode, kind, image0, image1, image2, *others = row
    return Trial(mode, kind, (image0, image1, image2), *others)


def _answer(row: tuple[Any, ...]) -> Answer:
    number, person, trial, place, mode, kind, image0, image1, image2, *others = row
    return Answer(number, person, trial, place, mode, kind, (image0, image1, image2), *others)
