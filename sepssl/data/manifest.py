"""A CSV file that names recordings, or parts of them, as a source of clips."""

import functools
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sepssl.data.clips import Clips
from sepssl.data.folder import FileClips, Span
from sepssl.data.labels import Labelled, NoLabels, Row, columns_there, parsed_row, read_csv
from sepssl.errors import InputError

EXPECTED = (
    "expected a CSV file with the column path and, optionally, start, duration or end, labels, "
    "split, fold"
)
_AGREE_SECONDS = 0.01  # between an end and a duration that was rounded; our choice


class ManifestRow(NamedTuple):
    """A row of a manifest.

    Attributes:
        span: the clip; its name is as in `Manifest.names`.
        recording: the path as written.
        row: labels, split and fold.
    """

    span: Span
    recording: str
    row: Row

    @classmethod
    def of_file(cls, path: pathlib.Path, name: str) -> "ManifestRow":
        """The row of a whole sound file that no manifest names."""
        return cls(Span(name, path), name, parsed_row({}, name))


def manifest_rows(file: str | os.PathLike) -> tuple[list[str], list[ManifestRow]]:
    """The columns and the rows of a manifest, see `Manifest`. No sound file is opened.

    Raises:
        InputError: if the file is not as described there, or names a clip twice.
    """
    file = pathlib.Path(file)
    rows: dict[str, ManifestRow] = {}
    places: dict[tuple[str, float, float | None], str] = {}
    columns, lines = read_csv(file, EXPECTED)
    column = "path" if "path" in columns else "filename"
    if column not in columns:
        raise InputError(f"{file}: {columns_there(columns)}; {EXPECTED}")
    for line, row in lines:
        where = f"{file}, line {line}"
        path = row[column].strip()
        if not path:
            raise InputError(f"{where}: names no file; {EXPECTED}")
        if "\0" in path:
            raise InputError(f"{where}: the path holds a NUL byte; {EXPECTED}")
        start = _seconds(row, "start", where) or 0.0
        duration = _duration(row, start, where)
        recording = pathlib.PurePath(path).as_posix()
        name = recording + _part(start, duration)
        if name in rows:
            raise InputError(f"{where}: names '{name}' again; expected one row per clip")
        span = Span(name, file.parent / path, start, duration)
        place = (os.path.normpath(span.path), start, duration)
        if place in places:
            raise InputError(
                f"{where}: names '{places[place]}' again, as '{name}'; expected one row per clip"
            )
        places[place] = name
        rows[name] = ManifestRow(span, recording, parsed_row(row, where))
    if not rows:
        raise InputError(f"{file}: holds no row; {EXPECTED}")
    return columns, list(rows.values())


class Manifest(FileClips):
    """The clips that a CSV file names; see `FileClips`.

    Columns, of which only the first is required:

        path      of a sound file, relative to the CSV file; also accepted as `filename`
        start     where the clip begins in it, in seconds; empty for 0
        duration  in seconds; empty means to the end
        end       in its place: where the clip ends, in seconds; beside a duration, within 10 ms
        labels    separated by `;`; empty for none of the classes
        split     train, validation, test, or empty for none
        fold      name of a fold

    Several clips of one file are parts of the same recording: randomly drawn splits keep them
    together.

    Args:
        file: the CSV file.
        sample_rate: in Hz, of the clips read.
        min_duration: shortest clip taken, in seconds.
        decoder: name of the decoder, see `read_audio`.
        allow_truncated, speed: see `FileClips`.
        rows: what to open of it, as from `manifest_rows`, without labels, splits and folds; None
            for all, with them.

    Attributes:
        names: the paths as written, followed for a part by `#START` or, with a duration,
            `#START-END`, in seconds.

    Raises:
        InputError: if the file is not as described, names a clip twice, or no clip is usable.
    """

    def __init__(
        self,
        file: str | os.PathLike,
        sample_rate: int,
        min_duration: float = 0.0,
        decoder: str = "soundfile",
        allow_truncated: bool = False,
        speed: float = 1.0,
        rows: Sequence[ManifestRow] | None = None,
    ):
        self.file = pathlib.Path(file)
        columns: Sequence[str] = ()
        if rows is None:
            columns, rows = manifest_rows(self.file)
        self._has_labels = "labels" in columns
        self._rows = {row.span.name: row.row for row in rows}
        recording_of = {row.span.name: row.recording for row in rows}
        super().__init__(
            [row.span for row in rows],
            sample_rate,
            min_duration,
            str(file),
            (),
            decoder,
            allow_truncated,
            speed,
        )
        self.recordings: list[str] = [recording_of[name] for name in self.names]
        if "split" in columns:
            self.splits = [self._rows[name].split for name in self.names]
        if "fold" in columns:
            self.folds = [self._rows[name].fold for name in self.names]

    @functools.cached_property
    def origin(self) -> str:
        return f"{self.file.parent.resolve()} {self._how}"

    def labelled(self) -> Clips:
        """The clips with labels.

        Raises:
            NoLabels: if the file has no column `labels`, or it is empty.
        """
        if not self._has_labels or not any(row.labels for row in self._rows.values()):
            raise NoLabels(f"{self.file}: has no labels; expected a column labels")
        return Labelled(self, self._rows, str(self.file))


def _duration(row: Mapping[str, str], start: float, where: str) -> float | None:
    """Seconds from the start, None for all that follows."""
    duration, end = _seconds(row, "duration", where), _seconds(row, "end", where)
    if duration == 0:
        raise InputError(f"{where}: has the duration 0; expected more, or nothing")
    if end is None:
        return duration
    if not end > start:
        raise InputError(
            f"{where}: ends at {end:g} s; expected an end after its start, {start:g} s"
        )
    if duration is None:
        return end - start
    if abs(start + duration - end) > _AGREE_SECONDS:
        raise InputError(
            f"{where}: has the end {end:g} and the duration {duration:g} from {start:g} s, which "
            "differ; expected one of them"
        )
    return duration


def _part(start: float, duration: float | None) -> str:
    """What follows the name of the recording, to the microsecond: "" for all of it."""
    if duration is not None:
        return f"#{_digits(start)}-{_digits(start + duration)}"
    return f"#{_digits(start)}" if start else ""


def _digits(seconds: float) -> str:
    """With as many digits as needed, at least 2 and at most 6."""
    whole, fraction = f"{seconds:.6f}".split(".")
    return f"{whole}.{fraction.rstrip('0'):0<2}"


def _seconds(row: Mapping[str, str], column: str, where: str) -> float | None:
    text = row.get(column, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise InputError(f"{where}: {column} is '{text}'; expected seconds, 0 or more")
    return value
