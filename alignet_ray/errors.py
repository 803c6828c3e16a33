"""The one exception that means: the user can mend this; and a parser of options that raises it."""

import argparse
from typing import NoReturn


class UserError(ValueError):
    """A mistake in the user's input; its message says what is wrong and how to mend it, in one or two lines.

    The command line prints the message alone and exits with code 2. Anything else that is raised is our own bug.
    """


def first_line(error: Exception) -> str:
    """The first line of an error's message, for messages of one line."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


class Parser(argparse.ArgumentParser):
    """argparse's, whose mistakes are UserErrors."""

    def error(self, message: str) -> NoReturn:
        """Raise the mistake."""
        raise UserError(f"{self.prog}: {message}")
