"""Where rows are written to: an output by its name."""

import os
import pathlib

from sepssl.errors import InputError
from sepssl.index.tables import SUFFIXES


def journal_of(output: str | os.PathLike) -> pathlib.Path:
    """The folder beside an output file that holds its rows as they are written."""
    output = pathlib.Path(output)
    return output.with_name(f"{output.name}.journal")


def require_output(output: str | os.PathLike) -> None:
    """Raises InputError unless rows can be written to `output`, or added to those there."""
    path = pathlib.Path(output)
    expected = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: expected a file name that ends in {expected}")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; expected a file name to write to")
    if path.exists() and not journal_of(path).is_dir():
        raise InputError(
            f"{path}: exists already, without {journal_of(path).name} beside it; expected a new "
            "file name"
        )
