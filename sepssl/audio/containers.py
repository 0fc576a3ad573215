"""What the container of a sound file promises, where libsndfile does not report it.

libsndfile opens a cut WAV, W64, CAF, AU, AIFF, NIST or Ogg file without a word and returns what is
left, misreads two kinds of WAV file that are common in the field, and guesses the length of an MP3
file that has no length header. The functions here read the few bytes that settle it. They take
nothing that a file claims for granted: at most a few kB are read at a time, and every loop ends.
"""

import dataclasses
import io
import re
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

# "Size not known yet": what a writer leaves when it cannot seek back. 0 and 2^32-1 (ffmpeg),
# 0x7ffff000 less a rounding to whole frames (sox, espeak-ng), 2^31 (arecord).
_PLACEHOLDER_SIZES = (range(0, 1), range(0x7FFFE000, 0x80000001), range(0xFFFFE000, 2**32))
_AIFF_PLACEHOLDER_SIZES = (range(0, 9), range(0x7F000000, 0x80000001), range(0xFFFFE000, 2**32))
_CHUNKS = 1000  # no recording has more; a file of zeros would be one chunk after the other
_FORMAT_BYTES = 4096  # more than any `fmt ` chunk has
_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # of the GUIDs of its chunks

_MP3_BIT_RATES = {  # kbit/s by (MPEG-1, layer) and index; index 0 ("free format") is not handled
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MP3_SAMPLE_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


@dataclasses.dataclass(frozen=True)
class Found:
    """What a file holds, by its bytes: its suffix may lie.

    Attributes:
        kind: "wav", "w64", "aiff", "caf", "au", "nist", "ogg", "flac", "mpeg", or "other".
        file: from the first byte of the container on.
        plain: whether libsndfile finds that first byte by itself.
    """

    kind: str
    file: BinaryIO
    plain: bool


def find_container(file: BinaryIO, maybe_mpeg: bool) -> Found:
    """Looks at the first bytes of a file, behind ID3 tags if there are any.

    libsndfile skips ID3 tags too. But the sizes and positions in a container other than MPEG do
    not count them, and of what may follow a tag libsndfile tries formats that it can hang in.

    Args:
        file: the file.
        maybe_mpeg: whether to look for MPEG audio beyond the first bytes, which may be a rest of
            something else. It has no magic number, so that only its frames tell.
    """
    start = tag_end = _after_id3(file)
    kind = _kind(_read_at(file, start, 40))
    if kind == "other" and (maybe_mpeg or tag_end):
        frame = _first_mpeg_frame(file, start)
        if frame is None:
            return Found("other", file, True)
        start, kind = frame, "mpeg"
    plain = start == 0 or (kind == "mpeg" and start == tag_end)
    if start:
        file = io.BufferedReader(Spliced(b"", file, start, _length(file) - start))
    return Found(kind, file, plain)


def _kind(head: bytes) -> str:
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if head[:4] == b"riff" and head[24:28] == b"wave" and head[28:40] == _W64_TAIL:
        return "w64"
    if head[:7] == b"NIST_1A":
        return "nist"
    magic = {b"OggS": "ogg", b"fLaC": "flac", b"caff": "caf", b".snd": "au", b"dns.": "au"}
    if head[:4] in magic:
        return magic[head[:4]]
    return "mpeg" if _is_mpeg_header(head) else "other"


def _first_mpeg_frame(file: BinaryIO, start: int) -> int | None:
    """Where the first two MPEG frames are that follow each other, within 64 kB."""
    data = _read_at(file, start, 2**16)
    for match in re.finditer(rb"\xff(?=[\xe2-\xff])", data):
        at = match.start()
        frame = _mpeg_frame(data[at : at + 4])
        if frame and _mpeg_frame(data[at + frame[0] : at + frame[0] + 4]):
            return start + at
    return None


def _after_id3(file: BinaryIO) -> int:
    position = 0
    for _ in range(_CHUNKS):
        tag = _read_at(file, position, 10)
        if tag[:3] != b"ID3" or len(tag) < 10:
            break
        size = 0
        for byte in tag[6:]:  # of seven bits each
            size = size << 7 | byte & 127
        position += 10 + size
    return position


@dataclasses.dataclass(frozen=True)
class ChunkLayout:
    """Where the sound of a file lies; all sizes in bytes.

    Attributes:
        data_start: position of the first sample.
        promised: size of the sound by its header, or None if the writer did not know it.
        available: bytes from `data_start` to the end of the file.
        frame: bytes of one sample in all channels (at least 1).
        bits: of one sample, as the header has it; None where the container does not say.
        format_chunk: the body of the `fmt ` chunk (WAV and W64 only).
        misread: libsndfile would not find this sound (WAV only).
    """

    data_start: int
    promised: int | None
    available: int
    frame: int
    bits: int | None = None
    format_chunk: bytes = b""
    misread: bool = False

    @property
    def holds_mpeg(self) -> bool:
        """Whether the sound is MPEG audio, of the format tag 0x55."""
        return self.format_chunk[:2] in (b"\x55\0", b"\0\x55")

    @property
    def missing(self) -> int:
        """Bytes promised and not there; less than one frame counts as none.

        But any byte counts where a frame is a block of many samples, as in ADPCM.
        """
        missing = (self.promised or 0) - self.available
        return missing if missing >= (self.frame if self.bits else 1) else 0


def layout(file: BinaryIO, kind: str) -> ChunkLayout | None:
    """Finds the sound in a file of this kind, as `find_container` names it.

    Returns:
        None if it is not found, or for a container that needs no such check.
    """
    find = {
        "wav": _wav_layout,
        "w64": _w64_layout,
        "aiff": _aiff_layout,
        "caf": _caf_layout,
        "au": _au_layout,
        "nist": _nist_layout,
    }.get(kind)
    return find(file) if find else None


def _wav_layout(file: BinaryIO) -> ChunkLayout | None:
    order = ">" if _read_at(file, 0, 4) == b"RIFX" else "<"
    long_size, format_chunk, unpadded = None, b"", False
    for name, start, size, was_unpadded in _chunks(file, order):
        unpadded |= was_unpadded
        if name == b"ds64":  # RF64: 64-bit sizes (RIFF, data), ahead of the 32-bit ones
            long_size = struct.unpack("<QQ", file.read(16).ljust(16, b"\0"))[1]
        elif name == b"fmt ":
            format_chunk = file.read(min(size, _FORMAT_BYTES))
        elif name == b"data":
            available = _length(file) - start
            unknown = any(size in sizes for sizes in _PLACEHOLDER_SIZES)
            if size == 0 and (available == 0 or _is_chunk(file, start, order)):
                unknown = False  # nothing, or only further chunks: really an empty recording
            if unknown:
                promised = long_size if long_size and long_size < 2**63 else None
            else:
                promised = size
            frame, bits = _frame_and_bits(format_chunk, order)
            misread = order == "<" and (unpadded or (size == 0 and unknown))
            return ChunkLayout(start, promised, available, frame, bits, format_chunk, misread)
    return None


def _w64_layout(file: BinaryIO) -> ChunkLayout | None:
    position, format_chunk, end = 40, b"", _length(file)
    for _ in range(_CHUNKS):
        header = _read_at(file, position, 24)
        if len(header) < 24:
            return None
        size = struct.unpack("<Q", header[16:])[0]  # of header and body
        if header[:4] == b"fmt ":
            format_chunk = file.read(min(max(size - 24, 0), _FORMAT_BYTES))
        elif header[:4] == b"data":
            start = position + 24
            promised = size - 24 if 24 <= size < 2**63 else None
            frame, bits = _frame_and_bits(format_chunk, "<")
            return ChunkLayout(start, promised, end - start, frame, bits, format_chunk)
        position += max(size + 7 & ~7, 24)
    return None


def _frame_and_bits(format_chunk: bytes, order: str) -> tuple[int, int | None]:
    """From the body of a `fmt ` chunk; bits only of plain PCM and floats."""
    if len(format_chunk) < 16:
        return 1, None
    tag, _, _, _, frame, bits = struct.unpack(order + "HHIIHH", format_chunk[:16])
    return max(frame, 1), bits if tag in (1, 3, 0xFFFE) else None


def _aiff_layout(file: BinaryIO) -> ChunkLayout | None:
    frame, bits = 1, None
    for name, start, size, _ in _chunks(file, ">"):
        if name == b"COMM":
            channels, _, bits = struct.unpack(">HIH", file.read(8).ljust(8, b"\0"))
            frame = max(channels * ((bits + 7) // 8), 1)
        elif name == b"SSND":  # an offset and a block size, 4 bytes each, then the sound
            available = _length(file) - (start + 8)
            unknown = any(size in sizes for sizes in _AIFF_PLACEHOLDER_SIZES)
            return ChunkLayout(start + 8, None if unknown else size - 8, available, frame, bits)
    return None


def _caf_layout(file: BinaryIO) -> ChunkLayout | None:
    position, frame, end = 8, 1, _length(file)
    for _ in range(_CHUNKS):
        header = _read_at(file, position, 12)
        if len(header) < 12:
            return None
        name, size = header[:4], struct.unpack(">q", header[4:])[0]
        if name == b"desc":  # sample rate, name, flags, bytes in a packet, ...
            frame = max(struct.unpack(">I", file.read(20).ljust(20, b"\0")[16:])[0], 1)
        elif name == b"data":  # an edit count of 4 bytes, then the sound
            start = position + 16
            return ChunkLayout(start, size - 4 if size >= 4 else None, end - start, frame)
        position += 12 + max(size, 0)
    return None


def _au_layout(file: BinaryIO) -> ChunkLayout | None:
    header = _read_at(file, 0, 24)
    if len(header) < 24:
        return None
    order = ">" if header[:4] == b".snd" else "<"
    start, size = struct.unpack(order + "II", header[4:12])
    return ChunkLayout(start, None if size == 2**32 - 1 else size, _length(file) - start, 1)


def _nist_layout(file: BinaryIO) -> ChunkLayout | None:
    header = _read_at(file, 0, 1024)
    fields = dict(re.findall(rb"(?m)^(\w+) -(?:i|s\d+) (\d{1,15})\s*$", header))
    start = re.match(rb"NIST_1A\n\s*(\d{1,9})\n", header)
    count, channels, width = (
        int(fields.get(name, 0)) for name in (b"sample_count", b"channel_count", b"sample_n_bytes")
    )
    if not (start and count and channels and width):
        return None
    frame = channels * width
    return ChunkLayout(int(start[1]), count * frame, _length(file) - int(start[1]), frame)


class Spliced(io.RawIOBase):
    """A part of a file behind other first bytes, as a file. Nothing is copied.

    Args:
        head: what comes first.
        file: where the rest is read.
        start, size: which bytes of `file`.
    """

    def __init__(self, head: bytes, file: BinaryIO, start: int, size: int):
        self._head, self._file, self._start = head, file, start
        self._length = len(head) + size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(self._length - self._position, 0))
        if self._position < len(self._head):
            data = self._head[self._position : self._position + wanted]
        else:
            place = self._start + self._position - len(self._head)
            data = _read_at(self._file, place, wanted)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def as_libsndfile_reads_it(file: BinaryIO, kind: str, found: ChunkLayout) -> Spliced | None:
    """A file that libsndfile would misread, in a form that it reads right; None for all others.

    These are WAV files with a chunk of odd size and no padding byte after it, or whose writer left
    0 as the size of the sound: here with a plain header. AU and NIST files that go on after the
    sound, which libsndfile takes for sound in some encodings, and AIFF files that go on for long,
    of which it would read every byte as a chunk: here without the rest.
    """
    if found.misread:
        return _repaired_wav(file, found)
    if found.promised is None:
        return None
    rest = found.available - found.promised
    if (kind in ("au", "nist") and rest > 0) or (kind == "aiff" and found.bits and rest > 2**20):
        return Spliced(b"", file, 0, found.data_start + found.promised)
    return None


def _repaired_wav(file: BinaryIO, found: ChunkLayout) -> Spliced:
    size = found.available if found.promised is None else min(found.available, found.promised)
    size -= size % found.frame
    shown = min(size, 2**32 - 1)  # libsndfile takes all there is for 2^32-1
    body = b"WAVE" + _chunk_head(b"fmt ", len(found.format_chunk)) + found.format_chunk
    body += b"\0" * (len(body) % 2) + _chunk_head(b"data", shown)
    head = _chunk_head(b"RIFF", min(len(body) + size, 2**32 - 1)) + body
    return Spliced(head, file, found.data_start, size)


def ogg_fault(file: BinaryIO) -> str | None:
    """What is wrong with the last page of an Ogg file, or None.

    A whole stream ends with a page that carries the end-of-stream flag. A file of several streams
    (a chain, as web radio makes) is a fault too: libsndfile returns the first one only.
    """
    serial = _read_at(file, 14, 4)
    length = _length(file)
    tail = _read_at(file, max(0, length - 2 * 65307), 2 * 65307)  # 65307 bytes: the longest page
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


def mpeg_samples_without_header(file: BinaryIO) -> int | None:
    """Counts the samples of an MPEG audio file that has no length header (Xing, Info or VBRI).

    Without that header libsndfile takes the bit rate of the first frame for the whole file, so the
    length it reports is wrong by a little (constant bit rate) or by any factor (variable).

    Returns:
        Samples per channel, counted frame by frame; None if the file has a length header, or does
        not look like MPEG audio.
    """
    head = _read_at(file, 0, 192)
    if _mpeg_frame(head) is None:
        return None
    header = re.search(rb"(?:Xing|Info)(....)|VBRI", head, re.DOTALL)
    if header and (header[1] is None or header[1][3] & 1):  # bit 0: "the frame count follows"
        return None
    samples, position, end = 0, 0, _length(file)
    while (frame := _mpeg_frame(_read_at(file, position, 4))) and position + frame[0] <= end:
        position += frame[0]
        samples += frame[1]
    return samples


def _mpeg_frame(header: bytes) -> tuple[int, int] | None:
    """(bytes, samples) of the MPEG audio frame that starts with these 4 bytes, or None."""
    if not _is_mpeg_header(header) or header[2] >> 4 == 0:  # 0: a bit rate that is not stated
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bit_rate, sample_rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    bits = 1000 * _MP3_BIT_RATES[version == 3, layer][bit_rate]
    rate = _MP3_SAMPLE_RATES[version][sample_rate]
    if layer == 1:
        return 4 * (12 * bits // rate + padding), 384
    samples = 576 if layer == 3 and version != 3 else 1152
    return samples // 8 * bits // rate + padding, samples


def _is_mpeg_header(header: bytes) -> bool:
    return (
        len(header) >= 4
        and header[0] == 0xFF
        and header[1] & 0xE0 == 0xE0
        and header[1] >> 3 & 3 != 1  # version
        and header[1] >> 1 & 3 != 0  # layer
        and header[2] >> 4 != 15  # bit rate
        and header[2] >> 2 & 3 != 3  # sample rate
    )


def _chunks(file: BinaryIO, order: str) -> Iterator[tuple[bytes, int, int, bool]]:
    """Yields (name, start of the body, size, unpadded), with `file` at the start of the body."""
    position, unpadded = 12, False
    for _ in range(_CHUNKS):
        header = _read_at(file, position, 8)
        if len(header) < 8:
            return
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
    return position + 8 + size <= _length(file)


def _chunk_head(name: bytes, size: int) -> bytes:
    return name + struct.pack("<I", size)


def _length(file: BinaryIO) -> int:
    return file.seek(0, io.SEEK_END)


def _read_at(file: BinaryIO, position: int, size: int) -> bytes:
    # Positions come from claimed sizes: beyond what a file can have there is nothing.
    if position >= 2**63:
        return b""
    file.seek(position)
    return file.read(size)
