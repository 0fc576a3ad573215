"""Several indexes as one."""

import contextlib
import os
import pathlib
import sqlite3
from collections.abc import Sequence

import numpy as np

from sepssl.errors import InputError
from sepssl.files import atomic_folder, writing_to
from sepssl.index.store import DATABASE, SETTINGS, WindowStore, read_metadata
from sepssl.index.vectors import CONFIG_KEY, new_vectors, open_vectors, save_vectors

_BATCH = 4096


def merge_indexes(folders: Sequence[str | os.PathLike], output: str | os.PathLike) -> int:
    """Writes an index of all rows of several, in their order, whole or not at all.

    Rows and vectors stay as they are to the last bit; only ids change.

    Args:
        folders: complete indexes that sepssl-embed has written with the same settings; no recording
            is in two of them.
        output: a new folder.

    Returns:
        How many rows it has.

    Raises:
        InputError: if an index cannot be read, or was made with other settings than the first.
        OutputError: if the output cannot be written.
    """
    path = pathlib.Path(folders[0], DATABASE)
    try:
        with contextlib.closing(sqlite3.connect(path)) as first:
            settings, config = read_metadata(first, SETTINGS), read_metadata(first, CONFIG_KEY)
    except sqlite3.Error as error:
        raise InputError(f"{path}: cannot be read: {error}; expected an index") from error
    with atomic_folder(output) as folder:
        vectors = new_vectors(config["embedding_dim"])
        with WindowStore(folder, settings) as store:
            for part in folders:
                offset, keys = store.add_index(part)
                theirs = open_vectors(part, vectors.ndim)
                for start in range(0, len(keys), _BATCH):
                    some = keys[start : start + _BATCH]
                    vectors.add(some + offset, np.asarray(theirs.get(some)))
        with writing_to(output):
            save_vectors(vectors, folder)
    return len(vectors)
