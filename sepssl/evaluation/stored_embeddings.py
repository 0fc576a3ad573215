"""Embeddings that lie in a file, as vectors of the clips of a labelled set."""

import os
import pathlib
import zipfile
from typing import NamedTuple

import numpy as np

from sepssl.data.clips import Clips, Skipped
from sepssl.data.labels import NameMatch
from sepssl.errors import InputError
from sepssl.evaluation.folds import window_statistics
from sepssl.index.rows import read_rows

_EXPECTED = (
    "expected an index or a file that sepssl-embed has written, or a .npz file with filenames "
    "[rows] and embeddings [rows, dim]"
)
_NAMES = ("filenames", "names")


class StoredStatistics(NamedTuple):
    """What `embed_clips` would give.

    Attributes:
        statistics: float32 [clips, 3, dim], see `window_statistics`; [clips, 1, dim] where each
            clip has one vector.
        indices: of the clips that these belong to.
        skipped: clips without a vector.
    """

    statistics: np.ndarray
    indices: list[int]
    skipped: list[Skipped]


def stored_statistics(source: str | os.PathLike, clips: Clips) -> StoredStatistics:
    """The statistics of clips from stored embeddings of their windows.

    Args:
        source: an index or a file that `sepssl-embed` has written (of which windows of the mixture
            with sound are used), or a `.npz` file with `filenames` (or `names`) [rows] and
            `embeddings` [rows, dim], one row or several for a clip.
        clips: clips, named as in the file.

    Raises:
        InputError: if the source cannot be read, or has no vector of any of the clips.
    """
    names, vectors = _read(pathlib.Path(source))
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    match = NameMatch(rows)
    indices, found, skipped = [], [], []
    for index, name in enumerate(clips.names):
        stored = match.find(name)
        if stored is None:
            skipped.append(Skipped(name, f"{name}: has no embedding in {source}; expected one"))
            continue
        indices.append(index)
        found.append(vectors[rows[stored]])
    if not found:
        raise InputError(
            f"{source}: holds embeddings of files such as {names[0]!r}, and none of the "
            f"{len(clips)} clips, such as {clips.names[0]!r}; expected the same names"
        )
    single = all(len(windows) == 1 for windows in found)
    statistics = np.stack([window_statistics([windows]) for windows in found])
    return StoredStatistics(statistics[:, :1] if single else statistics, indices, skipped)


def _read(source: pathlib.Path) -> tuple[list[str], np.ndarray]:
    """Names [rows] and vectors float32 [rows, dim]."""
    if source.suffix.lower() == ".npz":
        try:
            with np.load(source, allow_pickle=False) as stored:
                there = [name for name in _NAMES if name in stored]
                if "starts" not in stored and there and "embeddings" in stored:
                    names, vectors = stored[there[0]], stored["embeddings"]
                    fits = vectors.ndim == 2 and names.shape == vectors.shape[:1] and vectors.size
                    if not fits or vectors.dtype.kind not in "fiu":
                        raise InputError(
                            f"{source}: has embeddings {vectors.dtype} {list(vectors.shape)} for "
                            f"names {list(names.shape)}; {_EXPECTED}"
                        )
                    vectors = vectors.astype(np.float32)
                    if not np.isfinite(vectors).all():
                        name = names[~np.isfinite(vectors).all(axis=1)][0]
                        raise InputError(
                            f"{source}: has NaN or infinity in an embedding of {name}; expected "
                            "finite numbers"
                        )
                    return names.astype(str).tolist(), vectors
                if not there or "embeddings" not in stored:
                    raise InputError(f"{source}: holds {', '.join(stored)}; {_EXPECTED}")
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            if isinstance(error, InputError):
                raise
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{source}: cannot be read: {reason}; {_EXPECTED}") from error
    found = read_rows(source, "mixture", unit_length=False)
    names = [found.names[recording] for recording in found.recording]
    # Recordings without sound have no rows left.
    heard = set(names)
    silent = [name for name in found.names if name not in heard]
    zeros = np.zeros((len(silent), found.vectors.shape[1]), np.float32)
    return [*names, *silent], np.concatenate([found.vectors, zeros])
