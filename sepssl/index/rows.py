"""All rows of an index, or of a file that sepssl-embed has written, in memory."""

import dataclasses
import os
import pathlib
import sqlite3
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from sepssl.errors import InputError
from sepssl.index.output import is_index, journal_of
from sepssl.index.search import WindowIndex
from sepssl.index.store import (
    ADDED_SETTINGS,
    DATABASE,
    MIXTURE,
    NAME,
    RECORDINGS,
    SETTINGS,
    read_metadata,
)
from sepssl.index.tables import SUFFIXES

_EXPECTED = "expected an index, or a file that sepssl-embed has written"
_COMPARED = ("encoder", "sample_rate", "window_samples", "pool", "speed")
_BATCH = 8192


@dataclasses.dataclass(frozen=True)
class StoredRows:
    """Rows in the order of recordings, of time, and of channels.

    Attributes:
        source: the index or file.
        names: of the recordings.
        paths: of their files, "" if not known.
        recording: int64 [rows], place in `names`.
        starts, ends: float64 [rows], in seconds from the beginning of the recording's file (of
            the recording, if the file is not known).
        channels: int64 [rows], 0 for the mixture.
        levels: float64 [rows], in dB.
        numbers: int64 [rows], ids in an index, places in a file.
        vectors: float32 [rows, dim], of length 1 (or 0), unless read otherwise.
        settings: what the rows were made with, see `sepssl.pipelines.embed`; None if not known.
        models: files of the models, as far as they are known.
    """

    source: str
    names: list[str]
    paths: list[str]
    recording: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    channels: np.ndarray
    levels: np.ndarray
    numbers: np.ndarray
    vectors: np.ndarray
    settings: dict[str, Any] | None
    models: dict[str, str]

    def __len__(self) -> int:
        return len(self.recording)

    @property
    def files(self) -> list[str]:
        """What tells recordings' files apart: the path, or the name if there is none."""
        return [path or name for path, name in zip(self.paths, self.names, strict=True)]

    def windows(self) -> np.ndarray:
        """int64 [rows]: number of the window of each row, from 0; channels share the mixture's."""
        columns = np.stack([self.recording, self.starts, self.ends])
        new = np.any(columns[:, 1:] != columns[:, :-1], axis=0)
        return np.concatenate([[0], np.cumsum(new)]) if len(self) else np.zeros(0, np.int64)

    def select(self, kept: np.ndarray) -> "StoredRows":
        """Some of the rows, by a mask or by their places."""
        columns = ("recording", "starts", "ends", "channels", "levels", "numbers", "vectors")
        return dataclasses.replace(self, **{name: getattr(self, name)[kept] for name in columns})


def read_rows(
    source: str | os.PathLike, rows: str = "both", unit_length: bool = True
) -> StoredRows:
    """Reads an index, or a `.npz`, `.csv` or `.parquet` file.

    Rows of windows without sound, whose vectors are 0, are left out.

    Args:
        source: index or file. Beside a file, `FILE.journal/` tells with what it was made and
            where the recordings are, if it is still there.
        rows: those of the "mixture", or "both" it and channels.
        unit_length: False leaves vectors of a file as long as they are; an index holds none but of
            length 1.

    Raises:
        InputError: if it cannot be read, holds no such rows, or vectors that are not finite.
    """
    path = pathlib.Path(source)
    if not path.exists():
        raise InputError(f"{path}: does not exist; {_EXPECTED}")
    found = _of_index(path) if is_index(path) else _of_file(path, unit_length)
    if not np.isfinite(found.vectors).all():
        raise InputError(f"{path}: holds vectors that are not finite; {_EXPECTED}")
    kept = np.any(found.vectors, axis=1)
    if rows == "mixture":
        kept = kept & (found.channels == MIXTURE)
    if not kept.any():
        raise InputError(f"{path}: holds no rows of windows with sound; {_EXPECTED}")
    return found.select(kept)


def joined(parts: Sequence[StoredRows]) -> StoredRows:
    """The rows of several indexes or files, of one encoder and windows of one length.

    Raises:
        InputError: if they differ in that.
    """
    first, *others = parts
    for other in others:
        require_same_rows(first.source, first.settings, first.vectors.shape[1], other)
    counts = np.cumsum([0, *(len(part.names) for part in parts)])
    recordings = [part.recording + count for part, count in zip(parts, counts, strict=False)]
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("starts", "ends", "channels", "levels", "numbers", "vectors")
    }
    return dataclasses.replace(
        first,
        names=[name for part in parts for name in part.names],
        paths=[path for part in parts for path in part.paths],
        recording=np.concatenate(recordings),
        **columns,
    )


def require_same_rows(
    name: str, settings: dict[str, Any] | None, dim: int, rows: StoredRows
) -> None:
    """Raises InputError, naming both, unless rows are made as those of something else are.

    Args:
        name: what that is.
        settings: what its rows were made with, None if not known.
        dim: of its vectors.
        rows: the rows.
    """
    if rows.vectors.shape[1] != dim:
        raise InputError(
            f"{rows.source}: holds vectors of {rows.vectors.shape[1]} values, {name} of {dim}; "
            "expected rows of one encoder"
        )
    if settings is None or rows.settings is None:
        return
    settings, those = {**ADDED_SETTINGS, **settings}, {**ADDED_SETTINGS, **rows.settings}
    for key in _COMPARED:
        if settings.get(key) != those.get(key):
            raise InputError(
                f"{rows.source}: holds rows made with {key}={those.get(key)}, {name} with "
                f"{settings.get(key)}; expected rows of one encoder and windows of one length"
            )


def _of_index(folder: pathlib.Path) -> StoredRows:
    index = WindowIndex(folder)
    rows = index.rows()
    numbers = np.array([row.row for row in rows], np.int64)
    vectors = np.empty((len(rows), index.dim), np.float32)
    for first in range(0, len(rows), _BATCH):
        vectors[first : first + _BATCH] = index.vectors(numbers[first : first + _BATCH])
    places = [(row.path, row.recording, row.offset) for row in rows]
    offsets = np.array([row.offset for row in rows])
    return _rows(
        folder,
        places,
        np.array([row.start for row in rows]) + offsets,
        np.array([row.end for row in rows]) + offsets,
        [row.channel for row in rows],
        [row.level_db for row in rows],
        numbers,
        _unit(vectors),
        index.settings,
        index.models,
    )


def _of_file(path: pathlib.Path, unit_length: bool) -> StoredRows:
    read = {".npz": _read_npz, ".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: {_EXPECTED}")
    try:
        names, starts, ends, channels, levels, vectors = read[path.suffix.lower()](path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be read: {reason}; {_EXPECTED}") from error
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2 or {len(names), len(starts), len(ends), len(channels)} != {len(vectors)}:
        raise InputError(f"{path}: has columns that do not belong together; {_EXPECTED}")
    settings, known = _of_journal(path)
    places = [(*known.get(name, ("", 0.0)), name) for name in map(str, names)]
    offsets = np.array([offset for _, offset, _ in places])
    return _rows(
        path,
        [(file, name, offset) for file, offset, name in places],
        np.asarray(starts, np.float64) + offsets,
        np.asarray(ends, np.float64) + offsets,
        channels,
        levels,
        np.arange(len(vectors)),
        _unit(vectors) if unit_length else vectors,
        settings,
        {},
    )


def _rows(
    source: pathlib.Path,
    places: Sequence[tuple[str, str, float]],
    starts: np.ndarray,
    ends: np.ndarray,
    channels: Sequence[int],
    levels: Sequence[float],
    numbers: np.ndarray,
    vectors: np.ndarray,
    settings: dict | None,
    models: dict[str, str],
) -> StoredRows:
    # Parts of a file, which a manifest names, are recordings of their own, told by their offsets.
    recordings = {place: number for number, place in enumerate(dict.fromkeys(places))}
    return StoredRows(
        str(source),
        [name for _, name, _ in recordings],
        [path for path, _, _ in recordings],
        np.array([recordings[place] for place in places], np.int64),
        starts,
        ends,
        np.asarray(channels, np.int64),
        np.asarray(levels, np.float64),
        numbers,
        vectors,
        settings,
        models,
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _of_journal(path: pathlib.Path) -> tuple[dict | None, dict[str, tuple[str, float]]]:
    """Settings, and of each recording by its name the file and where in it it begins."""
    database = journal_of(path) / DATABASE
    if not database.is_file():
        return None, {}
    try:
        connection = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)
        settings = read_metadata(connection, SETTINGS)
        found = connection.execute(f'SELECT {NAME}, path, "offset" FROM {RECORDINGS}').fetchall()
        connection.close()
    except sqlite3.Error as error:
        raise InputError(f"{database}: cannot be read: {error}") from error
    return settings, {
        name: (os.fsdecode(file or ""), offset or 0.0) for name, file, offset in found
    }


def _read_npz(path):
    with np.load(path, allow_pickle=False) as stored:
        columns = ("names", "starts", "ends", "channels", "levels", "embeddings")
        return [stored[name] for name in columns]


def _read_csv(path):
    import pyarrow.csv

    return _columns(pyarrow.csv.read_csv(path))


def _read_parquet(path):
    import pyarrow.parquet

    return _columns(pyarrow.parquet.read_table(path))


def _columns(table):
    values = [table[name].to_numpy() for name in ("file", "start", "end", "channel", "level_db")]
    if "embedding" in table.column_names:
        lists = table["embedding"].combine_chunks()
        return [*values, lists.flatten().to_numpy().reshape(len(table), -1)]
    dim = len(table.column_names) - 5
    return [*values, np.stack([table[f"e{i}"].to_numpy() for i in range(dim)], axis=1)]
