"""Labels, splits and folds of recordings, from a CSV file or from the names of subfolders."""

import csv
import pathlib
import unicodedata
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from sepssl.data.clips import Clips, Skipped, Subset
from sepssl.errors import InputError

LABELS_FILE = "labels.csv"
ESC50_FILE = "meta/esc50.csv"
MAX_CLASSES = 10_000  # of subfolders; beyond, they are not classes but an archive's filing

SPLIT_NAMES = {  # what a split column, or a dataset, may call them
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "eval", "evaluation"),
}


class NoLabels(InputError):
    """There are no labels at all, as opposed to labels that cannot be used."""


class Row(NamedTuple):
    """What is known about a recording.

    Attributes:
        labels: its classes; may be empty.
        split: "train", "validation", "test", or "" for none.
        fold: name of its fold, "" for none.
        subsets: names of the columns in which it has the value "true".
    """

    labels: frozenset[str]
    split: str = ""
    fold: str = ""
    subsets: frozenset[str] = frozenset()


class Labelled(Subset):
    """The clips of a source that have a row, with its labels, split and fold.

    Args:
        clips: the source, without labels.
        rows: by the name of a clip.
        title: where the rows come from, shown as the reason for skipping a clip without one.
        has_splits, has_folds: whether the rows contain splits and folds.
    """

    def __init__(
        self,
        clips: Clips,
        rows: Mapping[str, Row],
        title: str,
        has_splits: bool = False,
        has_folds: bool = False,
    ):
        indices, skipped = [], list(clips.skipped)
        for index, name in enumerate(clips.names):
            if name in rows:
                indices.append(index)
            else:
                skipped.append(Skipped(name, f"{name}: has no row in {title}; expected one"))
        super().__init__(clips, indices, skipped)
        found = [rows[name] for name in self.names]
        self.class_names = sorted(set().union(*(row.labels for row in rows.values())))
        place = {name: number for number, name in enumerate(self.class_names)}
        self.labels = np.zeros((len(found), len(self.class_names)), np.int8)
        for index, row in enumerate(found):
            self.labels[index, [place[label] for label in row.labels]] = 1
        if has_splits:
            self.splits = [row.split for row in found]
        if has_folds:
            self.folds = [row.fold for row in found]
        self.subsets = [row.subsets for row in found]


def labelled_files(clips: Clips, directory: pathlib.Path, listed: Iterable[str]) -> Labelled:
    """A folder's recordings, with labels found in the folder.

    They come from `labels.csv` (columns `filename` and `labels`, optionally `split` and `fold`),
    else from `meta/esc50.csv`, the layout in which ESC-50 is published, else from the first
    subfolder of each file.

    Args:
        clips: the recordings, named by their path below the folder.
        directory: the folder.
        listed: names of all sound files in the folder, usable or not: a row may name any of them.

    Raises:
        NoLabels: if there is no such file and some recording is not in a subfolder.
        InputError: if a file is there but is not as described.
    """
    if (directory / LABELS_FILE).is_file():
        return _from_csv(clips, directory / LABELS_FILE, "", "labels", listed)
    if (directory / ESC50_FILE).is_file():
        return _from_csv(clips, directory / ESC50_FILE, "audio/", "category", listed)
    rows = {}
    for name in clips.names:
        if "/" not in name:
            raise NoLabels(
                f"{directory / name}: is not in a subfolder, and there is no {LABELS_FILE}; "
                "expected labels in that file, or every file in a subfolder named after its class"
            )
        rows[name] = Row(frozenset([name.split("/")[0]]))
    if len(set(row.labels for row in rows.values())) > MAX_CLASSES:
        raise NoLabels(
            f"{directory}: has more than {MAX_CLASSES} subfolders; expected no more classes, or a "
            f"{LABELS_FILE}"
        )
    return Labelled(clips, rows, "the folder's names")


def _from_csv(
    clips: Clips, file: pathlib.Path, prefix: str, labels_column: str, listed: Iterable[str]
) -> Labelled:
    expected = f"expected a CSV file with the header filename,{labels_column}"
    match = NameMatch(listed)
    rows: dict[str, Row] = {}
    columns, lines = read_csv(file, expected)
    if not {"filename", labels_column} <= set(columns):
        raise InputError(f"{file}: {columns_there(columns)}; {expected}")
    for line, row in lines:
        where = f"{file}, line {line}"
        written = pathlib.PurePosixPath(prefix + row["filename"].strip()).as_posix()
        name = match.find(written)
        if name is None:
            raise InputError(
                f"{where}: names '{written}', which is not a sound file in this folder; "
                "expected a path relative to it"
            )
        if name in rows:
            raise InputError(f"{where}: names '{name}' again; expected one row a file")
        rows[name] = parsed_row(row, where, labels_column)
    if not any(row.labels for row in rows.values()):
        raise InputError(f"{file}: has no labels; {expected}")
    return Labelled(clips, rows, str(file), "split" in columns, "fold" in columns)


def with_labels(recordings: Clips, verbose: bool = True) -> Clips | None:
    """Recordings with whatever labels, splits and folds are known; None if there are none.

    Unusable labels are not an error here, since training does not need them.

    Args:
        recordings: the source.
        verbose: whether to print why labels are unusable.
    """
    try:
        return recordings.labelled()
    except NoLabels:
        return None
    except InputError as error:
        if verbose:
            print(f"labels and splits are ignored: {error}", flush=True)
        return None


def with_splits(recordings: Clips, labelled: Clips | None) -> Clips:
    """Recordings with the splits known for some of them.

    Args:
        recordings: the source.
        labelled: the labelled ones among them, from `with_labels`.
    """
    if recordings.splits is not None or labelled is None or labelled.splits is None:
        return recordings
    known = dict(zip(labelled.names, labelled.splits, strict=True))
    result = Subset(recordings, range(len(recordings)))
    result.splits = [known.get(name, "") for name in result.names]
    return result


def read_csv(
    file: pathlib.Path, expected: str
) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Reads a CSV file with a header.

    Returns:
        The columns, and for each row its line number and its fields by column.

    Raises:
        InputError: if the file cannot be read, is not CSV text in UTF-8, or a row has fewer or more
            fields than the header.
    """
    rows = []
    try:
        with open(file, newline="", encoding="utf-8-sig") as text:
            reader = csv.DictReader(text)
            columns = [(name or "").strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            for row in reader:
                where = f"{file}, line {reader.line_num}"
                if None in row.values():
                    raise InputError(f"{where}: has fewer fields than the header; {expected}")
                if None in row:
                    raise InputError(
                        f"{where}: has more fields than the header; expected quotes around a field "
                        "with a comma, and ; between labels"
                    )
                rows.append((reader.line_num, row))
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}; {expected}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: is not CSV text in UTF-8 ({error}); {expected}") from error
    return columns, rows


def columns_there(columns: list[str]) -> str:
    """What an error says of a CSV file that lacks a column."""
    if not any(columns):
        return "has no header"
    hint = " (columns are separated by commas)" if any(set(";\t") & set(c) for c in columns) else ""
    return f"has the column{'s' * (len(columns) > 1)} {', '.join(columns)}{hint}"


def parsed_row(row: Mapping[str, str], where: str, labels_column: str = "labels") -> Row:
    """What a row of a CSV file says of a recording; a missing column counts as empty.

    Args:
        row: fields by column.
        where: file and line, for the error.
        labels_column: labels are separated by `;`.

    Raises:
        InputError: if the split is not one of `SPLIT_NAMES`.
    """
    labels = (label.strip() for label in row.get(labels_column, "").split(";"))
    split = row.get("split", "").strip().lower()
    known = {other: name for name, others in SPLIT_NAMES.items() for other in others}
    if split and split not in known:
        raise InputError(
            f"{where}: names the split '{split}'; expected train, validation, test or nothing"
        )
    return Row(
        frozenset(label for label in labels if label),
        known.get(split, ""),
        row.get("fold", "").strip(),
        frozenset(column for column, value in row.items() if value.strip().lower() == "true"),
    )


class NameMatch:
    """Matches file names however their accents are encoded.

    macOS writes "ü" as two characters (NFD), most other systems as one (NFC).

    Args:
        names: the file names that there are.
    """

    def __init__(self, names: Iterable[str]):
        self._exact = set(names)
        self._normalized = {unicodedata.normalize("NFC", name): name for name in self._exact}

    def find(self, name: str) -> str | None:
        """The file name as it is on disk, or None if there is no match."""
        if name in self._exact:
            return name
        return self._normalized.get(unicodedata.normalize("NFC", name))
