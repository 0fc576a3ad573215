"""What the channels in a folder were made from, so that none is taken for another's."""

import contextlib
import csv
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from sepssl.data.clips import Clips, Stream
from sepssl.errors import InputError, OutputError
from sepssl.files import atomic_file, printable, writing_to
from sepssl.pipelines.activity import Interval
from sepssl.pipelines.intervals import AUDACITY, CLIPS, RAVEN, interval_tables

if TYPE_CHECKING:
    import keras

RECORD = "separated.jsonl"
TABLE, INTERVALS = "summary.csv", "intervals.csv"
ADDED_SETTINGS = {
    "truncated": "skip",
    "speed": 1.0,
}  # what records were made with that lack the key
_HEADERS = {
    TABLE: ["recording", "channel", "level_db", "active"],
    INTERVALS: ["recording", "start", "end", "channel", "level_db"],
}


def channel_files(output: pathlib.Path, name: str, channels: int) -> list[pathlib.Path]:
    """Where the channels of a recording lie: `output/NAME_channel1.wav` and so on."""
    return [output / f"{name}_channel{c + 1}.wav" for c in range(channels)]


def model_digest(model: "keras.Model") -> str:
    """16 hex digits that change with the weights or the configuration of a built Keras model.

    Not with names of layers, which Keras counts up, or of modules.
    """

    def described(value):
        if isinstance(value, dict):
            hidden = {"module", "registered_name", "build_config"}
            hidden |= {"name"} if "trainable" in value else set()
            return {key: described(value[key]) for key in value if key not in hidden}
        return [described(item) for item in value] if isinstance(value, (list, tuple)) else value

    config = json.dumps(described(model.get_config()), sort_keys=True, default=str)
    digest = hashlib.sha256(config.encode())
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()[:16]


@dataclasses.dataclass
class Entry:
    """A recording that was separated.

    Attributes:
        name: of its channels, see `channel_files`.
        path: of the sound file, absolute; of a clip that is not read from one, `Clips.origin`.
        part: which part of the file, as it follows its name; "" for all of it. The name of a clip
            that is not read from a file.
        stamp: `Clips.stamp`.
        content: what changes with the clip's samples: `Clips.key`, or what stands for it.
        files: size in bytes and time in ns of each channel's file.
        levels: of each channel, in dB relative to the recording.
        active: share of the time in which each channel is active, 0 to 1.
        offset: where the clip begins in its file, in seconds.
        rate: sample rate of the channels, in Hz.
        activity: the attributes of the `Activity` by which `active` and `intervals` were found;
            None if they were not.
        intervals: those of the channels.
        truncated: `Clips.truncated`.
        power: mean of the recording's; 0 in records of earlier versions.
    """

    name: str
    path: str
    part: str
    stamp: str
    content: str
    files: list[list[int]]
    levels: list[float]
    active: list[float]
    offset: float = 0.0
    rate: int = 0
    activity: dict[str, float] | None = None
    intervals: list[Interval] = dataclasses.field(default_factory=list)
    truncated: str = ""
    power: float = 0.0

    def tables(self) -> dict[str, str]:
        """The text of each file of intervals, by what follows `name` in its own."""
        if self.activity is None:
            return {}
        path = self.path if self.in_file else self.part
        return interval_tables(self.intervals, path, self.offset, self.rate)

    @property
    def in_file(self) -> bool:
        """Whether the clip is read from a sound file."""
        return not self.part or self.part.startswith("#")

    def __str__(self) -> str:
        """The clip, for messages."""
        return printable(
            f"{self.path}{self.part}" if self.in_file else f"{self.part} ({self.path})"
        )


class ClipIdentity:
    """A clip of a source, and what tells it from others.

    Args:
        clips: the source.
        index: which of its clips.

    Attributes:
        path, part, offset, truncated: as in `Entry`.
        speed: `Clips.speed`.
    """

    def __init__(self, clips: Clips, index: int):
        self._clips = clips
        self._index = index
        file = clips.path(index)
        self.path = clips.origin if file is None else os.path.abspath(file)
        self.part = clips.names[index] if file is None else part_of(clips, index)
        self.offset = clips.start_seconds(index)
        self.truncated = clips.truncated(index)
        self.speed = clips.speed
        self._shown = clips.names[index] if file is None else f"{file}{self.part}"

    def __str__(self) -> str:
        return printable(self._shown)

    def stamp(self) -> str:
        """As in `Entry`; cheap."""
        return self._clips.stamp(self._index)

    def content(self) -> str:
        """As in `Entry`; files are read for it."""
        return self._clips.key(self._index) or f"{self.path}: {self.part}"

    def stream(self) -> Stream:
        """The clip's sound."""
        return self._clips.stream(self._index)


def part_of(clips: Clips, index: int) -> str:
    """What follows the recording's name in that of a clip: which part of it; "" for all of it."""
    if clips.recordings is None or clips.path(index) is None:  # of a dataset: no part of a file
        return ""
    return clips.names[index].removeprefix(clips.recordings[index])


class ChannelRecord:
    """The record of a folder of channels, `separated.jsonl`, and the table made from it.

    The first line holds the settings, every other one an `Entry`; the last one of a name counts. A
    line that a killed process has left unfinished is no entry.

    `summary.csv` has a row for every channel of every entry, `intervals.csv` for every interval.

    Every method but `state` is to be called with the folder locked.

    Args:
        folder: the folder, existing.
        settings: all that channels depend on besides the recording; values that JSON knows.

    Raises:
        InputError: if the folder holds channels that were made with other settings, or a table or
            record that is not ours.
    """

    def __init__(self, folder: pathlib.Path, settings: dict[str, Any]):
        self.folder = folder
        self._path = folder / RECORD
        self.table = folder / TABLE
        self._tables = [folder / name for name in _HEADERS]
        self._settings = settings
        self._header = json.dumps(settings).encode() + b"\n"
        there, self.entries = read_record(self.folder)
        if there is None:
            for table in self._tables:
                if table.exists():
                    raise InputError(
                        f"{table}: exists already, without {RECORD} beside it; expected another "
                        "output folder"
                    )
        elif {**ADDED_SETTINGS, **there} != settings:
            self._require_no_channels(there)
            for name in self.entries:
                for file in self.replaceable(name):
                    file.unlink()
            self.entries = {}
            there = None
        else:
            self._header = json.dumps(there).encode() + b"\n"
        if there is None:
            with atomic_file(self._path, overwrite=True) as temporary:
                temporary.write_bytes(self._header)
        if self.entries:
            self.write_tables()
        else:
            for table in self._tables:
                with writing_to(table):
                    table.unlink(missing_ok=True)
        self._replacing = False
        self._names = {(entry.path, entry.part): name for name, entry in self.entries.items()}

    def name_of(self, clip: ClipIdentity, name: str) -> str:
        """The name that a clip has here, or else `name`.

        It stays when a file of the same stem comes into the recording's folder.
        """
        return self._names.get((clip.path, clip.part), name)

    def state(self, clip: ClipIdentity, name: str, channels: int) -> tuple[str, list[pathlib.Path]]:
        """Whether a recording has been separated.

        Returns:
            "found": it has. "moved": it has, but path or `stamp` have changed since, not the
            content. "changed": other content of that path has. "missing": it has not, or channels
            are missing. And those of its channels that are there and may be replaced.

        Raises:
            InputError: if there are files in its way that are not its channels.
        """
        outputs = channel_files(self.folder, name, channels)
        there, now = [], []
        for file in outputs:
            try:
                now.append(size_and_time(file))
                there.append(file)
            except FileNotFoundError:
                continue
            except OSError as error:  # a name too long with its suffix, a file for a folder
                raise InputError(
                    f"{printable(file)}: cannot be written: {error.strerror}"
                ) from error
        entry = self.entries.get(name)
        elsewhere = "expected another output folder"
        if entry is None:
            if there:
                raise InputError(
                    f"{printable(there[0])}: exists already, and {RECORD} does not say what it was "
                    f"made from; {elsewhere}"
                )
            self.replaceable(name)
            return "missing", []
        same, moved = self._same(entry, clip)
        if not same and there and not _in_place(entry, clip):
            raise InputError(
                f"{printable(there[0])}: is a channel of {entry}, not of {clip}; {elsewhere}"
            )
        recorded = [entry.files[outputs.index(file)] for file in there]
        # Channels that stay may be copies; to be replaced, they must be as they were written.
        compared = 1 if same and len(there) == channels else 2
        changed = [n[:compared] != r[:compared] for n, r in zip(now, recorded, strict=True)]
        if any(changed):
            raise InputError(
                f"{printable(there[changed.index(True)])}: was changed after it was written"
                f"{'' if same else f', and so was {clip}'}; {elsewhere}, or the "
                f"channels of {printable(name)} deleted, to separate it again"
            )
        if not same or len(there) < channels:
            self.replaceable(name)
        if not same:
            return "changed" if there else "missing", there
        if len(there) < channels:
            return "missing", there
        return ("moved" if moved else "found"), there

    @staticmethod
    def _same(entry: Entry, clip: ClipIdentity) -> tuple[bool, bool]:
        """Whether the content is that of the entry; whether place or stamp are not."""
        if entry.stamp == clip.stamp() and _in_place(entry, clip):
            return True, False
        return entry.content == clip.content(), True

    def move(self, name: str, clip: ClipIdentity) -> None:
        """Notes where a recording is now, so that its content need not be read again.

        A copy of one that is still in its place stays unnoted, or changes to it would seem to be
        changes to the other.
        """
        entry = self.entries[name]
        if _in_place(entry, clip) or not os.path.exists(entry.path):
            stamp, unchanged = clip.stamp(), []
            with contextlib.suppress(InputError):  # edited: they stay
                unchanged = self.replaceable(name)
            for file in unchanged:
                file.unlink()
            self.add(
                dataclasses.replace(
                    entry, path=clip.path, part=clip.part, stamp=stamp, offset=clip.offset
                )
            )

    def replaceable(self, name: str) -> list[pathlib.Path]:
        """The files of intervals of a recording that are there.

        Raises:
            InputError: if one of them is not as it was written, or there are clips of intervals.
        """
        texts = self.entries[name].tables() if name in self.entries else {}
        there = []
        for suffix in (RAVEN, AUDACITY, CLIPS):
            file = self.folder / f"{name}{suffix}"
            if not os.path.lexists(file):
                continue
            if suffix not in texts or file.read_bytes() != texts[suffix].encode():
                known = name in self.entries
                why = ", since settings, recording or channels changed" if known else ""
                raise InputError(
                    f"{printable(file)}: is in the way of new intervals{why}; expected it to be "
                    "moved or deleted, and the command to be repeated"
                )
            there.append(file)
        return there

    def add(self, entry: Entry) -> None:
        """Appends an entry: one line, written at once."""
        with writing_to(self._path), open(self._path, "r+b") as file:
            if file.readline() != self._header:
                raise OutputError(f"{self._path}: was changed by another process while this ran")
            file.seek(-1, os.SEEK_END)
            torn = b"" if file.read(1) == b"\n" else b"\n"
            file.write(torn + json.dumps(dataclasses.asdict(entry)).encode() + b"\n")
        self._replacing = entry.name in self.entries
        self.entries[entry.name] = entry

    def tabulate(self, entry: Entry) -> None:
        """Puts the entry added last into the tables, when its channels are there."""
        if self._replacing or not all(table.exists() for table in self._tables):
            self.write_tables()
            return
        for table in self._tables:
            with writing_to(table), _opened_table(table, "a") as text:
                csv.writer(text).writerows(_rows(entry, table.name))

    def close(self) -> None:
        """Leaves nothing where there is nothing to tell."""
        if not read_record(self.folder)[1]:
            self._path.unlink(missing_ok=True)

    def _require_no_channels(self, there: dict) -> None:
        was = {**ADDED_SETTINGS, **there}
        for entry in self.entries.values():
            for file in channel_files(self.folder, entry.name, len(entry.files)):
                if os.path.lexists(file):
                    differing = [
                        f"{key}={was.get(key)}, now {value}"
                        for key, value in self._settings.items()
                        if was.get(key) != value
                    ]
                    raise InputError(
                        f"{self.folder}: holds channels made with {differing[0]}; expected "
                        "another output folder"
                    )

    def write_tables(self) -> None:
        """Writes the tables anew, of all entries."""
        self.entries = read_record(self.folder)[1]  # with those that other processes have added
        for table in self._tables:
            with (
                atomic_file(table, overwrite=True) as temporary,
                _opened_table(temporary, "w") as text,
            ):
                writer = csv.writer(text)
                writer.writerow(_HEADERS[table.name])
                for entry in self.entries.values():
                    writer.writerows(_rows(entry, table.name))


def read_record(folder: pathlib.Path) -> tuple[dict | None, dict[str, Entry]]:
    """The settings and entries that a folder of channels has; None and none without a record.

    Raises:
        InputError: if there is a record that cannot be read.
    """
    path = folder / RECORD
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return None, {}
    except OSError as error:
        raise InputError(f"{printable(path)}: cannot be read: {error.strerror}") from error
    entries: dict[str, Entry] = {}
    try:
        settings = json.loads(lines[0])
    except (IndexError, ValueError):
        settings = None
    if not isinstance(settings, dict):
        raise InputError(f"{path}: is not a record of channels; expected another output folder")
    for line in lines[1:]:
        try:
            entry = Entry(**json.loads(line))
            entry.intervals = [Interval(*interval) for interval in entry.intervals]
        except (ValueError, TypeError):  # cut short
            continue
        entries.pop(entry.name, None)  # a later one comes later
        entries[entry.name] = entry
    return settings, entries


def without_channels(
    files: list[pathlib.Path], root: pathlib.Path, exclude: str | os.PathLike | None
) -> list[pathlib.Path]:
    """The recordings among the sound files of a folder: channels of others, which a record in it
    names, are left out.

    Args:
        files: the sound files.
        root: the folder.
        exclude: a folder in it to leave out.

    Raises:
        InputError: if there are none.
    """
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
                left_out.add(folder / f"{entry.name}{CLIPS}")
    kept = [file for file in files if file.parent not in left_out and file not in channels]
    if not kept:
        raise InputError(
            f"{root}: holds only channels of separated recordings; expected recordings to separate"
        )
    return kept


def _opened_table(path: pathlib.Path, mode: str) -> IO[str]:
    # Names may not be UTF-8.
    return open(path, mode, newline="", encoding="utf-8", errors="surrogateescape")


def _rows(entry: Entry, table: str) -> list[list]:
    if table == INTERVALS:
        return [
            [entry.name, f"{entry.offset + start:.6f}", f"{entry.offset + end:.6f}", channel, level]
            for channel, start, end, level in entry.intervals
        ]
    return [
        [entry.name, c, f"{level:z.1f}", f"{share:.3f}"]
        for c, (level, share) in enumerate(zip(entry.levels, entry.active, strict=True), start=1)
    ]


def size_and_time(file: pathlib.Path) -> list[int]:
    """Size and time of a channel's file, see `Entry`."""
    status = os.lstat(file)
    return [status.st_size, status.st_mtime_ns]


def _in_place(entry: Entry, clip: ClipIdentity) -> bool:
    return (entry.path, entry.part) == (clip.path, clip.part)
