"""What a person sees while it runs: a heading per stage, and one progress line with rate and ETA."""

import sys
import time
from typing import Any, TextIO


def clock(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Screen:
    """Writes to a terminal (a bar that redraws itself) or to a file (a line every `every` seconds).

    Attributes:
        moved: when (time.monotonic) something last went forward.
    """

    def __init__(self, stream: TextIO | None = None, every: float = 5.0) -> None:
        self.stream = stream or sys.stdout
        self.every = every
        self.live = self.stream.isatty()
        self._open = False
        self.moved = time.monotonic()

    def line(self, text: str = "", moves: bool = True) -> None:
        """One line; with `moves` it counts as something that went forward."""
        if moves:
            self.moved = time.monotonic()
        if self._open:
            self.stream.write("\r\x1b[2K")
            self._open = False
        self.stream.write(text + "\n")
        self.stream.flush()

    def heading(self, name: str, detail: str = "") -> None:
        """The heading of a stage."""
        self.line(f"\n== {name} {'- ' + detail if detail else ''}".rstrip())

    def redraw(self, text: str) -> None:
        """A line that the next one replaces (terminals only)."""
        if self.live:
            self.stream.write("\r\x1b[2K" + text[:150])
            self.stream.flush()
            self._open = True
        else:
            self.line(text)

    def progress(self, total: int, unit: str, done: int = 0) -> "Progress":
        """A progress line; use it as a context manager."""
        return Progress(self, total, unit, done)


class Progress:
    """Counts `done` of `total` units; the rate covers what this run did (`done` at the start is not counted).

    Until the end it is the rate since the first count, which the start of processes and compilers has delayed.
    """

    def __init__(self, screen: Screen, total: int, unit: str, done: int = 0) -> None:
        self.screen, self.total, self.unit, self.done = screen, total, unit, done
        self.first, self.start = done, time.monotonic()
        self.counted, self.began = 0, 0.0
        self.shown = self.start if not screen.live else 0.0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.screen.line(self.text(final=True))

    def add(self, n: int = 1, note: str = "") -> None:
        """Count `n` more; `note` is appended (a loss, say)."""
        self.done += n
        now = self.screen.moved = time.monotonic()
        if not self.began:
            self.counted, self.began = self.done, now
        if now - self.shown >= (0.2 if self.screen.live else self.screen.every):
            self.shown = now
            self.screen.redraw(self.text(note))

    @property
    def rate(self) -> float:
        """Units per second: since the first count while there is more to do, else since the start."""
        now = time.monotonic()
        if self.began and self.counted < self.done < self.total:
            return (self.done - self.counted) / max(now - self.began, 1e-9)
        return (self.done - self.first) / max(now - self.start, 1e-9)

    def text(self, note: str = "", final: bool = False) -> str:
        """The line: bar, count, rate, ETA."""
        elapsed = time.monotonic() - self.start
        share = self.done / max(self.total, 1)
        bar = "#" * round(20 * share)
        left = "" if final or not self.rate else f", {clock((self.total - self.done) / self.rate)} left"
        text = f"   [{bar:<20}] {self.done:,}/{self.total:,} {self.unit}, {self.rate:,.1f}/s, {clock(elapsed)}{left}"
        return text + (f"  {note}" if note else "")


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a plain text table, numbers to the right."""
    if not rows:
        return "(nothing)"
    heads = list(rows[0])
    cells = [[("" if r.get(h) is None else str(r.get(h))) for h in heads] for r in rows]
    widths = [max(len(h), *(len(c[i]) for c in cells)) for i, h in enumerate(heads)]
    right = [all(isinstance(r.get(h), int | float) or r.get(h) is None for r in rows) for h in heads]

    def draw(values: list[str]) -> str:
        padded = (v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([draw(heads), "  ".join("-" * w for w in widths), *map(draw, cells)])
