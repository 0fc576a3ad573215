"""How sound files are read and written (soundfile for the formats, soxr for the sample rate)."""

import fractions
import math
import os
import pathlib
from collections.abc import Iterator

import numpy as np
import soundfile
import soxr

from sepssl.audio.decoding import (
    FORMATS,
    LOUDEST,
    MAX_RATE,
    MAX_SAMPLES,
    MIN_RATE,
    OUT_OF_MEMORY,
    SILENCE,
    SUFFIXES,
    UNREAD_SUFFIXES,
    AudioInfo,
    Recording,
    check_samples,
    for_libsndfile,
    libsndfile_reason,
    opened,
)
from sepssl.audio.encoding import quantized
from sepssl.errors import InputError, OutputError
from sepssl.files import atomic_file, printable

__all__ = [
    "DECODERS",
    "EDGE_SECONDS",
    "LOUDEST",
    "MAX_FACTOR",
    "MAX_RATE",
    "MAX_SAMPLES",
    "MIN_RATE",
    "SILENCE",
    "SUFFIXES",
    "UNREAD_SUFFIXES",
    "AudioInfo",
    "as_waveform",
    "audio_info",
    "check_audio",
    "check_decoder",
    "check_sample_rate",
    "check_speed",
    "lost_in_resampling",
    "nothing_in_band",
    "played_rate",
    "read_audio",
    "read_blocks",
    "resampled_length",
    "write_audio",
]

DECODERS = ("soundfile", "tfio", "tensorflow")
"""What `read_audio` can decode with."""

MAX_FACTOR = 100
"""How many samples one sample of a file may become in resampling (our choice)."""

EDGE_SECONDS = 0.02
"""Where a sound starts or ends at once, resampling makes a click of about this length."""

_BLOCK = 65536  # frames
_NOTHING_LEFT = 2.0**-15  # one step of 16 bits
_WAV_BYTES = 2**32 - 4096  # of sound in a plain WAV file: its sizes have 32 bits
_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
_WRITTEN_BYTES = {"FLOAT": 4, "DOUBLE": 8} | {name: bits // 8 for name, bits in _BITS.items()}


def audio_info(path: str | os.PathLike, allow_truncated: bool = False) -> AudioInfo:
    """Reads the header of a sound file, and its end where that tells whether it is whole.

    Takes well under a millisecond for most formats, since no sound is decoded but the last few
    samples of FLAC and MP3 files. (An MP3 file without a length header is walked through frame by
    frame, undecoded.) It cannot see what only decoding shows: silence, NaN, damage in the middle.

    Args:
        path: the file.
        allow_truncated: whether a file that ends early is no error. What there is of a compressed
            one is then decoded to know how long it is.

    Raises:
        InputError: if the file is missing, a folder, not readable, empty, without any sample, or
            truncated; if it is not a sound file in a format that is read (see `SUFFIXES`); if its
            header contradicts itself, or its sample rate is not from `MIN_RATE` to `MAX_RATE`.
    """
    with opened(path, allow_truncated) as recording:
        return recording.info


def check_audio(path: str | os.PathLike) -> None:
    """Raises the InputError of `audio_info`, if any: a cheap check for scans over thousands."""
    audio_info(path)


def check_sample_rate(sample_rate: int) -> None:
    """Raises InputError unless `sample_rate` is a positive whole number of Hz."""
    whole = math.isfinite(sample_rate) and sample_rate == int(sample_rate)
    if not (whole and sample_rate >= 1):
        raise InputError(f"sample_rate is {sample_rate}; expected a positive whole number of Hz")


def as_waveform(recording: np.ndarray, loudest: float = LOUDEST) -> np.ndarray:
    """A recording in memory as float32 [samples].

    Args:
        recording: its samples, full scale at 1.
        loudest: peak beyond which it counts as damaged.

    Raises:
        ValueError: if it is not of that shape, empty, or not of real floating-point numbers.
        InputError: if a sample is not finite in float32, or beyond `loudest`.
    """
    recording = np.asarray(recording)
    if recording.ndim != 1 or not len(recording):
        raise ValueError(
            f"waveform of shape {recording.shape}: expected one channel, [samples], not empty"
        )
    if recording.dtype.kind in "iubc":
        raise ValueError(f"waveform of {recording.dtype}: expected floats with full scale at 1")
    with np.errstate(over="ignore"):
        waveform = np.asarray(recording, np.float32)
    check_samples(waveform, "waveform", loudest)
    return waveform


def check_decoder(decoder: str) -> None:
    """Raises InputError unless `decoder` is one of `DECODERS` and can be loaded here."""
    if decoder not in DECODERS:
        raise InputError(f"decoder is {decoder!r}; expected one of {', '.join(DECODERS)}")
    if decoder == "tfio":
        from sepssl.audio.in_graph import tensorflow_io

        try:
            tensorflow_io()
        except ImportError as error:
            raise InputError(f"decoder is 'tfio', but {error}") from error


def played_rate(sample_rate: int, speed: float, name: str) -> int:
    """The sample rate, in Hz, of a recording that is played at a speed.

    Args:
        sample_rate: of the recording, in Hz.
        speed: factor; at 0.1, one of 384 kHz plays as one of 38.4 kHz, ten times as long.
        name: of the recording, for messages.

    Raises:
        InputError: if that is no whole number of Hz from `MIN_RATE` to `MAX_RATE`.
    """
    if speed == 1:
        return sample_rate
    # As it is written: 0.1 is a tenth.
    rate = sample_rate * fractions.Fraction(repr(float(speed)))
    if rate.denominator != 1 or not MIN_RATE <= rate <= MAX_RATE:
        raise InputError(
            f"{name}: {sample_rate} Hz at {speed:g} times the speed are {float(rate):.10g} Hz; "
            f"expected a speed that makes them a whole number from {MIN_RATE} to {MAX_RATE}"
        )
    return int(rate)


def check_speed(speed: float) -> None:
    """Raises InputError unless `speed` is a positive number."""
    if not 0 < speed < math.inf:
        raise InputError(f"speed is {speed}; expected a positive number")


def resampled_length(frames: int, file_rate: int, sample_rate: int) -> int:
    """How many samples `frames` at `file_rate` Hz become at `sample_rate` Hz; half rounds up."""
    return (2 * frames * sample_rate + file_rate) // (2 * file_rate)


def lost_in_resampling(before: float, after: float) -> bool:
    """Whether resampling has left nothing of a recording, as of ultrasound at 16 kHz.

    Args:
        before: peak of the recording at its own sample rate.
        after: peak at the new one, without the first and last 20 ms: a filter makes a click
            where the sound starts and ends at once.

    Returns:
        True if `after` is at most one step of 16 bits (-90 dBFS), so that it may be rounding noise
        alone, and 40 dB or more below `before` (our choice).
    """
    return after <= min(_NOTHING_LEFT, before / 100)


def nothing_in_band(name: str, from_rate: int, to_rate: int, speed: float = 1.0) -> InputError:
    """The error that resampling has left nothing of a recording.

    Args:
        name: of the recording.
        from_rate, to_rate: in Hz; `from_rate` has been multiplied by the speed.
        speed: at which the recording is played.
    """
    return InputError(
        f"{name}: holds nothing below {to_rate / 2 / speed:.0f} Hz, so that resampling from "
        f"{from_rate} to {to_rate} Hz leaves silence; expected sound in that band"
    )


def read_audio(
    path: str | os.PathLike,
    sample_rate: int | None,
    offset: float = 0.0,
    duration: float | None = None,
    allow_silence: bool = False,
    decoder: str = "soundfile",
    allow_truncated: bool = False,
    speed: float = 1.0,
) -> np.ndarray:
    """Reads a sound file, or a part of it, as mono (mean of the channels).

    An excerpt equals the slice of the whole file, `offset * sample_rate` samples from its start:
    exactly without resampling (MP3: to 1e-7), to 1e-6 with it, since a margin of the file is read
    around it for the resampling filter. Like a slice, it is shorter than `duration` where the file
    ends before.

    Memory follows what is in the file, not what its header claims.

    Args:
        path: the file; see `SUFFIXES`.
        sample_rate: in Hz, of the result (resampled with soxr, quality HQ); None keeps the file's.
        offset: start of the excerpt, in seconds.
        duration: length of the excerpt, in seconds; None means to the end.
        allow_silence: whether a silent file, or one of which resampling leaves nothing, is no
            error.
        decoder: "soundfile" reads everything; "tfio" (tensorflow-io) WAV, FLAC, Vorbis and MP3;
            "tensorflow" WAV of 16 bits. The last two decode the whole file even for an excerpt.
            All checks are the same, and so are the samples, up to the rounding of lossy decoders.
        allow_truncated: whether a file that ends early is read as far as it can be decoded
            ("soundfile" only).
        speed: at which the file is played; its sample rate counts times this. `offset` and
            `duration` are seconds of the file, not of playing it.

    Returns:
        float32 `[samples]`, full scale at -1 and 1. Lossy and float files may exceed it, up to
        `LOUDEST`. Every value is finite.

    Raises:
        InputError: as `audio_info`; if what is read holds NaN, infinity or values beyond
            `LOUDEST`, or cannot be decoded; if the whole file is read and is silent (peak at or
            below `SILENCE`), or resampling leaves nothing of it (`lost_in_resampling`); if the
            result would have more than `MAX_SAMPLES` samples, or more than `MAX_FACTOR` for each
            sample of the file; if `sample_rate`, `offset`, `duration` or `decoder` is out of
            range, or the decoder does not read the format. A silent excerpt is no error.
    """
    if sample_rate is not None:
        check_sample_rate(sample_rate)
    if not (math.isfinite(offset) and offset >= 0):
        raise InputError(f"offset is {offset}; expected zero or a positive number of seconds")
    if duration is not None and not (math.isfinite(duration) and duration > 0):
        raise InputError(f"duration is {duration}; expected a positive number of seconds, or None")
    check_decoder(decoder)
    with opened(path, allow_truncated and decoder == "soundfile") as recording:
        name, info = recording.name, recording.info
        file_rate = played_rate(info.sample_rate, speed, name)
        rate = file_rate if sample_rate is None else int(sample_rate)
        total = resampled_length(info.frames, file_rate, rate)
        first, last = round(min(offset / speed * rate, total)), total
        if duration is not None:
            last = first + round(min(duration / speed * rate, total - first))
        if last <= first:
            raise InputError(
                f"{name}: has no sample between {offset:g} s and "
                f"{'its end' if duration is None else f'{offset + duration:g} s'} at {rate} Hz; "
                f"expected an excerpt of its {info.duration:g} s"
            )
        start, stop, skip = _frames_needed(first, last, file_rate, rate, info.frames)
        _check_size(max(last - first, stop - start), file_rate, rate, recording)
        try:
            if decoder == "soundfile":
                waveform = recording.read(start, stop)
            else:
                waveform = _decode_in_graph(path, recording, decoder)[start:stop]
            whole = stop - start == info.frames
            require_sound = whole and not allow_silence
            waveform = _resampled(waveform, file_rate, rate, recording, require_sound)
            return np.ascontiguousarray(waveform[skip : skip + last - first], dtype=np.float32)
        except MemoryError as error:
            raise InputError(f"{name}: {OUT_OF_MEMORY}") from error


def read_blocks(
    path: str | os.PathLike,
    allow_silence: bool = False,
    start: int = 0,
    stop: int | None = None,
    allow_truncated: bool = False,
) -> Iterator[np.ndarray]:
    """Reads a sound file, or a part of it, block by block, in memory that does not grow with it.

    Args:
        path: the file; see `SUFFIXES`.
        allow_silence: whether silence is no error.
        start: first sample, at the file's own sample rate.
        stop: sample after the last; None, or one beyond the end, means the end.
        allow_truncated: as for `read_audio`.

    Yields:
        float32 `[samples]`, mono (mean of the channels), at the file's own sample rate; the blocks
        in order make up the file or part.

    Raises:
        InputError: as `read_audio`; that everything read is silent (unless `allow_silence`), after
            the last block.
    """
    with opened(path, allow_truncated) as recording:
        peak, end = 0.0, recording.info.frames if stop is None else min(stop, recording.info.frames)
        for first in range(start, end, _BLOCK):
            block = recording.read(first, min(first + _BLOCK, end))
            peak = max(peak, np.abs(block).max())
            yield block
        if not allow_silence:
            _require_sound(peak, recording)


def write_audio(
    path: str | os.PathLike,
    waveform: np.ndarray,
    sample_rate: int,
    subtype: str = "PCM_16",
    overwrite: bool = False,
) -> None:
    """Writes a sound file, whole or not at all; the suffix of `path` chooses the format.

    Args:
        path: the file to write; missing folders are made.
        waveform: float `[samples]` or `[channels, samples]`; it may be a memory map, which is
            read in blocks.
        sample_rate: in Hz.
        subtype: libsndfile's name of the encoding. "PCM_16" and "PCM_24" (WAV, FLAC, AIFF) round
            to the nearest step and clip beyond -1 and 1; "FLOAT" (WAV, AIFF) keeps every float32
            as it is. Ogg takes "VORBIS" or "OPUS", MP3 "MPEG_LAYER_III". A `.wav` file of 4 GiB
            or more is written as RF64, which most programs that read WAV read too.
        overwrite: whether an existing file may be replaced.

    Raises:
        InputError: if the waveform is of another type or shape, empty, or holds NaN or infinity;
            if the format does not know the subtype or the rate; if the file exists.
        OutputError: if the file cannot be written.
    """
    name = printable(path)
    suffix = pathlib.Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"{name}: has the suffix '{suffix}'; expected one of {' '.join(SUFFIXES)}")
    file_format = FORMATS[suffix]
    if not soundfile.check_format(file_format, subtype):
        known = " ".join(soundfile.available_subtypes(file_format))
        raise InputError(
            f"{name}: {file_format} has no subtype {subtype!r}; expected one of {known}"
        )
    check_sample_rate(sample_rate)
    waveform = np.asarray(waveform)
    if waveform.ndim not in (1, 2) or waveform.size == 0 or waveform.dtype.kind != "f":
        raise InputError(
            f"{name}: the waveform to write is {waveform.dtype} {list(waveform.shape)}; "
            "expected float [samples] or [channels, samples]"
        )
    if waveform.ndim == 2 and waveform.shape[0] > waveform.shape[1]:
        raise InputError(
            f"{name}: the waveform to write has more channels ({waveform.shape[0]}) than samples "
            f"({waveform.shape[1]}); expected [channels, samples]"
        )
    frames = np.atleast_2d(waveform).T
    if file_format == "WAV" and frames.size * _WRITTEN_BYTES.get(subtype, 1) > _WAV_BYTES:
        file_format = "RF64"
    try:
        with (
            atomic_file(path, overwrite) as temporary,
            soundfile.SoundFile(
                for_libsndfile(temporary),
                "w",
                samplerate=int(sample_rate),
                channels=frames.shape[1],
                format=file_format,
                subtype=subtype,
            ) as file,
        ):
            # In blocks: libsndfile's Vorbis encoder takes each write onto its stack, and the
            # waveform may be a file larger than memory.
            for start in range(0, len(frames), _BLOCK):
                block = np.ascontiguousarray(frames[start : start + _BLOCK], np.float32)
                if not np.isfinite(block).all():
                    raise InputError(
                        f"{name}: the waveform to write holds NaN or infinity; expected numbers"
                    )
                file.write(quantized(block, _BITS[subtype]) if subtype in _BITS else block)
    except soundfile.LibsndfileError as error:
        raise OutputError(
            f"{name}: could not be written as {file_format} {subtype}, "
            f"{frames.shape[1]} channels, {sample_rate} Hz ({libsndfile_reason(error)})"
        ) from error


def _frames_needed(
    first: int, last: int, file_rate: int, rate: int, frames: int
) -> tuple[int, int, int]:
    """Which of a file's frames to read for samples `first` to `last` at `rate` Hz.

    Returns:
        `(start, stop, skip)`: read frames `start` to `stop`, resample, drop `skip` samples.
    """
    if rate == file_rate:
        return first, last, 0
    # soxr HQ's filter, measured: beyond this margin nothing changes by more than 1e-6.
    margin = math.ceil(192 * max(1.0, file_rate / rate))
    # A start at which both rates have a sample, or the excerpt would be shifted by a fraction.
    step = file_rate // math.gcd(file_rate, rate)
    start = max(0, first * file_rate // rate - margin) // step * step
    stop = min(frames, -(-last * file_rate // rate) + margin)
    return start, stop, first - start * rate // file_rate


def _check_size(samples: int, file_rate: int, rate: int, recording: Recording) -> None:
    """Before anything is decoded."""
    if rate > MAX_FACTOR * file_rate:
        raise InputError(
            f"{recording.name}: its header gives {file_rate} Hz; expected at "
            f"least 1/{MAX_FACTOR} of the {rate} Hz to resample to"
        )
    if samples > MAX_SAMPLES:
        raise InputError(
            f"{recording.name}: is {samples} samples long at {rate} Hz; expected at most "
            f"{MAX_SAMPLES} at once: a part of it, or read it in blocks"
        )


def _decode_in_graph(path: str | os.PathLike, recording: Recording, decoder: str) -> np.ndarray:
    from sepssl.audio.in_graph import decode_file

    waveform = decode_file(path, recording, decoder)
    if len(waveform) < recording.info.frames:
        raise InputError(
            f"{recording.name}: is truncated or damaged: its header promises "
            f"{recording.info.frames} samples, {decoder} decodes {len(waveform)}; expected a whole "
            "file"
        )
    check_samples(waveform, recording.name)
    return waveform


def _resampled(
    waveform: np.ndarray, file_rate: int, rate: int, recording: Recording, require_sound: bool
) -> np.ndarray:
    before = float(np.abs(waveform).max()) if require_sound else 0.0
    if require_sound:
        _require_sound(before, recording)
    if rate == file_rate:
        return waveform
    resampled = soxr.resample(waveform, file_rate, rate, quality="HQ")
    if require_sound:
        edge = round(EDGE_SECONDS * rate)
        inner = resampled[edge:-edge] if len(resampled) > 3 * edge else resampled
        if lost_in_resampling(before, float(np.abs(inner).max(initial=0.0))):
            speed = file_rate / recording.info.sample_rate
            raise nothing_in_band(recording.name, file_rate, rate, speed)
    return resampled


def _require_sound(peak: float, recording: Recording) -> None:
    if peak <= SILENCE:
        level = "every sample is 0" if peak == 0 else f"peak {20 * math.log10(peak):.0f} dBFS"
        channels = recording.info.channels
        mixed = f", its {channels} channels averaged" if channels > 1 else ""
        raise InputError(
            f"{recording.name}: is silent ({level}{mixed}); expected sound above -120 dBFS"
        )
