"""How a run was called, by whom, and from which commit: what MLflow shows as the source of a run."""

import contextlib
import contextvars
import getpass
import itertools
import shlex
from collections.abc import Iterator

LONGEST = 5000
"""Characters that every MLflow server takes of a tag."""

_words: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("words", default=("alignet_ray.run",))
"""The command line, word by word, or the Python function; without either it was `alignet_ray.run`."""


@contextlib.contextmanager
def called_as(*words: str) -> Iterator[None]:
    """Context in which runs say that they were called by this command line or Python function."""
    token = _words.set(words)
    try:
        yield
    finally:
        _words.reset(token)


def command() -> str:
    """The command as typed, quoted for a shell, or the name of the Python function."""
    return shlex.join(_words.get())


def short_command() -> str:
    """The command up to its first option, such as `alignet-ray run smoke`."""
    return shlex.join(itertools.takewhile(lambda word: not word.startswith("-"), _words.get()))


def tags(is_job: bool, commit: str | None) -> dict[str, str]:
    """Tags of a run's source, under MLflow's names where it has one.

    Args:
        is_job: whether this is the entrypoint of a job submitted to Ray.
        commit: of the code; None outside a checkout.
    """
    # MLflow shows no more of a source's name than what follows its last slash, as if it were a script: of the whole
    # command that would be a piece of the last path, so the command has a tag of its own.
    found = {"alignet.command": command()[:LONGEST], "mlflow.source.name": short_command()[:LONGEST]}

    found["mlflow.source.type"] = "LOCAL"
    if is_job:
        found["mlflow.source.type"] = "JOB"
    if commit:
        found["mlflow.source.git.commit"] = commit

    # A container may run under a number that has no name.
    with contextlib.suppress(OSError, KeyError):
        found["mlflow.user"] = getpass.getuser()
    return found
