"""What a user sees during a run: headings, a progress line with rate and time left, and tables, drawn by rich."""

import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, TypeAlias

from rich.box import Box
from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Cell: TypeAlias = str | int | float | None
TableRow: TypeAlias = dict[str, Cell]
"""A row of a table that is printed: heading -> cell. Headings are for people, such as `GPU hours`."""

REDRAW_SECONDS = 0.2
"""Shortest time between two states of the progress line on a terminal."""
BAR_WIDTH = 20

SILENT_SECONDS = 2.0
"""Seconds after which a command says what it does."""

NARROW = 40
"""Columns of a terminal below which a table that does not fit is no table any more."""

RULE_UNDER_HEAD = Box("    \n    \n -  \n    \n    \n    \n    \n    \n", ascii=True)
"""Table frame: columns are separated by spaces, with a rule of hyphens under the head."""


def clock(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `2 h 10 min`."""
    # Rounded first, or 59.6 s would be "60 s".
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Screen:
    """Output of a run: on a terminal a progress line that redraws itself, anywhere else plain lines.

    Attributes:
        every: seconds between two progress lines where there is no terminal.
        live: whether the stream is a terminal that can redraw a line.
        moved: when (time.monotonic) the work last made progress.
        transcript: the run's log, which gets all lines and headings as well; None without one.
    """

    def __init__(self, stream: TextIO | None = None, every: float = 5.0) -> None:
        self.every = every
        self.moved = time.monotonic()
        self.transcript: Any = None
        self._lock = threading.RLock()
        self._drawing: Live | None = None
        self.stream = stream or sys.stdout

    @property
    def stream(self) -> Any:
        """Where the output goes."""
        return self._stream

    @stream.setter
    def stream(self, stream: Any) -> None:
        self._stream = stream
        self.console = _console(stream)
        self.live = stream.isatty() and not self.console.is_dumb_terminal

    def line(self, text: str = "", moves: bool = True) -> None:
        """Print one line, however wide; with `moves` it counts as progress."""
        # A warning that nothing moves must not count as a move.
        if moves:
            self.moved = time.monotonic()
        self._keep(text)
        self._show(Text(text))

    def heading(self, name: str, detail: str = "") -> None:
        """Print the heading of a stage."""
        self.moved = time.monotonic()
        title = f"== {name}"
        if detail:
            title += f" - {detail}"
        self._keep(title)
        self._show(Text("\n").append(title, style="bold"))

    def _keep(self, text: str) -> None:
        # Written out at once: a log is read while the run goes on, and after it was killed.
        if self.transcript is not None and text:
            print(text, file=self.transcript, flush=True)

    def redraw(self, content: RenderableType) -> None:
        """Show a line that the next output replaces; a plain line where there is no terminal."""
        if not self.live:
            self._show(content)
            return

        # A line that wraps could not be replaced: the terminal counts rows.
        if isinstance(content, str):
            content = Text(content, no_wrap=True, overflow="ellipsis")
        with self._lock:
            if self._drawing is None:
                self._drawing = Live(console=self.console, auto_refresh=False, transient=True, redirect_stdout=False)
                self._drawing.start()
            self._drawing.update(content, refresh=True)

    def _show(self, content: RenderableType) -> None:
        """Print below what is there, in place of a line that was only drawn."""
        # Lines come from several threads: Ray's watchdog speaks while a stage works.
        with self._lock:
            if self._drawing is not None:
                self._drawing.stop()
                self._drawing = None
            self.console.print(content, soft_wrap=True)

    def progress(self, total: int, unit: str, done: int = 0, told_if_short: bool = True) -> "Progress":
        """A progress line; use it as a context manager.

        Args:
            total: units of work.
            unit: what is counted, in the plural.
            done: units that were done before.
            told_if_short: whether a line stays where the work ended before its first one.
        """
        return Progress(self, total, unit, done, told_if_short)

    @contextmanager
    def told_if_long(self, text: str) -> Iterator[None]:
        """Context of work that has nothing to count: after some seconds a line says what is done."""
        timer = threading.Timer(SILENT_SECONDS, self.line, [text])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


class Progress:
    """Counts `done` of `total` units; the rate covers the work of this run (`done` at the start is not counted).

    Until the end the rate is measured from the first count, as the start of processes and compilers delays it.
    """

    def __init__(self, screen: Screen, total: int, unit: str, done: int = 0, told_if_short: bool = True) -> None:
        self.screen = screen
        self.total = total
        self.unit = unit
        self.done = done
        self.stays = told_if_short

        self.first = done
        self.start = time.monotonic()
        # State at the first count.
        self.counted = 0
        self.began = 0.0
        # A terminal shows the line at the first count; a log gets none for work that is soon done.
        self.shown = self.start
        if screen.live:
            self.shown = 0.0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and self.stays:
            self.screen.line(self.text(final=True))

    def add(self, n: int = 1, note: str = "") -> None:
        """Count `n` more; `note` is appended (a loss, for example)."""
        self.done += n
        now = time.monotonic()
        self.screen.moved = now
        # What was counted first took the start of processes with it, so the rate is taken from there on.
        if not self.began:
            self.counted = self.done
            self.began = now

        pause = self.screen.every
        if self.screen.live:
            pause = REDRAW_SECONDS
        if now - self.shown >= pause:
            self.shown = now
            # On a terminal the line is drawn at once, and is gone again when the next one comes.
            self.stays = self.stays or now - self.start >= self.screen.every
            if self.screen.live:
                self.screen.redraw(self._bar(note))
            else:
                self.screen.redraw(self.text(note))

    @property
    def rate(self) -> float:
        """Units per second: since the first count while there is more to do, else since the start."""
        # At the end the whole time counts, so that the last line agrees with the clock beside it.
        now = time.monotonic()
        if self.began and self.counted < self.done < self.total:
            return (self.done - self.counted) / max(now - self.began, 1e-9)
        return (self.done - self.first) / max(now - self.start, 1e-9)

    def text(self, note: str = "", final: bool = False) -> str:
        """The line as plain text: bar, count, rate, time so far and time left."""
        filled = round(BAR_WIDTH * self.done / max(self.total, 1))
        return f"   [{'#' * filled:<{BAR_WIDTH}}] {self._figures(note, final)}"

    def _bar(self, note: str) -> RenderableType:
        """The line for a terminal, cut at its width."""
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=2)
        grid.add_column(width=BAR_WIDTH)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        bar = ProgressBar(total=max(self.total, 1), completed=self.done, width=BAR_WIDTH)
        grid.add_row("", bar, Text(self._figures(note)))
        return grid

    def _figures(self, note: str = "", final: bool = False) -> str:
        elapsed = time.monotonic() - self.start
        figures = f"{self.done:,}/{self.total:,} {self.unit}, {self.rate:,.1f}/s, {clock(elapsed)}"
        # Nothing is left at the end, and nothing can be said before the first count.
        if self.rate and not final:
            figures += f", {clock((self.total - self.done) / self.rate)} left"
        if note:
            figures += f"  {note}"
        return figures


@contextmanager
def open_screen(quiet: bool) -> Iterator[Screen]:
    """What a command shows while it works: the terminal or the notebook's cell; nothing where it is to be quiet."""
    if not quiet:
        yield Screen()
        return
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        yield Screen(nowhere)


def _console(stream: Any) -> Console:
    """A console that prints text as it is; NO_COLOR and the terminal's width are rich's business."""
    return Console(file=stream, force_jupyter=False, markup=False, highlight=False, emoji=False)


def print_table(rows: Sequence[Mapping[str, Cell]]) -> None:
    """Print rows as a table: within the terminal's width, or unwrapped where there is no terminal.

    On a very narrow terminal, where columns would be a few letters wide, every cell has a line of its own.
    """
    # Other programs read a table line by line, so a row must not be broken for them.
    console = _console(sys.stdout)
    if not sys.stdout.isatty() or not rows:
        print(table(rows))
        return

    # The second line is the rule under the heads, which is as wide as the table.
    if console.width < NARROW and len(table(rows).splitlines()[1]) > console.width:
        for row in rows:
            for head in row:
                console.print(f"{head}: {_cell(row, head)}", overflow="fold")
            console.print()
        return

    drawn = Table(box=RULE_UNDER_HEAD, show_edge=False, pad_edge=False)
    for head in rows[0]:
        # "fold" breaks long cells such as ids; "ellipsis" would make them useless for copying.
        if _is_numeric(rows, head):
            drawn.add_column(head, justify="right", overflow="fold")
        else:
            drawn.add_column(head, overflow="fold")

    for row in rows:
        drawn.add_row(*(_cell(row, head) for head in rows[0]))
    console.print(drawn)


def table(rows: Sequence[Mapping[str, Cell]]) -> str:
    """Rows as plain text of any width, numbers to the right."""
    if not rows:
        return "(nothing)"

    heads = list(rows[0])
    columns = []
    rules = []
    for head in heads:
        cells = [head, *(_cell(row, head) for row in rows)]
        width = max(len(cell) for cell in cells)
        rules.append("-" * width)
        if _is_numeric(rows, head):
            columns.append([cell.rjust(width) for cell in cells])
        else:
            columns.append([cell.ljust(width) for cell in cells])

    # Columns back to rows; spaces at the end of a line would only wrap it.
    first, *others = ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]
    return "\n".join([first, "  ".join(rules), *others])


def markdown_tables(lines: Sequence[str]) -> str:
    """Lines of text as Markdown: each table that `table` has drawn in them becomes a table there, too."""
    found = list(lines)
    spans: list[tuple[int, int]] = []
    for number, line in enumerate(lines):
        # A rule under the heads says where the columns are; the table ends with the first line that is none of its own.
        if re.fullmatch(r"-+(  -+)+", line):
            spans = [rule.span() for rule in re.finditer("-+", line)]
            found[number - 1] = "\n" + _markdown_row(lines[number - 1], spans)
            found[number] = "|" + "---|" * len(spans)
        elif spans and all(line.ljust(start)[start - 2 : start] == "  " for start, _ in spans[1:]):
            found[number] = _markdown_row(line, spans)
        elif spans:
            spans = []
            found[number] = f"\n{line}"
    return "\n".join(found)


def _markdown_row(line: str, spans: Sequence[tuple[int, int]]) -> str:
    """A line of a table as Markdown, by the places of its columns."""
    cells = (line[start:end].strip().replace("|", "\\|") for start, end in spans)
    return f"| {' | '.join(cells)} |"


def _cell(row: Mapping[str, Cell], head: str) -> str:
    value = row.get(head)
    if value is None:
        return ""
    return str(value)


def _is_numeric(rows: Sequence[Mapping[str, Cell]], head: str) -> bool:
    """Whether a column holds nothing but numbers and gaps."""
    return all(row.get(head) is None or isinstance(row.get(head), int | float) for row in rows)
