"""The one exception that means: the user can mend this."""


class UserError(ValueError):
    """A mistake in the user's input; its message says what is wrong and how to mend it, in one or two lines.

    The command line prints the message alone and exits with code 2. Anything else that is raised is our own bug.
    """
