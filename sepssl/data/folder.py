"""Sound files as a source of clips: single ones, or all below a folder."""

import concurrent.futures
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from sepssl.audio.containers import find_container
from sepssl.audio.files import (
    SILENCE,
    SUFFIXES,
    UNREAD_SUFFIXES,
    AudioInfo,
    audio_info,
    check_decoder,
    check_sample_rate,
    check_speed,
    played_rate,
    read_audio,
    read_blocks,
    resampled_length,
)
from sepssl.data.channel_shards import SHARDS, is_corpus
from sepssl.data.clips import Clips, Skipped, Stream
from sepssl.data.labels import labelled_files
from sepssl.errors import InputError

SOURCES_SUFFIX = "_sources"  # of the folder beside a mixture that holds its sources, as in FUSS
FILM_SUFFIXES = (".avi", ".mkv", ".mov")  # their soundtracks are not read
END_TOLERANCE = 0.1  # seconds by which a span may outlast its recording; our choice
_THREADS = 8  # to wait for the disk, not to compute

Select = Callable[[list[pathlib.Path]], list[pathlib.Path]]


def list_audio(directory: str | os.PathLike) -> list[pathlib.Path]:
    """Lists the sound files below a folder, sorted by their path within it.

    Hidden files and folders (a leading dot) are skipped, and so are the shards of another folder in
    it that sepssl-corpus has written; links to folders are followed.

    Raises:
        InputError: if the folder is missing, is a file, cannot be read, or has no sound files.
    """
    return list_sounds(directory)[0]


def list_sounds(
    directory: str | os.PathLike,
) -> tuple[list[pathlib.Path], list[Skipped]]:
    """The same, and the files skipped because their audio format is not supported.

    Those are recognised by their suffix or, where it is uninformative, by their first bytes.
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
    paths: list[pathlib.Path] = []
    others: list[pathlib.Path] = []
    visited = set()
    for folder, subfolders, files in os.walk(directory, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link back to a folder above
            subfolders.clear()
            continue
        visited.add(real)
        if folder != os.fspath(directory) and is_corpus(folder):
            subfolders[:] = [name for name in subfolders if name != SHARDS]
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in files:
            path = pathlib.Path(folder, name)
            if not name.startswith("."):
                (paths if path.suffix.lower() in SUFFIXES else others).append(path)
    expected = f"expected files ending in {' '.join(SUFFIXES)}"

    def order(path: pathlib.Path) -> tuple[str, ...]:
        return path.relative_to(directory).parts

    skipped = [
        Skipped(path.relative_to(directory).as_posix(), f"{path}: {fault}; {expected}")
        for path in sorted(others, key=order)
        if (fault := _sound_of_another_format(path))
    ]
    if not paths:
        first = f"; {len(skipped)} skipped, the first: {skipped[0].reason}" if skipped else ""
        raise InputError(f"{directory}: holds no sound file; {expected}{first}")
    return sorted(paths, key=order), skipped


def _sound_of_another_format(path: pathlib.Path) -> str:
    """Why a sound file that does not end in one of `SUFFIXES` is not read; "" for other files."""
    suffix = path.suffix.lower()
    if suffix in (*UNREAD_SUFFIXES, *FILM_SUFFIXES):
        return f"{suffix} files are not read"
    try:
        if not path.is_file():
            return ""
        with open(path, "rb") as file:
            start = file.read(4)
            kind = find_container(file, False).kind
    except OSError:
        return ""
    # MPEG audio has no magic number: text in UTF-16 may begin like it.
    if not (start in (b"wvpk", b"MAC ") or start[:3] == b"ID3" or kind not in ("mpeg", "other")):
        return ""
    return f"holds sound, but has the suffix '{path.suffix}'" if suffix else "has no suffix"


def sources_folder(mixture: pathlib.Path) -> pathlib.Path:
    """The folder of a mixture's true sources, if it has any, as in FUSS."""
    return mixture.with_name(mixture.stem + SOURCES_SUFFIX)


def without_sources(paths: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """The sound files that are not sources of a mixture."""
    folders = {sources_folder(path) for path in paths}
    return [path for path in paths if path.parent not in folders]


class Span(NamedTuple):
    """A sound file, or a part of one.

    Attributes:
        name: of the clip.
        path: of the file.
        start: in seconds.
        duration: in seconds; None means to the end.
    """

    name: str
    path: pathlib.Path
    start: float = 0.0
    duration: float | None = None


class FileClips(Clips):
    """Sound files or parts of them, of any mix of formats, rates, channels and lengths.

    Every header is read once, at construction, and unusable clips are left out: broken, truncated
    or empty files, and clips shorter than `min_duration`. Faults that only decoding reveals
    (silence, NaN, damage in the middle) are raised by `read`.

    Args:
        spans: the clips, of different names.
        sample_rate: in Hz, of the clips read.
        min_duration: shortest clip taken, in seconds.
        title: of the source, for errors.
        skipped: clips and files left out earlier.
        decoder: name of the decoder, see `read_audio`.
        allow_truncated: whether files that end early are used as far as they can be decoded, and
            not left out; only with the decoder "soundfile".
        speed: at which the files are played, see `played_rate`. Seconds of spans and of
            `min_duration` are those of the files.

    Raises:
        InputError: if no usable clip remains, or the decoder cannot be loaded.
    """

    def __init__(
        self,
        spans: Sequence[Span],
        sample_rate: int,
        min_duration: float,
        title: str,
        skipped: Sequence[Skipped] = (),
        decoder: str = "soundfile",
        allow_truncated: bool = False,
        speed: float = 1.0,
    ):
        check_sample_rate(sample_rate)
        check_decoder(decoder)
        check_speed(speed)
        self.speed = float(speed)
        self.decoder = decoder
        self.allow_truncated = allow_truncated and decoder == "soundfile"
        self.sample_rate = int(sample_rate)
        self.skipped: list[Skipped] = list(skipped)
        paths = list(dict.fromkeys(span.path for span in spans))
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            infos = pool.map(lambda path: _info_or_error(path, self.allow_truncated), paths)
            scanned = dict(zip(paths, infos, strict=True))
        self.names: list[str] = []
        self._spans: list[Span] = []
        self._extents: list[tuple[int, int, bool]] = []  # first sample, count, whether all of it
        self._truncated: list[str] = []
        for span in spans:
            try:
                info = scanned[span.path]
                if isinstance(info, InputError):
                    raise info
                extent = self._extent(span, info, min_duration)
            except InputError as error:
                self.skipped.append(Skipped(span.name, str(error)))
            else:
                self.names.append(span.name)
                self._spans.append(span)
                self._extents.append(extent)
                self._truncated.append(shortfall(span, info))
        if not self.names:
            if len(spans) == 1 and self.skipped:
                raise InputError(self.skipped[-1].reason)
            reason = self.skipped[0].reason if self.skipped else "no file is named"
            raise InputError(
                f"{title}: holds no usable sound file; {len(self.skipped)} skipped, the first: "
                f"{reason}"
            )

    def _extent(self, span: Span, info: AudioInfo, min_duration: float) -> tuple[int, int, bool]:
        rate = played_rate(info.sample_rate, self.speed, str(span.path))
        total = resampled_length(info.frames, rate, self.sample_rate)
        whole = span.start == 0 and span.duration is None
        first = round(span.start / self.speed * self.sample_rate)
        last = total
        if span.duration is not None:
            seconds = min(span.duration, 2 * (info.duration + span.start))  # a number of samples
            last = first + round(seconds / self.speed * self.sample_rate)
        tolerance = END_TOLERANCE / self.speed * self.sample_rate
        beyond = last > total + tolerance and not info.truncated
        if beyond or first >= total:
            raise InputError(
                f"{span.path}: is {info.duration:.3f} s long; expected a recording that holds "
                f"{span.start:g} s"
                + ("" if span.duration is None else f" to {span.start + span.duration:g} s")
            )
        last = min(last, total)
        duration = info.duration if whole else (last - first) / self.sample_rate * self.speed
        if duration < min_duration:
            raise InputError(
                f"{span.path}: is {duration:.3f} s long; expected {min_duration:g} s or more"
            )
        return first, last - first, whole

    def _keep(self, indices: Sequence[int]) -> None:
        """Forgets all other clips."""
        self.names = [self.names[i] for i in indices]
        self._spans = [self._spans[i] for i in indices]
        self._extents = [self._extents[i] for i in indices]
        self._truncated = [self._truncated[i] for i in indices]

    @property
    def _how(self) -> str:
        """How the files are read, for `origin`."""
        by = "" if self.decoder == "soundfile" else f", decoded by {self.decoder}"
        played = "" if self.speed == 1 else f", played at {self.speed:g} times the speed"
        return f"at {self.sample_rate} Hz{by}{played}"

    def path(self, index: int) -> pathlib.Path:
        """The file that a clip is read from."""
        return self._spans[index].path

    def files(self, index: int) -> list[pathlib.Path]:
        return [self.path(index)] if self._extents[index][2] else []

    def start_seconds(self, index: int) -> float:
        """Where a clip begins in its file."""
        return self._spans[index].start

    def truncated(self, index: int) -> str:
        return self._truncated[index]

    def num_samples(self, index: int) -> int:
        """Length of a clip in samples at `sample_rate`, without reading it."""
        return self._extents[index][1]

    def read(self, index: int, start: int = 0, length: int | None = None) -> np.ndarray:
        """As `Clips.read`; the rest of the file is not decoded.

        Raises:
            InputError: as `sepssl.audio.files.read_audio`; if a whole clip is silent.
        """
        first, count, whole = self._extents[index]
        if whole:
            duration = None if length is None else length / self.sample_rate * self.speed
            return read_audio(
                self._spans[index].path,
                self.sample_rate,
                start / self.sample_rate * self.speed,
                duration,
                decoder=self.decoder,
                allow_truncated=self.allow_truncated,
                speed=self.speed,
            )
        wanted = count - start if length is None else min(length, count - start)
        if wanted <= 0:
            raise InputError(
                f"{self.names[index]}: has only {count} samples; expected an excerpt that starts "
                f"before sample {count}, not at {start}"
            )
        waveform = read_audio(
            self._spans[index].path,
            self.sample_rate,
            (first + start) / self.sample_rate * self.speed,
            wanted / self.sample_rate * self.speed,
            decoder=self.decoder,
            allow_truncated=self.allow_truncated,
            speed=self.speed,
        )
        if wanted == count and np.max(np.abs(waveform)) <= SILENCE:
            raise _silent(self.names[index])
        return waveform

    def stream(self, index: int) -> Stream:
        """A clip at its file's own sample rate, times `speed`.

        In memory that does not grow with it, but with decoders other than "soundfile", which decode
        the whole file at once.

        Raises:
            InputError: as `read`; that the clip is silent, after its last block.
        """
        span = self._spans[index]
        info = audio_info(span.path, self.allow_truncated)
        rate = played_rate(info.sample_rate, self.speed, span.name)
        if self.decoder != "soundfile":
            waveform = read_audio(span.path, None, span.start, span.duration, decoder=self.decoder)
            return Stream(rate, info.subtype, iter([waveform]))
        first, stop = round(span.start * info.sample_rate), None
        if span.duration is not None:
            stop = round((span.start + span.duration) * info.sample_rate)
        whole = self._extents[index][2]
        blocks = read_blocks(span.path, not whole, first, stop, self.allow_truncated)
        return Stream(rate, info.subtype, blocks if whole else _heard(blocks, span.name))

    def stamp(self, index: int) -> str:
        return f"{self._span_of(index)} {file_stamp(self._spans[index].path)}"

    def key(self, index: int) -> str:
        path = self.path(index)
        return f"{self._span_of(index)} {file_digest(path, file_stamp(path))}"

    def _span_of(self, index: int) -> str:
        first, count, _ = self._extents[index]
        return f"{first}+{count}"


class Folder(FileClips):
    """Recordings below a folder; see `FileClips`.

    In a folder laid out like FUSS, only the mixtures are recordings, not their sources.

    Args:
        directory: the folder.
        sample_rate: in Hz, of the clips read.
        min_duration: shortest recording taken, in seconds. The default is one patch: 96 frames of
            25 ms, 10 ms apart (our choice).
        files: paths below the folder to use; None means all sound files.
        decoder: name of the decoder, see `read_audio`.
        select: chooses among all sound files, before any is opened.
        allow_truncated, speed: see `FileClips`.

    Attributes:
        directory: the folder, a `pathlib.Path`.
        names: paths of the usable files relative to the folder, with `/`, sorted.

    Raises:
        InputError: as `list_audio`, or if no usable file remains.

    Example:

        clips = Folder("recordings", sample_rate=16000)
        waveform = clips.read(0)
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        sample_rate: int,
        min_duration: float = 0.975,
        files: Sequence[str | os.PathLike] | None = None,
        decoder: str = "soundfile",
        select: Select | None = None,
        allow_truncated: bool = False,
        speed: float = 1.0,
    ):
        check_sample_rate(sample_rate)
        self.directory = pathlib.Path(directory)
        skipped: list[Skipped] = []
        if files is None:
            listed, skipped = list_sounds(directory)
            paths = without_sources(listed)
            if select:
                paths = select(paths)
        else:
            listed = paths = [pathlib.Path(file) for file in files]
        spans = [Span(path.relative_to(self.directory).as_posix(), path) for path in paths]
        self._listed = [path.relative_to(self.directory).as_posix() for path in listed]
        self._listed += [entry.name for entry in skipped]
        super().__init__(
            spans,
            sample_rate,
            min_duration,
            str(directory),
            skipped,
            decoder,
            allow_truncated,
            speed,
        )

    @functools.cached_property
    def origin(self) -> str:
        return f"{self.directory.resolve()} {self._how}"

    def labelled(self) -> Clips:
        """The recordings with labels; see `sepssl.data.labels.labelled_files`."""
        return labelled_files(self, self.directory, self._listed)


def _heard(blocks: Iterator[np.ndarray], name: str) -> Iterator[np.ndarray]:
    """Raises InputError after the last block if all of a clip is silent."""
    peak = 0.0
    for block in blocks:
        peak = max(peak, float(np.max(np.abs(block))))
        yield block
    if peak <= SILENCE:
        raise _silent(name)


def _silent(name: str) -> InputError:
    return InputError(f"{name}: is silent; expected sound above -120 dBFS")


def _info_or_error(path: pathlib.Path, allow_truncated: bool) -> AudioInfo | InputError:
    try:
        return audio_info(path, allow_truncated)
    except InputError as error:
        return error


def shortfall(span: Span, info: AudioInfo) -> str:
    """What `Clips.truncated` says of a part of a file; "" if all of that part is there."""
    there = info.duration - span.start
    if not info.truncated or (span.duration is not None and span.duration <= there):
        return ""
    promised = span.duration
    if promised is None and info.promised is not None:
        promised = info.promised / info.sample_rate - span.start
    if promised is None:
        return f"{there:.2f} s of an unknown length"
    return f"{there:.2f} of {promised:.2f} s"


def file_stamp(path: pathlib.Path) -> str:
    """Changes whenever a file is written, replaced, or moved in place of another.

    It uses the time of the inode's last change which, unlike the modification time, no program can
    set.
    """
    try:
        status = os.stat(path)
    except OSError:
        return "missing"
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}"


@functools.lru_cache(maxsize=4096)
def file_digest(path: pathlib.Path, stamp: str) -> str:
    """16 hex digits derived from a file's content.

    Args:
        path: the file; an unreadable one counts as empty.
        stamp: its `file_stamp`, so that several parts of a file read it only once.
    """
    digest = hashlib.sha256()
    try:
        if path.is_file():  # a pipe would block
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256")
    except OSError:
        pass
    return digest.hexdigest()[:16]
