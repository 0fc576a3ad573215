"""Outputs that appear whole or not at all, and folders that one process has at a time."""

import contextlib
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator
from typing import IO

from sepssl.errors import InputError

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None


def _temporary_sibling(path: pathlib.Path) -> pathlib.Path:
    # The suffix stays, since writers of .keras, .wav or .npz files look at it; the same folder,
    # since a rename is atomic only within one file system.
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}")


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`, renamed to `path` when the block ends well.

    Missing parent folders are made. If the block raises, the temporary file is removed.

    Args:
        path: the file to write.
        overwrite: whether an existing file may be replaced.

    Raises:
        InputError: if `path` exists and `overwrite` is False, or if the file cannot be written
            (no permission, a full disk).
    """
    path = pathlib.Path(path)
    _refuse_existing(path, overwrite)
    temporary = _temporary_sibling(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()  # what cannot be written fails now, not after the work
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: could not be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Like `atomic_file`, for a folder that must not exist yet, or be empty.

    Raises:
        InputError: as `require_new_folder`, or if `path` cannot be written.
    """
    path = pathlib.Path(path).resolve()  # not a link's place, but what it leads to
    require_new_folder(path)
    temporary = _temporary_sibling(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            path.rmdir()
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: could not be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_new_folder(path: str | os.PathLike) -> None:
    """Raises InputError unless `path` does not exist, or is an empty folder that can be replaced.

    The current folder and mount points cannot: a rename would take the one from under the shell's
    feet and fails for the other.
    """
    path = pathlib.Path(path)
    expected = "expected a new or empty folder"
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file; {expected}")
    if path.is_dir() and any(path.iterdir()):
        raise InputError(f"{path}: is not empty; {expected}")
    if path.is_dir() and path.samefile(pathlib.Path.cwd()):
        raise InputError(f"{path}: is the current folder; expected a new one, for instance in it")
    if path.is_mount():
        raise InputError(f"{path}: is a mount point; expected a new folder, for instance in it")


def _refuse_existing(path: pathlib.Path, overwrite: bool) -> None:
    if path.is_dir():
        raise InputError(f"{path}: is a folder; expected a file name to write to")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; expected a new file name")


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
