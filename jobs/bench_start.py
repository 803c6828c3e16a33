"""Where the seconds go that nobody computes in: commands that only look, and the steps and processes of `run smoke`.

    python jobs/bench.py start [--rounds N] [--json FILE]

Each round begins in an empty folder. Seconds are medians over the rounds, processor seconds those of the command and of
all processes that it started, and processes those that did not end within a tenth of a second.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from alignet_ray.screen import table

COMMANDS = {
    "--help": ("--help",),
    "run smoke": ("run", "smoke"),
    "run smoke, again": ("run", "smoke"),
    "plan smoke": ("plan", "smoke"),
    "show smoke": ("show", "smoke"),
    "ls": ("ls",),
}
"""What is timed, in this order: the commands after the run look at it."""

POLL_SECONDS = 0.1
"""Between two looks at the processes of a command."""

HEADING = re.compile(r"^== (\S+) - ")
DONE = re.compile(r"^ +done in (?:(\d+) min )?(\d+) s")
"""What the screen says at the beginning and at the end of a step."""


@dataclass
class Timing:
    """One command, from its start to its prompt.

    Attributes:
        seconds: all in all.
        first_line: until it said anything.
        processor: seconds of all its processes together.
        processes: how many it started, itself included.
        steps: seconds of each step of a run.
    """

    seconds: float = 0.0
    first_line: float = 0.0
    processor: float = 0.0
    processes: int = 0
    steps: dict[str, float] = field(default_factory=dict)


class Watcher:
    """Looks at a command's processes while they live: their number, and the processor time of each when last seen."""

    def __init__(self, pid: int) -> None:
        self.command = psutil.Process(pid)
        self.processor: dict[tuple[int, float], float] = {}
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()

    def stop(self) -> None:
        """Look no more."""
        self.done.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.done.wait(POLL_SECONDS):
            try:
                processes = [self.command, *self.command.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in processes:
                # A process may end between the look at the list and the look at it.
                try:
                    used = process.cpu_times()
                    self.processor[process.pid, process.create_time()] = used.user + used.system
                except psutil.NoSuchProcess:
                    continue


def timed(arguments: tuple[str, ...], folder: Path) -> Timing:
    """Run a command in a folder.

    Raises:
        SystemExit: it failed; with what it said.
    """
    timing = Timing()
    begun = time.perf_counter()
    command = [sys.executable, "-m", "alignet_ray", *arguments]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
    )
    watcher = Watcher(process.pid)
    lines = []
    step = ""
    assert process.stdout is not None
    for line in process.stdout:
        if not timing.first_line:
            timing.first_line = time.perf_counter() - begun
        lines.append(line)
        if heading := HEADING.match(line):
            step = heading[1]
            step_begun = time.perf_counter()
        # The clock of the screen has whole seconds only.
        if step and DONE.match(line):
            timing.steps[step] = time.perf_counter() - step_begun
            step = ""

    status = process.wait()
    timing.seconds = time.perf_counter() - begun
    watcher.stop()
    if status:
        raise SystemExit(f"{' '.join(arguments)} ended with status {status}:\n{''.join(lines[-20:])}")
    timing.processor = sum(watcher.processor.values())
    timing.processes = max(1, len(watcher.processor))
    return timing


def measure(rounds: int) -> dict[str, list[Timing]]:
    """Every command in every round."""
    found: dict[str, list[Timing]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="alignet-start-") as folder:
            for name, arguments in COMMANDS.items():
                found[name].append(timed(arguments, Path(folder)))
    return found


def rows(found: dict[str, list[Timing]]) -> list[dict[str, Any]]:
    """Medians of each command, and of each step of the run."""

    def median(values: list[float]) -> float:
        return round(statistics.median(values), 2)

    shown = []
    for name, timings in found.items():
        shown.append(
            {
                "what": name,
                "seconds": median([timing.seconds for timing in timings]),
                "until the first line": median([timing.first_line for timing in timings]),
                "processor seconds": median([timing.processor for timing in timings]),
                "processes": median([float(timing.processes) for timing in timings]),
            }
        )
        for step in timings[0].steps:
            seconds = median([timing.steps[step] for timing in timings if step in timing.steps])
            blank = {"until the first line": "", "processor seconds": "", "processes": ""}
            shown.append({"what": f"  {step}", "seconds": seconds} | blank)
    return shown


def main(arguments: list[str]) -> None:
    """Time the commands."""
    parser = argparse.ArgumentParser(prog="bench start", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, each in an empty folder")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args(arguments)

    shown = rows(measure(args.rounds))
    print(table(shown))
    if args.json:
        args.json.write_text(json.dumps(shown, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
