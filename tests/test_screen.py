"""What a person sees."""

from pathlib import Path

import pytest

from alignet_ray import screen
from alignet_ray.screen import Screen, clock, table


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


def test_table_puts_numbers_to_the_right() -> None:
    text = table([{"name": "a", "n": 1}, {"name": "bcd", "n": 100}])
    assert text.splitlines()[2:] == ["a       1", "bcd   100"]
    assert table([]) == "(nothing)"
