"""Where rows are written to: an output by its name."""

import os
import pathlib

from sepssl.errors import InputError
from sepssl.index.store import DATABASE
from sepssl.index.tables import SUFFIXES


def journal_of(output: str | os.PathLike) -> pathlib.Path:
    """The folder beside an output file that holds its rows as they are written."""
    output = pathlib.Path(output)
    return output.with_name(f"{output.name}.journal")


def is_index(output: str | os.PathLike) -> bool:
    """Whether rows go into an index, a folder, not into one file."""
    path = pathlib.Path(output)
    return path.is_dir() or not path.suffix


def require_output(output: str | os.PathLike) -> None:
    """Raises InputError unless rows can be written to `output`, or added to those there."""
    path = pathlib.Path(output)
    if is_index(path):
        if path.is_file():
            raise InputError(f"{path}: is a file; expected a folder for an index")
        if path.is_dir() and any(path.iterdir()) and not (path / DATABASE).exists():
            raise InputError(f"{path}: holds no index; expected a new or empty folder, or an index")
        return
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{path}: expected a file name that ends in {', '.join(SUFFIXES)}, or a folder's "
            "without a suffix"
        )
    if path.exists() and not journal_of(path).is_dir():
        raise InputError(
            f"{path}: exists already, without {journal_of(path).name} beside it; expected a new "
            "file name"
        )
