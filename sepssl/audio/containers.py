"""What the container of a sound file promises, where libsndfile does not tell.

libsndfile opens a cut WAV, AIFF or Ogg file without a word and returns what is left, misreads two
kinds of WAV file that are common in the field, and guesses the length of an MP3 file that has no
length header. The functions here read the few bytes that settle it.
"""

import dataclasses
import io
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

# "Size not known yet": what a writer leaves when it cannot seek back. 0 and 2^32-1 (ffmpeg),
# 0x7ffff000 less a rounding to whole frames (sox, espeak-ng), 2^31 (arecord).
_PLACEHOLDER_SIZES = (range(0, 1), range(0x7FFFE000, 0x80000001), range(0xFFFFE000, 2**32))
_AIFF_PLACEHOLDER_SIZES = (range(0, 9), range(0x7F000000, 0x80000001), range(0xFFFFE000, 2**32))

_MP3_BIT_RATES = {  # kbit/s by index, layer III; index 0 ("free format") is not handled.
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MP3_SAMPLE_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def container(head: bytes) -> str:
    """Names the container by the first bytes of a file: its suffix may lie.

    Args:
        head: the first 12 bytes or more.

    Returns:
        "wav", "aiff", "ogg", "flac", or "other" (MP3 among them: it has no magic number).
    """
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    return {b"OggS": "ogg", b"fLaC": "flac"}.get(head[:4], "other")


@dataclasses.dataclass(frozen=True)
class ChunkLayout:
    """Where the sound of a WAV or AIFF file lies; all sizes in bytes.

    Attributes:
        data_start: position of the first sample.
        promised: size of the sound by its header, or None if the writer did not know it.
        available: bytes from `data_start` to the end of the file.
        frame: bytes of one sample in all channels (at least 1).
        format_chunk: the body of the `fmt ` chunk (WAV only).
        misread: libsndfile would not read this file as it is, `repaired_wav` helps (WAV only).
    """

    data_start: int
    promised: int | None
    available: int
    frame: int
    format_chunk: bytes = b""
    misread: bool = False

    @property
    def missing(self) -> int:
        """Bytes promised and not there; less than one frame counts as none."""
        missing = (self.promised or 0) - self.available
        return missing if missing >= self.frame else 0


def wav_layout(file: BinaryIO) -> ChunkLayout | None:
    """Finds the sound in a WAV, RF64 or BW64 file; None if there is no data chunk."""
    order = ">" if _read_at(file, 0, 4) == b"RIFX" else "<"
    long_size, format_chunk, unpadded = None, b"", False
    for name, start, size, was_unpadded in _chunks(file, order):
        unpadded |= was_unpadded
        if name == b"ds64":  # RF64: 64-bit sizes (RIFF, data), ahead of the 32-bit ones
            long_size = struct.unpack("<QQ", file.read(16).ljust(16, b"\0"))[1]
        elif name == b"fmt ":
            format_chunk = file.read(size)
        elif name == b"data":
            available = file.seek(0, io.SEEK_END) - start
            unknown = any(size in sizes for sizes in _PLACEHOLDER_SIZES)
            if size == 0 and (available == 0 or _is_chunk(file, start, order)):
                unknown = False  # nothing, or only further chunks: really an empty recording
            if unknown:
                promised = long_size if long_size and long_size < 2**63 else None
            else:
                promised = size
            frame = struct.unpack(order + "H", format_chunk[12:14].ljust(2, b"\1"))[0]
            misread = order == "<" and (unpadded or (size == 0 and unknown))
            return ChunkLayout(start, promised, available, max(frame, 1), format_chunk, misread)
    return None


def repaired_wav(file: BinaryIO, layout: ChunkLayout) -> io.BytesIO:
    """The sound of a WAV file behind a plain header, for files that libsndfile misreads.

    These are files with a chunk of odd size and no padding byte after it, and files whose writer
    left 0 as the size of the sound.
    """
    file.seek(layout.data_start)
    sound = file.read(layout.available if layout.promised is None else layout.promised)
    sound = sound[: len(sound) - len(sound) % layout.frame]
    body = b"WAVE" + _chunk(b"fmt ", layout.format_chunk) + _chunk(b"data", sound)
    return io.BytesIO(_chunk(b"RIFF", body))


def aiff_layout(file: BinaryIO) -> ChunkLayout | None:
    """Finds the sound in an AIFF or AIFF-C file; None if there is no sound chunk."""
    frame = 1
    for name, start, size, _ in _chunks(file, ">"):
        if name == b"COMM":
            channels, _, bits = struct.unpack(">hIh", file.read(8).ljust(8, b"\0"))
            frame = max(channels * ((bits + 7) // 8), 1)
        elif name == b"SSND":  # an offset and a block size, 4 bytes each, then the sound
            available = file.seek(0, io.SEEK_END) - (start + 8)
            unknown = any(size in sizes for sizes in _AIFF_PLACEHOLDER_SIZES)
            return ChunkLayout(start + 8, None if unknown else size - 8, available, frame)
    return None


def ogg_fault(file: BinaryIO) -> str | None:
    """What is wrong with the last page of an Ogg file, or None.

    A whole stream ends with a page that carries the end-of-stream flag. A file of several streams
    (a chain, as web radio makes) is a fault too: libsndfile returns the first one only.
    """
    serial = _read_at(file, 14, 4)
    length = file.seek(0, io.SEEK_END)
    tail = _read_at(file, max(0, length - 2 * 65307), -1)  # 65307 bytes: the longest page
    position = tail.rfind(b"OggS")
    while position >= 0:
        page = tail[position:]
        if len(page) >= 27 and page[4] == 0 and len(page) >= 27 + page[26]:
            break
        position = tail.rfind(b"OggS", 0, position)  # "OggS" inside the sound, or a cut header
    if position < 0:
        return "truncated: no Ogg page near its end"
    if len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        return "truncated: its last Ogg page is cut"
    if page[14:18] != serial:
        return "several Ogg streams in one file"
    if not page[5] & 4:
        return "truncated: its last Ogg page lacks the end-of-stream flag"
    return None


def mp3_samples_without_header(file: BinaryIO) -> int | None:
    """Counts the samples of an MP3 file that has no length header (Xing, Info or VBRI).

    Without that header libsndfile takes the bit rate of the first frame for the whole file, so the
    length it states is wrong by a little (constant bit rate) or by any factor (variable).

    Returns:
        Samples per channel, counted frame by frame; None if the file has a length header, or does
        not look like MPEG layer III.
    """
    start = 0
    while (tag := _read_at(file, start, 10))[:3] == b"ID3" and len(tag) == 10:
        start += 10 + (tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9])  # bytes of seven bits
    head = _read_at(file, start, 192)
    if _mp3_frame(head, 0) is None:
        return None
    header = re.search(rb"(?:Xing|Info)(....)|VBRI", head, re.DOTALL)
    if header and (header[1] is None or header[1][3] & 1):  # bit 0: "the frame count follows"
        return None
    data = _read_at(file, start, -1)
    samples, position = 0, 0
    while (frame := _mp3_frame(data, position)) and position + frame[0] <= len(data):
        position += frame[0]
        samples += frame[1]
    return samples


def _mp3_frame(data: bytes, position: int) -> tuple[int, int] | None:
    """(bytes, samples) of the layer III frame at `position`; None if there is none."""
    header = data[position : position + 4]
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    version, bit_rate, sample_rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or bit_rate in (0, 15) or sample_rate == 3:
        return None
    samples = 1152 if version == 3 else 576
    kbits = _MP3_BIT_RATES[1 if version == 3 else 2][bit_rate]
    rate = _MP3_SAMPLE_RATES[version][sample_rate]
    return samples // 8 * kbits * 1000 // rate + (header[2] >> 1 & 1), samples


def _chunks(file: BinaryIO, order: str) -> Iterator[tuple[bytes, int, int, bool]]:
    """Yields (name, start of the body, size, unpadded), with `file` at the start of the body."""
    position, unpadded = 12, False
    while len(header := _read_at(file, position, 8)) == 8:
        name, size = header[:4], struct.unpack(order + "I", header[4:])[0]
        yield name, position + 8, size, unpadded
        position += 8 + size
        # A chunk of odd size is followed by a padding byte, which some writers forget.
        unpadded = size % 2 == 1 and _is_name(file, position)
        position += size % 2 and not unpadded


def _is_name(file: BinaryIO, position: int) -> bool:
    name = _read_at(file, position, 4)
    return len(name) == 4 and name[0] != 32 and all(32 <= byte < 127 for byte in name)


def _is_chunk(file: BinaryIO, position: int, order: str) -> bool:
    if not _is_name(file, position):
        return False
    size = struct.unpack(order + "I", file.read(4).ljust(4, b"\xff"))[0]
    return position + 8 + size <= file.seek(0, io.SEEK_END)


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _read_at(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)
