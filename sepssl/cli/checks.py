"""Checks of flags that need no TensorFlow, and so answer at once."""

import os
import pathlib

from sepssl.errors import InputError


def require_new_file(path: str | os.PathLike, suffixes: tuple[str, ...]) -> None:
    """Raises InputError unless `path` ends in one of `suffixes` and does not exist yet."""
    path = pathlib.Path(path)
    if path.suffix not in suffixes:
        *first, last = suffixes
        expected = f"{', '.join(first)} or {last}" if first else last
        raise InputError(f"{path}: expected a file name that ends in {expected}")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; expected a file name to write to")
    if path.exists():
        raise InputError(f"{path}: exists already; expected a new file name")


def require_folder_or_new(path: str | os.PathLike, purpose: str) -> None:
    """Raises InputError if `path` is a file."""
    if pathlib.Path(path).is_file():
        raise InputError(f"{path}: is a file; expected a folder {purpose}")


def require_exists(path: str | os.PathLike, expected: str) -> None:
    """Raises InputError unless there is a file or folder `path`."""
    if not os.fspath(path):
        raise InputError(f"no name is given; expected {expected}")
    if not pathlib.Path(path).exists():
        raise InputError(f"{path}: does not exist; expected {expected}")
