"""Watchdog: warns when a stage has made no progress for some minutes, and names the tasks and actors it waits for."""

import contextlib
import re
import threading
import time
from collections.abc import Iterator

import psutil

from alignet_ray.screen import Screen, clock

POLL_SECONDS = 5.0
"""Time between two checks, or less for a short limit."""

MAX_NAMES = 5
"""Tasks that a warning names before it only counts them."""


@contextlib.contextmanager
def watched(screen: Screen, name: str, minutes: float) -> Iterator[None]:
    """Context in which a line is printed after `minutes` without progress, and again after each doubling of that time.

    Args:
        screen: progress is what it shows.
        name: the step that is watched.
        minutes: 0 turns it off.
    """
    finished = threading.Event()

    def watch() -> None:
        last_progress = screen.moved
        limit = 60 * minutes
        while not finished.wait(min(POLL_SECONDS, limit / 4)):
            if screen.moved != last_progress:
                last_progress = screen.moved
                limit = 60 * minutes
            # The limit doubles, so that a long wait does not fill the screen.
            elif time.monotonic() - last_progress > limit:
                warning = f"warning: {name} has not moved for {clock(limit)}; at work: {running_tasks()}"
                screen.line(warning, moves=False)
                limit *= 2

    if minutes:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        finished.set()


def running_tasks() -> str:
    """The running tasks with their process and node, as far as Ray's dashboard or this machine can tell."""
    names = _tasks_by_dashboard()
    if not names:
        # An actor's title has a dot or a colon while it works, and a task has a colon; those come first.
        names = sorted(_ray_processes(), key=lambda title: not re.search(r"\.|^[^(]+: ", title))
    if not names:
        return "nothing that can be seen"

    text = ", ".join(names[:MAX_NAMES])
    if len(names) > MAX_NAMES:
        text += f" and {len(names) - MAX_NAMES} more"
    return text


def _tasks_by_dashboard() -> list[str]:
    """Running tasks as Ray's dashboard lists them; none without a dashboard, or if it hangs."""
    from ray.util.state import list_tasks

    try:
        tasks = list_tasks(filters=[("state", "=", "RUNNING")], detail=True, timeout=5)
    except Exception:  # many kinds, all of which mean that there is no answer
        return []
    return [f"{task.name} (pid {task.worker_pid}, node {(task.node_id or '')[:8]})" for task in tasks]


def _ray_processes() -> Iterator[str]:
    """Workers of a Ray that this process has started: their titles say what they run (Actor.method, or a task)."""
    # Workers are children of Ray's node process, which is a child of this one.
    for process in psutil.Process().children(recursive=True):
        # A process may end while it is looked at.
        with contextlib.suppress(psutil.Error):
            title = " ".join(process.cmdline()).strip()
            if title.startswith("ray::") and "IDLE" not in title:
                yield f"{title.removeprefix('ray::')} (pid {process.pid})"
