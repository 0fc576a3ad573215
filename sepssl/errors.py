"""The errors a user can cause."""


class InputError(ValueError):
    """Input that cannot be used: a file, a folder, a value in a configuration.

    The message is one line that names what is wrong, where, and what was expected; the command
    line prints it without a traceback and exits with status 1.
    """


class OutputError(InputError):
    """An output that cannot be written: a full disk, no permission, a network drive without locks.

    No input is to blame, so that work on further ones stops too.
    """
