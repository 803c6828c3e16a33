"""What a run prints goes to its log, and the host program's logging is left as it was."""

import logging
import os
import warnings
from pathlib import Path

from alignet_ray.run_log import log_to
from alignet_ray.screen import Screen


def test_logging_is_as_before_after_a_run(tmp_path: Path) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, warnings.showwarning)
    with log_to(tmp_path / "logs" / "run.log", Screen()):
        logging.getLogger("some.library").info("noise")
        warnings.warn("careful", stacklevel=1)
        os.write(1, b"from C\n")
    text = (tmp_path / "logs" / "run.log").read_text()
    assert "noise" in text
    assert "careful" in text
    assert "from C" in text
    assert (list(root.handlers), root.level, warnings.showwarning) == before


def test_the_log_has_what_the_screen_said(tmp_path: Path) -> None:
    with (tmp_path / "terminal").open("w", encoding="utf-8") as terminal:
        screen = Screen(terminal)
        with log_to(tmp_path / "run.log", screen):
            screen.heading("align", "300 steps")
            screen.line("   done in 3 s")
            os.write(1, b"a library's own words\n")
        screen.line("afterwards")
    log = (tmp_path / "run.log").read_text(encoding="utf-8")
    assert "== align - 300 steps\n   done in 3 s\n" in log
    assert "a library's own words" in log
    assert "afterwards" not in log
