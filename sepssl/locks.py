"""One process at a time in a folder."""

import os
import pathlib
from typing import IO

from sepssl.errors import InputError

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None


def lock_folder(folder: str | os.PathLike, wait: bool) -> IO:
    """Locks a folder against other processes that lock it: `with lock_folder(...):`.

    The lock is held until the result is closed; a process that ends, in whatever way, holds none.

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
