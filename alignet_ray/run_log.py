"""The log of a run: all that libraries and Ray print, and what the screen said, in one file."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from alignet_ray.screen import Screen


@contextlib.contextmanager
def log_to(path: Path, screen: Screen) -> Iterator[None]:
    """Within it, logging, warnings and all that libraries print go to a file; only `screen` reaches the terminal.

    The file descriptors themselves are redirected, since Ray's C++ core and its log threads write to them as well.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # What Python still holds in its buffers belongs to where it was printed.
    sys.stdout.flush()
    sys.stderr.flush()
    originals = {number: os.dup(number) for number in (1, 2)}
    screen_stream = screen.stream

    with (
        _logging_to(path),
        path.open("a", encoding="utf-8") as file,
        os.fdopen(os.dup(1), "w", encoding="utf-8") as terminal,
    ):
        # In a notebook sys.stdout is no file descriptor but the cell's own stream, which stays in place.
        if screen_stream is sys.__stdout__:
            screen.stream = terminal
        # The log of a run that failed overnight must say what it was doing.
        screen.transcript = file
        for number in originals:
            os.dup2(file.fileno(), number)
        try:
            yield
        except Exception:
            # The file keeps the traceback, whatever the terminal is told.
            logging.getLogger(__name__).exception("the run ended")
            raise
        finally:
            screen.stream = screen_stream
            screen.transcript = None
            sys.stdout.flush()
            sys.stderr.flush()
            for number, original in originals.items():
                os.dup2(original, number)
                os.close(original)


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Within it the root logger and Python's warnings write to a file, and afterwards as before."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    level = root.level
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    # In place of the handlers that are there, which write to the screen.
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)

    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.handlers = handlers
        root.setLevel(level)
        handler.close()
