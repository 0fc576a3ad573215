"""The database of an index: recordings, their windows, and vectors on their way into the index.

The tables, and `usearch.index` beside them, are those of perch-hoplite 1.0, whose tools open the
folder. What it has no place for stands in columns that it tolerates: of recordings `path`, `offset`
(where it begins in that file), `stamp`, `digest`, `duration`, `complete` and `truncated` (see
`Clips.truncated`), of windows `channel`,
`level_db` and `norm`.
"""

import contextlib
import datetime
import json
import os
import pathlib
import re
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from sepssl.errors import InputError, OutputError
from sepssl.files import writing_to

DATABASE = "hoplite.sqlite"
SETTINGS = "sepssl"  # key of the settings in hoplite's table of metadata
MODEL_KEY, SOURCES_KEY = "model_config", "audio_sources"  # hoplite's own
MIXTURE = 0  # the channel of a row that is about the recording itself
ADDED_SETTINGS = {
    "truncated": "skip",
    "speed": 1.0,
}  # what databases were made with that lack the key
RECORDINGS = "recordings LEFT JOIN deployments ON deployments.id = deployment_id"
NAME = """
CASE WHEN (SELECT COUNT(*) FROM recordings AS r WHERE r.filename = recordings.filename) = 1
THEN filename ELSE COALESCE(project || '/', '') || CASE
    WHEN deployments.name = project OR instr(filename, deployments.name || '/') = 1 THEN ''
    ELSE COALESCE(deployments.name || '/', '') END || filename
END"""  # SQL on RECORDINGS: the name or, where several have it, what tells them apart before it
_TIME = re.compile(r"(?<!\d)((?:19|20)\d{6})[_T-](\d{6})(?!\d)")
_SECONDS = re.compile(r"([0-9A-F]{8})\.wav", re.IGNORECASE)
_SCHEMA = """
CREATE TABLE hoplite_metadata (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE deployments (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, project TEXT NOT NULL,
    latitude REAL, longitude REAL, UNIQUE (name, project)
);
CREATE TABLE recordings (
    id INTEGER PRIMARY KEY AUTOINCREMENT, filename TEXT NOT NULL, datetime TEXT,
    deployment_id INTEGER REFERENCES deployments(id) ON DELETE CASCADE,
    path TEXT, "offset" REAL, stamp TEXT, digest TEXT, duration REAL, complete INTEGER,
    truncated TEXT,
    UNIQUE (id, deployment_id), UNIQUE (filename, deployment_id)
);
CREATE TABLE windows (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    recording_id INTEGER NOT NULL REFERENCES recordings(id) ON DELETE CASCADE,
    offsets FLOAT_LIST NOT NULL, channel INTEGER, level_db REAL, norm REAL,
    UNIQUE (id, recording_id, offsets)
);
CREATE TABLE annotations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    recording_id INTEGER NOT NULL REFERENCES recordings(id) ON DELETE CASCADE,
    offsets FLOAT_LIST NOT NULL, label TEXT NOT NULL, label_type INTEGER NOT NULL,
    provenance TEXT NOT NULL, UNIQUE (id, recording_id, offsets)
);
CREATE INDEX idx_annotations
    ON annotations(recording_id, offsets, label, label_type, provenance);
CREATE INDEX idx_labels ON annotations(label, label_type, provenance);
CREATE INDEX idx_recordings_deployment_id ON recordings(deployment_id);
CREATE INDEX idx_windows_recording_id ON windows(recording_id);
CREATE TABLE sepssl_vectors (window_id INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE sepssl_removed (window_id INTEGER PRIMARY KEY);
CREATE TABLE sepssl_states (
    recording_id INTEGER NOT NULL REFERENCES recordings(id) ON DELETE CASCADE,
    count INTEGER NOT NULL, position INTEGER NOT NULL, state BLOB NOT NULL,
    PRIMARY KEY (recording_id, count)
);
"""


class Recording(NamedTuple):
    """A recording of the database.

    Attributes:
        id: its number.
        stamp, digest: of its files, as from `Clips.stamp` and `Clips.key`; "" if not known.
        complete: whether all of its windows are there.
    """

    id: int
    stamp: str
    digest: str
    complete: bool


class Rows(NamedTuple):
    """Rows of a recording.

    Attributes:
        starts, ends: float64 [rows], in seconds.
        channels: int64 [rows], `MIXTURE` or the number of a channel, from 1.
        levels: float64 [rows], in dB relative to the recording in the window.
        vectors: float32 [rows, dim].
    """

    starts: np.ndarray
    ends: np.ndarray
    channels: np.ndarray
    levels: np.ndarray
    vectors: np.ndarray


class WindowStore:
    """Writes the database, a batch of windows at a time.

    What `append` and `finish` have written stays, whenever the process ends. To be used as a
    context, by one process at a time.

    Args:
        folder: the folder of the database, existing.
        settings: all that rows depend on besides the recording; values that JSON knows.

    Raises:
        InputError: if the folder holds rows made with other settings, or another program's
            database.
        OutputError: from every method, if the database cannot be written.
    """

    def __init__(self, folder: str | os.PathLike, settings: dict[str, Any]):
        self.folder = pathlib.Path(folder)
        self.path = self.folder / DATABASE
        self._settings = settings
        self._projects: dict[tuple[str, str], int] = {}

    def __enter__(self) -> "WindowStore":
        with self._writing():
            self._database = sqlite3.connect(self.path, isolation_level=None)
        try:
            with self._writing():
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = NORMAL")
                self._database.execute("PRAGMA foreign_keys = ON")
                empty = not self._database.execute("SELECT 1 FROM sqlite_master").fetchone()
                if empty:
                    with self._transaction():
                        for statement in _SCHEMA.split(";"):
                            self._database.execute(statement)
                        self.set_metadata(SETTINGS, self._settings)
            require_settings(self.folder, self.metadata(SETTINGS), self._settings)
            with self._writing():
                there = self._database.execute("PRAGMA table_info(recordings)").fetchall()
                if "truncated" not in [column[1] for column in there]:  # made before it had it
                    self._database.execute("ALTER TABLE recordings ADD COLUMN truncated TEXT")
        except BaseException:
            self._database.close()
            raise
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(sqlite3.Error):  # one file without companions, if all is well
            self._database.execute("PRAGMA journal_mode = DELETE")
        self._database.close()

    def metadata(self, key: str) -> Any:
        """A value of hoplite's table of metadata; None if there is none."""
        return read_metadata(self._database, key)

    def set_metadata(self, key: str, value: Any) -> None:
        with self._writing():
            self._database.execute(
                "INSERT OR REPLACE INTO hoplite_metadata VALUES (?, ?)", (key, json.dumps(value))
            )

    def add_recordings(
        self, project: str, names: Sequence[str], paths: Sequence[str], offsets: Sequence[float]
    ) -> list[Recording]:
        """The recordings of these names, in their order, put down if they are new.

        Args:
            project: where they lie: the folder that names are relative to, or a dataset.
            names: with `/`.
            paths: of their files, "" for none.
            offsets: where each begins in its file, in seconds.
        """
        project = as_text(project)
        folders: dict[str, int] = {}
        with self._transaction():
            found = self._database.execute(
                "SELECT filename, recordings.id, stamp, digest, complete FROM recordings "
                "JOIN deployments ON deployments.id = deployment_id WHERE project = ?",
                (project,),
            )
            known = {
                name: Recording(number, stamp or "", digest or "", bool(complete))
                for name, number, stamp, digest, complete in found
            }
            for name, path, offset in zip(map(as_text, names), paths, offsets, strict=True):
                if name in known:
                    continue
                folder = name.split("/")[0] if "/" in name else project
                if folder not in folders:
                    self._database.execute(
                        "INSERT OR IGNORE INTO deployments (name, project) VALUES (?, ?)",
                        (folder, project),
                    )
                    folders[folder] = self._value(
                        "SELECT id FROM deployments WHERE name = ? AND project = ?",
                        (folder, project),
                    )
                added = self._database.execute(
                    'INSERT INTO recordings (filename, datetime, deployment_id, path, "offset", '
                    "complete) VALUES (?, ?, ?, ?, ?, 0)",
                    (name, time_in(name), folders[folder], stored_path(path), offset),
                )
                known[name] = Recording(int(added.lastrowid or 0), "", "", False)
        return [known[as_text(name)] for name in names]

    def num_windows(self, recording_id: int) -> int:
        """How many windows of a recording there are, not counting their channels."""
        return self._value(
            "SELECT COUNT(*) FROM windows WHERE recording_id = ? AND channel = ?",
            (recording_id, MIXTURE),
        )

    def start(self, recording_id: int, path: str, stamp: str) -> None:
        """Puts down what a recording's rows will be made from, and removes earlier ones."""
        with self._transaction():
            self._remove_windows(recording_id)
            self._remove_states(recording_id)
            self._database.execute(
                "UPDATE recordings SET path = ?, stamp = ?, digest = NULL, complete = 0 "
                "WHERE id = ?",
                (stored_path(path), stamp, recording_id),
            )

    def keep(self, recording_id: int, windows: int) -> None:
        """Removes all rows of a recording but those of its first windows."""
        with self._transaction():
            first = self._database.execute(
                "SELECT id FROM windows WHERE recording_id = ? AND channel = ? "
                "ORDER BY id LIMIT 1 OFFSET ?",
                (recording_id, MIXTURE, windows),
            ).fetchone()
            if first:
                self._remove_windows(recording_id, first[0])

    def append(self, recording_id: int, rows: Rows) -> None:
        """Adds rows to a recording; of every window the mixture's comes first."""
        offsets = np.stack([rows.starts, rows.ends], axis=1).astype("<f8")
        vectors = np.ascontiguousarray(rows.vectors, "<f4")
        with self._transaction():
            # Ids are never used again, so that what belongs to a removed row is no other's.
            last = self._value("SELECT seq FROM sqlite_sequence WHERE name = 'windows'") or 0
            ids = range(last + 1, last + 1 + len(offsets))
            norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
            self._database.executemany(
                "INSERT INTO windows (id, recording_id, offsets, channel, level_db, norm) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (
                    (number, recording_id, span.tobytes(), channel, level, norm)
                    for number, span, channel, level, norm in zip(
                        ids,
                        offsets,
                        rows.channels.tolist(),
                        rows.levels.tolist(),
                        norms.tolist(),
                        strict=True,
                    )
                ),
            )
            self._database.executemany(
                "INSERT INTO sepssl_vectors VALUES (?, ?)",
                ((number, vector.tobytes()) for number, vector in zip(ids, vectors, strict=True)),
            )

    def finish(self, recording_id: int, digest: str, duration: float, truncated: str = "") -> None:
        """Marks a recording, of a duration in seconds, as complete: all that there is of it."""
        with self._transaction():
            self._remove_states(recording_id)
            self._database.execute(
                "UPDATE recordings SET digest = ?, duration = ?, truncated = ?, complete = 1 "
                "WHERE id = ?",
                (digest, duration, truncated, recording_id),
            )

    def save_state(
        self, recording_id: int, count: int, position: int, state: bytes, needed: int
    ) -> None:
        """Puts down how far something on the way to windows has come in a recording.

        Args:
            recording_id: the recording.
            count: of the pieces done.
            position: sample up to which they reach.
            state: what is needed to go on.
            needed: sample from which on the recording is still needed; all states up to there
                but the last one are removed.
        """
        with self._transaction():
            self._database.execute(
                "DELETE FROM sepssl_states WHERE recording_id = ? AND count < (SELECT MAX(count) "
                "FROM sepssl_states WHERE recording_id = ? AND position <= ?)",
                (recording_id, recording_id, needed),
            )
            self._database.execute(
                "INSERT OR REPLACE INTO sepssl_states VALUES (?, ?, ?, ?)",
                (recording_id, count, position, state),
            )

    def state(self, recording_id: int, needed: int) -> tuple[int, int, bytes] | None:
        """The last count, position and state before a sample; None if there is none."""
        return self._row(
            "SELECT count, position, state FROM sepssl_states WHERE recording_id = ? AND "
            "position <= ? ORDER BY count DESC LIMIT 1",
            (recording_id, needed),
        )

    def replace(
        self, recording_id: int, rows: Rows, digest: str, duration: float, truncated: str = ""
    ) -> None:
        """Puts other rows in the place of a recording's and marks it as complete."""
        with self._transaction():
            self._remove_windows(recording_id)
            self.append(recording_id, rows)
            self.finish(recording_id, digest, duration, truncated)

    def touch(self, recording_id: int, path: str, stamp: str) -> None:
        """Puts down where and how a recording is now, whose content is the same."""
        with self._writing():
            self._database.execute(
                "UPDATE recordings SET path = ?, stamp = ? WHERE id = ?",
                (stored_path(path), stamp, recording_id),
            )

    def drop(self, recording_id: int) -> None:
        """Removes a recording with its rows."""
        with self._transaction():
            self._remove_windows(recording_id)
            self._database.execute("DELETE FROM recordings WHERE id = ?", (recording_id,))

    def vectors_of(self, recording_id: int) -> Iterator[np.ndarray]:
        """The vectors of a recording that are not in the index yet, float32 [dim] each."""
        found = self._database.execute(
            "SELECT vector FROM windows JOIN sepssl_vectors ON window_id = id "
            "WHERE recording_id = ? ORDER BY id",
            (recording_id,),
        )
        for (vector,) in found:
            yield np.frombuffer(vector, "<f4")

    def add_index(self, folder: str | os.PathLike) -> tuple[int, np.ndarray]:
        """Adds complete recordings of another index and its metadata, no vectors or annotations.

        Args:
            folder: made with the same settings; none of its recordings is in this database.

        Returns:
            What is added to the ids of its rows, and those ids, uint64 [rows].

        Raises:
            InputError: if it was made with other settings.
        """
        execute = self._database.execute
        with self._writing():
            execute("ATTACH ? AS part", (os.fspath(pathlib.Path(folder, DATABASE)),))
        try:
            with self._transaction():
                there = self._value(
                    "SELECT value FROM part.hoplite_metadata WHERE key = ?", (SETTINGS,)
                )
                require_settings(pathlib.Path(folder), json.loads(there), self._settings)
                recordings, windows = (
                    self._value("SELECT seq FROM main.sqlite_sequence WHERE name = ?", (table,))
                    or 0
                    for table in ("recordings", "windows")
                )
                execute(
                    "INSERT OR REPLACE INTO hoplite_metadata SELECT * FROM part.hoplite_metadata"
                )
                execute(
                    "INSERT OR IGNORE INTO deployments (name, project, latitude, longitude) "
                    "SELECT name, project, latitude, longitude FROM part.deployments ORDER BY id"
                )
                execute(
                    "INSERT INTO recordings (id, filename, datetime, deployment_id, path, "
                    '"offset", stamp, digest, duration, complete, truncated) '
                    "SELECT r.id + ?, filename, datetime, ours.id, path, "
                    '"offset", stamp, digest, duration, complete, truncated '
                    "FROM part.recordings AS r JOIN part.deployments AS p ON p.id = deployment_id "
                    "JOIN main.deployments AS ours USING (name, project) "
                    "WHERE complete = 1 ORDER BY r.id",
                    (recordings,),
                )
                execute(
                    "INSERT INTO windows (id, recording_id, offsets, channel, level_db, norm) "
                    "SELECT w.id + ?, recording_id + ?, offsets, channel, level_db, norm "
                    "FROM part.windows AS w JOIN part.recordings AS r ON r.id = recording_id "
                    "WHERE complete = 1 ORDER BY w.id",
                    (windows, recordings),
                )
                ids = execute("SELECT id - ? FROM windows WHERE id > ? ORDER BY id", (windows,) * 2)
                return windows, np.array([number for (number,) in ids], np.uint64)
        finally:
            with self._writing():
                execute("DETACH part")

    def has_changes(self) -> bool:
        """Whether vectors of complete recordings, or removed rows, are not in the index yet."""
        return bool(
            self._value(
                "SELECT EXISTS (SELECT 1 FROM sepssl_removed) OR EXISTS (SELECT 1 FROM "
                "sepssl_vectors JOIN windows ON windows.id = window_id JOIN recordings ON "
                "recordings.id = recording_id WHERE complete = 1)"
            )
        )

    def removed(self) -> list[int]:
        """Rows that may be in the index and are not in the database."""
        return [number for (number,) in self._database.execute("SELECT * FROM sepssl_removed")]

    def pending(self, batch: int) -> Iterator[tuple[list[int], np.ndarray]]:
        """Rows of complete recordings that are not in the index yet: ids and vectors."""
        found = self._database.execute(
            "SELECT window_id, vector FROM sepssl_vectors JOIN windows ON windows.id = window_id "
            "JOIN recordings ON recordings.id = recording_id WHERE complete = 1 ORDER BY window_id"
        )
        while rows := found.fetchmany(batch):
            ids, vectors = zip(*rows, strict=True)
            yield list(ids), np.stack([np.frombuffer(vector, "<f4") for vector in vectors])

    def forget_pending(self) -> None:
        """Removes the vectors that `pending` gives, and what `removed` does."""
        with self._transaction():
            self._database.execute("DELETE FROM sepssl_removed")
            self._database.execute(
                "DELETE FROM sepssl_vectors WHERE window_id IN (SELECT windows.id FROM windows "
                "JOIN recordings ON recordings.id = recording_id WHERE complete = 1)"
            )
        with self._writing():
            self._database.execute("VACUUM")

    def count(self) -> tuple[int, int, int]:
        """Complete recordings, their rows, and the rows of windows without sound."""
        return self._row(
            "SELECT COUNT(DISTINCT recordings.id), COUNT(*), COUNT(CASE norm WHEN 0 THEN 1 END) "
            "FROM recordings JOIN windows ON recording_id = recordings.id WHERE complete = 1"
        )

    def names(self) -> Iterator[str]:
        """Names of the complete recordings, as in `rows`."""
        found = self._database.execute(f"SELECT {NAME} FROM {RECORDINGS} WHERE complete = 1")
        return (name for (name,) in found)

    def rows(self) -> Iterator[tuple[str, float, float, int, float, np.ndarray]]:
        """Name, start, end, channel, level and vector of all rows of complete recordings.

        In the order of the recordings, then of time, then of channels; of rows whose vectors are
        not in the index. A name that several recordings have follows that of its project.
        """
        found = self._database.execute(
            f"SELECT {NAME}, offsets, channel, level_db, vector FROM {RECORDINGS} JOIN windows "
            "ON recording_id = recordings.id JOIN sepssl_vectors ON window_id = windows.id "
            "WHERE complete = 1 ORDER BY recordings.id, windows.id"
        )
        for name, offsets, channel, level, vector in found:
            start, end = np.frombuffer(offsets, "<f8").tolist()
            yield name, start, end, channel, level, np.frombuffer(vector, "<f4")

    def _remove_windows(self, recording_id: int, first: int = 0) -> None:
        condition = "SELECT id FROM windows WHERE recording_id = ? AND id >= ?"
        values = (recording_id, first)
        self._database.execute(f"INSERT OR IGNORE INTO sepssl_removed {condition}", values)
        self._database.execute(
            f"DELETE FROM sepssl_vectors WHERE window_id IN ({condition})", values
        )
        self._database.execute("DELETE FROM windows WHERE recording_id = ? AND id >= ?", values)

    def _remove_states(self, recording_id: int) -> None:
        self._database.execute("DELETE FROM sepssl_states WHERE recording_id = ?", (recording_id,))

    def _row(self, query: str, values: tuple = ()) -> tuple:
        return self._database.execute(query, values).fetchone()

    def _value(self, query: str, values: tuple = ()) -> Any:
        row = self._row(query, values)
        return row[0] if row else None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing; within another one, a part of it."""
        if self._database.in_transaction:
            yield
            return
        with self._writing():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back already
                    self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with writing_to(self.path):
                yield
        except sqlite3.Error as error:
            if error.sqlite_errorname == "SQLITE_NOTADB":
                raise InputError(
                    f"{self.path}: is not a database; expected an index, or another output"
                ) from error
            raise OutputError(f"{self.path}: could not be written: {error}") from error


def read_metadata(database: sqlite3.Connection, key: str) -> Any:
    """A value of hoplite's table of metadata; None if there is none."""
    row = database.execute("SELECT value FROM hoplite_metadata WHERE key = ?", (key,)).fetchone()
    return json.loads(row[0]) if row else None


def require_settings(folder: pathlib.Path, there: dict | None, settings: dict[str, Any]) -> None:
    """Raises InputError, naming both values, if rows were made with other settings."""
    if there is None:
        raise InputError(
            f"{folder}: holds another program's index; expected one that sepssl-embed has written"
        )
    there = {**ADDED_SETTINGS, **there}
    for key, value in settings.items():
        if there.get(key) != value:
            raise InputError(
                f"{folder}: holds rows made with {key}={there.get(key)}, now {value}; expected "
                "another output"
            )


def time_in(name: str) -> str | None:
    """When a recording began, in ISO format, if its name says so as recorders' names do.

    AudioMoth's `20240131_061500.WAV`, or `5E90A4D4.WAV` of its first firmware (seconds of Unix time
    as eight hexadecimal digits, UTC; times from 2010 to 2040 are believed), and Song Meter's
    `PREFIX_20240131_061500.wav`.
    """
    file = name.split("/")[-1]
    if hexadecimal := _SECONDS.fullmatch(file):
        seconds = int(hexadecimal[1], 16)
        time = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
        return time.isoformat() if 2010 <= time.year < 2040 else None
    found = _TIME.search(file)
    if not found:
        return None
    try:
        return datetime.datetime.strptime("".join(found.groups()), "%Y%m%d%H%M%S").isoformat()
    except ValueError:  # the 31st of February
        return None


def as_text(name: str | os.PathLike) -> str:
    """A name as text: one that is not UTF-8 with its bytes escaped."""
    return os.fsdecode(name).encode("utf-8", "backslashreplace").decode()


def stored_path(path: str) -> str | bytes:
    """A path as it stands in the database: as text or, if it is not UTF-8, as its bytes."""
    return path if as_text(path) == path else os.fsencode(path)
