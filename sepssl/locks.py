"""One process at a time in a folder."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import IO

from sepssl.errors import InputError

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None


def lock_folder(folder: str | os.PathLike, wait: bool) -> IO:
    """Locks a folder against other processes that lock it, until the result is closed.

    A process that ends, in whatever way, holds no lock any more.

    Args:
        folder: an existing folder; a file `.lock` is made in it.
        wait: whether to wait for another process's lock to be gone.

    Raises:
        InputError: if the folder is locked and `wait` is False.
    """
    file = open(pathlib.Path(folder) / ".lock", "w")  # noqa: SIM115
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            file.close()
            raise InputError(
                f"{folder}: another process is running in it; expected to be the only one"
            ) from error
    return file


@contextlib.contextmanager
def locked(folder: str | os.PathLike) -> Iterator[None]:
    """Holds the lock of a folder for the time of the block, after waiting for it."""
    with lock_folder(folder, wait=True):
        yield
