"""Clips on disk as 16-bit arrays, read by the crop: decoded mixtures, separated channels."""

import hashlib
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sepssl.data.clips import Clips, Skipped
from sepssl.data.read_ahead import read_ahead, value_or_error
from sepssl.errors import InputError, OutputError
from sepssl.files import atomic_file, lock_folder
from sepssl.progress import Progress, counted

if TYPE_CHECKING:
    from sepssl.separation.separator import Separator

FORMAT = 2
SYNC_SECONDS = 5.0  # of work that a power cut may cost; our choice


class ClipStore:
    """A folder with one file of samples and one index, which only grows, read at random.

    A clip is an array [rows, samples]: one row for a mixture, one per channel for separated
    recordings. Samples are int16 with a scale of their own per clip, so that nothing clips and
    quiet clips keep their resolution.

    Each processed clip, stored or skipped, gets one index line, written after its samples are on
    disk; filling that was interrupted, even by a power cut, resumes after the last of them. A clip
    whose files have changed gets a new line; the last line of a name counts. Runs that need
    different clips of one origin can thus share a store: an object of this class shows the clips
    that it was filled with, or all if it was not. Processes that fill the same store take turns.

    Args:
        folder: location of the store; created if it does not exist.

    Raises:
        InputError: if the folder cannot be made or read.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = pathlib.Path(folder)
        self._samples_path = self.folder / "samples.int16"
        self._index_path = self.folder / "index.jsonl"
        self._content_path = self.folder / "content.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._read_index()
        except OSError as error:
            raise InputError(f"{folder}: could not be opened: {error.strerror}") from error
        self._show(self._entries)

    def _read_index(self) -> None:
        """Reads the lines up to the first that is incomplete or lacks its samples."""
        self._entries: dict[str, dict] = {}
        self._index_bytes = self._num_stored = 0
        self._map: np.memmap | None = None
        if not self._index_path.exists():
            return
        there = self._samples_path.stat().st_size // 2 if self._samples_path.exists() else 0
        with open(self._index_path, "rb") as index:
            for line in index:
                entry = _parsed(line)
                if entry is None:
                    break
                if "skipped" not in entry:
                    end = entry["offset"] + math.prod(entry["shape"])
                    if end > there:
                        break
                    self._num_stored = max(self._num_stored, end)
                self._entries[entry["name"]] = entry
                self._index_bytes += len(line)

    def _show(self, names: Iterable[str]) -> None:
        shown = [self._entries[name] for name in names]
        self._clips = [entry for entry in shown if "skipped" not in entry]
        self.skipped = [
            Skipped(entry["name"], entry["skipped"]) for entry in shown if "skipped" in entry
        ]

    def __len__(self) -> int:
        return len(self._clips)

    @property
    def names(self) -> list[str]:
        """Names of the stored clips, without those skipped."""
        return [entry["name"] for entry in self._clips]

    @property
    def origin(self) -> str:
        """What the clips depend on besides their names and files."""
        return self._content()["origin"]

    @property
    def digest(self) -> str:
        """16 hex digits from origin, names and the content of the clips' files."""
        shown = [[entry["name"], entry["key"]] for entry in self._clips]
        return hashlib.sha256(json.dumps([self.origin, shown]).encode()).hexdigest()[:16]

    def key(self, index: int) -> str:
        """`Clips.key` of a clip when it was stored."""
        return self._clips[index]["key"]

    def num_rows(self, index: int) -> int:
        return self._clips[index]["shape"][0]

    def num_samples(self, index: int) -> int:
        return self._clips[index]["shape"][1]

    def read(self, index: int, start: int = 0, num_samples: int | None = None) -> np.ndarray:
        """float32 [rows, num_samples] from sample `start`; a clip that ends earlier is repeated.

        Repeating instead of padding is our choice: no recording contains digital silence.
        """
        if self._map is None:
            self._map = np.memmap(self._samples_path, np.int16, "r")
        entry = self._clips[index]
        rows, length = entry["shape"]
        offset = entry["offset"]
        clip = self._map[offset : offset + rows * length].reshape(rows, length)
        end = length if num_samples is None else start + num_samples
        if end <= length:
            crop = clip[:, start:end]
        else:
            crop = np.take(clip, np.arange(start, end), axis=1, mode="wrap")
        return crop * np.float32(entry["scale"])

    def fill(
        self,
        origin: str,
        names: Sequence[str],
        clips: Callable[[list[int]], Iterable[np.ndarray | InputError]],
        title: str,
        stamp: Callable[[int], str] = lambda index: "",
        key: Callable[[int], str] = lambda index: "",
        verbose: bool = True,
    ) -> list[Skipped]:
        """Writes the clips not stored yet, with a progress bar, and shows these clips from then on.

        Args:
            origin: what the clips depend on besides their names and files.
            names: of all clips, in order.
            clips: given which of the names are to be processed, iterates over those clips in
                order: arrays [rows, samples], or an error for a clip to be skipped.
            title: label of the progress bar.
            stamp, key: of a clip by its number, see `Clips.stamp` and `Clips.key`. A stored clip is
                up to date if either is unchanged.
            verbose: whether to show progress.

        Returns:
            All clips skipped, including those of earlier calls.

        Raises:
            InputError: if the store belongs to clips of another origin, no clip is usable, or it
                cannot be written.
        """
        try:
            with lock_folder(self.folder, wait=True):
                self._claim(origin)
                self._read_index()  # another process may have added to it
                self._fill(names, clips, title, stamp, key, verbose)
        except OSError as error:
            raise OutputError(f"{self.folder}: could not be written: {error.strerror}") from error
        self._show(names)
        if not self._clips:
            raise InputError(f"{self.folder}: no usable clip; the first: {self.skipped[0].reason}")
        return self.skipped

    def _claim(self, origin: str) -> None:
        content = {"format": FORMAT, "origin": origin}
        if not self._content_path.exists() and not self._index_path.exists():
            with atomic_file(self._content_path) as temporary:
                temporary.write_text(json.dumps(content))
        elif self._content() != content:
            raise InputError(
                f"{self.folder}: holds other clips, or clips made differently; expected a new "
                "folder"
            )

    def _content(self) -> dict:
        try:
            content = json.loads(self._content_path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(
                f"{self._content_path}: is not the description of a store ({error}); expected a "
                "new folder"
            ) from error
        if not isinstance(content, dict) or not isinstance(content.get("origin"), str):
            raise InputError(
                f"{self._content_path}: does not name the origin of the clips; expected a new "
                "folder"
            )
        return content

    def _fill(self, names, clips, title, stamp, key, verbose) -> None:
        missing, stamps = [], {}
        with _Writer(self) as writer:
            for index, name in enumerate(names):
                entry, stamps[index] = self._entries.get(name), stamp(index)
                if entry is None:
                    missing.append(index)
                elif entry["stamp"] != stamps[index]:
                    if entry["key"] == key(index):  # touched or copied, not changed
                        writer.add({**entry, "stamp": stamps[index]})
                    else:
                        missing.append(index)
            if not missing:
                return
            there = len(names) - len(missing)
            start = f"{title}: {counted(len(names), 'clip')} -> {self.folder}"
            with Progress(title, len(names), "clip", there, start, verbose) as progress:
                for index, clip in zip(missing, clips(missing), strict=True):
                    entry = {"name": names[index], "stamp": stamps[index], "key": key(index)}
                    if isinstance(clip, InputError):
                        writer.add({**entry, "skipped": str(clip)})
                    else:
                        writer.add(entry, clip)
                    progress.update()


class _Writer:
    """Appends clips to a store: a few seconds' worth of samples, synced to disk, then their lines.

    However the block ends, what was added so far is kept.
    """

    def __init__(self, store: ClipStore):
        self._store = store
        self._lines: list[bytes] = []
        self._entries: list[dict] = []

    def __enter__(self) -> "_Writer":
        self._samples = open(self._store._samples_path, "ab")
        self._index = open(self._store._index_path, "ab")
        self._offset = self._store._num_stored
        # Remains of an interruption after the last complete line.
        self._samples.truncate(2 * self._offset)
        self._index.truncate(self._store._index_bytes)
        self._synced = time.monotonic()
        return self

    def add(self, entry: dict, clip: np.ndarray | None = None) -> None:
        if clip is not None:
            scale = max(float(np.max(np.abs(clip))), 1e-9) / 32767.0
            self._samples.write(np.round(clip / scale).astype(np.int16).tobytes())
            entry = {**entry, "shape": list(clip.shape), "offset": self._offset, "scale": scale}
            self._offset += clip.size
        self._entries.append(entry)
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self._sync()

    def _sync(self) -> None:
        if not self._entries:
            return
        for file, data in (
            (self._samples, b""),
            (self._index, b"".join(json.dumps(e).encode() + b"\n" for e in self._entries)),
        ):
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._store._entries.update((entry["name"], entry) for entry in self._entries)
        self._store._num_stored = self._offset
        self._entries = []
        self._synced = time.monotonic()

    def __exit__(self, *error) -> None:
        try:
            self._sync()
        finally:
            self._samples.close()
            self._index.close()


def _parsed(line: bytes) -> dict | None:
    """An index line, or None if it is not one."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not line.endswith(b"\n") or not isinstance(entry, dict):
        return None
    if not all(isinstance(entry.get(field), str) for field in ("name", "stamp", "key")):
        return None
    if "skipped" in entry:
        return entry if isinstance(entry["skipped"], str) else None
    shape, offset, scale = (entry.get(field) for field in ("shape", "offset", "scale"))
    if not isinstance(shape, list) or len(shape) != 2 or 0 in shape:
        return None
    if not all(type(number) is int and number >= 0 for number in (*shape, offset)):
        return None
    if not isinstance(scale, float) or not 0 < scale < 1e30:
        return None
    return entry


def store_folder(cache: str | os.PathLike, kind: str, origin: str) -> pathlib.Path:
    """The folder in a cache for the clips of one origin."""
    return pathlib.Path(cache, f"{kind}-{hashlib.sha256(os.fsencode(origin)).hexdigest()[:8]}")


def store_clips(
    clips: Clips, cache: str | os.PathLike, sources: str = "none", verbose: bool = True
) -> ClipStore:
    """Decodes all clips into a store in a cache; those that cannot be read are skipped.

    Args:
        clips: what to decode.
        cache: folder of stores.
        sources: "none": a clip is one row, the recording. "readable": the same, but a clip whose
            true sources cannot be read is skipped. "rows": the true sources are further rows.
            "only": they are the only rows.
        verbose: whether to show progress.
    """

    def read(index: int) -> np.ndarray:
        if sources == "none":
            return clips.read(index)[None]
        mixture, true = clips.read_with_sources(index)
        if sources == "only":
            return true
        return np.concatenate([mixture[None], true]) if sources == "rows" else mixture[None]

    def read_all(indices: list[int]) -> Iterator[np.ndarray | InputError]:
        workers = 1 if clips.in_order else os.cpu_count() or 1
        return read_ahead(value_or_error(read), indices, workers)

    kind, title, detail = {
        "none": ("clips", "decoding", ""),
        "readable": ("clips", "decoding", ", whose sources can be read"),
        "rows": ("clips", "decoding", ", their sources in further rows"),
        "only": ("sources", "true sources", ", sources"),
    }[sources]
    origin = clips.origin + detail
    store = ClipStore(store_folder(cache, kind, origin))
    store.fill(origin, clips.names, read_all, title, clips.stamp, clips.key, verbose)
    return store


def store_channels(
    separator: "Separator",
    name: str,
    mixtures: ClipStore,
    sample_rate: int,
    cache: str | os.PathLike,
    chunk_seconds: float,
    verbose: bool = True,
) -> ClipStore:
    """Separates all clips of a store into another one, with a row per channel.

    Args:
        separator: what separates.
        name: identifies the separator and its weights, in file names.
        mixtures: store with one row per clip.
        sample_rate: of the clips, in Hz; the channels have the same.
        cache: folder of stores.
        chunk_seconds: longer clips are separated in chunks of this length.
        verbose: whether to show progress.

    Raises:
        InputError: if channels of a clip are not finite.
    """

    def separated(indices: list[int]) -> Iterator[np.ndarray]:
        for index in indices:
            channels = separator.separate(mixtures.read(index)[0], sample_rate, chunk_seconds)
            if not np.isfinite(channels).all():
                raise InputError(
                    f"{mixtures.names[index]}: its channels by {name} hold NaN or infinity; "
                    "expected another separator, or the recordings without this one"
                )
            yield channels

    origin = f"{mixtures.origin}, separated by {name} in chunks of {chunk_seconds:g} s"
    store = ClipStore(store_folder(cache, f"channels-{name}", origin))
    store.fill(
        origin,
        mixtures.names,
        separated,
        f"separating with {name}",
        mixtures.key,
        mixtures.key,
        verbose,
    )
    return store


def require_same_clips(store: ClipStore, run: str | os.PathLike) -> None:
    """Raises InputError if a resumed run began with other clips than those in a store.

    The clips that a run began with are recorded in its folder, in `clips.json`.
    """
    file = pathlib.Path(run, "clips.json")
    clips = {"count": len(store), "digest": store.digest}
    if not file.exists():
        with atomic_file(file) as temporary:
            temporary.write_text(json.dumps(clips) + "\n")
        return
    try:
        began = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: cannot be read ({error}); expected a run's clips") from error
    if began != clips:
        count = began.get("count", 0) if isinstance(began, dict) else 0
        now = "not the same ones" if count == len(store) else f"now there are {len(store)}"
        raise InputError(
            f"{run}: holds a run on {counted(count, 'clip')}, {now}; expected the same clips to "
            "continue it, or another folder"
        )
