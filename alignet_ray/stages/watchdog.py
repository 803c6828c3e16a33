"""Says when a run is stuck: nothing has moved for some minutes; and which tasks and actors it waits for."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from alignet_ray.screen import Screen, clock


@contextlib.contextmanager
def watched(screen: Screen, name: str, minutes: float) -> Iterator[None]:
    """Within it, a line tells whenever the screen has shown nothing new for `minutes`, and again after twice as long.

    Args:
        screen: what counts as movement is what it shows.
        name: the step that is watched.
        minutes: 0 turns it off.
    """
    over = threading.Event()

    def look() -> None:
        last, patience = screen.moved, 60 * minutes
        while not over.wait(min(5.0, patience / 4)):
            if screen.moved != last:
                last, patience = screen.moved, 60 * minutes
            elif time.monotonic() - last > patience:
                screen.line(f"warning: {name} has not moved for {clock(patience)}; at work: {busy()}", moves=False)
                patience *= 2

    if minutes:
        threading.Thread(target=look, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def busy() -> str:
    """The running tasks with their process and node, as far as Ray's dashboard or this machine can tell."""
    from ray.util.state import list_tasks

    found: list[str] = []
    with contextlib.suppress(Exception):  # without a dashboard, or with one that hangs, this machine is looked at
        tasks = list_tasks(filters=[("state", "=", "RUNNING")], detail=True, timeout=5)
        found = [f"{t.name} (pid {t.worker_pid}, node {(t.node_id or '')[:8]})" for t in tasks]
    found = found or sorted(_processes(), key=lambda title: "." not in title)
    return (
        ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "") or "nothing that can be seen"
    )


def _processes() -> Iterator[str]:
    """The workers of a Ray that this process has started: their titles say what they do (Actor.method, or a task)."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            if title.startswith("ray::") and "IDLE" not in title and _parent(_parent(int(folder.name))) == os.getpid():
                yield f"{title.removeprefix('ray::')} (pid {folder.name})"


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
