"""A folder of recordings as a source of clips."""

import concurrent.futures
import csv
import functools
import hashlib
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from sepssl.audio.files import SUFFIXES, audio_info, check_sample_rate, read_audio, resampled_length
from sepssl.errors import InputError

LABELS_FILE = "labels.csv"
_THREADS = 8  # to wait for the disk, not to compute


def list_audio(directory: str | os.PathLike) -> list[pathlib.Path]:
    """Lists the sound files below a folder, sorted by their path within it.

    Hidden files and folders (a leading dot) are skipped; links to folders are followed.

    Raises:
        InputError: if the folder is missing, a file, cannot be read, or holds no sound file.
    """
    directory = pathlib.Path(directory)

    def refuse(error: OSError):
        raise InputError(
            f"{error.filename}: cannot be read: {error.strerror}; expected a readable folder"
        ) from error

    try:
        os.stat(directory)
    except FileNotFoundError as error:
        raise InputError(
            f"{directory}: does not exist; expected a folder of sound files"
        ) from error
    except OSError as error:
        refuse(error)
    if not directory.is_dir():
        raise InputError(f"{directory}: is a file; expected a folder of sound files")
    paths, visited = [], set()
    for folder, subfolders, files in os.walk(directory, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link back to a folder above
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in files:
            path = pathlib.Path(folder, name)
            if not name.startswith(".") and path.suffix.lower() in SUFFIXES:
                paths.append(path)
    if not paths:
        raise InputError(
            f"{directory}: holds no sound file; expected files ending in {' '.join(SUFFIXES)}"
        )
    return sorted(paths, key=lambda path: path.relative_to(directory).parts)


def fingerprint(paths: Sequence[pathlib.Path]) -> str:
    """8 hex digits that change with the size of a file, or with the 4 kB in its middle.

    Not with its time, which a copy or another download changes. A file that cannot be read counts
    as empty.
    """

    def of_file(path: pathlib.Path) -> bytes:
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(0, size // 2 - 2048))
                return size.to_bytes(8, "big") + hashlib.sha256(file.read(4096)).digest()
        except OSError:
            return bytes(40)

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return hashlib.sha256(b"".join(pool.map(of_file, paths))).hexdigest()[:8]


class Folder:
    """Recordings below a folder, of any mix of formats, rates, channels and lengths.

    Every header is read at construction, and files that cannot be used are left out: broken,
    truncated or empty ones, and those shorter than `min_duration`. What only decoding shows
    (silence, NaN, damage in the middle) is left out too with `decode=True`; otherwise `read`
    raises when it meets such a file.

    Labels come from `labels.csv` in the folder, with the header `filename,labels`, file names
    relative to the folder and labels separated by `;` (an empty field: none of the classes); files
    without a row are left out. Or, with `labels="folder"`, from the name of the subfolder.

    Args:
        directory: the folder.
        sample_rate: in Hz, of the clips read.
        min_duration: shortest recording taken, in seconds. The default is one patch: 96 frames of
            25 ms, 10 ms apart (our choice).
        labels: "csv" takes `labels.csv` and raises without it; "folder" takes the first subfolder
            of each file; None ignores labels; "auto" is "csv" where that file exists, else None.
        decode: whether to decode every file once at construction (about 3 ms for 10 s of sound).
        files: paths below the folder to take; None means all sound files.

    Attributes:
        directory: the folder, a `pathlib.Path`.
        sample_rate: in Hz.
        names: paths of the usable files relative to the folder, with `/`, sorted.
        skipped: `(path, reason)` of each file left out.
        labels: int8 `[clips, classes]`, 1 where a clip has a class, or None without labels.
        class_names: names of the classes, sorted, or None. All classes of `labels.csv`, also those
            whose every file was left out.

    Raises:
        InputError: as `list_audio`; if no usable file is left; if the labels are not as described.

    Example:

        clips = Folder("recordings", sample_rate=16000)
        waveform = clips.read(0)
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        sample_rate: int,
        min_duration: float = 0.975,
        labels: str | None = "auto",
        decode: bool = False,
        files: Sequence[str | os.PathLike] | None = None,
    ):
        check_sample_rate(sample_rate)
        if labels not in ("auto", "csv", "folder", None):
            raise InputError(f"labels is {labels!r}; expected 'auto', 'csv', 'folder' or None")
        self.directory = pathlib.Path(directory)
        self.sample_rate = int(sample_rate)
        self.skipped: list[tuple[pathlib.Path, str]] = []
        paths = list_audio(directory) if files is None else [pathlib.Path(f) for f in files]
        names = [path.relative_to(self.directory).as_posix() for path in paths]
        label_sets = self._read_labels(labels, names)

        def scan(path: pathlib.Path) -> int | str:
            """Number of samples at `sample_rate`, or the reason to leave the file out."""
            try:
                info = audio_info(path)
                if info.duration < min_duration:
                    return f"is {info.duration:.3f} s long; expected {min_duration:g} s or more"
                if decode:
                    read_audio(path, None)
            except InputError as error:
                return str(error).removeprefix(f"{path}: ")
            return resampled_length(info.frames, info.sample_rate, self.sample_rate)

        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            results = list(pool.map(scan, paths))
        self.names: list[str] = []
        self._num_samples: list[int] = []
        for path, name, result in zip(paths, names, results, strict=True):
            if label_sets is not None and name not in label_sets:
                result = f"has no row in {LABELS_FILE}"
            if isinstance(result, str):
                self.skipped.append((path, result))
            else:
                self.names.append(name)
                self._num_samples.append(result)
        if not self.names:
            path, reason = self.skipped[0]
            raise InputError(
                f"{directory}: holds no usable sound file; {len(self.skipped)} skipped, the first: "
                f"{path.name}: {reason}"
            )
        self.labels: np.ndarray | None = None
        self.class_names: list[str] | None = None
        if label_sets is not None:
            self.class_names = sorted(set().union(*label_sets.values()))
            self.labels = np.array(
                [[c in label_sets[name] for c in self.class_names] for name in self.names], np.int8
            )

    @functools.cached_property
    def origin(self) -> str:
        """What the clips depend on besides their names."""
        files = fingerprint([self.directory / name for name in self.names])
        return f"{self.directory.resolve()} at {self.sample_rate} Hz, files {files}"

    def __len__(self) -> int:
        return len(self.names)

    def num_samples(self, index: int) -> int:
        """Length of a clip in samples at `sample_rate`, without reading it."""
        return self._num_samples[index]

    def read(self, index: int, start: int = 0, length: int | None = None) -> np.ndarray:
        """Reads a clip, or a part of it without decoding the rest.

        Args:
            index: which clip, `0 <= index < len(self)`.
            start: first sample of the part, at `sample_rate`.
            length: number of samples of the part; None means to the end.

        Returns:
            float32 `[samples]`, mono, at `sample_rate`; `num_samples(index)` of them for a whole
            clip, fewer than `length` where the clip ends before.

        Raises:
            InputError: as `sepssl.audio.files.read_audio`.
        """
        duration = None if length is None else length / self.sample_rate
        path = self.directory / self.names[index]
        return read_audio(path, self.sample_rate, start / self.sample_rate, duration)

    def _read_labels(self, labels: str | None, names: Sequence[str]) -> dict[str, set[str]] | None:
        file = self.directory / LABELS_FILE
        if labels is None or (labels == "auto" and not file.is_file()):
            return None
        if labels == "folder":
            for name in names:
                if "/" not in name:
                    raise InputError(
                        f"{self.directory / name}: lies in no subfolder; expected every file in a "
                        "subfolder named after its class"
                    )
            return {name: {name.split("/")[0]} for name in names}
        return _read_labels_csv(file, set(names))


def labelled_folder(directory: str | os.PathLike, sample_rate: int) -> Folder:
    """Recordings of any length with their labels, from `labels.csv` or else from subfolders.

    Raises:
        InputError: as `Folder`.
    """
    has_file = pathlib.Path(directory, LABELS_FILE).is_file()
    return Folder(directory, sample_rate, min_duration=0.0, labels="csv" if has_file else "folder")


def _read_labels_csv(file: pathlib.Path, names: set[str]) -> dict[str, set[str]]:
    """Label set of each file name in `labels.csv`; each name must be in `names`."""
    expected = "expected a CSV file with the header filename,labels"
    label_sets: dict[str, set[str]] = {}
    try:
        with open(file, newline="", encoding="utf-8-sig") as text:
            reader = csv.DictReader(text)
            if not {"filename", "labels"} <= set(reader.fieldnames or ()):
                raise InputError(f"{file}: has the columns {reader.fieldnames or []}; {expected}")
            for row in reader:
                where = f"{file}, line {reader.line_num}"
                if row["filename"] is None or row["labels"] is None:
                    raise InputError(f"{where}: has fewer fields than the header; {expected}")
                name = pathlib.PurePosixPath(row["filename"].strip()).as_posix()
                if name not in names:
                    raise InputError(
                        f"{where}: names '{name}', which is no sound file of this folder; "
                        "expected a path relative to it"
                    )
                if name in label_sets:
                    raise InputError(f"{where}: names '{name}' again; expected one row a file")
                label_sets[name] = {c.strip() for c in row["labels"].split(";") if c.strip()}
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}; {expected}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: is not CSV text in UTF-8 ({error}); {expected}") from error
    if not any(label_sets.values()):
        raise InputError(f"{file}: holds no label; {expected}")
    return label_sets
