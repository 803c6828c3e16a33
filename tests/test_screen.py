"""What a user sees: plain lines in a file, a line that redraws itself on a terminal of any width."""

import io
import os
import pty
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from alignet_ray import screen
from alignet_ray.screen import Progress, Screen, clock, markdown_tables, print_table, table


def test_clock() -> None:
    assert [clock(5), clock(185), clock(7800)] == ["5 s", "3 min 05 s", "2 h 10 min"]


def test_progress_in_a_file_is_lines_and_counts_only_this_runs_work(tmp_path: Path) -> None:
    file = tmp_path / "out"
    with file.open("w") as stream, Screen(stream, every=0).progress(10, "images", done=4) as bar:
        for _ in range(3):
            bar.add(2, note="loss 0.1")
    lines = file.read_text().splitlines()
    assert len(lines) == 4
    assert "10/10 images" in lines[-1]
    assert "left" in lines[0]
    assert "loss 0.1" in lines[0]
    assert bar.done - bar.first == 6


def test_short_work_may_leave_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(screen.time, "monotonic", lambda: now)
    file = tmp_path / "out"
    with file.open("w") as stream, Screen(stream).progress(2, "files listed", told_if_short=False) as bar:
        bar.add(2)
    assert file.read_text() == ""

    with file.open("w") as stream, Screen(stream).progress(2, "files listed", told_if_short=False) as bar:
        now += 6
        bar.add(1)
        bar.add(1)
    lines = file.read_text().splitlines()
    assert len(lines) == 2
    assert "1/2 files listed" in lines[0]
    assert "2/2 files listed" in lines[1]


def test_silent_work_is_told_once_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    told = threading.Event()
    lines: list[str] = []

    class Told(Screen):
        def line(self, text: str = "", moves: bool = True) -> None:
            lines.append(text)
            told.set()

    monkeypatch.setattr(screen, "SILENT_SECONDS", 0.01)
    with Told().told_if_long("looking at files"):
        assert told.wait(30)
    monkeypatch.setattr(screen, "SILENT_SECONDS", 60)
    with Told().told_if_long("looking again"):
        pass
    assert lines == ["looking at files"]


def test_lines_in_a_file_are_whole_and_plain(tmp_path: Path) -> None:
    file = tmp_path / "out"
    path = "/data/" + "x" * 300
    with file.open("w") as stream:
        output = Screen(stream)
        output.heading("embed@corpus", "0123 [bold]")
        output.line(f"report {path} :smile: [red]")
    assert file.read_text() == f"\n== embed@corpus - 0123 [bold]\nreport {path} :smile: [red]\n"


def test_the_rate_leaves_out_what_the_start_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(screen.time, "monotonic", lambda: now)
    with (tmp_path / "out").open("w") as stream, Screen(stream, every=0).progress(100, "images") as bar:
        now += 30  # processes start
        bar.add(10)
        now += 5
        bar.add(40)
        assert bar.rate == pytest.approx(8)
        assert "6 s left" in bar.text()
        now += 5
        bar.add(50)
        assert bar.rate == pytest.approx(100 / 40)


def on_a_terminal(write: Callable[[io.TextIOWrapper], None], monkeypatch: pytest.MonkeyPatch, columns: int) -> str:
    """What a program writes to a terminal of so many columns."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w", encoding="utf-8") as terminal:
        write(terminal)  # type: ignore[arg-type]
    text = b""
    while True:
        try:
            part = os.read(reader, 65536)
        except OSError:  # the end of a pseudo-terminal
            break
        if not part:
            break
        text += part
    os.close(reader)
    return text.decode()


@pytest.mark.parametrize("columns", [30, 80, 200])
def test_a_progress_line_never_wraps(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """A line longer than the terminal would leave a row behind at every redraw."""
    monkeypatch.setattr(screen, "REDRAW_SECONDS", 0.0)

    def write(terminal: io.TextIOWrapper) -> None:
        output = Screen(terminal)
        assert output.live
        with output.progress(10, "images") as bar:
            for _ in range(3):
                bar.add(1, "loss 0.123, validation 0.456, learning rate 0.001")
                assert drawn_width(bar, columns) <= columns
        output.line("done")

    text = on_a_terminal(write, monkeypatch, columns)
    assert text.rstrip().endswith("done")
    if columns == 200:
        assert "1/10 images" in text
        assert "learning rate" in text


def drawn_width(bar: Progress, columns: int) -> int:
    console = screen.Console(file=io.StringIO(), width=columns, force_terminal=False)
    console.print(bar._bar("loss 0.123, validation 0.456"))
    return max(len(line) for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


def test_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(screen, "REDRAW_SECONDS", 0.0)

    def write(terminal: io.TextIOWrapper) -> None:
        with Screen(terminal).progress(10, "images") as bar:
            bar.add(1)

    assert "\x1b[38" not in on_a_terminal(write, monkeypatch, 80)


def test_table_puts_numbers_to_the_right() -> None:
    text = table([{"name": "a", "n": 1}, {"name": "bcd", "n": 100}])
    assert text.splitlines() == ["name    n", "----  ---", "a       1", "bcd   100"]
    assert table([]) == "(nothing)"


def test_on_a_very_narrow_terminal_every_cell_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"artifact": "distill/0123", "node": "student", "MB": 1}, {"artifact": "embed/4567", "node": "corpus"}]

    def write(terminal: io.TextIOWrapper) -> None:
        monkeypatch.setattr(screen.sys, "stdout", terminal)
        print_table(rows)
        monkeypatch.undo()

    lines = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal(write, monkeypatch, 20)).splitlines()
    shown = " ".join(" ".join(lines).split())
    assert shown == "artifact: distill/0123 node: student MB: 1 artifact: embed/4567 node: corpus"
    assert max(map(len, lines)) <= 20


def test_a_table_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"artifact": "distill/" + "0" * 30, "why": "changed: " + "steps, " * 10, "n": 1}]

    def write(terminal: io.TextIOWrapper) -> None:
        monkeypatch.setattr(screen.sys, "stdout", terminal)
        print_table(rows)
        monkeypatch.undo()

    lines = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal(write, monkeypatch, 60)).splitlines()
    assert len(lines) > 3
    assert max(map(len, lines)) <= 60
    assert "artifact" in lines[0]
    assert set(lines[1].strip()) == {"-", " "}


def test_a_table_in_markdown() -> None:
    rows = [{"layer": "pre_logits", "base": "37.7 [36, 39]", "a|b": ""}, {"layer": "head", "base": "-", "a|b": "1"}]
    text = markdown_tables(["What it is about", *table(rows).splitlines(), "Asked in another way: 40 %"])
    assert text.splitlines() == [
        "What it is about",
        "",
        r"| layer | base | a\|b |",
        "|---|---|---|",
        "| pre_logits | 37.7 [36, 39] |  |",
        "| head | - | 1 |",
        "",
        "Asked in another way: 40 %",
    ]
    assert markdown_tables(["no table", "at all"]) == "no table\nat all"
