"""Search for the windows of an index that are nearest to a vector."""

import bisect
import os
import pathlib
import sqlite3
from typing import Any, NamedTuple

import numpy as np

from sepssl.errors import InputError
from sepssl.files import printable
from sepssl.index.store import (
    DATABASE,
    MIXTURE,
    MODEL_KEY,
    NAME,
    RECORDINGS,
    SETTINGS,
    as_text,
    read_metadata,
    stored_path,
)
from sepssl.index.vectors import CONFIG_KEY, open_vectors

ROWS = ("mixture", "channels", "both")
EXACT_BELOW = 1_000_000  # vectors, as in hoplite; beyond, the graph is searched
_EXPANSION = 256  # of a search in the graph, at least
_TOUCHING = 1e-6  # seconds that two windows beside each other may share, by rounding
_COLUMNS = {"recordings": ("path", "offset"), "windows": ("channel", "level_db")}


class Found(NamedTuple):
    """A window of an index.

    Attributes:
        row: id of its row; with several channels, of the one that was found.
        recording: name of the recording; where several have it, after that of its project.
        path: its file, "" if not known.
        offset: where the recording begins in the file, in seconds.
        start, end: in seconds from the beginning of the recording.
        channel: 0 for the mixture, or the number of a channel.
        level_db: of the channel, relative to the mixture in the window.
        score: cosine of the angle to the query; in an index of perch-hoplite's, the product of its
            vector, of whatever length, with the query of length 1, by which hoplite ranks as well.
    """

    row: int
    recording: str
    path: str
    offset: float
    start: float
    end: float
    channel: int
    level_db: float
    score: float


class WindowIndex:
    """An index that sepssl-embed or perch-hoplite has written, to read from.

    Args:
        folder: the index.

    Attributes:
        settings: what its rows were made with, see `sepssl.pipelines.embed`; None if another
            program has made it.
        models: files of the "encoder" and, if there is one, the "separator", as far as they are
            known.
        dim: of the vectors.

    Raises:
        InputError: if there is no complete index.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = pathlib.Path(folder)
        path = self.folder / DATABASE
        if not path.is_file():
            raise InputError(f"{self.folder}: holds no {DATABASE}; expected an index")
        try:
            self._database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
            config = read_metadata(self._database, CONFIG_KEY)
            self.settings: dict[str, Any] | None = read_metadata(self._database, SETTINGS)
            model = read_metadata(self._database, MODEL_KEY) or {}
            tables = {
                table: {row[1] for row in self._database.execute(f"PRAGMA table_info({table})")}
                for table in _COLUMNS
            }
            # For names, which other programs may leave out.
            self._database.create_function("printable", 1, lambda name: name and printable(name))
        except sqlite3.Error as error:
            raise InputError(f"{path}: cannot be read: {error}; expected an index") from error
        if config is None:
            raise InputError(
                f"{self.folder}: is not complete; expected sepssl-embed to be repeated first"
            )
        self.dim: int = config["embedding_dim"]
        self.models: dict[str, str] = model.get("model_config") or {}
        self._vectors = open_vectors(self.folder, self.dim)
        # Columns that indexes of other programs lack.
        there = {
            name: f'{table}."{name}"' if name in tables[table] else "NULL"
            for table, names in _COLUMNS.items()
            for name in names
        }
        self._place = f"{there['path']}, {there['offset']}"
        self._select = (
            f"SELECT windows.id, {NAME}, {self._place}, offsets, "
            f"{there['channel']}, {there['level_db']} FROM windows "
            "JOIN recordings ON recordings.id = recording_id "
            "LEFT JOIN deployments ON deployments.id = deployment_id "
        )
        self._path = there["path"]

    def __len__(self) -> int:
        return len(self._vectors)

    def row(self, number: int) -> Found:
        """A row, with a score of 1.

        Raises:
            InputError: if there is none of that id.
        """
        found = self._rows([number]) if number < 2**63 else []
        if not found or not self._vectors.contains(number):
            raise InputError(
                f"{self.folder}: has no row {number}; expected the number of one, as results have "
                "it, from 1 on"
            )
        return found[0]

    def any_name(self) -> str:
        """The name of some recording, to show what names are like; "" if there is none."""
        query = f"SELECT {NAME} FROM {RECORDINGS} LIMIT 1"
        return next((name for (name,) in self._database.execute(query)), "")

    def vector(self, number: int) -> np.ndarray:
        """The vector of a row, float32 [dim]."""
        return np.asarray(self._vectors.get(number), np.float32)

    def vectors(self, numbers: np.ndarray) -> np.ndarray:
        """The vectors of some rows, float32 [len(numbers), dim]."""
        return np.asarray(self._vectors.get(np.asarray(numbers, np.uint64)), np.float32)

    def rows(self) -> list[Found]:
        """All rows, in the order of recordings, of time and of channels, with a score of 1."""
        rows = self._database.execute(f"{self._select} ORDER BY recordings.id, windows.id")
        found = [_found(row) for row in rows]
        there = self._vectors.contains(np.array([row.row for row in found], np.uint64))
        return [row for row, known in zip(found, np.atleast_1d(there), strict=True) if known]

    def annotations(self) -> list[tuple[str, float, float, str, int]]:
        """What perch-hoplite's tools have noted: recording, start, end, label, type of label.

        The recording by its path or, if that is not known, by its name; times in seconds from the
        beginning of its file; type 0 for a label that does not apply, 1 for one that does, 2 for an
        uncertain one.
        """
        found = self._database.execute(
            f"SELECT {NAME}, {self._place}, offsets, label, label_type FROM {RECORDINGS} "
            "JOIN annotations ON recording_id = recordings.id ORDER BY annotations.id"
        )
        annotations = []
        for name, file, first, offsets, label, kind in found:
            start, end = np.frombuffer(offsets, "<f8").tolist() if offsets else (0.0, np.inf)
            start, end = (first or 0.0) + start, (first or 0.0) + end
            annotations.append((os.fsdecode(file or name), start, end, label, kind))
        return annotations

    def row_at(self, recording: str, start: float, channel: int = MIXTURE) -> Found | None:
        """The row of a recording whose window begins nearest to a time.

        The time lies in the window, or up to half a window before it.

        Args:
            recording: name in the index or, if it is none, path of the file; a name that cannot be
                printed also as it is shown.
            start: in seconds from the beginning of the file, as in what is found.
            channel: of the row.

        Raises:
            InputError: if several recordings have that name or path.
        """
        name, path = as_text(recording), stored_path(os.path.abspath(recording))
        recordings = self._recordings(f"? IN (filename, {NAME})", name)
        recordings = recordings or self._recordings(f"? = {self._path}", path)
        recordings = recordings or self._recordings(f"? = printable({NAME})", name)
        if len(recordings) > 1:
            names = list(recordings.values())
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise InputError(
                f"{self.folder}: {name} may be any of {', '.join(names[:5])}{more}; "
                "expected one of these names"
            )
        rows = [
            row
            for number in recordings
            for row in self._windows("recording_id = ?", number)
            if row.channel == channel
        ]
        if not rows:
            return None
        nearest = min(rows, key=lambda row: abs(row.offset + row.start - start))
        length = nearest.end - nearest.start
        within = -length / 2 <= start - nearest.offset - nearest.start <= length
        return nearest if within else None

    def channel_of(self, number: int, channel: int) -> Found | None:
        """The row of a channel of the window that a row belongs to."""
        same = "SELECT recording_id, offsets FROM windows WHERE id = ?"
        rows = self._windows(f"(recording_id, offsets) = ({same})", number)
        return next((row for row in rows if row.channel == channel), None)

    def search(
        self,
        vector: np.ndarray,
        k: int,
        rows: str = "both",
        overlapping: bool = True,
        besides: Found | None = None,
    ) -> list[Found]:
        """The nearest windows, each once, with its best row; exact below a million rows.

        Windows without sound, whose vectors are 0, are never found.

        Args:
            vector: [dim], of any length but 0.
            k: how many.
            rows: which rows count: those of the "mixture", of "channels", or "both".
            overlapping: False leaves out windows that overlap a nearer one of their recording, so
                that a sound is not found several times.
            besides: a window to be left out, with those that overlap it if those are.

        Returns:
            At most `k` windows, the nearest first.

        Raises:
            InputError: if the vector is 0, not finite, or of another dimension.
            ValueError: if `rows` is none of these.
        """
        if rows not in ROWS:
            raise ValueError(f"rows={rows!r}: expected one of {', '.join(ROWS)}")
        query = np.asarray(vector, np.float32)
        length = float(np.linalg.norm(query))
        if query.shape != (self.dim,) or not 0 < length < np.inf:
            raise InputError(
                f"the query is a vector {list(query.shape)} of length {length:.3g}; expected one "
                f"of {self.dim} finite values that are not all 0, as those of silence are"
            )
        exact = len(self) < EXACT_BELOW
        count = min(len(self), 4 * k)
        while count:
            if not exact:
                # mypy does not see the setter.
                self._vectors.expansion_search = max(_EXPANSION, 2 * count)  # type: ignore[misc]
            keys = self._vectors.search(query / length, count, exact=exact).keys
            scores = self._scores(keys, query / length)
            best: list[Found] = []
            free = _Free(overlapping)
            if besides is not None:
                free.take(besides)
            for row in self._rows(sorted(scores, key=lambda number: -scores[number])):
                counts = rows == "both" or (row.channel == MIXTURE) == (rows == "mixture")
                if counts and free.take(row):
                    best.append(row)
                    if len(best) == k:
                        break
            if len(best) == k or count == len(self):
                return [row._replace(score=scores[row.row]) for row in best]
            count = min(len(self), 4 * count)
        return []

    def _scores(self, keys: np.ndarray, query: np.ndarray) -> dict[int, float]:
        """Products with the query; of our own rows cosines, free of float16's rounding of 1."""
        vectors = np.asarray(self._vectors.get(keys), np.float32)
        heard = vectors.any(axis=1)
        keys, vectors = keys[heard], vectors[heard]
        products = vectors @ query
        if self.settings is not None:
            products /= np.linalg.norm(vectors, axis=1)
        return dict(zip(keys.tolist(), products.tolist(), strict=True))

    def _recordings(self, condition: str, value: str | bytes) -> dict[int, str]:
        """Ids and names of the recordings for which a condition holds."""
        query = f"SELECT recordings.id, {NAME} FROM {RECORDINGS} WHERE {condition}"
        return dict(self._database.execute(query, [value]))

    def _windows(self, condition: str, value: int) -> list[Found]:
        query = f"{self._select} WHERE {condition}"
        return [_found(row) for row in self._database.execute(query, [value])]

    def _rows(self, numbers: list[int]) -> list[Found]:
        """Those of the rows that are in the database, in the given order."""
        found = {}
        for first in range(0, len(numbers), 500):
            some = numbers[first : first + 500]
            marks = ", ".join("?" * len(some))
            query = f"{self._select} WHERE windows.id IN ({marks})"
            for row in self._database.execute(query, some):
                found[row[0]] = _found(row)
        return [found[number] for number in numbers if number in found]


class _Free:
    """The time that no window has taken yet, of each sound file."""

    def __init__(self, overlapping: bool):
        self._overlapping = overlapping
        self._windows: set[tuple] = set()
        self._spans: dict[str, list[tuple[float, float]]] = {}  # in order, disjoint

    def take(self, row: Found) -> bool:
        """Takes the time of a window; False if it, or part of it, is taken."""
        window = (row.path, row.recording, row.start, row.end)
        if window in self._windows:
            return False
        if not self._overlapping:
            # Recordings of one file may be parts of it that overlap.
            spans = self._spans.setdefault(row.path or row.recording, [])
            first, last = row.offset + row.start, row.offset + row.end
            place = bisect.bisect(spans, (first, last))
            for start, end in spans[max(place - 1, 0) : place + 1]:
                if min(end, last) - max(start, first) > _TOUCHING:
                    return False
            spans.insert(place, (first, last))
        self._windows.add(window)
        return True


def _found(row: tuple) -> Found:
    number, name, path, offset, offsets, channel, level = row
    start, end = np.frombuffer(offsets, "<f8").tolist()
    return Found(
        number,
        name,
        os.fsdecode(path or ""),
        offset or 0.0,
        start,
        end,
        channel or MIXTURE,
        level or 0.0,
        1.0,
    )
