"""Outputs that appear whole or not at all, and folders that one process has at a time."""

import contextlib
import csv
import errno
import hashlib
import itertools
import os
import pathlib
import re
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import filelock

from sepssl.errors import InputError, OutputError

_NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp(\.\w+)?", re.DOTALL)
_PATIENCE = 2.0  # seconds to wait for a lock before saying so


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
        InputError: if `path` exists and `overwrite` is False.
        OutputError: if the file cannot be written (no permission, a full disk). Other OSErrors of
            the block, as of a file that it reads, are passed on.
    """
    path = pathlib.Path(path)
    _refuse_existing(path, overwrite)
    temporary = _temporary_sibling(path)
    try:
        with writing_to(path):  # what cannot be written fails now, not after the work
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch()
        with _written_in_block(path, temporary):
            yield temporary
        with writing_to(path):
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # never made: its folder is a file, say
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a new file of text in UTF-8; raises what `atomic_file` does."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: str | os.PathLike, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a new table with a row of names first; raises what `atomic_file` does.

    In UTF-8, with escapes for bytes in names of files that are none.
    """
    with (
        atomic_file(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as text,
    ):
        writer = csv.writer(text)
        writer.writerow(head)
        writer.writerows(rows)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Like `atomic_file`, for a folder that must not exist yet, or be empty.

    Raises:
        InputError: as `require_new_folder`.
        OutputError: as `atomic_file`.
    """
    path = pathlib.Path(path).resolve()  # not a link's place, but what it leads to
    require_new_folder(path)
    temporary = _temporary_sibling(path)
    try:
        with writing_to(path):
            temporary.mkdir(parents=True)
        with _written_in_block(path, temporary):
            yield temporary
        with writing_to(path):
            if path.exists():
                path.rmdir()
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def unfinished(folder: str | os.PathLike) -> list[pathlib.Path]:
    """What killed or running processes have left of `atomic_file` and `atomic_folder` in it."""
    return [path for path in pathlib.Path(folder).iterdir() if _TEMPORARY.fullmatch(path.name)]


@contextlib.contextmanager
def together(paths: Sequence[str | os.PathLike]) -> Iterator[list[pathlib.Path]]:
    """Yields places for several new files and folders, which appear together or not at all.

    Each place has the name of its output and lies in a hidden folder beside it. When the block ends
    well, all are renamed, one right after the other, so that a command that is killed before can be
    repeated: some outputs alone would stand in its way.

    Raises:
        InputError: if an output exists, except as an empty folder; as `require_apart`.
        OutputError: if an output cannot be written.
    """
    require_apart(paths)
    targets = [pathlib.Path(os.path.realpath(path)) for path in paths]  # not a link's place
    folders = [t.with_name(f".{t.name}.{uuid.uuid4().hex[:8]}.tmp") for t in targets]
    places = [folder / target.name for folder, target in zip(folders, targets, strict=True)]
    try:
        for target, folder in zip(targets, folders, strict=True):
            with writing_to(target):
                folder.mkdir(parents=True)
        yield places
        for target, place in zip(targets, places, strict=True):
            if place.is_dir():
                require_new_folder(target)
            else:
                _refuse_existing(target, overwrite=False)
        for target, place in zip(targets, places, strict=True):
            with writing_to(target):
                if target.is_dir():
                    target.rmdir()
                os.replace(place, target)
    except OutputError as error:
        text = str(error)
        for target, place in zip(targets, places, strict=True):
            text = text.replace(str(place), str(target))
        raise OutputError(text) from error
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def writing_to(path: str | os.PathLike) -> Iterator[None]:
    """For blocks that only write: an OSError is raised as an OutputError that names `path`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: could not be written: {write_failure(error)}") from error


@contextlib.contextmanager
def _written_in_block(path: pathlib.Path, temporary: pathlib.Path) -> Iterator[None]:
    """For blocks that do other work as well, of which an OSError may tell."""
    try:
        yield
    except OSError as error:
        named = error.filename
        ours = isinstance(named, (str, bytes, os.PathLike)) and pathlib.Path(
            os.fsdecode(named)
        ).is_relative_to(temporary)
        if not (ours or error.errno in _NO_ROOM):
            raise
        raise OutputError(f"{path}: could not be written: {write_failure(error)}") from error


def write_failure(error: Exception) -> str:
    """Why something could not be written, in the operating system's words.

    Args:
        error: an OSError, or a TensorFlow error, which puts those words after the name of its
            graph and that of a temporary file.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(getattr(error, "message", None) or error).split())
    return text.rpartition("; ")[2].partition(" [Op:")[0]


def require_apart(paths: Sequence[str | os.PathLike]) -> None:
    """Raises InputError if two outputs are one place, however it is spelt, or one lies in another.

    Args:
        paths: files and folders, which need not exist.
    """
    places = [pathlib.Path(os.path.realpath(path)) for path in paths]
    for (first, there), (second, here) in itertools.combinations(
        zip(paths, places, strict=True), 2
    ):
        if here == there:
            same = os.fspath(first) == os.fspath(second)
            how = "is named twice" if same else f"is the same place as {first}"
            raise InputError(f"{second}: {how}; expected another name")
        if there.is_relative_to(here):
            raise InputError(f"{first}: lies in {second}, another output; expected a place outside")
        if here.is_relative_to(there):
            raise InputError(f"{second}: lies in {first}, another output; expected a place outside")


def require_new(path: str | os.PathLike) -> None:
    """Raises InputError unless a new file can be at `path`; without a suffix, a new folder."""
    path = pathlib.Path(path)
    if path.suffix:
        _refuse_existing(path, overwrite=False)
    else:
        require_new_folder(path)


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


def printable(path: str | os.PathLike) -> str:
    """The path on one printable line, whatever bytes are in it."""
    text = os.fsdecode(path)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def in_utf8(name: str) -> str:
    """A name of a file as text: bytes in it that are not UTF-8 become %E9, say."""
    return re.sub("[\udc80-\udcff]", lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", name)


def sha256_of(path: str | os.PathLike) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a file") from error


@contextlib.contextmanager
def lock_folder(folder: str | os.PathLike, wait: bool) -> Iterator[None]:
    """Keeps other processes that lock the same folder out while the block runs.

    A process that ends, in whatever way, holds no lock.

    Args:
        folder: an existing folder; a file `.lock` is made in it.
        wait: whether to wait for another process. After 2 s, a line on stderr says so.

    Raises:
        InputError: if another process has the folder and `wait` is False.
        OutputError: if the folder cannot be locked (no permission, a network drive without locks).
    """
    lock = filelock.FileLock(pathlib.Path(folder) / ".lock", thread_local=False)
    try:
        _acquire(lock, folder, wait)
        yield
    finally:
        lock.release()  # also of a lock that a signal came in the way of


def _acquire(lock: filelock.BaseFileLock, folder: str | os.PathLike, wait: bool) -> None:
    try:
        try:
            lock.acquire(timeout=_PATIENCE if wait else 0)
        except filelock.Timeout as error:
            if not wait:
                raise InputError(
                    f"{folder}: another process is running in it; expected to be the only one"
                ) from error
            print(f"{folder}: waiting for another process that runs in it", file=sys.stderr)
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise OutputError(
            f"{folder}: could not be locked: {write_failure(error)}; expected a folder that can be "
            "written, on a drive with locks"
        ) from error


@contextlib.contextmanager
def scratch_folder(parent: str | os.PathLike, prefix: str) -> Iterator[pathlib.Path]:
    """Yields a new folder in `parent` for unfinished work, removed when the block ends.

    Those that killed processes have left are removed first, those of running processes stay.

    Args:
        parent: an existing folder.
        prefix: how the names of all such folders start.

    Raises:
        OutputError: if `parent` cannot be written or locked.
    """
    parent = pathlib.Path(parent)
    with contextlib.ExitStack() as stack:
        # Folders are made and locked under the parent's lock: one without a lock is abandoned.
        with lock_folder(parent, wait=True):
            for left in parent.glob(f"{prefix}*"):
                with contextlib.suppress(InputError):
                    with lock_folder(left, wait=False):
                        pass
                    shutil.rmtree(left, ignore_errors=True)
            with writing_to(parent):
                folder = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.enter_context(lock_folder(folder, wait=False))
        yield folder
