"""UserError: an error that the user can fix, shown as its message alone."""


class UserError(ValueError):
    """A mistake in the user's input; its message says what is wrong and how to fix it, in one line.

    The command line prints the message and exits with code 2. Any other exception is an internal error.
    """


def first_line(error: Exception) -> str:
    """The first line of an error's message, for messages of one line."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
