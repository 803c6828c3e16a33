"""Holds a remote root for one run at a time: claims in the object store, renewed while the run works.

pyarrow writes no object on condition that it is not there (apache/arrow#44281), so nothing here asks for that. A run
writes a claim of its own, `<root>/claims/<token>.json`, and then lists the claims of all. Whatever the order of their
steps, of two runs at least one sees the other's claim, and withdraws its own: all it takes is that a listing shows what
was written before it, which S3, Google Cloud Storage and Azure promise.

A claim is renewed every few seconds. Nobody compares clocks, which may differ between machines: a run that finds a
claim watches it, and takes the root over once the claim has stood still for the length of a lease. A holder that slept
for so long finds that out before or after its next renewal, and stops.
"""

import contextlib
import json
import os
import random
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow.fs as pafs

from alignet_ray import runtime
from alignet_ray.errors import UserError, first_line
from alignet_ray.locations import filesystem

CLAIMS = "claims"
"""Folder of the claims under a root."""

LEASE_SECONDS = 120
"""A claim that stands still for so long belongs to nobody."""

RENEWAL_SECONDS = 10
"""Time between two renewals of a claim: who finds it knows after so long that its run is alive."""

MARGIN_SECONDS = 20
"""So long before its lease ends a holder that could not renew it stops: what it is writing has time to end."""

WATCH_SECONDS = 2
"""Time between two readings of another run's claim."""

SETTLING_SECONDS = 1
"""Time between writing a claim and listing all, for a store whose listings lag behind its writes a little."""

ATTEMPTS = 5
"""Times that a run claims a root, when others begin at the same moment."""

ASKS = "asks"
HOLDS = "holds"
"""What a claim says: its run wants the root, or has it."""


@dataclass(frozen=True)
class Claim:
    """What a run says of itself in a root.

    Attributes:
        token: random name of the claim.
        state: ASKS or HOLDS.
        owner: process and machine, for a person.
        since: when the run began, for a person (UTC).
        until: the end of the lease by the clock of its machine, for a person (UTC).
        renewals: counted, so that every renewal changes the claim.
        replaced: tokens of the claims that stood still, in whose place this one stands.
    """

    token: str
    state: str
    owner: str
    since: str
    until: str
    renewals: int = 0
    replaced: tuple[str, ...] = ()

    @classmethod
    def new(cls) -> "Claim":
        """The first claim of this process."""
        owner = f"pid {os.getpid()} on {socket.gethostname()}"
        return cls(uuid.uuid4().hex, ASKS, owner, _utc(0), _utc(LEASE_SECONDS))

    def renewed(self) -> "Claim":
        """The claim with a lease from now on."""
        return replace(self, renewals=self.renewals + 1, until=_utc(LEASE_SECONDS))


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time.time() + seconds))


class ClaimFolder:
    """The claims under a root."""

    def __init__(self, root: str) -> None:
        self.uri = f"{root}/{CLAIMS}"

    def read(self) -> dict[str, Claim]:
        """All claims by token.

        Raises:
            UserError: a file among them is no claim.
        """
        fs, base = self._open()
        claims: dict[str, Claim] = {}
        for info in fs.get_file_info(pafs.FileSelector(base, allow_not_found=True)):
            if not info.path.endswith(".json"):
                continue
            # A claim may be withdrawn between the listing and now.
            with contextlib.suppress(FileNotFoundError), fs.open_input_stream(info.path) as stream:
                claim = self._parse(info.base_name, stream.read())
                claims[claim.token] = claim
        return claims

    def write(self, claim: Claim) -> None:
        """Write or renew a claim: an object store shows it whole, or not at all."""
        fs, base = self._open()
        fs.create_dir(base, recursive=True)
        with fs.open_output_stream(f"{base}/{claim.token}.json") as stream:
            stream.write(json.dumps(asdict(claim)).encode())

    def delete(self, token: str) -> None:
        """Withdraw a claim, if it is there."""
        fs, base = self._open()
        with contextlib.suppress(FileNotFoundError):
            fs.delete_file(f"{base}/{token}.json")

    def _open(self) -> tuple[pafs.FileSystem, str]:
        fs, base = filesystem(self.uri)
        # Clients of fsspec remember listings, and would not see what others write.
        if isinstance(fs, pafs.PyFileSystem) and isinstance(fs.handler, pafs.FSSpecHandler):
            fs.handler.fs.invalidate_cache()
        return fs, base.rstrip("/")

    def _parse(self, name: str, content: bytes) -> Claim:
        try:
            fields = json.loads(content)
            return Claim(**fields | {"replaced": tuple(fields["replaced"])})
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{self.uri}/{name} is no claim of a run ({first_line(error)}): delete it") from error


class SystemClock:
    """Time as leases are reckoned by; tests put another in its place."""

    def now(self) -> float:
        """Seconds that never jump, and that go on while the machine sleeps, where the system has such a clock."""
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class ClaimNotes:
    """Tokens of the claims made from a folder of this machine, one a line, in a file that one run at a time may have.

    Who has the file knows that the runs that wrote in it before have ended, however they did, and need not wait.
    """

    def __init__(self, file: Path | None) -> None:
        """None: there is no such file, and every claim found is watched."""
        self.file = file

    def read(self) -> list[str]:
        """The tokens of earlier runs."""
        if self.file is None or not self.file.exists():
            return []
        return self.file.read_text(encoding="utf-8").split()

    def add(self, token: str) -> None:
        """Note a claim, before it is made."""
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(f"{token}\n")

    def clear(self) -> None:
        """Forget all: they are withdrawn."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)


class Lease:
    """A root, claimed and held by this process.

    Attributes:
        why_lost: why the root is lost; empty as long as it is held.
    """

    def __init__(self, root: str, claims: ClaimFolder, clock: SystemClock, say: Callable[[str], None]) -> None:
        self.root = root
        self.claims = claims
        self.clock = clock
        self.say = say
        self.claim = Claim.new()
        self.renewed_at = 0.0
        self.why_lost = ""

    def acquire(self, notes: "ClaimNotes") -> None:
        """Claim the root.

        Args:
            notes: which claims are known to be those of runs that have ended; gets those of this run.

        Raises:
            UserError: another run holds it, or claims it at the same time again and again.
        """
        gone = notes.read()
        for attempt in range(ATTEMPTS):
            silent = self._silent(gone)
            # Another token every time: one that somebody has replaced must not come back.
            self.claim = Claim.new()
            notes.add(self.claim.token)
            if self._claimed(silent):
                return
            # Runs that began at the same moment shall not meet again.
            self.clock.sleep(random.uniform(0, 2 * SETTLING_SECONDS * (attempt + 1)))
        raise UserError(f"other runs claim {self.root} at this moment: start this one again in a minute")

    def _silent(self, gone: Collection[str]) -> dict[str, Claim]:
        """The claims of runs that have ended: those known to, and those that stand still for the length of a lease.

        Raises:
            UserError: the claim of another run is renewed.
        """
        found = self.claims.read()
        watched = {token: claim for token, claim in found.items() if token not in gone}
        deadline = self.clock.now() + LEASE_SECONDS
        for claim in watched.values():
            self.say(f"{self.root} is claimed by {claim.owner}: watching for up to {LEASE_SECONDS} s if it still works")

        # Clocks of two machines may differ, so a claim's own times decide nothing: a run that works renews its claim.
        while watched and self.clock.now() < deadline:
            self.clock.sleep(WATCH_SECONDS)
            current = self.claims.read()
            for token, claim in list(watched.items()):
                # Its run has ended and withdrew it.
                if token not in current:
                    del watched[token]
                    del found[token]
                elif current[token] != claim:
                    raise self._in_use(current[token])
        return found

    def _claimed(self, silent: Mapping[str, Claim]) -> bool:
        """Write a claim and see whether it stands alone among those that are not silent; if not, it is withdrawn."""
        self.claims.write(self.claim)
        self.clock.sleep(SETTLING_SECONDS)
        rivals = self._others(silent)
        if not rivals:
            self.renewed_at = self.clock.now()
            self.claim = replace(self.claim.renewed(), state=HOLDS, replaced=tuple(silent))
            self.claims.write(self.claim)
            # Who asks from now on sees this claim; but one that seemed to have ended may have woken up meanwhile.
            rivals = [claim for claim in self._others(silent) if claim.state == HOLDS]

        if rivals:
            self.claims.delete(self.claim.token)
            return False

        for token in silent:
            self.claims.delete(token)
        return True

    def _others(self, silent: Mapping[str, Claim]) -> list[Claim]:
        """The claims of other runs, without those that still are as they were when they were found silent."""
        found = self.claims.read()
        return [claim for token, claim in found.items() if token != self.claim.token and silent.get(token) != claim]

    def _in_use(self, claim: Claim) -> UserError:
        return UserError(
            f"{self.root} is in use by another run ({claim.owner}, since {claim.since}, lease until {claim.until} "
            "UTC): wait for it, stop it, or choose another --store.root"
        )

    def renew(self) -> None:
        """Extend the lease.

        Raises:
            UserError: another run has taken the root over.
            OSError: the store does not answer; as long as `require` is content, it may be tried again.
        """
        self.require()
        begun = self.clock.now()
        if self.claim.token not in self.claims.read():
            self._lose("its claim there was deleted")
        self.claim = self.claim.renewed()
        self.claims.write(self.claim)

        # After the write, not before: who takes the root over meanwhile lists claims after its own write, too.
        for token, other in self.claims.read().items():
            if token != self.claim.token and other.state == HOLDS and token not in self.claim.replaced:
                self._lose(f"{other.owner} took it over")
        self.renewed_at = begun

    def require(self) -> None:
        """Check that the root is still held, before something is written.

        Raises:
            UserError: it is not, or nobody has heard of this run for so long that another may have taken it.
        """
        if not self.why_lost and self.clock.now() - self.renewed_at > LEASE_SECONDS - MARGIN_SECONDS:
            self._lose("its lease there ran out")
        if self.why_lost:
            raise UserError(self.why_lost)

    def _lose(self, reason: str) -> None:
        self.why_lost = (
            f"this run no longer holds {self.root}: {reason}, since the run was not heard of for long. It stops here, "
            "and continues when it is started again"
        )
        # Its claim, which it may just have written, must not stand in the way of the run that holds the root now.
        with contextlib.suppress(OSError):
            self.claims.delete(self.claim.token)
        raise UserError(self.why_lost)

    def release(self) -> None:
        """Give the root back."""
        self.claims.delete(self.claim.token)


_held: dict[str, Lease] = {}
"""Leases of this process by root, so that whoever writes last can ask, see `require`."""


def require(root: str) -> None:
    """Check that this process, if it held a remote root, still holds it.

    Raises:
        UserError: another run has it.
    """
    if root in _held:
        _held[root].require()


@contextlib.contextmanager
def hold(root: str, notes: ClaimNotes, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a remote root within it; should the root be lost, the block is interrupted as by Ctrl-C.

    Args:
        root: URL of the root.
        notes: of the claims that are made from here.
        say: shows a line while it waits.

    Raises:
        UserError: another run holds it, the root cannot be written, or it was lost.
    """
    root = root.rstrip("/")  # as the store calls it, see `require`
    lease = Lease(root, ClaimFolder(root), SystemClock(), say)
    try:
        try:
            lease.acquire(notes)
        except OSError as error:
            raise UserError(f"cannot write to {root} ({first_line(error)}): choose another --store.root") from error
        _held[root] = lease
        with _renewing(lease):
            yield
    finally:
        _held.pop(root, None)
        # This run is over. For a claim that cannot be withdrawn the next one has the note, or waits.
        with contextlib.suppress(OSError, UserError):
            lease.release()
            notes.clear()


@contextlib.contextmanager
def _renewing(lease: Lease) -> Iterator[None]:
    """Within it, a thread renews the lease.

    Raises:
        UserError: the root was lost meanwhile.
    """
    over = threading.Event()
    thread = threading.Thread(target=_renew, args=(lease, over, threading.current_thread()), name="lease", daemon=True)
    try:
        with runtime.terminable():
            thread.start()
            try:
                yield
            finally:
                over.set()
                thread.join()

    # The thread stops this one by a signal once the root is lost; other interruptions are the user's own.
    except KeyboardInterrupt:
        if lease.why_lost:
            raise UserError(lease.why_lost) from None
        raise
    if lease.why_lost:
        raise UserError(lease.why_lost)


def _renew(lease: Lease, over: threading.Event, holder: threading.Thread) -> None:
    """Renew a lease until its holder is through, or interrupt the holder once the lease is lost."""
    while not over.wait(RENEWAL_SECONDS):
        try:
            lease.renew()
        except Exception:  # of whatever kind: every client of a store has errors of its own
            # A store that does not answer is asked again, until the lease has run out.
            if lease.why_lost:
                _interrupt(holder)
                return


def _interrupt(thread: threading.Thread) -> None:
    """End a thread's work as a signal to stop would. Only the main thread takes signals; others ask `require`."""
    if thread is threading.main_thread() and thread.ident is not None:
        signal.pthread_kill(thread.ident, signal.SIGTERM)
