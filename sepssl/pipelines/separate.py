"""Sound files in, a file per separated channel out."""

import collections
import contextlib
import csv
import dataclasses
import os
import pathlib
import tempfile

import numpy as np

from sepssl.audio.files import audio_info, read_blocks, write_audio
from sepssl.data.folder import list_audio
from sepssl.errors import InputError
from sepssl.files import atomic_file
from sepssl.progress import Progress
from sepssl.separation.long_audio import CHUNK_SECONDS, separate_stream

SUMMARY = "summary.csv"
FRAME_SECONDS = 0.1  # our choice, as is the threshold
ACTIVE_DB = -20.0
_WAV_BYTES = 2**32 - 2**16
_TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}  # names may not be UTF-8


def list_recordings(path: str | os.PathLike) -> dict[pathlib.Path, pathlib.Path]:
    """The sound files at `path` (a file, or all in a folder), each with a name for its outputs.

    The name is the path within the folder without suffix; with it where two would be the same.

    Raises:
        InputError: if there is nothing to read.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        audio_info(path)
        return {path: pathlib.Path(path.stem)}
    files = [file.relative_to(path) for file in list_audio(path)]
    stems = [file.with_suffix("") for file in files]
    count = collections.Counter(stems)
    return {
        path / file: file if count[stem] > 1 else stem
        for file, stem in zip(files, stems, strict=True)
    }


@dataclasses.dataclass
class Summary:
    """What `separate_recordings` did.

    Attributes:
        separated: recordings whose channels were written.
        found: recordings whose channels were all there already.
        skipped: for each other recording, the reason.
        table: the file that tells the level and activity of every channel; None if there is none.
    """

    separated: int = 0
    found: int = 0
    skipped: list[str] = dataclasses.field(default_factory=list)
    table: pathlib.Path | None = None


def separate_recordings(
    separator,
    recordings: dict[pathlib.Path, pathlib.Path],
    output: str | os.PathLike,
    keep_input_rate: bool = False,
    chunk_seconds: float | None = CHUNK_SECONDS,
    verbose: bool = True,
) -> Summary:
    """Writes the channels of every recording to `output/NAME_channel1.wav` and so on.

    Recordings are read, separated and written piece by piece, so that one may be hours long.
    Channels are 16-bit and add up to the recording (mono) as the separator's outputs do; where one
    exceeds full scale, those of that recording are written as 32-bit float. No file is overwritten:
    a recording whose channels are all there is left as it is, so that an interrupted run over a
    folder can be repeated.

    At the end, `output/summary.csv` has a row for every channel: its level in dB relative to the
    recording, and the share of the time (0 to 1) in which it is active, that is, in which its power
    in 0.1 s is at most 20 dB below the recording's mean.

    Args:
        separator: `Separator`.
        recordings: files and the names of their outputs, as from `list_recordings`.
        output: folder.
        keep_input_rate: whether channels have the sample rate of their recording, not the
            separator's.
        chunk_seconds: see `separate_stream`.
        verbose: whether to show progress.

    Raises:
        InputError: if the only recording cannot be separated, or an output cannot be written.
    """
    output = pathlib.Path(output)
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file; expected a folder to write channels to")
    summary, written = Summary(), {}
    start = f"separating {len(recordings)} recording{'s' * (len(recordings) != 1)} -> {output}"
    progress = Progress("separating", len(recordings), "recording", start=start, verbose=verbose)
    with progress:
        for path, name in recordings.items():
            outputs = [
                output / name.with_name(f"{name.name}_channel{c + 1}.wav")
                for c in range(separator.num_sources)
            ]
            there = [file for file in outputs if file.exists()]
            if len(there) == len(outputs) and len(recordings) > 1:
                summary.found += 1
                written[name] = outputs
            else:
                try:
                    if there:
                        raise InputError(
                            f"{there[0]}: exists already; expected another output folder"
                        )
                    _separate_file(separator, path, outputs, keep_input_rate, chunk_seconds)
                except InputError as error:
                    if len(recordings) == 1:
                        raise
                    summary.skipped.append(str(error))
                else:
                    summary.separated += 1
                    written[name] = outputs
            progress.update()
    if written:
        summary.table = output / SUMMARY
        _write_table(summary.table, written, summary.skipped)
    return summary


def _separate_file(separator, path, outputs, keep_input_rate, chunk_seconds) -> None:
    """Writes all channels, then gives them their names: a full disk leaves none.

    A kill leaves none either, but for what it leaves in a hidden folder `.separating-...`.
    """
    info = audio_info(path)
    rate = info.sample_rate if keep_input_rate else separator.sample_rate
    _require_fit(path, info.duration, rate, 2)
    pieces = separate_stream(
        separator, read_blocks(path), info.sample_rate, chunk_seconds, keep_input_rate
    )
    folder = outputs[0].parent
    made = [f for f in (folder, *folder.parents) if not f.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".separating-", dir=folder) as temporary:
            temporary = pathlib.Path(temporary)
            raw = [temporary / f"{c}.float32" for c in range(len(outputs))]
            peak = 0.0
            for piece in pieces:
                peak = max(peak, np.max(np.abs(piece), initial=0.0))
                for file, channel in zip(raw, piece, strict=True):
                    with open(file, "ab") as stream:
                        stream.write(np.ascontiguousarray(channel, np.float32))
            # Only now it is known whether they fit into 16 bits.
            subtype = "PCM_16" if peak <= 1.0 else "FLOAT"
            _require_fit(path, info.duration, rate, 2 if peak <= 1.0 else 4)
            for file, samples in zip(outputs, raw, strict=True):
                channel = np.memmap(samples, np.float32, "r")
                write_audio(temporary / file.name, channel, rate, subtype)
                del channel
                samples.unlink()
            for file in outputs:
                os.replace(temporary / file.name, file)
    except (InputError, OSError) as error:
        for empty in made:
            with contextlib.suppress(OSError):
                empty.rmdir()
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder}: could not be written: {error.strerror}") from error


def _require_fit(path, duration: float, rate: int, sample_bytes: int) -> None:
    if sample_bytes * duration * rate > _WAV_BYTES:
        raise InputError(
            f"{path}: is {duration / 3600:.1f} hours long; expected no more than a wav file of "
            f"{8 * sample_bytes} bits and {rate} Hz holds, "
            f"{_WAV_BYTES / sample_bytes / rate / 3600:.1f} hours"
        )


def _write_table(
    file: pathlib.Path, written: dict[pathlib.Path, list[pathlib.Path]], skipped: list[str]
) -> None:
    """Rows of recordings written earlier, from another folder say, stay."""
    rows = []
    if file.exists():
        with open(file, newline="", **_TEXT) as text:
            names = {name.as_posix() for name in written}
            rows = [row for row in list(csv.reader(text))[1:] if row and row[0] not in names]
    for name, outputs in written.items():
        try:
            levels, active = channel_activity(outputs)
        except InputError as error:  # channels of an earlier run that something has happened to
            skipped.append(str(error))
            continue
        for c, (level, share) in enumerate(zip(levels, active, strict=True), start=1):
            rows.append([name.as_posix(), c, f"{level:.1f}", f"{share:.3f}"])
    with (
        atomic_file(file, overwrite=True) as temporary,
        open(temporary, "w", newline="", **_TEXT) as text,
    ):
        csv.writer(text).writerows([["recording", "channel", "level_db", "active"], *rows])


def channel_activity(files: list[pathlib.Path]) -> tuple[np.ndarray, np.ndarray]:
    """How loud the channels of a recording are, and how much of the time.

    Args:
        files: all channels, which add up to the recording.

    Returns:
        Levels in dB relative to the recording, -100 at the lowest, and the share of frames of
        0.1 s whose power is at most 20 dB below the recording's mean power, 0 to 1; [channels]
        each.

    Raises:
        InputError: if a file cannot be read, or is not as long as the others.
    """
    frames = audio_info(files[0]).frames
    for other in files:
        if audio_info(other).frames != frames:
            raise InputError(f"{other}: is not as long as {files[0]}; expected its other channels")
    frame = max(1, round(FRAME_SECONDS * audio_info(files[0]).sample_rate))
    powers = []  # [frames, channels + 1]: the recording comes last
    rest = np.zeros((len(files), 0), np.float32)
    # allow_silence: a channel may be.
    for blocks in zip(*(read_blocks(file, allow_silence=True) for file in files), strict=True):
        rest = np.concatenate([rest, np.stack(blocks)], axis=1)
        whole = rest.shape[1] // frame * frame
        powers.append(_frame_powers(rest[:, :whole], frame))
        rest = rest[:, whole:]
    if rest.shape[1]:
        powers.append(_frame_powers(rest, rest.shape[1]))
    powers = np.concatenate(powers)
    mean = np.mean(powers, axis=0)
    levels = 10 * np.log10(np.maximum(mean[:-1] / max(mean[-1], 1e-20), 1e-10))
    active = np.mean(powers[:, :-1] > 10 ** (ACTIVE_DB / 10) * mean[-1], axis=0)
    return levels, active


def _frame_powers(channels: np.ndarray, frame: int) -> np.ndarray:
    """[channels, samples] -> [frames, channels + 1], the sum of the channels last."""
    signals = np.concatenate([channels, channels.sum(axis=0, keepdims=True)])
    return np.mean(np.square(signals.reshape(len(signals), -1, frame)), axis=-1).T
