"""The vectors of an index, in the file of usearch that perch-hoplite reads."""

import os
import pathlib

import numpy as np
from usearch.index import Index

from sepssl.errors import InputError
from sepssl.files import atomic_file
from sepssl.index.store import WindowStore

VECTORS = "usearch.index"
CONFIG_KEY = "usearch_config"  # hoplite's
_EFFORT = 32  # of building the graph: the neighbours that it finds are the exact ones but for 0.2 %
_BATCH = 4096


def vectors_config(dim: int) -> dict:
    """What hoplite's table of metadata says of the vectors, with its own defaults."""
    return {
        "embedding_dim": dim,
        "dtype": "float16",
        "metric_name": "IP",
        "expansion_add": 256,
        "expansion_search": 128,
    }


def open_vectors(folder: str | os.PathLike, dim: int) -> Index:
    """The vectors of an index, read from the disk as they are needed.

    Raises:
        InputError: if they are missing or cannot be read.
    """
    path = pathlib.Path(folder) / VECTORS
    if not path.is_file():
        raise InputError(
            f"{path}: does not exist; expected an index that sepssl-embed has completed"
        )
    try:
        vectors = Index.restore(path, view=True)
    except Exception as error:  # whatever usearch raises is the file's fault
        raise InputError(f"{path}: cannot be read: {error}; expected a usearch index") from error
    if vectors is None or vectors.ndim != dim:
        raise InputError(f"{path}: is not a usearch index of {dim} dimensions")
    return vectors


def new_vectors(dim: int) -> Index:
    """An index for vectors of length 1 in float16, by their inner products; empty."""
    return Index(ndim=dim, metric="ip", dtype="f16", expansion_add=_EFFORT)


def save_vectors(vectors: Index, folder: pathlib.Path) -> None:
    """Puts vectors in the place of those of an index; raises OutputError if it cannot."""
    with atomic_file(folder / VECTORS, overwrite=True) as temporary:
        vectors.save(temporary)


def update_vectors(store: WindowStore, dim: int) -> None:
    """Moves the vectors of complete recordings from the database into the index.

    They are stored with length 1 in float16, so that inner products are cosines; their lengths are
    in the column `norm`. Interrupted at any place, it can be repeated.

    Raises:
        OutputError: if the index cannot be written.
    """
    path = store.folder / VECTORS
    if path.exists() and not store.has_changes():
        return
    index = new_vectors(dim)
    if path.exists():
        index.load(path)
    removed = np.array(store.removed(), np.uint64)
    if len(removed):
        index.remove(removed[index.contains(removed)])
    for ids, vectors in store.pending(_BATCH):
        keys = np.array(ids, np.uint64)
        new = ~np.atleast_1d(index.contains(keys))
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = (vectors / np.maximum(lengths, 1e-12)).astype(np.float16)
        if new.any():
            index.add(keys[new], unit[new])
    save_vectors(index, store.folder)
    store.forget_pending()
