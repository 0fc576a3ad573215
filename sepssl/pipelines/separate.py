"""Clips in, a file per separated channel out."""

import collections
import contextlib
import dataclasses
import errno
import fractions
import os
import pathlib
import shutil
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from sepssl.audio.files import (
    MAX_RATE,
    MIN_RATE,
    audio_info,
    lost_in_resampling,
    write_audio,
)
from sepssl.audio.level import Level
from sepssl.audio.streaming import little_in_band
from sepssl.data.clips import Clips
from sepssl.data.sources import open_clips
from sepssl.data.spec import is_path
from sepssl.errors import InputError, OutputError
from sepssl.files import lock_folder, printable, scratch_folder, writing_to
from sepssl.pipelines.activity import Activity, ChannelLevels
from sepssl.pipelines.channel_record import (
    INTERVALS,
    TABLE,
    ChannelRecord,
    ClipIdentity,
    Entry,
    channel_files,
    model_digest,
    part_of,
    size_and_time,
    without_channels,
)
from sepssl.pipelines.intervals import CLIPS, measured, write_clips
from sepssl.progress import Progress, counted
from sepssl.separation.long_audio import CHUNK_SECONDS, separate_stream
from sepssl.separation.separator import Separator

# Of 16 bits, so little is left that rounding comes within 60 dB (our choice).
QUIET = 10 ** (-30 / 20)
EDGE_SECONDS = 0.02  # where a sound starts or ends at once, resampling makes a click
_FINE = {"PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAC_20", "ALAC_24", "ALAC_32"}
# What is wrong with the name of one output, not with the drive.
_NAME_ERRORS = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOTDIR, errno.EEXIST}


def open_recordings(
    spec: str | os.PathLike,
    sample_rate: int,
    exclude: str | os.PathLike | None = None,
    data_dir: str | os.PathLike | None = None,
    allow_truncated: bool = False,
    speed: float = 1.0,
) -> Clips:
    """Opens the clips to separate, as `open_clips` does, but for channels in a folder.

    Args:
        spec: what `open_clips` takes.
        sample_rate: of the separator, in Hz.
        exclude: a folder within a folder to leave out, that of the channels. Channels recorded in
            any other `separated.jsonl` are left out as well.
        data_dir: the folder of TFDS datasets; None means TFDS's default.
        allow_truncated, speed: see `open_clips`.

    Raises:
        InputError: as `open_clips`; if `exclude` is the folder itself, or all sound files are
            channels.
    """
    if not is_path(spec) or not os.path.isdir(spec):
        return open_clips(
            spec, sample_rate, data_dir=data_dir, allow_truncated=allow_truncated, speed=speed
        )
    folder = pathlib.Path(spec)
    if exclude is not None and pathlib.Path(exclude).resolve() == folder.resolve():
        raise InputError(f"{folder}: is the input and the output; expected another output folder")
    return open_clips(
        folder,
        sample_rate,
        select=lambda files: without_channels(files, folder, exclude),
        allow_truncated=allow_truncated,
        speed=speed,
    )


def output_names(clips: Clips) -> list[str]:
    """What the channels of each clip are called, before `_channel1.wav`.

    That is the clip's name: of a sound file its path without suffix, followed by the part of the
    file, if the clip is one, as in `Manifest`. The suffix stays where names would otherwise be the
    same on some file system, which takes upper for lower case, say. Where a manifest names files
    outside of its folder, the names are paths below the folder that all of its files share.
    """
    files = [clips.path(index) for index in range(len(clips))]
    recordings = [
        pathlib.PurePath(recording if file else name)
        for file, name, recording in zip(
            files, clips.names, clips.recordings or clips.names, strict=True
        )
    ]
    if any(name.is_absolute() or ".." in name.parts for name in recordings):
        absolute = [
            os.path.abspath(file or name) for file, name in zip(files, recordings, strict=True)
        ]
        shared = os.path.commonpath([os.path.dirname(path) for path in absolute])
        recordings = [pathlib.PurePath(os.path.relpath(path, shared)) for path in absolute]
    stems = {
        name: name.with_suffix("") if file else name
        for file, name in zip(files, recordings, strict=True)
    }
    taken = collections.Counter(map(_folded, stems)) + collections.Counter(
        _folded(stem) for name, stem in stems.items() if stem != name
    )
    return [
        (name if taken[_folded(stems[name])] > 1 else stems[name]).as_posix()
        + part_of(clips, index)
        for index, name in enumerate(recordings)
    ]


def _folded(name: pathlib.PurePath) -> str:
    return unicodedata.normalize("NFC", name.as_posix()).casefold()


@dataclasses.dataclass
class Summary:
    """What `separate_recordings` did.

    Attributes:
        separated: recordings whose channels were written.
        found: recordings whose channels were all there already.
        skipped: for each other recording, those left out before included, the reason.
        again: those of the separated recordings that were separated before and changed since.
        truncated: how much there is of each whose file ends early, one line each.
        warnings: one line for each of which next to nothing lies in the separator's band.
        table: the file with the level and activity of every channel; None if there is none.
        intervals: the file with the intervals in which channels are active; None if there is none.
    """

    separated: int = 0
    found: int = 0
    skipped: list[str] = dataclasses.field(default_factory=list)
    again: list[str] = dataclasses.field(default_factory=list)
    truncated: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    table: pathlib.Path | None = None
    intervals: pathlib.Path | None = None


def separate_recordings(
    separator: Separator,
    recordings: Clips,
    output: str | os.PathLike,
    keep_input_rate: bool = False,
    chunk_seconds: float | None = CHUNK_SECONDS,
    activity: Activity | None = None,
    clips: bool = False,
    verbose: bool = True,
) -> Summary:
    """Writes the channels of every recording to `output/NAME_channel1.wav` and so on.

    Sound files, and parts of them, are read, separated and written piece by piece, so that one may
    be hours long. NAME is as `output_names` describes it.

    Channels add up to the recording (mono) as the separator's outputs do. They have 16 bits, or are
    32-bit float where 16 would not do: where the recording has more, peaks below -30 dBFS, or one
    of its channels exceeds full scale. Beyond 4 GiB they are RF64. Recordings that are played to
    the separator at another speed have channels at their own: as long as they are, with the sample
    rate divided by the speed.

    `output/separated.jsonl` records what each recording's channels were made from, so that a run
    can be repeated. A recording that was separated as now is left as it is. One whose content has
    changed is separated again, and its channels are replaced. No other file is overwritten: if
    there is one, or if channels were edited, the recording is skipped.

    `output/summary.csv` has a row for every channel, written as soon as its recording is done: its
    level in dB relative to the recording, at least -100, and the share of the time (0 to 1) in
    which it is active, see `Activity`. `output/intervals.csv` has a row for every interval of
    activity, in seconds of the recording; so have `NAME.selections.txt`, a selection table for
    Raven, and `NAME.labels.txt`, a label track for Audacity. With another `activity`, they are made
    anew from the channels, unless they were edited.

    Several processes may write to one folder, if their settings are the same.

    Args:
        separator: `Separator`.
        recordings: any clips, as from `open_recordings`, opened at the separator's sample rate.
        output: folder.
        keep_input_rate: whether channels have the sample rate of their recording, not the
            separator's.
        chunk_seconds: see `separate_stream`; of a recording as it is played.
        activity: what counts as activity of a channel; None for the default.
        clips: whether to write the sound of every interval to
            `NAME_clips/channelNUMBER_START-END.wav`.
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
    activity = activity or Activity()
    if not keep_input_rate:
        channel_rate(separator.sample_rate, recordings.speed)
    settings = {
        "separator": model_digest(separator),
        "rate": "input" if keep_input_rate else "separator",
        "chunk_seconds": chunk_seconds,
        "truncated": "keep" if recordings.allow_truncated else "skip",
        "speed": recordings.speed,
    }
    summary = Summary()
    alone = len(recordings) == 1 and not recordings.skipped
    start = f"separating {counted(len(recordings), 'recording')} -> {output}"
    progress = Progress("separating", len(recordings), "recording", start=start, verbose=verbose)
    remade = False
    with _opened_output(output, settings) as (record, scratch), progress:
        for index, listed in enumerate(output_names(recordings)):
            clip = ClipIdentity(recordings, index)
            name = record.name_of(clip, listed)
            try:
                state, replaced = record.state(clip, name, separator.num_sources)
                if state == "moved":
                    with lock_folder(output, wait=True):
                        record.move(name, clip)
                elif state != "found":
                    made, warning = _separate(
                        separator, clip, scratch, keep_input_rate, chunk_seconds, activity
                    )
                    _publish(record, dataclasses.replace(made, name=name), scratch, replaced)
                remade |= _write_intervals(record, name, clip, scratch, activity, clips)
                if clip.truncated:
                    summary.truncated.append(f"{clip}: {clip.truncated}")
                if state in ("found", "moved"):
                    summary.found += 1
                else:
                    summary.separated += 1
                    summary.warnings += [warning] if warning else []
                    if state == "changed":
                        summary.again.append(f"{clip}: had changed; its channels were replaced")
            except OutputError as error:
                done = summary.separated + summary.found
                raise OutputError(
                    f"{error}; {done} of {len(recordings)} recordings are done, the same command "
                    "goes on with the others"
                ) from error
            except InputError as error:
                if alone:
                    raise
                summary.skipped.append(str(error))
            progress.update()
        if remade:
            with lock_folder(output, wait=True):
                record.write_tables()
        # Only now it is known which sounds of mixed scenes could not be used.
        summary.skipped = [*(entry.reason for entry in recordings.skipped), *summary.skipped]
        if record.entries:
            summary.table, summary.intervals = output / TABLE, output / INTERVALS
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


class SeparatedClip(NamedTuple):
    """What `separate_clip` has made.

    Attributes:
        entry: without a name, and without files.
        samples: of each channel, a file of raw float32 samples.
        fine: whether 16 bits would not do for the channels.
        peak: the largest magnitude in any of them.
        warning: if next to nothing lies in the separator's band, else "".
    """

    entry: Entry
    samples: list[pathlib.Path]
    fine: bool
    peak: float
    warning: str


def separate_clip(
    separator: Separator,
    clip: ClipIdentity,
    folder: pathlib.Path,
    keep_input_rate: bool,
    chunk_seconds: float | None,
    activity: Activity,
) -> SeparatedClip:
    """Separates a clip, of any length, into files of raw samples in a folder.

    Args:
        separator, keep_input_rate, chunk_seconds, activity: as in `separate_recordings`.
        clip: the clip.
        folder: where the files go; those of another clip there are written over.

    Raises:
        InputError: if the clip cannot be separated. OutputError: if a file cannot be written.
    """
    stamp = clip.stamp()
    stream = clip.stream()
    rate = stream.sample_rate if keep_input_rate else separator.sample_rate
    written_rate = channel_rate(rate, clip.speed)
    recording, heard = Level(), Level(round(EDGE_SECONDS * separator.sample_rate))
    pieces = separate_stream(
        separator,
        _read(clip, stream.blocks, recording),
        stream.sample_rate,
        chunk_seconds,
        keep_input_rate,
        heard.add,
    )
    channels = ChannelLevels(separator.num_sources, written_rate)
    samples = [folder / f"channel{c + 1}.raw" for c in range(separator.num_sources)]
    try:
        with writing_to(folder.parent), contextlib.ExitStack() as stack:
            targets = [stack.enter_context(open(file, "wb")) for file in samples]
            for piece in pieces:
                if not np.isfinite(piece).all():
                    raise InputError(f"{clip}: is separated into NaN or infinity; expected numbers")
                channels.add(piece)
                for target, channel in zip(targets, piece, strict=True):
                    target.write(channel.astype(np.float32).tobytes())
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        raise InputError(
            f"{clip}: does not fit into memory; expected chunks, or shorter ones"
        ) from error
    warning = _check_band(clip, stream.sample_rate, separator.sample_rate, recording, heard)
    whole = recording if rate == stream.sample_rate else heard
    # Only now it is known whether 16 bits will do.
    fine = stream.subtype in _FINE or whole.peak < QUIET or channels.peak > 1.0
    levels, active, intervals = channels.relative_to(whole.power, activity)
    content = clip.content()
    if clip.stamp() != stamp:
        raise InputError(f"{clip}: was changed while it was read; expected a file at rest")
    entry = Entry(
        "", clip.path, clip.part, stamp, content, [],
        [round(float(level), 3) for level in levels], _shares(active),
        clip.offset, written_rate, dataclasses.asdict(activity), intervals, clip.truncated,
        whole.power,
    )  # fmt: skip
    return SeparatedClip(entry, samples, fine, channels.peak, warning)


def _separate(
    separator: Separator,
    clip: ClipIdentity,
    scratch: pathlib.Path,
    keep_input_rate: bool,
    chunk_seconds: float | None,
    activity: Activity,
) -> tuple[Entry, str]:
    """Writes the channels of a clip into `scratch`, as they will be called but for the name.

    Returns:
        The entry, without a name; the warning of `separate_clip`.
    """
    made = separate_clip(separator, clip, scratch, keep_input_rate, chunk_seconds, activity)
    files = channel_files(scratch, "", separator.num_sources)
    subtype = "FLOAT" if made.fine else "PCM_16"
    for samples, file in zip(made.samples, files, strict=True):
        try:
            file.unlink(missing_ok=True)
            write_audio(file, np.memmap(samples, np.float32, "r"), made.entry.rate, subtype)
            samples.unlink()
        except (InputError, OSError) as error:
            raise OutputError(
                f"{scratch.parent}: channels of {clip} could not be written; expected room for them"
            ) from error
    entry = dataclasses.replace(made.entry, files=[size_and_time(file) for file in files])
    return entry, made.warning


def channel_rate(rate: int, speed: float) -> int:
    """The sample rate of channels that are as long as their recording, of which `rate` is that of
    the sound as played.

    Raises:
        InputError: if it is no whole number.
    """
    own = rate / fractions.Fraction(repr(speed))
    if own.denominator != 1 or not MIN_RATE <= own <= MAX_RATE:
        raise InputError(
            f"speed={speed:g}: channels at {rate} Hz would have {float(own):.10g} Hz at the speed "
            f"of their recording; expected a whole number from {MIN_RATE} to {MAX_RATE}, or the "
            "rate of the input"
        )
    return int(own)


def _shares(active: np.ndarray) -> list[float]:
    return [round(float(share), 5) for share in active]


def _read(clip: ClipIdentity, blocks: Iterable[np.ndarray], level: Level) -> Iterator[np.ndarray]:
    try:
        for block in blocks:
            level.add(block)
            yield block
    except OSError as error:  # a damaged drive, a share that is gone
        raise InputError(f"{clip}: cannot be read: {error.strerror}") from error


def _check_band(
    clip: ClipIdentity, clip_rate: int, rate: int, recording: Level, heard: Level
) -> str:
    if heard.samples == 1 or rate >= clip_rate:  # 1: made of less than one
        return ""
    if lost_in_resampling(recording.peak, heard.inner_peak):
        band = rate / 2 / clip.speed
        raise InputError(
            f"{clip}: holds nothing below {band:.0f} Hz, the band of this separator; expected "
            "sound in that band, or a separator of a higher sample rate"
        )
    return little_in_band(str(clip), rate, recording.power, heard.power, clip.speed)


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
        with named(outputs[0]):
            outputs[0].parent.mkdir(parents=True, exist_ok=True)
            for file in (*replaced, *record.replaceable(entry.name)):
                file.unlink(missing_ok=True)
            record.add(entry)
            for source, file in zip(made, outputs, strict=True):
                os.replace(source, file)
            record.tabulate(entry)


@contextlib.contextmanager
def named(file: pathlib.Path) -> Iterator[None]:
    """For blocks that give outputs their names."""
    try:
        yield
    except OSError as error:
        kind = InputError if error.errno in _NAME_ERRORS else OutputError
        raise kind(f"{printable(file)}: could not be written: {error.strerror}") from error


def _write_intervals(
    record: ChannelRecord,
    name: str,
    clip: ClipIdentity,
    scratch: pathlib.Path,
    activity: Activity,
    clips: bool,
) -> bool:
    """Writes what is missing of a recording's intervals; finds them anew if they are of another
    `activity`.

    Returns:
        Whether they were found anew, so that the tables of all recordings have to be.
    """
    entry, wanted = record.entries[name], dataclasses.asdict(activity)
    files = channel_files(record.folder, name, len(entry.files))
    anew = entry.activity != wanted
    if anew:
        record.replaceable(name)  # before the channels are read
        active, intervals = measured(files, entry.power, entry.levels, activity)
        entry = dataclasses.replace(
            entry,
            active=_shares(active),
            offset=clip.offset,
            rate=audio_info(files[0]).sample_rate,
            activity=wanted,
            intervals=intervals,
        )
        with lock_folder(record.folder, wait=True):
            for file in record.replaceable(name):
                file.unlink()
            record.add(entry)
    for suffix, text in entry.tables().items():
        table = record.folder / f"{name}{suffix}"
        if not os.path.lexists(table):
            with named(table):
                (scratch / suffix).write_bytes(text.encode())
                os.replace(scratch / suffix, table)
    folder = record.folder / f"{name}{CLIPS}"
    if clips and not folder.exists():
        made = scratch / CLIPS
        shutil.rmtree(made, ignore_errors=True)
        with writing_to(record.folder):
            made.mkdir()
        write_clips(made, files, entry.intervals, entry.offset)
        with named(folder):
            os.replace(made, folder)
    return anew
