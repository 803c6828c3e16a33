"""Two runs never hold a remote root at once: every order of their steps, holders that died, slept or lost the store."""

import itertools
import json
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.object_server import object_server

from alignet_ray import root_lease
from alignet_ray.errors import UserError
from alignet_ray.root_lease import (
    ASKS,
    HOLDS,
    LEASE_SECONDS,
    MARGIN_SECONDS,
    RENEWAL_SECONDS,
    Claim,
    ClaimFolder,
    ClaimNotes,
    Lease,
    SystemClock,
)

NO_NOTES = ClaimNotes(None)


class MemoryClaims(ClaimFolder):
    """Claims in a dictionary that several runs share; before every request a test may do something."""

    def __init__(self, stored: dict[str, Claim], before: Callable[[], None] = lambda: None) -> None:
        super().__init__("mem://bucket/root")
        self.stored = stored
        self.before = before

    def read(self) -> dict[str, Claim]:
        self.before()
        return dict(self.stored)

    def write(self, claim: Claim) -> None:
        self.before()
        self.stored[claim.token] = claim

    def delete(self, token: str) -> None:
        self.before()
        self.stored.pop(token, None)


class FakeClock(SystemClock):
    """Time that passes when somebody sleeps; what happens meanwhile can be planted."""

    def __init__(self, start: float = 0.0, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.time = start
        self.meanwhile = meanwhile

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.meanwhile()


def lease_on(stored: dict[str, Claim], clock: SystemClock | None = None) -> Lease:
    return Lease("mem://bucket/root", MemoryClaims(stored), clock or FakeClock(), lambda line: None)


def held(stored: dict[str, Claim], clock: SystemClock | None = None) -> Lease:
    lease = lease_on(stored, clock)
    lease.acquire(NO_NOTES)
    return lease


def works(lease: Lease) -> bool:
    """Whether a run may go on writing, as far as it knows."""
    try:
        lease.require()
    except UserError:
        return False
    return True


class Turns:
    """Two threads that make one request each in the order of a schedule; after its end they go on alternately."""

    def __init__(self, schedule: tuple[int, ...]) -> None:
        self.order = itertools.chain(schedule, itertools.cycle((0, 1)))
        self.turn = next(self.order)
        self.running = {0, 1}
        self.changed = threading.Condition()

    def wait(self, me: int) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.turn == me, timeout=10)
            self._pass_on()

    def leave(self, me: int) -> None:
        with self.changed:
            self.running.discard(me)
            if self.turn == me:
                self._pass_on()

    def _pass_on(self) -> None:
        self.turn = next((turn for turn in self.order if turn in self.running), -1) if self.running else -1
        self.changed.notify_all()


def race(schedule: tuple[int, ...], stored: dict[str, Claim]) -> list[Lease]:
    """The leases of two runs that claim a root at once, with their requests in this order."""
    turns = Turns(schedule)
    leases = []

    def contend(me: int) -> None:
        try:
            leases[me].acquire(NO_NOTES)
        except UserError:
            pass
        finally:
            turns.leave(me)

    for me in (0, 1):
        claims = MemoryClaims(stored, lambda me=me: turns.wait(me))
        leases.append(Lease("mem://bucket/root", claims, FakeClock(), lambda line: None))
    threads = [threading.Thread(target=contend, args=(me,)) for me in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return leases


@pytest.mark.parametrize("dead", [False, True], ids=["free", "left by a run that died"])
def test_of_two_that_claim_at_once_at_most_one_holds_in_every_order_of_their_steps(
    dead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One look at the old claim is enough here: it stands still.
    monkeypatch.setattr(root_lease, "WATCH_SECONDS", LEASE_SECONDS)
    winners = []
    for schedule in itertools.product((0, 1), repeat=10):
        stored: dict[str, Claim] = {}
        if dead:
            held(stored)
        leases = race(schedule, stored)
        holding = [lease for lease in leases if lease.claim.state == HOLDS and lease.claim.token in stored]
        assert len(holding) <= 1, schedule
        winners.append(len(holding))
    # They may also both give way, again and again, but that must not be the rule.
    assert sum(winners) > 0.7 * len(winners)


def test_a_claim_that_is_renewed_is_never_taken_and_its_holder_is_named() -> None:
    stored: dict[str, Claim] = {}
    holder = held(stored)
    watching = FakeClock(meanwhile=lambda: pass_time(holder, 2))
    other = lease_on(stored, watching)
    with pytest.raises(UserError, match=rf"in use by another run \({holder.claim.owner}, since .*, lease until .* UTC"):
        other.acquire(NO_NOTES)
    # The answer does not take longer than one renewal.
    assert watching.time <= RENEWAL_SECONDS + 2
    assert list(stored) == [holder.claim.token]


def pass_time(lease: Lease, seconds: float) -> None:
    """Let a holder's time pass; it renews when it is due."""
    assert isinstance(lease.clock, FakeClock)
    before = lease.clock.time // RENEWAL_SECONDS
    lease.clock.time += seconds
    if lease.clock.time // RENEWAL_SECONDS > before:
        lease.renew()


@pytest.mark.parametrize("skew", [-1e6, 0.0, 1e6])
def test_a_holder_that_died_is_replaced_after_one_lease_whatever_the_clocks_say(skew: float) -> None:
    stored: dict[str, Claim] = {}
    dead = held(stored)
    clock = FakeClock(start=skew)
    taken = held(stored, clock)
    assert LEASE_SECONDS <= clock.time - skew <= LEASE_SECONDS + 10
    assert list(stored) == [taken.claim.token]
    assert taken.claim.replaced == (dead.claim.token,)


def test_a_holder_that_slept_stops_before_it_writes_on() -> None:
    """Its clock went on: it knows by itself, without the store."""
    stored: dict[str, Claim] = {}
    clock = FakeClock()
    slow = held(stored, clock)
    clock.time += LEASE_SECONDS - MARGIN_SECONDS - 2
    assert works(slow)
    clock.time += 3
    with pytest.raises(UserError, match=r"no longer holds mem://bucket/root: its lease there ran out.*started again"):
        slow.require()
    with pytest.raises(UserError, match="no longer holds"):
        slow.renew()


def test_a_holder_whose_clock_stood_still_never_works_beside_the_run_that_took_over() -> None:
    """A virtual machine that was paused wakes up before each step of the takeover; by its clock no time passed."""
    outcomes = set()
    for moment in range(90):
        stored: dict[str, Claim] = {}
        paused = held(stored)
        steps = itertools.count()

        def wake(moment: int = moment, steps: Iterator[int] = steps, paused: Lease = paused) -> None:
            if next(steps) >= moment and works(paused):
                try_to_renew(paused)

        taker = Lease("mem://bucket/root", MemoryClaims(stored, wake), FakeClock(), lambda line: None)
        took = True
        try:
            taker.acquire(NO_NOTES)
        except UserError:
            took = False
        # Who wakes up after the takeover notices at its next renewal, and does not disturb the other.
        if next(steps) <= moment:
            try_to_renew(paused)
        assert took != works(paused), moment
        if took:
            taker.renew()
            assert list(stored) == [taker.claim.token]
        outcomes.add((took, works(paused)))
    assert outcomes == {(True, False), (False, True)}


def try_to_renew(lease: Lease) -> None:
    try:
        lease.renew()
    except UserError:
        assert not works(lease)


def test_a_holder_that_is_replaced_between_two_steps_of_its_renewal_stops() -> None:
    """The takeover is complete after the holder looked for its claim, and before it writes it anew."""
    stored: dict[str, Claim] = {}
    clock = FakeClock()
    slow = held(stored, clock)
    requests = itertools.count()
    takers = []

    def take_over() -> None:
        if next(requests) == 1:
            takers.append(held(stored))

    slow.claims = MemoryClaims(stored, take_over)
    with pytest.raises(UserError, match=rf"no longer holds .*: {slow.claim.owner} took it over"):
        slow.renew()
    takers[0].renew()
    assert list(stored) == [takers[0].claim.token]


def test_a_run_that_came_a_moment_too_late_does_not_disturb_the_holder() -> None:
    """It had looked before the holder's claim was there, and makes its own while the holder renews."""
    stored: dict[str, Claim] = {}
    holders: list[Lease] = []

    def first_come() -> None:
        if len(stored) == 0 and asked:
            holders.append(held(stored))
        for holder in holders:
            holder.renew()
        asked.append(True)

    asked: list[bool] = []
    late = Lease("mem://bucket/root", MemoryClaims(stored, first_come), FakeClock(), lambda line: None)
    with pytest.raises(UserError, match="in use by another run"):
        late.acquire(NO_NOTES)
    assert works(holders[0])
    assert list(stored) == [holders[0].claim.token]


def test_a_store_that_does_not_answer_is_asked_again_until_the_lease_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    class DeadStore(MemoryClaims):
        def read(self) -> dict[str, Claim]:
            raise OSError("no route to host")

    clock = FakeClock()
    lease = held({}, clock)
    lease.claims = DeadStore({})
    waits: list[float] = []

    class Over(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0)
            clock.time += timeout or 0
            return False

    interrupted = []
    monkeypatch.setattr(root_lease, "_interrupt", interrupted.append)
    me = threading.current_thread()
    root_lease._renew(lease, Over(), me)
    assert interrupted == [me]
    assert sum(waits) == pytest.approx(LEASE_SECONDS - MARGIN_SECONDS, abs=RENEWAL_SECONDS)
    assert "its lease there ran out" in lease.why_lost


def test_a_run_that_was_killed_here_is_continued_here_at_once(tmp_path: Path) -> None:
    """Who has the folder's lock knows that the run before has ended; its own file says which claim was its."""
    stored: dict[str, Claim] = {}
    notes = ClaimNotes(tmp_path / "run.claims")
    killed = lease_on(stored)
    killed.acquire(notes)

    clock = FakeClock()
    again = lease_on(stored, clock)
    again.acquire(notes)
    assert clock.time < 5
    assert list(stored) == [again.claim.token]
    assert notes.read() == [killed.claim.token, again.claim.token]
    notes.clear()
    assert notes.read() == []


def test_a_lost_root_interrupts_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it waits for something: the renewing thread sends the signal to stop."""
    monkeypatch.setattr(root_lease, "RENEWAL_SECONDS", 0.05)
    before = signal.getsignal(signal.SIGTERM)
    lease = held({})
    lease.clock = FakeClock(start=LEASE_SECONDS)
    start = time.monotonic()
    with pytest.raises(UserError, match="no longer holds"), root_lease._renewing(lease):
        time.sleep(30)
    assert time.monotonic() - start < 10
    assert signal.getsignal(signal.SIGTERM) == before


def test_who_writes_last_asks_whether_the_root_is_still_held() -> None:
    root = f"memory://{uuid.uuid4().hex}/runs"
    root_lease.require(root)  # nobody holds it here: a trial's process, a local root
    with root_lease.hold(f"{root}/", NO_NOTES, print):
        root_lease.require(root)
        root_lease._held[root].why_lost = "lost"
        with pytest.raises(UserError, match=r"^lost$"):
            root_lease.require(root)
        root_lease._held[root].why_lost = ""
    assert ClaimFolder(root).read() == {}


def test_what_is_no_claim_is_named() -> None:
    folder = ClaimFolder(f"memory://{uuid.uuid4().hex}/runs")
    folder.write(Claim.new())
    fs, base = folder._open()
    for content in (b"nonsense", b"{}", b"[]", json.dumps({"replaced": 1}).encode()):
        with fs.open_output_stream(f"{base}/x.json") as stream:
            stream.write(content)
        with pytest.raises(UserError, match=r"claims/x\.json is no claim of a run .*: delete it"):
            folder.read()


HOLDER = """
import sys
from alignet_ray import root_lease

with root_lease.hold(sys.argv[1], root_lease.ClaimNotes(None), print):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_two_processes_fight_over_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a server that speaks S3: the holder is named; a killed one is replaced; a stopped one finds itself out.

    Leases are as long as they are in use.
    """
    with object_server("fight") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        root = "s3://fight/runs"
        command = [sys.executable, "-c", HOLDER, root]
        first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"

        second = subprocess.run(command, input=b"", capture_output=True, timeout=60)
        assert f"in use by another run (pid {first.pid} on".encode() in second.stderr

        # Stopped, as a machine that hangs: another takes the root over after a lease, and only then it wakes up.
        first.send_signal(signal.SIGSTOP)
        start = time.monotonic()
        third = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert third.stdout is not None
        assert b"is claimed by" in third.stdout.readline()
        assert third.stdout.readline() == b"held\n"
        assert LEASE_SECONDS <= time.monotonic() - start < LEASE_SECONDS + 60
        first.send_signal(signal.SIGCONT)
        _, errors = first.communicate(timeout=60)
        assert b"this run no longer holds s3://fight/runs" in errors
        assert first.returncode == 1

        _, errors = third.communicate(b"", timeout=60)
        assert third.returncode == 0, errors
        assert ClaimFolder(root).read() == {}


def test_claims_in_a_bucket_are_written_renewed_and_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    with object_server("claims") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        folder = ClaimFolder("s3://claims/deep/root")
        assert folder.read() == {}
        claim = Claim.new()
        assert claim.state == ASKS
        renewed = claim.renewed()
        folder.write(claim)
        folder.write(renewed)
        assert folder.read() == {claim.token: renewed}
        folder.delete(claim.token)
        folder.delete(claim.token)
        assert folder.read() == {}
        with pytest.raises(UserError, match="cannot write to s3://absent/root"), hold("s3://absent/root"):
            pass


def hold(root: str):  # type: ignore[no-untyped-def]
    return root_lease.hold(root, NO_NOTES, print)
