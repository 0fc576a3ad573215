"""Recordings in, a row for every window out, with the vectors of channels beside the mixture's."""

import collections
import contextlib
import dataclasses
import itertools
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from sepssl.audio.decoding import OUT_OF_MEMORY, SILENCE
from sepssl.audio.streaming import at_rate
from sepssl.data.clips import Clips, Skipped
from sepssl.data.folder import FileClips, Folder
from sepssl.data.manifest import Manifest
from sepssl.data.read_ahead import read_ahead
from sepssl.errors import InputError, OutputError
from sepssl.files import lock_folder, writing_to
from sepssl.index.output import is_index, journal_of, require_output
from sepssl.index.store import (
    MIXTURE,
    MODEL_KEY,
    SOURCES_KEY,
    Recording,
    Rows,
    WindowStore,
    as_text,
)
from sepssl.index.tables import write_table
from sepssl.index.vectors import CONFIG_KEY, update_vectors, vectors_config
from sepssl.pipelines.channel_record import model_digest
from sepssl.progress import Progress, counted
from sepssl.representation.encoder import Encoder
from sepssl.representation.windows import WindowEmbedder, Windows, pooled
from sepssl.separation.long_audio import ChunksDone, separate_stream, taken
from sepssl.separation.separator import Separator

POOLS = ("window", "mean", "max", "mean_max")
AUDIBLE_DB = -30.0  # our choice, as views have it
LOWEST_DB = -100.0


@dataclasses.dataclass
class EmbedSummary:
    """What `embed_recordings` did.

    Attributes:
        embedded, found: recordings embedded now, and there already.
        skipped: recordings that could not be read.
        truncated: how much there is of each recording whose file ends early, one line each.
        warnings: one line for each recording of which next to nothing lies in the encoder's band.
        rows: of the output, earlier ones included.
        silent: those of them that are of windows without sound; their vectors are 0.
        audio_seconds: length of what was embedded now.
        seconds: how long it took.
    """

    embedded: int = 0
    found: int = 0
    skipped: list[Skipped] = dataclasses.field(default_factory=list)
    truncated: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    rows: int = 0
    silent: int = 0
    audio_seconds: float = 0.0
    seconds: float = 0.0


def embed_recordings(
    encoder: Encoder,
    clips: Clips,
    output: str | os.PathLike,
    separator: Separator | None = None,
    window_seconds: float | None = None,
    hop_seconds: float | None = None,
    pool: str = "window",
    audible_db: float = AUDIBLE_DB,
    models: dict[str, str] | None = None,
    verbose: bool = True,
) -> EmbedSummary:
    """Writes a row for every window of every recording.

    Rows are written as they are computed, into the database of an index or, for a file, one in
    `OUTPUT.journal/` from which the file is made at the end. A run that was stopped, by whatever,
    is taken up at the last batch of windows when it is repeated, and gives the same rows to the
    last bit. Repeated later, it adds new recordings and embeds those again whose content has
    changed; rows of recordings that are gone stay.

    Args:
        encoder: `Encoder`.
        clips: recordings at its sample rate, of any length.
        output: a file, see `write_table`, or a folder for an index that perch-hoplite opens too.
        separator: adds a row for every channel of a window whose power is at most `-audible_db`
            below the mixture's. At another sample rate than the encoder's, its input is resampled.
        window_seconds, hop_seconds: see `WindowEmbedder`; of a recording as it is played.
        pool: "window" for all rows, or one row for each recording: the "mean" over all of its rows,
            those of channels included, their "max", or both, one after the other ("mean_max").
        audible_db: in dB, negative.
        models: files of the "encoder" and the "separator", for the index to name.
        verbose: whether to show progress.

    Raises:
        InputError: if `output` holds rows made with another encoder or other settings, or another
            process writes to it; if no recording can be read.
        OutputError: if an output cannot be written. What is done stays.
    """
    if pool not in POOLS:
        raise InputError(f"pool={pool!r}: expected one of {', '.join(POOLS)}")
    if not -np.inf < audible_db <= 0:
        raise InputError(f"audible_db={audible_db}: expected a finite level of 0 dB or below")
    output = pathlib.Path(output)
    require_output(output)
    embedder = WindowEmbedder(encoder, window_seconds, hop_seconds)
    folder = output if is_index(output) else journal_of(output)
    settings = _settings(encoder, embedder, separator, pool, audible_db)
    settings["truncated"] = "keep" if clips.allow_truncated else "skip"
    settings["speed"] = clips.speed
    summary = EmbedSummary()
    began = time.monotonic()
    with _locked(folder), WindowStore(folder, settings) as store:
        recordings = store.add_recordings(
            _project(clips),
            clips.names,
            [_path(clips, i) for i in range(len(clips))],
            [clips.start_seconds(i) for i in range(len(clips))],
        )
        warn = summary.warnings.append
        job = _Job(embedder, clips, store, separator, pool, audible_db, warn)
        start = f"embedding {counted(len(clips), 'recording')} -> {output}"
        shown = _Shown(clips, start, verbose)
        with shown:
            for index, recording in enumerate(recordings):
                try:
                    seconds = job.embed(index, recording, shown)
                    summary.embedded += seconds is not None
                    summary.found += seconds is None
                    summary.audio_seconds += (seconds or 0.0) * clips.speed
                    if there := clips.truncated(index):
                        summary.truncated.append(f"{clips.names[index]}: {there}")
                except OutputError as error:
                    raise OutputError(
                        f"{error}; {summary.embedded + summary.found} of {len(clips)} recordings "
                        "are done, the same command goes on"
                    ) from error
                except InputError as error:
                    store.drop(recording.id)
                    summary.skipped.append(Skipped(clips.names[index], str(error)))
                shown.finish(index)
        # Only now it is known which sounds of mixed scenes could not be used.
        summary.skipped = [*clips.skipped, *summary.skipped]
        summary.seconds = time.monotonic() - began
        recordings_there, summary.rows, summary.silent = store.count()
        if not recordings_there:
            raise _NothingWritten(
                summary.skipped[0].reason
                if len(summary.skipped) == 1
                else f"no recording could be read; the first: {summary.skipped[0].reason}"
            )
        dim = encoder.embedding_size * (2 if pool == "mean_max" else 1)
        if is_index(output):
            for key, value in _for_hoplite(store, clips, dim, models or {}).items():
                store.set_metadata(key, value)
            update_vectors(store, dim)
        elif summary.embedded or not output.exists():
            write_table(output, store, dim)
    return summary


class _Shown(Progress):
    """Progress in seconds of sound, within recordings too; of clips without files, in clips."""

    def __init__(self, clips: Clips, start: str, verbose: bool):
        # Other clips may have to be decoded to know how long they are.
        lengths = [1.0] * len(clips)
        if isinstance(clips, FileClips):
            lengths = [clips.num_samples(i) / clips.sample_rate for i in range(len(clips))]
        self._ends = np.cumsum(lengths)
        self._at = 0
        self._within = isinstance(clips, FileClips)
        unit = "second" if self._within else "recording"
        super().__init__("embedding", round(self._ends[-1]), unit, start=start, verbose=verbose)

    def reach(self, index: int, seconds: float) -> None:
        """A recording is done up to there."""
        if self._within:
            self._move(min(seconds + (self._ends[index - 1] if index else 0.0), self._ends[index]))

    def finish(self, index: int) -> None:
        self._move(self._ends[index])

    def _move(self, position: float) -> None:
        if round(position) > self._at:
            self.update(round(position) - self._at)
            self._at = round(position)


class _NothingWritten(InputError):
    """No recording could be read."""


def _settings(
    encoder: Encoder,
    embedder: WindowEmbedder,
    separator: Separator | None,
    pool: str,
    audible_db: float,
) -> dict[str, Any]:
    if separator is not None and not separator.built:
        separator.build()
    if not encoder.built:
        encoder.build()
    return {
        "encoder": model_digest(encoder),
        "sample_rate": encoder.sample_rate,
        "window_samples": embedder.window,
        "hop_samples": embedder.hop,
        "pool": pool,
        "separator": None if separator is None else model_digest(separator),
        "audible_db": None if separator is None else audible_db,
    }


def _project(clips: Clips) -> str:
    """What names of clips are relative to."""
    if isinstance(clips, Folder):
        return as_text(clips.directory.resolve())
    if isinstance(clips, Manifest):
        return as_text(clips.file.parent.resolve())
    return as_text(clips.origin)


def _for_hoplite(
    store: WindowStore, clips: Clips, dim: int, models: dict[str, str]
) -> dict[str, Any]:
    """What perch-hoplite's table of metadata says of vectors, model and recordings."""
    sources = (store.metadata(SOURCES_KEY) or {}).get("audio_globs", [])
    project = _project(clips)
    if not any(source["dataset_name"] == project for source in sources):
        sources.append(
            {
                "dataset_name": project,
                "base_path": project,
                "file_glob": "**/*",
                "min_audio_len_s": 0.0,
                "target_sample_rate_hz": clips.sample_rate,
                "shard_len_s": None,
                "max_shards_per_file": None,
            }
        )
    return {
        CONFIG_KEY: vectors_config(dim),
        MODEL_KEY: {
            "model_key": "sepssl",
            "embedding_dim": dim,
            "model_config": {"sample_rate": clips.sample_rate, **models},
            "logits_key": None,
            "logits_idxes": None,
        },
        SOURCES_KEY: {"audio_globs": sources},
    }


def _path(clips: Clips, index: int) -> str:
    """Of a clip's file; "" if it is not read from one."""
    path = clips.path(index)
    return "" if path is None else os.path.abspath(path)


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    """A folder, made if need be, that no other process writes to."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder, wait=False):
        try:
            yield
        except _NothingWritten as nothing:
            if made:
                shutil.rmtree(folder, ignore_errors=True)
                for path in made[1:]:
                    with contextlib.suppress(OSError):
                        path.rmdir()
            raise InputError(str(nothing)) from nothing


@dataclasses.dataclass
class _Job:
    """What is the same for all recordings of a run."""

    embedder: WindowEmbedder
    clips: Clips
    store: WindowStore
    separator: Separator | None
    pool: str
    audible_db: float
    warn: Callable[[str], None]
    _next: int = 0  # window of the recording at work

    def embed(self, index: int, recording: Recording, shown: _Shown) -> float | None:
        """Adds the rows of a recording.

        Returns:
            How many seconds, as it is played, were embedded; None if its rows are there.

        Raises:
            InputError: if it cannot be embedded. OutputError: if they cannot be written.
        """
        clips, store = self.clips, self.store
        stamp = self._stamp(index)
        path = _path(clips, index)
        same = recording.stamp == stamp
        if recording.complete and same:
            return None
        digest = clips.key(index)
        if recording.complete and digest and recording.digest == digest:
            store.touch(recording.id, path, stamp)
            return None
        if same:
            size = self.embedder.batch_size(self._channels)
            first = store.num_windows(recording.id) // size * size
            store.keep(recording.id, first)
        else:
            first = 0
            store.start(recording.id, path, stamp)
        blocks, begin = self._blocks(index, recording.id, first)
        passed, end = first * self.embedder.hop, 0
        try:
            for windows in self.embedder(blocks, first, begin):
                self._next = first = first + len(windows.starts)
                store.append(recording.id, self._rows(clips.names[index], windows))
                end = int(windows.ends[-1])
                shown.reach(index, end / clips.sample_rate)
        except (MemoryError, tf.errors.ResourceExhaustedError) as error:
            raise InputError(f"{clips.names[index]}: {OUT_OF_MEMORY}") from error
        if self._stamp(index) != stamp:
            raise InputError(
                f"{clips.names[index]}: was changed while it was read; expected a file at rest"
            )
        duration, truncated = end / clips.sample_rate * clips.speed, clips.truncated(index)
        if self.pool == "window":
            store.finish(recording.id, digest, duration, truncated)
        else:
            vector = pooled(store.vectors_of(recording.id), self.pool)
            ends, zero = np.array([duration]), np.zeros(1)
            rows = Rows(zero, ends, np.array([MIXTURE]), zero, vector[None])
            store.replace(recording.id, rows, digest, duration, truncated)
        return max(end - passed, 0) / clips.sample_rate

    def _stamp(self, index: int) -> str:
        return self.clips.stamp(index) or as_text(self.clips.origin)

    @property
    def _channels(self) -> int:
        return 1 + (self.separator.num_sources if self.separator else 0)

    def _blocks(
        self, index: int, recording_id: int, first: int
    ) -> tuple[Iterator[np.ndarray], int]:
        """What windows from number `first` on need.

        Returns:
            The recording, and its channels below it, float32 [1 + channels, samples], and the
            sample at which they begin.
        """
        stream, rate = self.clips.stream(index), self.clips.sample_rate
        name = self.clips.names[index]
        speed = self.clips.speed
        blocks = at_rate(stream.blocks, stream.sample_rate, rate, name, self.warn, speed)
        separator = self.separator
        if separator is None:
            return _read_ahead(blocks), 0
        if separator.sample_rate != rate:
            return _with_channels(separator, blocks, rate), 0
        self._next = first
        # A window before the first, for one that ends with the recording may begin earlier.
        needed = first * self.embedder.hop - self.embedder.window
        done = None
        if state := self.store.state(recording_id, needed):
            count, position, overlapping = state
            array = np.frombuffer(overlapping, "<f4").reshape(separator.num_sources, -1)
            done = ChunksDone(count, position, array)

        def note(now: ChunksDone) -> None:
            if now.overlapping is not None:
                state = np.ascontiguousarray(now.overlapping, "<f4").tobytes()
                needed = self._next * self.embedder.hop - self.embedder.window
                self.store.save_state(recording_id, now.chunks, now.position, state, needed)

        return _with_channels(separator, blocks, rate, note, done), done.position if done else 0

    def _rows(self, name: str, windows: Windows) -> Rows:
        if not np.isfinite(windows.embeddings).all():
            raise InputError(f"{name}: is embedded as NaN or infinity; expected numbers")
        rate = self.clips.sample_rate
        mixture = windows.powers[:, :1]
        ratio = windows.powers / np.maximum(mixture, 1e-30)
        levels = np.maximum(10 * np.log10(np.maximum(ratio, 1e-30)), LOWEST_DB)
        levels[:, 0] = 0.0
        wanted = (levels >= self.audible_db) & (mixture > SILENCE**2)
        wanted[:, 0] = True
        window, channel = np.nonzero(wanted)
        return Rows(
            windows.starts[window] / rate * self.clips.speed,
            windows.ends[window] / rate * self.clips.speed,
            channel,
            levels[window, channel],
            windows.embeddings[window, channel],
        )


def _read_ahead(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The blocks, [1, samples], decoded by a thread while others are embedded."""
    for block in read_ahead(lambda _: next(blocks, None), itertools.count(), workers=1):
        if block is None:
            return
        yield block[None]


def _with_channels(
    separator: Separator,
    blocks: Iterator[np.ndarray],
    sample_rate: int,
    on_chunk: Callable[[ChunksDone], None] | None = None,
    done: ChunksDone | None = None,
) -> Iterator[np.ndarray]:
    heard: collections.deque[np.ndarray] = collections.deque()

    def noted() -> Iterator[np.ndarray]:
        passed = done.position if done else 0  # of the recording, whose channels are not needed
        for block in blocks:
            if len(block) > passed:
                heard.append(block[passed:])
            passed -= min(len(block), passed)
            yield block

    pieces = separate_stream(separator, noted(), sample_rate, on_chunk=on_chunk, done=done)
    for channels in pieces:
        yield np.concatenate([taken(heard, channels.shape[1])[None], channels])
