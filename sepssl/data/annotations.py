"""Labels of times in recordings, from the files of annotation programs, and of windows by them."""

import csv
import math
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sepssl.data.labels import columns_there, read_csv
from sepssl.errors import InputError
from sepssl.files import printable

UNKNOWN = -1
SHARE = 0.5  # of the shorter of window and label that must overlap; our choice
NONE = "-"  # the label of a part in which none of the classes is heard
WINDOW = "window"  # a table with this column holds labels of single windows
UNLABELLED = ("negative", "ignore")
_LABEL_COLUMNS = ("annotation", "label", "species", "class", "tags", "name", "type")
_BEGIN, _END, _OFFSET = "Begin Time (s)", "End Time (s)", "File Offset (s)"
_SHORTEST = 1e-3  # seconds: a label of a point in time is as long
_EXPECTED = (
    "expected a Raven selection table, an Audacity label track, or a CSV file with the header "
    "file,start,end,label"
)


class Annotation(NamedTuple):
    """A label of a part of a recording.

    Attributes:
        recording: name or path, with or without suffix.
        start, end: in seconds from the beginning of the file.
        label: the class; "" where none of the classes is heard.
        present: False if the class is not heard there, None if that is uncertain.
        alone: whether it is about that part only, and does not tell that all else in the recording
            has been looked at.
        where: file and line, for errors.
    """

    recording: str
    start: float
    end: float
    label: str
    present: bool | None = True
    alone: bool = False
    where: str = ""


class WindowLabels(NamedTuple):
    """Labels of windows.

    Attributes:
        classes: in the order of their names.
        labels: int8 [windows, classes]: 1, 0, or `UNKNOWN`.
        looked_at: bool [windows], whether any label is about a part of it, or it was seen to have
            no class.
        unmatched: annotations of recordings that there are no windows of.
        outside: annotations that no window of their recording has, see `label_windows`: they lie
            beyond its end, or in a window that is left out since it is without sound.
    """

    classes: list[str]
    labels: np.ndarray
    looked_at: np.ndarray
    unmatched: list[Annotation]
    outside: list[Annotation]


def read_annotations(path: str | os.PathLike, label_column: str = "") -> list[Annotation]:
    """Reads a file of labels, or all `.txt` and `.csv` files in a folder.

    - `.csv`: columns `file`, `start`, `end`, `label` (several: `a;b`); with a column `window`,
      labels are about that part alone. A column `path`, as tables of detections have it, tells
      recordings of one name apart.
    - `.txt` with Raven's header: a selection table. The recording is in the column `Begin Path` or
      `Begin File`, else it has the table's name; times are those in the file where there is a
      `File Offset (s)`.
    - other `.txt`: an Audacity label track, of the recording of its name.

    A `.txt` file without any row says that none of the classes is in the recording of its name;
    rows without a label are passed over. The label `-` says that none of the classes is heard
    there.

    Args:
        path: file or folder.
        label_column: of Raven's tables; "" for the first of Annotation, Label, Species, Class,
            Tags, Name, Type that there is.

    Raises:
        InputError: if a file cannot be read as one of these, or a time is none.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in (".csv", ".txt"))
        if not files:
            raise InputError(f"{path}: holds no .csv or .txt file; {_EXPECTED}")
        return [label for file in files for label in read_annotations(file, label_column)]
    if path.suffix.lower() not in (".csv", ".txt"):
        raise InputError(f"{path}: {_EXPECTED}")
    if path.suffix.lower() == ".csv":
        return list(_from_csv(path))
    try:
        # Not splitlines: a label may hold what it takes for an end of line as well.
        lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; {_EXPECTED}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not text in UTF-8; {_EXPECTED}") from error
    # What the recording is called if the table does not say.
    stem = re.sub(r"(\.Table\.\d+)?(\.selections)?\.txt$", "", path.name, flags=re.IGNORECASE)
    recording = os.path.abspath(path.with_name(stem))
    raven = bool(lines) and _BEGIN in lines[0].split("\t")
    if not any(line.strip() for line in lines[raven:]):
        return [Annotation(recording, 0.0, math.inf, "", where=str(path))]
    if raven:
        return list(dict.fromkeys(_from_raven(path, lines, recording, label_column)))
    return list(_from_audacity(path, lines, recording))


def _from_csv(path: pathlib.Path) -> Iterator[Annotation]:
    columns, rows = read_csv(path, _EXPECTED)
    if not {"file", "start", "end", "label"} <= set(columns):
        raise InputError(f"{path}: {columns_there(columns)}; {_EXPECTED}")
    for line, row in rows:
        where = f"{path}, line {line}"
        start, end = _times(row["start"], row["end"], where)
        if not row["file"].strip():
            raise InputError(f"{where}: names no file; {_EXPECTED}")
        labels = {_on_one_line(part) for part in row["label"].split(";")}
        for label in sorted(labels - {"", NONE}) or [""] * (NONE in labels):
            name = _named_in(row)
            yield Annotation(name, start, end, label, True, WINDOW in columns, where)


def _named_in(row: Mapping[str, str]) -> str:
    """The recording: its path, as in tables of detections, if that is the file's."""
    file, path = row["file"].strip(), (row.get("path") or "").strip()
    last, of_file = (re.split(r"[/\\]", name)[-1] for name in (path, file))
    return path if last and of_file.startswith(last) else file


def _from_raven(
    path: pathlib.Path, lines: Sequence[str], recording: str, label_column: str
) -> Iterator[Annotation]:
    reader = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    columns = list(reader.fieldnames or [])
    wanted = [label_column] if label_column else _LABEL_COLUMNS
    by_name = {column.strip().lower(): column for column in columns}
    column = next((by_name[name.lower()] for name in wanted if name.lower() in by_name), None)
    if column is None or _END not in columns:
        raise InputError(
            f"{path}: {columns_there(columns)}; expected {_END} and a column of labels, "
            f"{label_column or 'Annotation, or the one that --label_column names'}"
        )
    for row in reader:
        # Not by its line, since a selection has a row in every view.
        where = f"{path}, selection {row.get('Selection') or reader.line_num}"
        start, end = _times(row[_BEGIN], row[_END], where)
        if row.get(_OFFSET):
            length = end - start
            start, _ = _times(row[_OFFSET], row[_OFFSET], where)
            end = start + length
        name = (row.get("Begin Path") or row.get("Begin File") or recording).strip()
        if label := _on_one_line(row[column] or ""):
            alone = WINDOW in by_name
            yield Annotation(name, start, end, "" if label == NONE else label, True, alone, where)


def _from_audacity(
    path: pathlib.Path, lines: Sequence[str], recording: str
) -> Iterator[Annotation]:
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("\\"):  # frequencies of the label before
            continue
        cells = line.split("\t")
        if len(cells) < 2:
            raise InputError(f"{path}, line {number}: holds {line[:40]!r}; {_EXPECTED}")
        start, end = _times(cells[0], cells[1], f"{path}, line {number}")
        if len(cells) > 2 and (label := _on_one_line(cells[2])):
            where = f"{path}, line {number}"
            yield Annotation(recording, start, end, "" if label == NONE else label, where=where)


def _on_one_line(label: str) -> str:
    """A label as every form can hold it: its words with a space between them."""
    return " ".join(label.split())


def _times(start: str, end: str, where: str) -> tuple[float, float]:
    try:
        first, last = float(start), float(end)
    except (TypeError, ValueError):
        first = last = math.nan
    if not 0 <= first <= last < math.inf:
        raise InputError(
            f"{where}: begins at {start} and ends at {end}; expected seconds, the end not before "
            "the beginning"
        )
    return first, last


class RecordingMatch:
    """Finds recordings by what annotation programs call them.

    A relative name is the end of the recording's path (`1.wav` or `dogs/1.wav` for
    `/rec/dogs/1.wav`), or has further folders in front of the recording's name. Of an absolute one,
    which may come from another computer, the longest end counts that any path has. The suffix may
    be missing, and folders may be set apart as in Windows. Names that cannot be printed count as
    tables write them, see `printable`, as well.

    Args:
        names: of the recordings.
        files: their paths, or their names if these are not known; equal for parts of one file.
    """

    def __init__(self, names: Sequence[str], files: Sequence[str]):
        both = list(zip(names, files, strict=True))
        self._real = _Known((name, file, file) for name, file in both)
        self._shown = _Known(
            (printable(name), printable(file), file)
            for name, file in both
            if not file.isprintable()
        )

    def find(self, annotation: Annotation) -> str | None:
        """The one of `files` that an annotation is about; None if there is none.

        Raises:
            InputError: if several could be meant.
        """
        given = _normal(annotation.recording)
        slashed = _normal(annotation.recording.replace("\\", "/"))
        found = (
            self._real.ends.get(given)
            or self._real.ends.get(slashed)
            or self._shown.ends.get(given)
            or self._real.search(slashed)
            or self._shown.search(given)
        )
        if len(found) > 1:
            first, second, *_ = sorted(found)
            raise InputError(
                f"{annotation.where}: {annotation.recording} may be {first} or {second}; expected "
                "a path that tells them apart"
            )
        return next(iter(found), None)


class _Known:
    """Files by every end of their paths, and by the names of recordings.

    Args:
        recordings: name, path and file of each.
    """

    def __init__(self, recordings: Iterable[tuple[str, str, str]]):
        self.ends: dict[str, set[str]] = {}
        self.names: dict[str, set[str]] = {}
        for name, path, file in recordings:
            for known, ends in ((self.ends, _ends(path)), (self.names, [_normal(name)])):
                for end in ends:
                    known.setdefault(end, set()).add(file)
                    known.setdefault(_without_suffix(end), set()).add(file)

    def search(self, given: str) -> set[str]:
        """The files of the longest end of `given` that is known."""
        absolute = given.startswith("/") or re.match("[A-Za-z]:/", given)
        known = self.ends if absolute else self.names
        return next((known[end] for end in _ends(given) if end in known), set())


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name.removeprefix("./"))


def _ends(path: str) -> list[str]:
    """The path, and what is left of it without its first folder, its first two, and so on."""
    parts = _normal(path).split("/")
    return ["/".join(parts[first:]) for first in range(len(parts)) if parts[first:] != [""]]


def _without_suffix(path: str) -> str:
    return re.sub(r"(?<=[^/])\.[A-Za-z0-9]{1,5}$", "", path)


def label_windows(
    files: Sequence[str],
    names: Sequence[str],
    starts: np.ndarray,
    ends: np.ndarray,
    annotations: Sequence[Annotation],
    unlabelled: str = "negative",
) -> WindowLabels:
    """What annotations say of windows (our choice of rules).

    A window has a class if it overlaps one of its annotations by half of the shorter of the two, or
    more. One that overlaps it by less is unknown. Any other window does not have the class

    - if it has another class, or an annotation without a class;
    - with `unlabelled="negative"`, if there are annotations of its recording that are not about a
      part `alone`: such a recording counts as annotated from beginning to end.

    All else is unknown.

    Args:
        files: of each window, the path of its recording's file, or its name.
        names: of each window, the name of its recording.
        starts, ends: of each window, in seconds.
        annotations: labels.
        unlabelled: "negative", or "ignore" for windows without any annotation.

    Raises:
        InputError: if an annotation may be about several recordings, or none is about any.
        ValueError: if `unlabelled` is neither.
    """
    if unlabelled not in UNLABELLED:
        raise ValueError(f"unlabelled={unlabelled!r}: expected one of {', '.join(UNLABELLED)}")
    where: dict[str, list[int]] = {}
    for window, file in enumerate(files):
        where.setdefault(file, []).append(window)
    windows_of = {file: np.array(windows) for file, windows in where.items()}
    pairs = dict.fromkeys(zip(names, files, strict=True))
    match = RecordingMatch([name for name, _ in pairs], [file for _, file in pairs])
    classes = sorted({a.label for a in annotations if a.label and a.present})
    place = {label: number for number, label in enumerate(classes)}
    shape = (len(starts), len(classes))
    has, lacks, partly = (np.zeros(shape, bool) for _ in range(3))
    seen, looked_at = np.zeros(len(starts), bool), np.zeros(len(starts), bool)
    unmatched: list[Annotation] = []
    outside: list[Annotation] = []
    for annotation in annotations:
        found = match.find(annotation)
        if found is None:
            unmatched.append(annotation)
            continue
        windows = windows_of[found]
        if unlabelled == "negative" and not annotation.alone:
            seen[windows] = True
        end = max(annotation.end, annotation.start + _SHORTEST)
        overlap = np.minimum(ends[windows], end) - np.maximum(starts[windows], annotation.start)
        shorter = np.minimum(ends[windows] - starts[windows], end - annotation.start)
        looked_at[windows[overlap > 0]] = True
        touched, hit = windows[overlap > 0], windows[overlap >= SHARE * shorter - 1e-9]
        if not len(hit):
            outside.append(annotation)
        if not annotation.label:
            seen[hit] = True
        elif annotation.label in place:
            column = place[annotation.label]
            partly[touched, column] = True
            if annotation.present:
                has[hit, column] = seen[hit] = True
            elif annotation.present is not None:
                lacks[hit, column] = True
    if annotations and len(unmatched) == len(annotations):
        first = unmatched[0]
        raise InputError(
            f"{first.where or 'annotations'}: {first.recording} is no recording of the index, and "
            f"neither is that of any other label; it holds {names[0]} and so on"
        )
    labels = np.full(shape, UNKNOWN, np.int8)
    labels[(seen[:, None] & ~partly) | lacks] = 0
    labels[has] = 1
    return WindowLabels(classes, labels, seen | looked_at, unmatched, outside)
