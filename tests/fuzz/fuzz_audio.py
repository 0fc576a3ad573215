"""Damaged sound files, thousands of them, through the reader of sound files.

    python tests/fuzz/fuzz_audio.py --count=20000 --seed=0

Small good files of every format and encoding that libsndfile writes are damaged: bits flipped,
blocks inserted, deleted and doubled, header fields set to what hurts, ends cut off, two formats
spliced, NaN and huge floats written over samples. A folder of files that are odd in other ways (a
fifo, links in a loop, names that are no UTF-8, nested chunks, 1024 channels, ...) comes first. A
watched process reads each: `audio_info`, `read_audio` whole, resampled and in part, `read_blocks`,
and at last the lister of the folder. What must hold:

- no signal, no hang (10 s for a file), at most 1 GiB of memory more than at the start;
- no exception but `InputError`, of one printable line that names the file;
- every sample finite, and as many as `audio_info` says;
- nothing on the terminal;
- files in = files the lister takes + files it lists as left out.

A file that breaks one of these is kept in the folder `--keep`, with a line in `failures.txt` there.
The same seed makes the same files. The exit status is 1 if a file was kept.
"""

import argparse
import collections
import contextlib
import functools
import os
import pathlib
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import warnings

import numpy as np
import soundfile

SECONDS_PER_FILE = 10
SECONDS_PER_FOLDER = 120
MEMORY = 2**30  # bytes above what a worker has at its start
BATCH = 500  # files in a folder
LISTER = "(lister)"

SUFFIX_OF = {"WAVEX": "wav", "NIST": "sph", "MP3": "mp3", "IRCAM": "sf", "MPC2K": "mpc"}
RATES = {"OPUS": 48000, "GSM610": 8000}


# --- What is damaged ------------------------------------------------------------------------------


@functools.cache
def good_files() -> list[tuple[str, bytes]]:
    """(suffix, contents) of a small file for every container, encoding and 1 or 2 channels."""
    rng = np.random.default_rng(0)
    files = []
    for file_format in soundfile.available_formats():
        for subtype in soundfile.available_subtypes(file_format):
            for channels in (1, 2):
                rate = RATES.get(subtype, 16000)
                t = np.arange(rate // 5) / rate
                sound = 0.3 * np.sin(2 * np.pi * 440 * t)[:, None] + rng.normal(
                    0, 0.05, (len(t), channels)
                )
                contents = _encoded(sound, rate, file_format, subtype)
                if contents:
                    files.append((SUFFIX_OF.get(file_format, file_format.lower()), contents))
    files.append(("mp3", _without_length_header(dict(files)["mp3"])))
    files.append(("mp2", (b"\xff\xfd\xa4\xc4" + bytes(572)) * 9))  # silence
    return files


def _encoded(sound: np.ndarray, rate: int, file_format: str, subtype: str) -> bytes | None:
    """None where libsndfile does not write such a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "a")
        try:
            soundfile.write(path, sound, rate, subtype, format=file_format)
            soundfile.info(path)
        except (soundfile.SoundFileError, ValueError, TypeError):
            return None
        return path.read_bytes()


def _without_length_header(mp3: bytes) -> bytes:
    return mp3[mp3.index(mp3[:2], 4) :]


# --- Ways to damage it ----------------------------------------------------------------------------


def damaged(seed: int, index: int, only: str = "") -> tuple[str, bytes]:
    """(suffix with its dot or none, contents) of file `index`; of one suffix `only`, if given."""
    rng = np.random.default_rng([seed, index])
    files = [file for file in good_files() if only in ("", file[0])]
    suffix, contents = files[rng.integers(len(files))]
    data = bytearray(contents)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        data = bytearray(WAYS[rng.integers(len(WAYS))](rng, data))
    if data[:4] == b"OggS" and rng.random() < 0.7:
        _mend_ogg_checksums(data)  # or libogg drops the page, and nothing more is tried
    other = rng.random()
    if other < 0.1:
        suffix = files[rng.integers(len(files))][0]
    return ("" if other > 0.97 else f".{suffix}"), bytes(data)


def _place(rng, data) -> int:
    """Anywhere, half of the time near the start, where the headers are."""
    end = len(data) if rng.random() < 0.5 else min(len(data), 160)
    return int(rng.integers(end)) if end else 0


def _flip_bits(rng, data):
    for _ in range(rng.integers(1, 20)):
        if data:
            data[_place(rng, data)] ^= 1 << rng.integers(8)
    return data


def _insert(rng, data):
    at, size = _place(rng, data), int(rng.choice([1, 2, 3, 7, 8, 100, 3000]))
    block = [rng.bytes(size), bytes(size), b"\xff" * size][rng.integers(3)]
    return data[:at] + block + data[at:]


def _delete(rng, data):
    at = _place(rng, data)
    return data[:at] + data[at + int(rng.choice([1, 2, 3, 8, 100, 2000])) :]


def _double(rng, data):
    at, size = _place(rng, data), int(rng.choice([4, 8, 64, 1000]))
    return data[: at + size] + data[at : at + size] * int(rng.integers(1, 5)) + data[at + size :]


def _field(rng, data):
    """Header-field arithmetic: 1, 2, 4 or 8 bytes, either byte order."""
    for _ in range(rng.integers(1, 4)):
        size = int(rng.choice([1, 2, 4, 8]))
        at = int(rng.integers(min(160, max(len(data) - size, 1))))
        order = ["big", "little"][rng.integers(2)]
        value, top = int.from_bytes(data[at : at + size], order), 1 << 8 * size
        hurts = [0, 1, 2, 7, 255, top - 1, top // 2, top // 2 - 1, top - 2, 1000, 65535, 2**24]
        arithmetic = [value + 1, value - 1, 2 * value, value // 2, -value, value * 1000, ~value]
        new = hurts + arithmetic
        data[at : at + size] = (new[rng.integers(len(new))] % top).to_bytes(size, order)
    return data


def _cut(rng, data):
    return data[: _place(rng, data) + 1]


def _splice(rng, data):
    files = good_files()
    tail = files[rng.integers(len(files))][1]
    return data[: _place(rng, data)] + tail[_place(rng, tail) :]


def _numbers(rng, data):
    """Floats and integers that hurt, over samples."""
    values = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-40, 1001.0]
    for _ in range(rng.integers(1, 10)):
        value = values[rng.integers(len(values))]
        form = ["<f", ">f", "<d", ">d"][rng.integers(4)]
        at = int(rng.integers(len(data) + 1)) // 4 * 4
        data[at : at + struct.calcsize(form)] = struct.pack(form, value)
    return data


def _tag(rng, data):
    """An ID3 tag whose length may be a lie."""
    body = b"COMM" + struct.pack(">IH", int(rng.choice([4, 100, 2**31])), 0) + rng.bytes(40)
    size = int(rng.choice([len(body), 0, 10, 2**27]))
    length = bytes(size >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3" + bytes([int(rng.integers(2, 5)), 0, 0]) + length + body + data


WAYS = [
    *(_flip_bits, _flip_bits, _insert, _delete, _double),
    *(_field, _field, _field, _cut, _splice, _numbers, _tag),
]


@functools.cache
def _ogg_table() -> list[int]:
    table = []
    for byte in range(256):
        remainder = byte << 24
        for _ in range(8):
            remainder = (remainder << 1 ^ (0x04C11DB7 if remainder >> 31 else 0)) & 0xFFFFFFFF
        table.append(remainder)
    return table


def _mend_ogg_checksums(data: bytearray) -> None:
    table, position = _ogg_table(), data.find(b"OggS")
    while position >= 0 and position + 27 <= len(data):
        segments = data[position + 26]
        end = position + 27 + segments + sum(data[position + 27 : position + 27 + segments])
        data[position + 22 : position + 26] = bytes(4)
        checksum = 0
        for byte in data[position:end]:
            checksum = (checksum << 8 ^ table[checksum >> 24 ^ byte]) & 0xFFFFFFFF
        data[position + 22 : position + 26] = struct.pack("<I", checksum)
        position = data.find(b"OggS", position + 4)


# --- Files that are odd in other ways -------------------------------------------------------------


def make_odd_files(folder: pathlib.Path) -> None:
    """Fills a folder with files that nobody makes on purpose."""
    good = dict(good_files())
    wav = good["wav"]

    def write(name: str | bytes, contents: bytes) -> pathlib.Path:
        path = pathlib.Path(os.fsdecode(os.path.join(os.fsencode(folder), os.fsencode(name))))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)
        return path

    for suffix, contents in good.items():
        write(f"good.{suffix}", contents)
        write(f"half.{suffix}", contents[: len(contents) // 2])
        write(f"head.{suffix}", contents[:16])
        write(f"byte.{suffix}", contents[:1])
        write(f"empty.{suffix}", b"")
        write(f"text.{suffix}", b"no sound at all, only text\n" * 50)
        write(f"ones.{suffix}", b"\xff" * 5000)
        write(f"tail.{suffix}", contents + b"\0" * 5000)
        write(f"twice.{suffix}", contents + contents)
        write(f"tagged.{suffix}", b"ID3\4\0\0\0\0\0\x10" + bytes(16) + contents)
        write(f"is-wav.{suffix}", wav)
        with open(folder / f"zeros.{suffix}", "wb") as file:
            file.truncate(2**26)
        with open(folder / f"long.{suffix}", "wb") as file:
            file.write(contents)
            file.truncate(2**26)
    write("no-suffix", wav)
    write("dot.", wav)
    write("UPPER.WAV", wav)
    write(".hidden.wav", wav)
    write("line\nbreak.wav", wav)
    write("escape \x1b[31m.wav", wav)
    write("tab\tand \u2028 and \u202e.wav", wav)
    write(b"latin-\xfc.wav", wav)
    write(b"latin-\xfc-half.wav", wav[:1000])
    write("n" * 251 + ".wav", wav)
    write("-flag.wav", wav)
    write("--help.wav", wav)
    write("%s%n.wav", wav)
    write("a/" * 60 + "deep.wav", wav)
    (folder / "folder.wav").mkdir()
    os.mkfifo(folder / "fifo.wav")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener, contextlib.chdir(folder):
        listener.bind("socket.wav")
    for name, target in [
        ("link.wav", "good.wav"),
        ("dangling.wav", "nowhere.wav"),
        ("self.wav", "self.wav"),
        ("ping.wav", "pong.wav"),
        ("pong.wav", "ping.wav"),
        ("zero.wav", "/dev/zero"),
        ("null.wav", "/dev/null"),
        ("memory.wav", "/proc/self/mem"),
        ("to-folder.wav", "folder.wav"),
        ("up", "."),
        ("a/loop", "../a"),
    ]:
        (folder / name).symlink_to(target)
    unreadable = write("unreadable.wav", wav)
    unreadable.chmod(0)

    pcm = (10000 * np.sin(np.arange(3000))).astype("<i2").tobytes()

    def riff(name: str, fmt: bytes, data: bytes = pcm, claim: int | None = None, before=b""):
        chunk = b"data" + struct.pack("<I", len(data) if claim is None else claim) + data
        body = b"WAVE" + before + b"fmt " + struct.pack("<I", len(fmt)) + fmt + chunk
        write(name, b"RIFF" + struct.pack("<I", len(body)) + body)

    def fmt(tag=1, channels=1, rate=16000, align=None, bits=16, more=b""):
        align = channels * bits // 8 if align is None else align
        return struct.pack("<HHIIHH", tag, channels, rate, 0, align & 0xFFFF, bits) + more

    for rate in (0, 1, 99, 999, 1000, 8000, 384000, 10_000_000, 2**31 - 1, 2**31, 2**32 - 1):
        riff(f"rate{rate}.wav", fmt(rate=rate))
    for channels in (0, 2, 3, 255, 256, 1000, 1024, 1025, 65535):
        riff(f"channels{channels}.wav", fmt(channels=channels), pcm * 12)
    for bits in (0, 1, 7, 8, 9, 12, 15, 17, 20, 24, 31, 32, 33, 48, 64, 65535):
        riff(f"bits{bits}.wav", fmt(bits=bits))
        riff(f"bits{bits}-align2.wav", fmt(bits=bits, align=2))
    for align in (0, 1, 3, 4, 65535):
        riff(f"align{align}.wav", fmt(align=align))
    for tag in (0, 2, 3, 6, 7, 0x11, 0x31, 0x45, 0x55, 0x64, 0xFFFE, 0xFFFF):
        riff(f"tag{tag}.wav", fmt(tag=tag))
        riff(f"tag{tag}-32.wav", fmt(tag=tag, bits=32))
        riff(f"tag{tag}-more.wav", fmt(tag=tag, bits=4, more=bytes(40)))
    for claim in (0, 1, 5999, 6001, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 2):
        riff(f"claim{claim}.wav", fmt(), claim=claim)
    nested = b""
    for _ in range(500):
        nested = b"LIST" + struct.pack("<I", len(nested) + 4) + b"adtl" + nested
    riff("nested.wav", fmt(), before=nested)
    riff("many-chunks.wav", fmt(), before=b"junk\0\0\0\0" * 5000)
    riff("odd-chunk.wav", fmt(), before=b"LIST\5\0\0\0INFOx")
    riff("huge-chunk.wav", fmt(), before=b"LIST\xff\xff\xff\x7fINFO")
    riff("no-data.wav", fmt(), b"")
    riff("two-formats.wav", fmt(), before=b"fmt \x10\0\0\0" + fmt(channels=9, bits=24))
    values = np.full(2000, 0.1, np.float32)
    for name, value in [
        *(("nan", np.nan), ("inf", np.inf), ("minus-inf", -np.inf), ("huge", 3e38)),
        *(("loud", 999.0), ("too-loud", 1001.0), ("denormal", 1e-42), ("integers", 32767.0)),
    ]:
        samples = values.copy()
        samples[7] = value
        riff(f"{name}.wav", fmt(tag=3, bits=32), samples.tobytes())
        riff(f"all-{name}.wav", fmt(tag=3, bits=32), np.full(2000, value, "f4").tobytes())
    riff("double-huge.wav", fmt(tag=3, bits=64), np.full(2000, 1e300).tobytes())
    ultrasound = 0.5 * np.sin(2 * np.pi * 60000 * np.arange(38400) / 384000)
    riff("ultrasound.wav", fmt(rate=384000), (32767 * ultrasound).astype("<i2").tobytes())
    for length in (2**16, 2**32, 2**36 - 1):  # of FLAC, in samples: what STREAMINFO can hold
        flac = bytearray(good["flac"])
        packed = int.from_bytes(flac[18:26], "big") >> 36 << 36 | length
        flac[18:26] = packed.to_bytes(8, "big")
        write(f"claims{length}.flac", bytes(flac))
    for granule in (2**20, 2**31, 2**40, 2**62, 2**63 - 1):
        ogg = bytearray(good["ogg"])
        page = ogg.rindex(b"OggS")
        ogg[page + 6 : page + 14] = struct.pack("<Q", granule)
        _mend_ogg_checksums(ogg)
        write(f"claims{granule}.ogg", bytes(ogg))
    write("chain.ogg", good["ogg"] + good["ogg"])
    write("junk.mp3", bytes(3000) + good["mp3"] + b"APETAGEX" + bytes(500))
    write("tags.mp3", (b"ID3\4\0\0\0\0\0\0" * 5000) + good["mp3"])
    write("is-m4a.mp3", b"\0\0\0\x20ftypM4A " + bytes(3000))
    for suffix in ("m4a", "wma", "webm", "aac", "wv", "ape"):
        write(f"unread.{suffix}", b"\0\0\0\x20ftypM4A " + bytes(3000))


# --- The process that reads -----------------------------------------------------------------------


def check_file(path: pathlib.Path) -> str:
    """Reads a file in every way; "read" or "refused", or what is wrong, after "! "."""
    from sepssl.audio.files import audio_info, read_audio, read_blocks
    from sepssl.errors import InputError

    def blocks():
        parts = list(read_blocks(path, allow_silence=True))
        return np.concatenate(parts)

    readings = [
        lambda: read_audio(path, None, allow_silence=True),
        lambda: read_audio(path, 16000),
        lambda: read_audio(path, 16000, 0.07, 0.05),
        blocks,
    ]
    info, results = None, []
    for reading in [lambda: audio_info(path), *readings]:
        try:
            result = reading()
        except InputError as error:
            text = str(error)
            if "does not fit into memory" in text:
                return "! memory"
            if not text.isprintable() or "expected" not in text:
                return f"! message: {text!r}"
            result = None
        except Exception as error:
            return f"! {type(error).__name__}: {str(error)[:200]!r}"
        if info is None:
            info = result
            if info is None:
                return "refused"
        else:
            results.append(result)
            if result is not None and not np.isfinite(result).all():
                return "! a sample that is not finite"
    whole, _, _, block = results
    if (whole is None) != (block is None) and info.subtype != "OPUS":  # conceals damage at random
        return "! read whole and in blocks: only one is refused"
    if whole is not None and not len(whole) == len(block) == info.frames:
        return f"! {len(whole)} samples, {len(block)} in blocks, {info.frames} in the header"
    return "refused" if whole is None else "read"


def check_lister(folder: pathlib.Path) -> str:
    """Whether every file of a folder is either taken or listed."""
    from sepssl.audio.files import SUFFIXES
    from sepssl.data.folder import Folder
    from sepssl.errors import InputError

    expected = set()
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        expected |= {
            os.path.join(parent, name)
            for name in names
            if pathlib.Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
        }
    try:
        listed = Folder(folder, 16000, min_duration=0.0)
    except InputError as error:
        return "read" if not expected else f"! {error}"
    found = [os.fspath(folder / name) for name in listed.names]
    found += [os.fspath(folder / name) for name, _ in listed.skipped]
    twice = [path for path, count in collections.Counter(found).items() if count > 1]
    lost = expected - set(found)
    if twice or lost:
        return f"! listed twice {twice[:3]}, not at all {sorted(lost)[:3]}"
    return "read"


def peak_memory() -> int:
    """Bytes; not getrusage's, which begins with the parent's."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def work(folder: pathlib.Path) -> None:
    """Reads the file names that come in, and answers each with a line."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as small:  # whatever is loaded and allocated only once
        for suffix, contents in good_files()[:40:8]:
            pathlib.Path(small, f"a.{suffix}").write_bytes(contents)
        check_lister(pathlib.Path(small))
        for path in pathlib.Path(small).iterdir():
            check_file(path)
    baseline = peak_memory()
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    with tempfile.TemporaryFile() as terminal:
        os.dup2(terminal.fileno(), 1)
        os.dup2(terminal.fileno(), 2)
        answers.write(b"ready\n")
        for line in sys.stdin.buffer:
            name = os.fsdecode(bytes.fromhex(line.decode()))
            lister = name == LISTER
            result = check_lister(folder) if lister else check_file(folder / name)
            size = os.fstat(terminal.fileno()).st_size
            if size:
                terminal.seek(0)
                text = terminal.read(300)
                os.ftruncate(terminal.fileno(), 0)
                os.lseek(terminal.fileno(), 0, os.SEEK_SET)
                result = f"! wrote to the terminal: {text!r}"
            grown = peak_memory() - baseline
            if grown > MEMORY:
                result = f"! memory: {grown / 2**20:.0f} MiB more"
            answers.write(f"{grown}\t{result!s}\n".encode("utf-8", "backslashreplace"))


class Worker:
    """A watched process that reads the files of one folder."""

    def __init__(self, folder: pathlib.Path):
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--worker", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        if self._line(120) != "ready":
            raise RuntimeError(self._process.stderr.read().decode())

    def check(self, name: str, seconds: float) -> tuple[int, str]:
        """(bytes the process has grown by, result); it has ended if there is a line break in it."""
        self._process.stdin.write(os.fsencode(name).hex().encode() + b"\n")
        answer = self._line(seconds)
        if answer is None:
            self.close()
            return 0, f"! hang: {seconds} s\n"
        if not answer:
            code = self._process.wait()
            ending = signal.Signals(-code).name if code < 0 else f"exit {code}"
            return 0, f"! {ending}: {self._process.stderr.read()[-300:]!r}\n"
        grown, result = answer.split("\t", 1)
        return int(grown), result

    def _line(self, seconds: float) -> str | None:
        line, end = b"", time.monotonic() + seconds
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], end - time.monotonic())
            if not ready:
                return None
            part = self._process.stdout.read(65536)
            if not part:
                return ""
            line += part
        return line.decode().rstrip("\n")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            stream.close()


# --- The process that watches ---------------------------------------------------------------------


class Tally:
    """Counts, and the files to keep."""

    def __init__(self, keep: pathlib.Path):
        self.counts = collections.Counter()
        self.keep = keep
        self.grown = 0

    def check_folder(self, folder: pathlib.Path, names: list[str]) -> None:
        worker = None
        for name in [*names, LISTER]:
            worker = worker or Worker(folder)
            seconds = SECONDS_PER_FOLDER if name == LISTER else SECONDS_PER_FILE
            grown, result = worker.check(name, seconds)
            self.grown = max(self.grown, grown)
            if name != LISTER:
                self.counts["files"] += 1
            if result.startswith("! "):
                self._note(folder, name, result.strip())
            elif name != LISTER:
                self.counts[result] += 1
            if result.endswith("\n"):  # it has ended
                worker = None
            elif result.startswith("! memory"):  # its peak stays
                worker.close()
                worker = None
        if worker:
            worker.close()

    def _note(self, folder: pathlib.Path, name: str, result: str) -> None:
        self.counts["failed"] += 1
        self.keep.mkdir(parents=True, exist_ok=True)
        line = f"{folder.name}/{name!r}: {result[2:]}"
        print(line, flush=True)
        with open(self.keep / "failures.txt", "a") as file:
            file.write(line + "\n")
        if name != LISTER and (folder / name).is_file() and (folder / name).stat().st_size < 2**24:
            kept = f"{folder.name}-{pathlib.Path(name).name}"[-200:]
            shutil.copy(folder / name, self.keep / kept)


def main(arguments: list[str] | None = None) -> collections.Counter:
    """Runs the fuzzer.

    Returns:
        Counts: "files", of them "read", "refused" and "failed".
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20000, help="damaged files to read")
    parser.add_argument("--seed", type=int, default=0, help="chooses the files")
    parser.add_argument("--first", type=int, default=0, help="number of the first damaged file")
    parser.add_argument("--only", default="", help="suffix of the files to damage, as ogg")
    parser.add_argument("--keep", type=pathlib.Path, default="fuzz-failures", help="for failures")
    parser.add_argument("--no-odd", action="store_true", help="damaged files only")
    parser.add_argument("--worker", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        work(options.worker)
        return collections.Counter()
    tally, start = Tally(options.keep), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as root:
        if not options.no_odd:
            odd = pathlib.Path(root, "odd")
            odd.mkdir()
            make_odd_files(odd)
            names = [
                os.path.relpath(os.path.join(parent, name), odd)
                for parent, folders, files in os.walk(odd)
                for name in sorted([*files, *(f for f in folders if f.endswith(".wav"))])
            ]
            tally.check_folder(odd, names)
        end = options.first + options.count
        for first in range(options.first, end, BATCH):
            batch = pathlib.Path(root, f"seed{options.seed}-{first}")
            batch.mkdir()
            names = []
            for index in range(first, min(first + BATCH, end)):
                suffix, contents = damaged(options.seed, index, options.only)
                names.append(f"{index}{suffix}")
                (batch / names[-1]).write_bytes(contents)
            tally.check_folder(batch, names)
            shutil.rmtree(batch)
    counts = tally.counts
    print(
        f"{counts['files']} files in {time.monotonic() - start:.0f} s: {counts['read']} read, "
        f"{counts['refused']} refused, {counts['failed']} failed; memory grew by "
        f"{tally.grown / 2**20:.0f} MiB at most"
    )
    return counts


if __name__ == "__main__":
    sys.exit(1 if main()["failed"] else 0)
