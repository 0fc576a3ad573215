"""Sound files in, a file per separated channel out."""

import collections
import contextlib
import dataclasses
import errno
import os
import pathlib
import unicodedata
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from sepssl.audio.decoding import printable
from sepssl.audio.files import (
    AudioInfo,
    audio_info,
    lost_in_resampling,
    read_blocks,
    write_audio,
)
from sepssl.data.folder import list_sounds, without_sources
from sepssl.data.manifest import Manifest
from sepssl.data.spec import is_path
from sepssl.errors import InputError, OutputError
from sepssl.files import lock_folder, scratch_folder, writing_to
from sepssl.pipelines.channel_record import (
    ChannelRecord,
    Entry,
    channel_files,
    model_digest,
    read_record,
    sha256_of,
    size_and_time,
    stamp_of,
)
from sepssl.progress import Progress
from sepssl.separation.long_audio import CHUNK_SECONDS, separate_stream
from sepssl.separation.separator import Separator

FRAME_SECONDS = 0.1  # our choice, as are the other numbers
ACTIVE_DB = -20.0
_ANY_RATE = 384_000  # of manifests, of which only the files are used
QUIET = 10 ** (-30 / 20)  # of 16 bits, so little is left that rounding comes within 60 dB
EDGE_SECONDS = 0.02  # where a sound starts or ends at once, resampling makes a click
_FINE = {"PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAC_20", "ALAC_24", "ALAC_32"}
# What is wrong with the name of one output, not with the drive.
_NAME_ERRORS = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOTDIR, errno.EEXIST}


def list_recordings(
    path: str | os.PathLike, exclude: str | os.PathLike | None = None
) -> dict[pathlib.Path, pathlib.Path]:
    """The sound files at `path` (a file, a folder, a manifest), each with a name for its outputs.

    The name is the path within the folder without suffix; with it where two would be the same on
    some file system, which takes upper for lower case, say.

    Channels that `separate_recordings` has written into the folder are left out, and so are sound
    files of formats that are not read; see `unread_files`.

    Args:
        path: a file, a folder, in which true sources of mixtures are left out, or a manifest (.csv)
            of whole files.
        exclude: a folder within it to leave out, that of the channels.

    Raises:
        InputError: if there is nothing to read, `exclude` is the folder itself, or these are not
            whole files.
    """
    if not is_path(path):
        raise InputError(
            f"{path}: is not files; expected a sound file, a folder or a manifest to separate"
        )
    path = pathlib.Path(path)
    if not path.is_dir():
        return _listed_in(path)
    if exclude is not None and pathlib.Path(exclude).resolve() == path.resolve():
        raise InputError(f"{path}: is the input and the output; expected another output folder")
    found = without_sources(list_sounds(path)[0])
    files = [file.relative_to(path) for file in _without_channels(found, path, exclude)]
    if not files:
        raise InputError(f"{path}: holds only channels of separated recordings")
    stems = [file.with_suffix("") for file in files]
    taken = collections.Counter(map(_folded, stems)) + collections.Counter(map(_folded, files))
    return {
        path / file: file if taken[_folded(stem)] > 1 else stem
        for file, stem in zip(files, stems, strict=True)
    }


def unread_files(path: str | os.PathLike) -> list[str]:
    """A line for each file of a folder, or of a manifest, that is left out of `list_recordings`.

    Of a folder, those that hold sound in a format that is not read.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return [entry.reason for entry in list_sounds(path)[1]]
    if path.suffix.lower() == ".csv":
        return [entry.reason for entry in Manifest(path, _ANY_RATE).skipped]
    return []


def _listed_in(path: pathlib.Path) -> dict[pathlib.Path, pathlib.Path]:
    """The one sound file that `path` is, or those that it lists."""
    if path.suffix.lower() != ".csv":
        audio_info(path)
        return {path: pathlib.Path(path.stem)}
    clips = Manifest(path, _ANY_RATE)
    recordings = {}
    for index, name in enumerate(clips.names):
        if not clips.is_whole_file(index):
            raise InputError(
                f"{path}: names a part of a file, {printable(name)}; expected whole files to "
                "separate"
            )
        file = clips.path(index)
        if ".." in pathlib.PurePath(name).parts or pathlib.PurePath(name).is_absolute():
            name = file.name
        recordings[file] = pathlib.Path(name)
    taken = collections.Counter(_folded(name.with_suffix("")) for name in recordings.values())
    return {
        file: name if taken[_folded(name.with_suffix(""))] > 1 else name.with_suffix("")
        for file, name in recordings.items()
    }


def _folded(name: pathlib.Path) -> str:
    return unicodedata.normalize("NFC", name.as_posix()).casefold()


def _without_channels(
    files: list[pathlib.Path], root: pathlib.Path, exclude: str | os.PathLike | None
) -> list[pathlib.Path]:
    excluded = pathlib.Path(exclude).resolve() if exclude is not None else None
    if excluded is not None and root.resolve().is_relative_to(excluded):
        excluded = None
    folders = {folder for file in files for folder in file.parents if folder.is_relative_to(root)}
    left_out = {
        folder
        for folder in folders
        if excluded is not None and folder.resolve().is_relative_to(excluded)
    }
    channels = set()
    for folder in folders - left_out:
        with contextlib.suppress(InputError):  # another program's file of that name
            for entry in read_record(folder)[1].values():
                channels.update(channel_files(folder, entry.name, len(entry.files)))
    return [file for file in files if file.parent not in left_out and file not in channels]


@dataclasses.dataclass
class Summary:
    """What `separate_recordings` did.

    Attributes:
        separated: recordings whose channels were written.
        found: recordings whose channels were all there already.
        skipped: for each other recording, the reason.
        again: those of the separated recordings that were separated before and changed since.
        table: the file with the level and activity of every channel; None if there is none.
    """

    separated: int = 0
    found: int = 0
    skipped: list[str] = dataclasses.field(default_factory=list)
    again: list[str] = dataclasses.field(default_factory=list)
    table: pathlib.Path | None = None


def separate_recordings(
    separator: Separator,
    recordings: dict[pathlib.Path, pathlib.Path],
    output: str | os.PathLike,
    keep_input_rate: bool = False,
    chunk_seconds: float | None = CHUNK_SECONDS,
    verbose: bool = True,
) -> Summary:
    """Writes the channels of every recording to `output/NAME_channel1.wav` and so on.

    Recordings are read, separated and written piece by piece, so that one may be hours long.
    Channels add up to the recording (mono) as the separator's outputs do. They have 16 bits, or are
    32-bit float where 16 would not do: where the recording has more, peaks below -30 dBFS, or one
    of its channels exceeds full scale. Beyond 4 GiB they are RF64.

    `output/separated.jsonl` records what each recording's channels were made from, so that a run
    can be repeated. A recording that was separated as now is left as it is. One whose content has
    changed is separated again, and its channels are replaced. No other file is overwritten: if
    there is one, or if channels were edited, the recording is skipped.

    `output/summary.csv` has a row for every channel, written as soon as its recording is done: its
    level in dB relative to the recording, at least -100, and the share of the time (0 to 1) in
    which it is active, that is, in which its power in 0.1 s is at most 20 dB below the recording's
    mean.

    Several processes may write to one folder, if their settings are the same.

    Args:
        separator: `Separator`.
        recordings: files and the names of their outputs, as from `list_recordings`.
        output: folder.
        keep_input_rate: whether channels have the sample rate of their recording, not the
            separator's.
        chunk_seconds: see `separate_stream`.
        verbose: whether to show progress.

    Raises:
        InputError: if the only recording cannot be separated, or `output` holds channels of another
            separator, rate or `chunk_seconds`.
        OutputError: if an output cannot be written. What is done stays; repeating goes on.
    """
    output = pathlib.Path(output)
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file; expected a folder to write channels to")
    if not separator.built:
        separator.build()
    settings = {
        "separator": model_digest(separator),
        "rate": "input" if keep_input_rate else "separator",
        "chunk_seconds": chunk_seconds,
    }
    summary = Summary()
    start = f"separating {len(recordings)} recording{'s' * (len(recordings) != 1)} -> {output}"
    progress = Progress("separating", len(recordings), "recording", start=start, verbose=verbose)
    with _opened_output(output, settings) as (record, scratch), progress:
        for path, listed in recordings.items():
            name = record.name_of(path, listed.as_posix())
            try:
                state, replaced = record.state(path, name, separator.num_sources)
                if state == "found":
                    summary.found += 1
                elif state == "moved":
                    with lock_folder(output, wait=True):
                        record.move(name, path)
                    summary.found += 1
                else:
                    made = _separate(separator, path, scratch, keep_input_rate, chunk_seconds)
                    _publish(record, dataclasses.replace(made, name=name), scratch, replaced)
                    summary.separated += 1
                    if state == "changed":
                        summary.again.append(
                            f"{printable(path)}: had changed; its channels were replaced"
                        )
            except OutputError as error:
                done = summary.separated + summary.found
                raise OutputError(
                    f"{error}; {done} of {len(recordings)} recordings are done, the same command "
                    "goes on with the others"
                ) from error
            except InputError as error:
                if len(recordings) == 1:
                    raise
                summary.skipped.append(str(error))
            progress.update()
        if record.entries:
            summary.table = record.table
    return summary


@contextlib.contextmanager
def _opened_output(
    output: pathlib.Path, settings: dict
) -> Iterator[tuple[ChannelRecord, pathlib.Path]]:
    """The record and a folder for unfinished channels. A run that writes nothing leaves nothing."""
    made = [folder for folder in (output, *output.parents) if not folder.exists()]
    record = None
    try:
        with writing_to(output):
            output.mkdir(parents=True, exist_ok=True)
        with lock_folder(output, wait=True):
            record = ChannelRecord(output, settings)
        with scratch_folder(output, ".separating-") as scratch:
            yield record, scratch
    finally:
        # If another process has it, that one leaves it clean.
        with contextlib.suppress(InputError), lock_folder(output, wait=False):
            if record is not None:
                record.close()
            with contextlib.suppress(OSError):  # Windows does not remove what is open
                (output / ".lock").unlink()
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _separate(
    separator: Separator,
    path: pathlib.Path,
    scratch: pathlib.Path,
    keep_input_rate: bool,
    chunk_seconds: float | None,
) -> Entry:
    """Writes the channels of a recording into `scratch`, as they will be called but for the name.

    Returns:
        The entry, without a name.
    """
    stamp = stamp_of(path)
    info = audio_info(path)
    rate = info.sample_rate if keep_input_rate else separator.sample_rate
    recording, heard = _Level(), _Level(round(EDGE_SECONDS * separator.sample_rate))
    pieces = separate_stream(
        separator,
        _read(path, recording),
        info.sample_rate,
        chunk_seconds,
        keep_input_rate,
        heard.add,
    )
    channels = ChannelLevels(separator.num_sources, rate)
    files = channel_files(scratch, "", separator.num_sources)
    try:
        with writing_to(scratch.parent), contextlib.ExitStack() as stack:
            raw = [stack.enter_context(open(file.with_suffix(".raw"), "wb")) for file in files]
            for piece in pieces:
                if not np.isfinite(piece).all():
                    raise InputError(
                        f"{printable(path)}: is separated into NaN or infinity; expected numbers"
                    )
                channels.add(piece)
                for stream, channel in zip(raw, piece, strict=True):
                    stream.write(channel.astype(np.float32).tobytes())
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        raise InputError(
            f"{printable(path)}: does not fit into memory; expected chunks, or shorter ones"
        ) from error
    _require_in_band(path, info, separator.sample_rate, recording, heard)
    whole = recording if rate == info.sample_rate else heard
    # Only now it is known whether 16 bits will do.
    fine = info.subtype in _FINE or whole.peak < QUIET or channels.peak > 1.0
    for file in files:
        samples = file.with_suffix(".raw")
        try:
            file.unlink(missing_ok=True)
            write_audio(
                file, np.memmap(samples, np.float32, "r"), rate, "FLOAT" if fine else "PCM_16"
            )
            samples.unlink()
        except (InputError, OSError) as error:
            raise OutputError(
                f"{scratch.parent}: channels of {printable(path)} could not be written; expected "
                "room for them"
            ) from error
    levels, active = channels.relative_to(whole.power)
    sha256 = sha256_of(path)
    if stamp_of(path) != stamp:
        raise InputError(
            f"{printable(path)}: was changed while it was read; expected a file at rest"
        )
    return Entry(
        "", os.path.abspath(path), stamp, sha256, [size_and_time(file) for file in files],
        [round(float(level), 3) for level in levels], [round(float(share), 5) for share in active],
    )  # fmt: skip


def _read(path: pathlib.Path, level: "_Level") -> Iterator[np.ndarray]:
    try:
        for block in read_blocks(path):
            level.add(block)
            yield block
    except OSError as error:  # a damaged drive, a share that is gone
        raise InputError(f"{printable(path)}: cannot be read: {error.strerror}") from error


def _require_in_band(
    path: pathlib.Path, info: AudioInfo, rate: int, recording: "_Level", heard: "_Level"
) -> None:
    if heard.samples == 1:  # made of less than one
        return
    if rate < info.sample_rate and lost_in_resampling(recording.peak, heard.inner_peak):
        raise InputError(
            f"{printable(path)}: holds nothing below {rate // 2} Hz, the band of this separator; "
            "expected sound in that band, or a separator of a higher sample rate"
        )


def _publish(
    record: ChannelRecord, entry: Entry, scratch: pathlib.Path, replaced: list[pathlib.Path]
) -> None:
    """Gives channels their names.

    Whenever that is interrupted, files and record fit: stale channels go first, then the record
    says what the new ones are, so that the next run knows those that are there. What is missing in
    the table is put there when the next run starts.
    """
    made = channel_files(scratch, "", len(entry.files))
    outputs = channel_files(record.folder, entry.name, len(entry.files))
    with lock_folder(record.folder, wait=True):
        for file in outputs:
            if file not in replaced and os.path.lexists(file):
                raise InputError(
                    f"{printable(file)}: was written by another process meanwhile; it stays"
                )
        try:
            outputs[0].parent.mkdir(parents=True, exist_ok=True)
            for file in replaced:
                file.unlink(missing_ok=True)
            record.add(entry)
            for source, file in zip(made, outputs, strict=True):
                os.replace(source, file)
            record.tabulate(entry)
        except OSError as error:
            kind = InputError if error.errno in _NAME_ERRORS else OutputError
            raise kind(
                f"{printable(outputs[0])}: could not be written: {error.strerror}"
            ) from error


class _Level:
    """Peak and mean power of a signal that passes in blocks.

    Args:
        edge: samples at the start and the end that do not count for `inner_peak`.
    """

    def __init__(self, edge: int = 0):
        self.peak = 0.0
        self._edge = edge
        self._inner_peak = 0.0
        self._held = np.zeros(0, np.float32)  # the end, as far as is known
        self._energy = 0.0
        self.samples = 0

    def add(self, block: np.ndarray) -> None:
        self.peak = max(self.peak, float(np.abs(block).max(initial=0.0)))
        self._energy += float(np.sum(np.square(block, dtype=np.float64)))
        inner = np.concatenate([self._held, block[max(0, self._edge - self.samples) :]])
        self.samples += len(block)
        end = max(0, len(inner) - self._edge)
        self._inner_peak = max(self._inner_peak, float(np.abs(inner[:end]).max(initial=0.0)))
        self._held = inner[end:]

    @property
    def inner_peak(self) -> float:
        """The peak but for the edges; with them where there is little else."""
        return self._inner_peak if self.samples > 3 * self._edge else self.peak

    @property
    def power(self) -> float:
        return self._energy / max(self.samples, 1)


class ChannelLevels:
    """How loud the channels of a recording are, and how much of the time.

    Args:
        channels: how many.
        sample_rate: in Hz.
    """

    def __init__(self, channels: int, sample_rate: int):
        self.peak = 0.0
        self._frame = max(1, round(FRAME_SECONDS * sample_rate))
        self._rest = np.zeros((channels, 0), np.float32)
        self._powers: list[np.ndarray] = []  # [channels, frames]
        self._energy = np.zeros(channels)
        self._samples = 0

    def add(self, piece: np.ndarray) -> None:
        """Takes the next samples, [channels, samples]."""
        self.peak = max(self.peak, float(np.abs(piece).max(initial=0.0)))
        self._energy += np.sum(np.square(piece, dtype=np.float64), axis=1)
        self._samples += piece.shape[1]
        piece = np.concatenate([self._rest, piece], axis=1)
        whole = piece.shape[1] // self._frame * self._frame
        self._rest = piece[:, whole:]
        frames = piece[:, :whole].reshape(len(piece), -1, self._frame)
        self._powers.append(np.mean(np.square(frames), axis=-1))

    def relative_to(self, power: float) -> tuple[np.ndarray, np.ndarray]:
        """Levels and activity, with the last, shorter frame as one more.

        Args:
            power: mean power of the recording.

        Returns:
            Levels in dB relative to the recording, -100 at the lowest, and the share of frames of
            0.1 s whose power is at most 20 dB below the recording's, 0 to 1; [channels] each.
        """
        powers = self._powers
        if self._rest.shape[1]:
            powers = [*powers, np.mean(np.square(self._rest), axis=1, keepdims=True)]
        relative = self._energy / self._samples / max(power, 1e-20)
        levels = 10 * np.log10(np.maximum(relative, 1e-10))
        active = np.concatenate(powers, axis=1) > 10 ** (ACTIVE_DB / 10) * power
        return levels, np.mean(active, axis=1)
