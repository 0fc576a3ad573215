"""How sound files are read and written (soundfile for the formats, soxr for the sample rate)."""

import contextlib
import dataclasses
import math
import os
import pathlib
import stat
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from sepssl.audio import containers
from sepssl.errors import InputError
from sepssl.files import atomic_file

_FORMATS = {
    ".wav": "WAV",
    ".flac": "FLAC",
    ".ogg": "OGG",
    ".opus": "OGG",
    ".mp3": "MP3",
    ".aif": "AIFF",
    ".aiff": "AIFF",
}
SUFFIXES = tuple(_FORMATS)
"""File name suffixes taken for sound, in lower case; case does not matter."""

_EXPECTED = f"expected a sound file ({' '.join(SUFFIXES)})"
SILENCE = 1e-6  # -120 dBFS, our choice: 30 dB below the smallest step of 16 bits
_UNKNOWN_FRAMES = 2**62  # libsndfile says 2^63-1 where the header does not tell
_WAV_BYTES = 2**32 - 4096  # of sound in a plain WAV file: its sizes have 32 bits
_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
_SAMPLE_BYTES = {"FLOAT": 4, "DOUBLE": 8} | {name: bits // 8 for name, bits in _BITS.items()}
_BLOCK = 65536  # frames


@dataclasses.dataclass(frozen=True)
class AudioInfo:
    """What the header of a sound file says.

    Attributes:
        sample_rate: in Hz.
        channels: number of channels.
        frames: samples per channel.
        duration: in seconds.
    """

    sample_rate: int
    channels: int
    frames: int

    @property
    def duration(self) -> float:
        return self.frames / self.sample_rate


def audio_info(path: str | os.PathLike) -> AudioInfo:
    """Reads the header of a sound file, and its end where that tells whether it is whole.

    Takes well under a millisecond for most formats, since no sound is decoded but the last few
    samples of FLAC and MP3 files. (An MP3 file without a length header is walked through frame by
    frame, undecoded.) It cannot see what only decoding shows: silence, NaN, damage in the middle.

    Raises:
        InputError: if the file is missing, a folder, not readable, empty, not a sound file of a
            known suffix, without any sample, or truncated.
    """
    with _opened(path) as (_, info):
        return info


def check_audio(path: str | os.PathLike) -> None:
    """Raises the InputError of `audio_info`, if any: a cheap check for scans over thousands."""
    audio_info(path)


def check_sample_rate(sample_rate: int) -> None:
    """Raises InputError unless `sample_rate` is a positive whole number of Hz."""
    if not (sample_rate >= 1 and sample_rate == int(sample_rate)):
        raise InputError(f"sample_rate is {sample_rate}; expected a positive whole number of Hz")


def resampled_length(frames: int, file_rate: int, sample_rate: int) -> int:
    """How many samples `frames` at `file_rate` Hz become at `sample_rate` Hz; half rounds up."""
    return (2 * frames * sample_rate + file_rate) // (2 * file_rate)


def read_audio(
    path: str | os.PathLike,
    sample_rate: int | None,
    offset: float = 0.0,
    duration: float | None = None,
    allow_silence: bool = False,
) -> np.ndarray:
    """Reads a sound file, or a part of it, as mono (mean of the channels).

    An excerpt equals the slice of the whole file, `offset * sample_rate` samples from its start:
    exactly without resampling (MP3: to 1e-7), to 1e-6 with it, since a margin of the file is read
    around it for the resampling filter. Like a slice, it is shorter than `duration` where the file
    ends before.

    Args:
        path: the file; see `SUFFIXES`.
        sample_rate: in Hz, of the result (resampled with soxr, quality HQ); None keeps the file's.
        offset: start of the excerpt, in seconds.
        duration: length of the excerpt, in seconds; None means to the end.
        allow_silence: whether a silent file is no error.

    Returns:
        float32 `[samples]`, full scale at -1 and 1. Lossy and float files may exceed it.

    Raises:
        InputError: as `audio_info`; if what is read holds NaN or infinity, or cannot be decoded;
            if the whole file is read and is silent (peak at or below -120 dBFS, our choice); if
            `sample_rate`, `offset` or `duration` is out of range. A silent excerpt is no error.
    """
    if sample_rate is not None:
        check_sample_rate(sample_rate)
    if not (math.isfinite(offset) and offset >= 0):
        raise InputError(f"offset is {offset}; expected zero or a positive number of seconds")
    if duration is not None and not (math.isfinite(duration) and duration > 0):
        raise InputError(f"duration is {duration}; expected a positive number of seconds, or None")
    with _opened(path) as (file, info):
        name = _name(path)
        rate = info.sample_rate if sample_rate is None else int(sample_rate)
        total = resampled_length(info.frames, info.sample_rate, rate)
        first = round(offset * rate)
        last = total if duration is None else min(total, first + round(duration * rate))
        if last <= first:
            raise InputError(
                f"{name}: has no sample between {offset:g} s and "
                f"{'its end' if duration is None else f'{offset + duration:g} s'} at {rate} Hz; "
                f"expected an excerpt of its {info.duration:g} s"
            )
        start, stop, skip = _frames_needed(first, last, rate, info)
        waveform = _read_frames(file, start, stop, name)
    waveform = _mono(waveform)
    if stop - start == info.frames and not allow_silence:
        _require_sound(np.abs(waveform).max(), info, name)
    if rate != info.sample_rate:
        waveform = soxr.resample(waveform, info.sample_rate, rate, quality="HQ")
    return np.ascontiguousarray(waveform[skip : skip + last - first], dtype=np.float32)


def read_blocks(path: str | os.PathLike, allow_silence: bool = False) -> Iterator[np.ndarray]:
    """Reads a sound file block by block, in memory that does not grow with it.

    Yields:
        float32 `[samples]`, mono (mean of the channels), at the file's own sample rate; the blocks
        in order make up the file.

    Raises:
        InputError: as `read_audio`; that the whole file is silent (unless `allow_silence`), after
            the last block.
    """
    with _opened(path) as (file, info):
        name, peak = _name(path), 0.0
        for start in range(0, info.frames, _BLOCK):
            stop = min(start + _BLOCK, info.frames)
            block = np.ascontiguousarray(_mono(_read_frames(file, start, stop, name)))
            peak = max(peak, np.abs(block).max())
            yield block
        if not allow_silence:
            _require_sound(peak, info, name)


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
            if the format does not know the subtype or the rate; if the file exists or cannot be
            written.
    """
    name = _name(path)
    suffix = pathlib.Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise InputError(f"{name}: has the suffix '{suffix}'; expected one of {' '.join(SUFFIXES)}")
    file_format = _FORMATS[suffix]
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
    if file_format == "WAV" and frames.size * _SAMPLE_BYTES.get(subtype, 1) > _WAV_BYTES:
        file_format = "RF64"
    try:
        with (
            atomic_file(path, overwrite) as temporary,
            soundfile.SoundFile(
                _for_libsndfile(temporary),
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
                file.write(_quantized(block, _BITS[subtype]) if subtype in _BITS else block)
    except soundfile.LibsndfileError as error:
        raise InputError(
            f"{name}: could not be written as {file_format} {subtype}, "
            f"{frames.shape[1]} channels, {sample_rate} Hz ({_reason(error)})"
        ) from error


def _quantized(block: np.ndarray, bits: int) -> np.ndarray:
    """Rounds to whole steps of `bits` bits, in the upper bits of int32.

    libsndfile itself scales by `2^(bits - 1) - 1` when it writes floats but by `2^(bits - 1)` when
    it reads.
    """
    steps = 2.0 ** (bits - 1)
    rounded = np.clip(np.round(block.astype(np.float64) * steps), -steps, steps - 1)
    return rounded.astype(np.int32) << (32 - bits)


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[tuple[soundfile.SoundFile, AudioInfo]]:
    """Opens a sound file after every check that does not decode it."""
    name = _name(path)
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(_opened_raw(path, name))
        source = _for_libsndfile(path)
        kind = containers.container(raw.read(12))
        if kind in ("wav", "aiff"):
            find = containers.wav_layout if kind == "wav" else containers.aiff_layout
            layout = find(raw)
            if layout and layout.missing:
                raise InputError(
                    f"{name}: is truncated: its header promises {layout.promised} bytes of sound, "
                    f"{layout.available} are there; expected the whole file"
                )
            if layout and layout.misread:
                source = containers.repaired_wav(raw, layout)
        elif kind == "ogg" and (fault := containers.ogg_fault(raw)):
            raise InputError(
                f"{name}: is not one whole Ogg stream ({fault}); expected a whole file"
            )
        try:
            file = stack.enter_context(soundfile.SoundFile(source))
        except soundfile.SoundFileError as error:
            raise InputError(
                f"{name}: is not readable as sound ({_reason(error)}); {_EXPECTED}"
            ) from error
        frames = file.frames
        if file.format == "MP3":
            frames = _mp3_frames(raw, file, name)
        if frames <= 0 or file.samplerate <= 0:
            raise InputError(f"{name}: holds no sample; expected a recording")
        if frames >= _UNKNOWN_FRAMES:
            raise InputError(
                f"{name}: its header does not tell its length (written to a pipe?); expected a "
                "file with a length, as re-encoding it makes"
            )
        _check_end(file, frames, name)
        yield file, AudioInfo(file.samplerate, file.channels, frames)


@contextlib.contextmanager
def _opened_raw(path: str | os.PathLike, name: str) -> Iterator[BinaryIO]:
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{name}: is a folder; {_EXPECTED}")
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device would block
            raise InputError(f"{name}: is not a regular file; {_EXPECTED}")
        suffix = pathlib.Path(path).suffix.lower()
        if suffix not in _FORMATS:
            raise InputError(f"{name}: has the suffix '{suffix}'; {_EXPECTED}")
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError as error:
        raise InputError(f"{name}: does not exist; {_EXPECTED}") from error
    except PermissionError as error:
        raise InputError(f"{name}: permission denied; expected a file that can be read") from error
    except OSError as error:
        raise InputError(f"{name}: cannot be opened: {error.strerror}; {_EXPECTED}") from error
    with file:
        if status.st_size == 0:
            raise InputError(f"{name}: is empty (0 bytes); {_EXPECTED}")
        yield file


def _mp3_frames(raw: BinaryIO, file: soundfile.SoundFile, name: str) -> int:
    counted = containers.mp3_samples_without_header(raw)
    if counted is None:
        return file.frames
    if counted > file.frames + 2 * 1152:  # more than the rounding of a constant bit rate
        raise InputError(
            f"{name}: is an MP3 of variable bit rate without a length header, of which libsndfile "
            f"reads {file.frames} of {counted} samples; expected a length header, or WAV or FLAC"
        )
    return min(counted, file.frames)


def _check_end(file: soundfile.SoundFile, frames: int, name: str) -> None:
    """FLAC and MP3 files state their length at the start: see whether their end is there."""
    if file.format not in ("FLAC", "MP3") or frames < file.frames:  # <: counted, hence there
        return
    last = min(frames, 64)
    try:
        file.seek(frames - last)
        whole = len(file.read(last)) == last
        file.seek(0)
    except soundfile.SoundFileError:
        whole = False
    if not whole:
        raise InputError(
            f"{name}: is truncated or damaged: its header promises {frames} samples, the last of "
            "them cannot be read; expected the whole file"
        )


def _frames_needed(first: int, last: int, rate: int, info: AudioInfo) -> tuple[int, int, int]:
    """Frames of the file to read for samples `first` to `last` at `rate` Hz.

    Returns:
        `(start, stop, skip)`: read frames `start` to `stop`, resample, drop `skip` samples.
    """
    if rate == info.sample_rate:
        return first, last, 0
    # soxr HQ's filter, measured: beyond this margin nothing changes by more than 1e-6.
    margin = math.ceil(192 * max(1.0, info.sample_rate / rate))
    # A start at which both rates have a sample, or the excerpt would be shifted by a fraction.
    step = info.sample_rate // math.gcd(info.sample_rate, rate)
    start = max(0, first * info.sample_rate // rate - margin) // step * step
    stop = min(info.frames, -(-last * info.sample_rate // rate) + margin)
    return start, stop, first - start * rate // info.sample_rate


def _read_frames(file: soundfile.SoundFile, start: int, stop: int, name: str) -> np.ndarray:
    """float32 `[frames, channels]`."""
    try:
        file.seek(start)
        waveform = file.read(stop - start, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise InputError(
            f"{name}: is truncated or damaged: samples {start} to {stop} cannot be decoded "
            f"({_reason(error)}); expected a whole file"
        ) from error
    if len(waveform) < stop - start:
        raise InputError(
            f"{name}: is truncated or damaged: its header promises {stop} samples, only "
            f"{start + len(waveform)} can be read; expected a whole file"
        )
    if not np.isfinite(waveform).all():
        raise InputError(f"{name}: holds NaN or infinity; expected finite samples")
    return waveform


def _mono(frames: np.ndarray) -> np.ndarray:
    return frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1, dtype=np.float32)


def _require_sound(peak: float, info: AudioInfo, name: str) -> None:
    if peak <= SILENCE:
        level = "every sample is 0" if peak == 0 else f"peak {20 * math.log10(peak):.0f} dBFS"
        mixed = f", its {info.channels} channels averaged" if info.channels > 1 else ""
        raise InputError(f"{name}: is silent ({level}{mixed}); expected sound above -120 dBFS")


def _name(path: str | os.PathLike) -> str:
    """The path on one printable line, whatever bytes are in it."""
    shown = os.fsdecode(path).encode("utf-8", "backslashreplace").decode("utf-8")
    return shown.replace("\n", "\\n").replace("\r", "\\r")


def _for_libsndfile(path: str | os.PathLike) -> str | bytes:
    # As bytes where names are bytes: soundfile refuses a str that is not valid UTF-8.
    return os.fsencode(path) if os.name == "posix" else os.fspath(path)


def _reason(error: soundfile.LibsndfileError) -> str:
    text = " ".join(str(getattr(error, "error_string", error)).split())
    if not text or "does not exist" in text:  # what libsndfile says of an MP3 that is none
        return "no known format"
    return text.removeprefix("Error : ").rstrip(".")
