"""A run that stands still is told of, with what it waits for; one that moves is left alone."""

import time
from pathlib import Path

from alignet_ray.screen import Screen
from alignet_ray.stages import watchdog


def test_a_step_that_stands_still_is_named_with_the_actor(ray_session: None, tmp_path: Path) -> None:
    import ray

    @ray.remote
    class Sleeper:
        def sleep(self, seconds: float) -> None:
            time.sleep(seconds)

    sleeper = Sleeper.remote()
    with (tmp_path / "out").open("w") as stream:
        screen = Screen(stream)
        with watchdog.watched(screen, "embed@corpus", 0.05):
            ray.get(sleeper.sleep.remote(8))
    lines = (tmp_path / "out").read_text().splitlines()
    assert 1 <= len(lines) <= 2  # after 3 s, and perhaps once more after 6
    assert lines[0].startswith("warning: embed@corpus has not moved for 3 s; at work: ")
    assert "Sleeper" in lines[0]
    assert "pid" in lines[0]


def test_progress_is_not_stuck(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as stream:
        screen = Screen(stream, every=1e9)
        with watchdog.watched(screen, "align", 0.01), screen.progress(10, "steps") as bar:
            for _ in range(10):
                time.sleep(0.15)
                bar.add(1)
    assert "has not moved" not in (tmp_path / "out").read_text()


def test_nought_minutes_turn_it_off(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as stream, watchdog.watched(Screen(stream), "align", 0.0):
        time.sleep(0.2)
    assert (tmp_path / "out").read_text() == ""
