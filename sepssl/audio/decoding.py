"""Sound files as libsndfile decodes them, with what it does not check checked."""

import contextlib
import dataclasses
import os
import pathlib
import stat
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np
import soundfile

from sepssl.audio import containers
from sepssl.audio.c_stderr import silenced
from sepssl.errors import InputError
from sepssl.files import printable

FORMATS = {
    ".wav": "WAV",
    ".wave": "WAV",
    ".bwf": "WAV",
    ".rf64": "RF64",
    ".w64": "W64",
    ".caf": "CAF",
    ".flac": "FLAC",
    ".ogg": "OGG",
    ".oga": "OGG",
    ".opus": "OGG",
    ".mp3": "MP3",
    ".mp2": "MP3",
    ".aif": "AIFF",
    ".aiff": "AIFF",
    ".aifc": "AIFF",
    ".au": "AU",
    ".snd": "AU",
    ".sph": "NIST",
    ".nist": "NIST",
}
"""libsndfile's format of each suffix."""

SUFFIXES = tuple(FORMATS)
"""File name suffixes of the sound files that are read, in lower case; case does not matter.

A file of another suffix, or of none, is read too if its first bytes are those of such a file.
"""

UNREAD_SUFFIXES = (
    *(".m4a", ".m4b", ".mp4", ".aac", ".ac3", ".eac3", ".dts", ".3gp", ".amr", ".wma", ".asf"),
    *(".webm", ".weba", ".mka", ".spx", ".ra", ".rm", ".wv", ".ape", ".tta", ".tak", ".mpc"),
    *(".ofr", ".dsf", ".dff", ".gsm", ".voc", ".svx", ".8svx", ".paf", ".ircam", ".sd2"),
)
"""Suffixes of sound files that are not read, because libsndfile cannot decode them or nothing says
whether they are whole. `read_audio` names the suffix when it refuses one."""

SILENCE = 1e-6
"""Peak up to which a recording counts as silent: -120 dBFS (our choice), 30 dB below the smallest
step of 16 bits."""

LOUDEST = 1000.0
"""Peak beyond which samples count as damaged: +60 dBFS (our choice). Float files may exceed full
scale, but none made with care by that much; integers stored as floats, not scaled, do."""

MIN_RATE, MAX_RATE = 1000, 10_000_000
"""Sample rates of the files that are read, in Hz (our choice)."""

MAX_SAMPLES = 2**30
"""The most samples that one call returns: 4 GiB of float32, 18 hours at 16 kHz (our choice)."""

EXPECTED = f"expected a sound file ({' '.join(SUFFIXES)})"

OUT_OF_MEMORY = "does not fit into memory; expected a shorter recording, or a part of it"

_READ_FORMATS = {*FORMATS.values(), "WAVEX"}
_UNKNOWN_FRAMES = 2**62  # libsndfile says 2^63-1 where the header does not tell
_BLOCK_VALUES = 2**20  # samples of all channels that are decoded at a time: 4 MiB
_SAMPLE_BYTES = {
    "PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class AudioInfo:
    """What the header of a sound file says.

    Attributes:
        sample_rate: in Hz.
        channels: number of channels.
        frames: samples per channel.
        subtype: libsndfile's name of the encoding, such as "PCM_16".
        duration: in seconds.
        truncated: whether the file ends early. `frames` are then those that can be decoded.
        promised: samples per channel that a truncated file's header promises; None if it does not
            say (Ogg).
    """

    sample_rate: int
    channels: int
    frames: int
    subtype: str
    truncated: bool = False
    promised: int | None = None

    @property
    def duration(self) -> float:
        return self.frames / self.sample_rate


class Recording:
    """A sound file that is open and looks whole, or as much as there is of a truncated one.

    Attributes:
        name: the path on one printable line, for messages.
        info: what the header says.
        format: libsndfile's name of the container.
    """

    def __init__(self, name: str, info: AudioInfo, file: "_SoundFile"):
        self.name = name
        self.info = info
        self.format = file.format
        self._file = file
        # Decoders of compressed files look for a place from both ends.
        compressed = file.format in ("FLAC", "OGG") or file.subtype not in _SAMPLE_BYTES
        self._seeks = file.can_seek and not (info.truncated and compressed)
        self._position = 0  # of the decoder

    def read(self, start: int, stop: int) -> np.ndarray:
        """Decodes frames `start` to `stop`, in blocks: memory follows what is really there.

        Returns:
            float32 `[stop - start]`, the mean of the channels.

        Raises:
            InputError: if they cannot be decoded, or are not finite or beyond `LOUDEST`.
        """
        size = max(1, _BLOCK_VALUES // self.info.channels)
        try:
            blocks = [
                to_mono(self._decoded(first, min(first + size, stop)))
                for first in range(start, stop, size)
            ]
            return np.ascontiguousarray(blocks[0]) if len(blocks) == 1 else np.concatenate(blocks)
        except MemoryError as error:
            raise InputError(f"{self.name}: {OUT_OF_MEMORY}") from error

    def _decoded(self, start: int, stop: int) -> np.ndarray:
        """float32 `[frames, channels]`."""
        try:
            with _silenced_for(self._file):
                self._go_to(start)
                waveform = self._file.read(stop - start, dtype="float32", always_2d=True)
        except MemoryError:
            raise
        except Exception as error:  # whatever a decoder raises is the file's fault
            raise InputError(
                f"{self.name}: is truncated or damaged: samples {start} to {stop} cannot be "
                f"decoded ({libsndfile_reason(error)}); expected a whole file"
            ) from error
        self._position = start + len(waveform)
        if len(waveform) < stop - start:
            raise InputError(
                f"{self.name}: is truncated or damaged: its header promises {self.info.frames} "
                f"samples, only {self._position} can be read; expected a whole file"
            )
        check_samples(waveform, self.name)
        return waveform

    def _go_to(self, start: int) -> None:
        if self._position == start:
            return
        if self._seeks:
            # libsndfile crashes when it seeks in a Vorbis stream of which it can decode nothing.
            if self._position == 0 and self.format == "OGG":
                if not len(self._file.read(1)):
                    raise ValueError("nothing can be decoded")
                self._file.seek(0)
            self._file.seek(start)
        else:  # some speech codecs, truncated files: from wherever the decoder is, onwards only
            for first in range(self._position, start, _BLOCK_VALUES):
                self._file.read(min(_BLOCK_VALUES, start - first))
        self._position = start


class _SoundFile(soundfile.SoundFile):
    """Reads on from where it is.

    soundfile seeks to the end of what it has read after every read, if it can. That costs time,
    makes an MP3 decoder start anew, and believes a length that the header claims.
    """

    @property
    def can_seek(self) -> bool:
        return super().seekable()

    def seekable(self) -> bool:
        return False


@contextlib.contextmanager
def opened(path: str | os.PathLike, allow_truncated: bool = False) -> Iterator[Recording]:
    """Opens a sound file after every check that does not decode it.

    Args:
        path: the file.
        allow_truncated: whether it may end early. A truncated file that is compressed is decoded
            to find where it ends, and must be read in order.

    Raises:
        InputError: as `sepssl.audio.files.audio_info`.
    """
    name = printable(path)
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(_opened_raw(path, name))
        try:
            suffix = pathlib.Path(os.fsdecode(path)).suffix.lower()
            found = containers.find_container(raw, FORMATS.get(suffix) == "MP3")
            layout = containers.layout(found.file, found.kind)
            fault = containers.ogg_fault(found.file) if found.kind == "ogg" else None
            mpeg = found.kind == "mpeg"
            counted = containers.mpeg_samples_without_header(found.file) if mpeg else None
        except OSError as error:
            raise InputError(f"{name}: cannot be read: {error.strerror}; {EXPECTED}") from error
        if found.kind == "other":
            raise InputError(f"{name}: {_why_unknown(suffix)}")
        if layout and layout.missing and not (allow_truncated and layout.available > 0):
            raise InputError(
                f"{name}: is truncated: its header promises {layout.promised} bytes of sound, "
                f"{max(layout.available, 0)} are there; expected the whole file"
            )
        if fault and not (allow_truncated and fault.startswith("truncated")):
            raise InputError(
                f"{name}: is not one whole Ogg stream ({fault}); expected a whole file"
            )
        spliced = layout and containers.as_libsndfile_reads_it(found.file, found.kind, layout)
        source = spliced or (for_libsndfile(path) if found.plain else found.file)

        def open_sound() -> _SoundFile:
            try:
                (spliced or found.file).seek(0)
                quiet = mpeg or (layout and layout.holds_mpeg)
                with silenced() if quiet else contextlib.nullcontext():
                    return _SoundFile(source)
            except Exception as error:
                raise InputError(
                    f"{name}: is not readable as sound ({libsndfile_reason(error)}); {EXPECTED}"
                ) from error

        file = stack.enter_context(open_sound())
        if file.format not in _READ_FORMATS:
            raise InputError(f"{name}: is a file of the format {file.format_info}; {EXPECTED}")
        frames = file.frames
        if counted is not None:
            frames = _mpeg_frames(counted, frames, name)
        info = AudioInfo(file.samplerate, file.channels, frames, file.subtype)
        _check_header(info, file, layout, name)
        whole = _end_is_there(file, frames)
        if not (whole or allow_truncated):
            raise InputError(
                f"{name}: is truncated or damaged: its header promises {frames} samples, the last "
                "of them cannot be read; expected the whole file"
            )
        if fault or not whole or (layout and layout.missing):
            file.close()
            info = _what_is_left(info, layout, None if fault else frames, open_sound)
            if info.frames == 0:
                raise InputError(
                    f"{name}: is truncated, and nothing of it can be decoded; {EXPECTED}"
                )
            file = stack.enter_context(open_sound())
        yield Recording(name, info, file)


def _what_is_left(
    info: AudioInfo,
    layout: containers.ChunkLayout | None,
    promised: int | None,
    open_sound: Callable[[], "_SoundFile"],
) -> AudioInfo:
    """Of a truncated file; `promised` as in `AudioInfo`, if there is no `layout`."""
    frames, width = info.frames, _SAMPLE_BYTES.get(info.subtype)
    if layout and layout.missing:
        if width:
            promised = (layout.promised or 0) // (width * info.channels)
        elif layout.frame > 1 and not layout.holds_mpeg:  # blocks of several samples, as of ADPCM
            in_block = frames // -(-layout.available // layout.frame)
            promised = (layout.promised or 0) // layout.frame * in_block
            frames = layout.available // layout.frame * in_block
        else:
            promised = round((layout.promised or 0) * frames / layout.available)
    if not (layout and width):
        frames = _decodable(open_sound, info.channels, frames)
    if frames == promised:
        return info
    return dataclasses.replace(info, frames=frames, truncated=True, promised=promised)


def _decodable(open_sound: Callable[[], "_SoundFile"], channels: int, frames: int) -> int:
    """How many frames can be decoded one after the other, to within 64."""
    block = max(1, _BLOCK_VALUES // channels)
    there = 0
    for step in (block, 64):
        position = 0
        with open_sound() as file, _silenced_for(file), contextlib.suppress(Exception):
            while position < frames:
                wanted = min(block if position < there else step, frames - position)
                got = len(file.read(wanted, dtype="float32"))
                position += got
                if got < wanted:
                    return position
            return position
        there = position  # up to the block in which the decoder fails
    return there


@contextlib.contextmanager
def _opened_raw(path: str | os.PathLike, name: str) -> Iterator[BinaryIO]:
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{name}: is a folder; {EXPECTED}")
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device would block
            raise InputError(f"{name}: is not a regular file; {EXPECTED}")
        file = open(path, "rb")  # noqa: SIM115
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{name}: does not exist; {EXPECTED}") from error
    except PermissionError as error:
        raise InputError(f"{name}: permission denied; expected a file that can be read") from error
    except OSError as error:
        raise InputError(f"{name}: cannot be opened: {error.strerror}; {EXPECTED}") from error
    except ValueError as error:  # a zero byte
        raise InputError(f"{name}: is not a possible file name; {EXPECTED}") from error
    with file:
        if status.st_size == 0:
            raise InputError(f"{name}: is empty (0 bytes); {EXPECTED}")
        yield file


def _why_unknown(suffix: str) -> str:
    if suffix in SUFFIXES:
        return f"is not readable as sound (no known format); {EXPECTED}"
    if suffix in UNREAD_SUFFIXES:
        convert = f"as 'ffmpeg -i in{suffix} out.flac' makes"
        return f"{suffix} files are not read; {EXPECTED}, {convert}"
    return f"has the suffix '{suffix}'; {EXPECTED}"


def _check_header(
    info: AudioInfo,
    file: soundfile.SoundFile,
    layout: containers.ChunkLayout | None,
    name: str,
) -> None:
    if info.frames <= 0:
        raise InputError(f"{name}: holds no sample; expected a recording")
    if not MIN_RATE <= info.sample_rate <= MAX_RATE:
        raise InputError(
            f"{name}: its header gives {info.sample_rate} Hz; expected a sample rate from "
            f"{MIN_RATE} to {MAX_RATE} Hz"
        )
    if info.frames >= _UNKNOWN_FRAMES:
        raise InputError(
            f"{name}: its header does not give its length (written to a pipe?); expected a "
            "file with a length, as re-encoding it makes"
        )
    width = _SAMPLE_BYTES.get(file.subtype)
    if width and layout and layout.bits is not None:
        frame = width * info.channels
        if layout.bits < 8 or layout.frame != frame:
            raise InputError(
                f"{name}: its header contradicts itself: {layout.bits} bits, {info.channels} "
                f"channels and {layout.frame} bytes a frame; expected whole bytes that agree"
            )


def _mpeg_frames(counted: int, reported: int, name: str) -> int:
    """Of a file without a length header; `reported` is libsndfile's guess."""
    if counted > reported + 2 * 1152:  # more than the rounding of a constant bit rate
        raise InputError(
            f"{name}: is an MP3 of variable bit rate without a length header, of which libsndfile "
            f"reads {reported} of {counted} samples; expected a length header, or WAV or FLAC"
        )
    return min(counted, reported)


def _end_is_there(file: _SoundFile, frames: int) -> bool:
    """FLAC and MP3 files state their length at the start: see whether their end is there."""
    compressed = file.format == "FLAC" or file.subtype.startswith(("MPEG", "ALAC"))
    if not compressed or frames < file.frames:  # <: counted, hence there
        return True
    last = min(frames, 64)
    try:
        with _silenced_for(file):
            file.seek(frames - last)
            whole = len(file.read(last)) == last
            file.seek(0)
    except Exception:  # whatever a decoder raises is the file's fault
        return False
    return whole


def check_samples(waveform: np.ndarray, name: str, loudest: float = LOUDEST) -> None:
    """Raises InputError if samples are not finite, or beyond `loudest`."""
    peak = max(np.max(waveform, initial=0.0), -np.min(waveform, initial=0.0))  # NaN if one is
    if not np.isfinite(peak):
        raise InputError(f"{name}: holds NaN or infinity; expected finite samples")
    if peak > loudest:
        raise InputError(
            f"{name}: holds samples of {peak:.3g}; expected full scale at 1, and nothing beyond "
            f"{loudest:g} (is it damaged, or are these integers stored as floats?)"
        )


def to_mono(frames: np.ndarray) -> np.ndarray:
    """[frames, channels] -> [frames], the mean of the channels."""
    return frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1, dtype=np.float32)


def for_libsndfile(path: str | os.PathLike) -> str | bytes:
    """The path as soundfile takes it: as bytes where names are bytes, since it refuses a str that
    is not valid UTF-8."""
    return os.fsencode(path) if os.name == "posix" else os.fspath(path)


def _silenced_for(file: soundfile.SoundFile) -> contextlib.AbstractContextManager:
    return silenced() if file.subtype.startswith("MPEG") else contextlib.nullcontext()


def libsndfile_reason(error: Exception) -> str:
    """What an error of soundfile says, on one line without a full stop."""
    text = " ".join(str(getattr(error, "error_string", error)).split())
    if not text or "does not exist" in text:  # what libsndfile says of an MP3 that is none
        return "no known format"
    return text.removeprefix("Error : ").rstrip(".")
