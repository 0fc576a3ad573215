"""Sound files in, a file per separated channel out."""

import collections
import dataclasses
import os
import pathlib
import tempfile

import keras
import numpy as np
import soxr

from sepssl.audio.files import audio_info, read_audio, write_audio
from sepssl.data.folder import list_audio
from sepssl.errors import InputError
from sepssl.separation.long_audio import separate_chunks


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
    """

    separated: int = 0
    found: int = 0
    skipped: list[str] = dataclasses.field(default_factory=list)


def separate_recordings(
    separator,
    recordings: dict[pathlib.Path, pathlib.Path],
    output: str | os.PathLike,
    keep_input_rate: bool = False,
    chunk_seconds: float = 30.0,
) -> Summary:
    """Writes the channels of every recording to `output/NAME_channel1.wav` and so on.

    Channels are 16-bit and add up to the recording (mono); where one exceeds full scale, those of
    that recording are written as 32-bit float. No file is overwritten: a recording whose channels
    are all there is left as it is, so that an interrupted run over a folder can be repeated.

    Args:
        separator: `Separator`.
        recordings: files and the names of their outputs, as from `list_recordings`.
        output: folder.
        keep_input_rate: see `separate_recording`.
        chunk_seconds: longer recordings are separated in chunks of this length.

    Raises:
        InputError: if the only recording cannot be separated, or an output cannot be written.
    """
    output = pathlib.Path(output)
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file; expected a folder to write channels to")
    progress = keras.utils.Progbar(len(recordings), unit_name="recording")
    summary = Summary()
    for count, (path, name) in enumerate(recordings.items(), start=1):
        outputs = [
            output / name.with_name(f"{name.name}_channel{c + 1}.wav")
            for c in range(separator.num_sources)
        ]
        there = [file for file in outputs if file.exists()]
        if len(there) == len(outputs) and len(recordings) > 1:
            summary.found += 1
        else:
            try:
                if there:
                    raise InputError(f"{there[0]}: exists already; expected another output folder")
                rate = audio_info(path).sample_rate if keep_input_rate else separator.sample_rate
                waveform = read_audio(path, rate)
            except InputError as error:
                if len(recordings) == 1:
                    raise
                summary.skipped.append(str(error))
            else:
                channels = separate_recording(separator, waveform, rate, chunk_seconds)
                _write_channels(outputs, channels, rate)
                summary.separated += 1
        progress.update(count)
    return summary


def separate_recording(
    separator, waveform: np.ndarray, sample_rate: int, chunk_seconds: float = 30.0
) -> np.ndarray:
    """Separates a recording of any length at its own sample rate.

    If that is not the separator's, it is resampled, separated, and its channels are resampled back;
    what no channel then holds of it (above all what lies beyond the separator's band) is shared out
    among them by their power, so that they add up to the recording.

    Args:
        separator: `Separator`.
        waveform: [samples].
        sample_rate: of `waveform`, in Hz.
        chunk_seconds: longer recordings are separated in chunks of this length, with a context of
            a tenth of it on each side.

    Returns:
        float32 [sources, samples], at `sample_rate`.
    """
    resampled = waveform
    if sample_rate != separator.sample_rate:
        resampled = soxr.resample(waveform, sample_rate, separator.sample_rate, quality="HQ")
    pieces = separate_chunks(
        separator.predict_on_batch,
        resampled,
        separator.sample_rate,
        chunk_seconds,
        chunk_seconds / 10,
    )
    channels = np.concatenate(list(pieces), axis=-1)
    if sample_rate == separator.sample_rate:
        return channels
    channels = soxr.resample(channels.T, separator.sample_rate, sample_rate, quality="HQ").T
    short = max(len(waveform) - channels.shape[1], 0)
    channels = np.pad(channels, ((0, 0), (0, short)))[:, : len(waveform)]
    power = np.mean(np.square(channels), axis=1) + 1e-12
    missing = waveform - channels.sum(axis=0)
    return channels + (power / power.sum())[:, None] * missing


def _write_channels(outputs: list[pathlib.Path], channels: np.ndarray, sample_rate: int) -> None:
    """Writes all channels, then gives them their names: a full disk or a kill leaves none."""
    subtype = "PCM_16" if np.max(np.abs(channels)) <= 1.0 else "FLOAT"
    folder = outputs[0].parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".separating-", dir=folder) as temporary:
            for file, channel in zip(outputs, channels, strict=True):
                write_audio(pathlib.Path(temporary) / file.name, channel, sample_rate, subtype)
            for file in outputs:
                os.replace(pathlib.Path(temporary) / file.name, file)
    except OSError as error:
        raise InputError(f"{folder}: could not be written: {error.strerror}") from error
