"""UserError: an error that the user can fix, shown as its message alone."""

MAX_CHARACTERS = 200
"""Characters that a message takes over from another library's."""


class UserError(ValueError):
    """A mistake in the user's input; its message says what is wrong and how to fix it, in one line.

    The command line prints the message and exits with code 2. Any other exception is an internal error.
    """


def first_line(error: Exception) -> str:
    """The first line of an error's message, for messages of one line; damaged files may make it long."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:MAX_CHARACTERS]
