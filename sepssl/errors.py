"""The errors a user can cause.

Constructors and functions of the library raise ValueError for arguments that do not fit, of which
InputError is one. Where a plain one comes from a configuration or a file, `input_errors` makes an
InputError of it.
"""

import contextlib
from collections.abc import Iterator


class InputError(ValueError):
    """Input that cannot be used: a file, a folder, a value in a configuration.

    The message is one line that names what is wrong, where, and what was expected; the command
    line prints it without a traceback and exits with status 1.
    """


class OutputError(InputError):
    """An output that cannot be written: a full disk, no permission, a network drive without locks.

    No input is to blame, so that work on further ones stops too.
    """


class WorkerLost(InputError):
    """One of several processes that train together has ended; the others can be started again."""


@contextlib.contextmanager
def input_errors(source: str) -> Iterator[None]:
    """Turns a ValueError into an InputError that names where the value came from.

    Keep other work out of the block, so that no programming error is taken for the user's.

    Args:
        source: a file, or a key of the configuration; comes first in the message.

    Raises:
        InputError: for a ValueError raised in the block.
    """
    try:
        yield
    except ValueError as error:
        raise InputError(f"{source}: {' '.join(str(error).split())}") from error
