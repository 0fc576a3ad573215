"""Whole corpora: a manifest cut into shards, each made once, by whatever process comes to it.

Nothing here imports TensorFlow: that is for the processes that make shards.
"""

import concurrent.futures
import csv
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil
import typing
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sepssl.data.channel_shards import PLAN, SHARDS, STORE, is_corpus, read_plan
from sepssl.data.clips import Skipped
from sepssl.data.croissant import (
    FLOAT,
    INTEGER,
    Column,
    Files,
    Table,
    licences_of,
    write_croissant,
)
from sepssl.data.folder import file_digest, file_stamp, list_sounds, without_sources
from sepssl.data.manifest import ManifestRow, manifest_rows
from sepssl.errors import InputError
from sepssl.files import atomic_file, in_utf8, printable, unfinished
from sepssl.index.merge import merge_indexes
from sepssl.pipelines.channel_record import without_channels
from sepssl.weights import content_name, model_file

TASKS = ("separate", "embed")
FORMATS = ("flac", "opus", STORE, "log_mel")
INDEX = "index"  # of a shard, and of all
DONE = "shard.json"
CHANNELS, FAILED = "channels.csv", "failed.csv"
_PLACE = ("path", "recording", "offset")  # a file, and where in its recording the clip begins
_FILE_COLUMNS = (*_PLACE, "channel", "level_db", "active", "gain_db")
_FRAME_COLUMNS = (*_PLACE, "first_frame", "frames")
_COLUMNS = {
    column.name: column
    for column in (
        Column("path", "The file."),
        Column("recording", "What was separated."),
        Column("offset", "Where the clip begins in it, in seconds.", FLOAT),
        Column("channel", "From 1.", INTEGER),
        Column("level_db", "Relative to the clip, in dB.", FLOAT),
        Column("active", "Share of the time in which it is active.", FLOAT),
        Column("gain_db", "By which the channels of the clip were made quieter.", FLOAT),
        Column("first_frame", "Of the clip, in the file.", INTEGER),
        Column("frames", "Of the clip.", INTEGER),
    )
}
_FILES = {  # by format: a glob pattern, and a MIME type
    "flac": ("*.flac", "audio/flac"),
    "opus": ("*.opus", "audio/ogg"),
    "log_mel": ("log_mel.npy", "application/octet-stream"),
}
_FAILED_COLUMNS = ("path", "clip", "reason")
_THREADS = 8  # to wait for the disk


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What is made of which recordings.

    Attributes:
        task: "separate" or "embed".
        manifest: a CSV file, see `Manifest`, or a folder of sound files.
        output: the folder of the result, which all processes see under this name.
        separator: name or file of a separator; "" for none, to embed recordings alone.
        encoder: name or file of an encoder, to embed.
        format: of channels: "flac" or "opus", a file for each; "store", samples of 16 bits that
            training reads; "log_mel", float16 frames as the encoders see them.
        sample_rate, clip_seconds: of "store", as `data.sample_rate` and `data.clip_seconds` of the
            training's configuration.
        chunk_seconds: see `separate_stream`; of all formats but "store".
        window_seconds, hop_seconds, pool, audible_db: as `embed_recordings` takes them.
        allow_truncated, speed: as `open_clips` takes them.
        shard_size: rows of the manifest in a shard.
    """

    task: str
    manifest: str
    output: str
    separator: str = ""
    encoder: str = ""
    format: str = "flac"
    sample_rate: int = 16000
    clip_seconds: float = 4.0
    chunk_seconds: float | None = 30.0
    window_seconds: float | None = None
    hop_seconds: float | None = None
    pool: str = "window"
    audible_db: float = -30.0
    allow_truncated: bool = False
    speed: float = 1.0
    shard_size: int = 64

    @property
    def base(self) -> pathlib.Path:
        """The manifest or, of a folder, one in it that need not exist: names are relative to it."""
        path = pathlib.Path(self.manifest)
        return path / "manifest.csv" if path.is_dir() else path

    @functools.cached_property
    def models(self) -> dict[str, str]:
        """What tells the models from others, by "separator" and "encoder".

        Raises:
            InputError: if a model does not exist.
        """
        return {
            kind: content_name(model_file(model, kind.capitalize()))
            for kind, model in (("separator", self.separator), ("encoder", self.encoder))
            if model
        }

    def settings(self) -> dict[str, Any]:
        """All that the result depends on besides the recordings."""
        kept = ["task", "allow_truncated", "speed", "shard_size"]
        if self.task == "embed":
            kept += ["window_seconds", "hop_seconds", "pool", "audible_db"]
        else:
            kept += ["format"]
            kept += ["sample_rate", "clip_seconds"] if self.format == STORE else ["chunk_seconds"]
        return self.models | {name: getattr(self, name) for name in kept}

    def rows(self) -> tuple[list[ManifestRow], list[Skipped]]:
        """The rows of the manifest and, of a folder, what is skipped. No sound file is opened.

        Raises:
            InputError: if it is not as `Manifest` describes it, or a folder without sound files.
        """
        folder = pathlib.Path(self.manifest)
        if not folder.is_dir():
            return manifest_rows(self.manifest)[1], []
        sounds, skipped = list_sounds(folder)
        files = without_sources(sounds)
        if self.task == "separate":
            files = without_channels(files, folder, None)
        output = pathlib.Path(self.output).resolve()
        names = [
            path.relative_to(folder).as_posix()
            for path in files
            if not path.resolve().is_relative_to(output)
        ]
        return [ManifestRow.of_file(folder / name, name) for name in names], skipped

    def shards(self) -> tuple[list["Shard"], list[Skipped]]:
        """The rows of the manifest in their order, `shard_size` each, and what is skipped."""
        rows, skipped = self.rows()
        size = self.shard_size
        parts = [tuple(rows[first : first + size]) for first in range(0, len(rows), size)]
        return [Shard(number, part) for number, part in enumerate(parts)], skipped

    def folder(self, shard: "Shard") -> pathlib.Path:
        """Where a shard is, once it is done."""
        return pathlib.Path(self.output, SHARDS, f"{shard.number:05d}")


class Shard(NamedTuple):
    """A part of a corpus.

    Attributes:
        number: from 0.
        rows: of the manifest.
    """

    number: int
    rows: tuple[ManifestRow, ...]


@dataclasses.dataclass
class ShardResult:
    """What became of a shard; in its folder as `shard.json`.

    Attributes:
        done: clips that were separated or embedded.
        failed: of each other clip its file, its name and the reason.
        files: of each sound file its `file_stamp` and `file_digest`.
        channels: of each row of `channels.csv`, the path below the shard's folder, and the rest.
        notes: one line for each clip of which next to nothing lies in the model's band, or whose
            file ends early.
        seconds: of sound, in those that were done.
    """

    done: int = 0
    failed: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    files: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    channels: list[tuple[str, list[Any]]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    def write(self, folder: pathlib.Path) -> None:
        text = json.dumps(dataclasses.asdict(self))
        (folder / DONE).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: pathlib.Path) -> "ShardResult":
        """What `write` has written.

        Raises:
            OSError: if there is nothing. ValueError: if it is something else.
        """
        values = json.loads((folder / DONE).read_text(encoding="utf-8"))
        kinds = typing.get_type_hints(cls)
        if not isinstance(values, dict) or values.keys() != kinds.keys():
            raise ValueError(f"expected {', '.join(kinds)}")
        for name, kind in kinds.items():
            if not _fits(values[name], kind):
                raise ValueError(f"{name} is not as it was written")
        return cls(**values)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type, but for tuples, which JSON makes lists."""
    origin, kinds = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is tuple:
        lists = isinstance(value, list) and len(value) == len(kinds)
        return lists and all(map(_fits, value, kinds))
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, kinds[1]) for item in value.values())
    if origin is list:
        return isinstance(value, list) and all(_fits(item, kinds[0]) for item in value)
    return kind is Any or isinstance(value, (int, float) if kind is float else kind)


@dataclasses.dataclass
class Report:
    """What there is of a corpus, and what a run has done for it.

    Attributes:
        recordings: rows of the manifest.
        done: those that were separated or embedded.
        failed: the others; all of them are in `failed.csv`, with the reasons.
        notes: see `ShardResult`.
        seconds: of sound, in what was done.
        result: what to go on with: the table of channels, the index, or the folder.
        made, found: shards made now, and there already.
        changed: files for which shards were made anew, one of each.
    """

    recordings: int
    done: int = 0
    failed: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    result: str = ""
    made: int = 0
    found: int = 0
    changed: list[str] = dataclasses.field(default_factory=list)


def require_output(output: str | os.PathLike) -> None:
    """Raises InputError unless a corpus can be begun in a folder, or gone on with."""
    if not os.fspath(output):
        raise InputError("no output is named; expected a folder for the result")
    folder = pathlib.Path(output)
    if folder.is_file():
        raise InputError(f"{folder}: is a file; expected a folder for the result")
    there = set(folder.iterdir()) - set(unfinished(folder)) if folder.exists() else set()
    if there - {folder / ".lock"} and not is_corpus(folder):
        raise InputError(
            f"{folder}: is not empty and holds no {PLAN} of this package; expected a new or empty "
            "folder, or a corpus that was begun"
        )


def claim(corpus: Corpus, shards: Sequence[Shard]) -> None:
    """Puts down what a corpus is made from, in a new folder, or compares it with what is there.

    What killed processes have left unfinished beside it is removed.

    Raises:
        InputError: if the folder holds a corpus of another manifest, model or settings.
    """
    plan = corpus.settings() | {
        "manifest": _digest(shards),
        "folder": str(corpus.base.parent.resolve()),
    }
    path = pathlib.Path(corpus.output, PLAN)
    if path.exists():
        there = read_plan(corpus.output)
        for key in [*plan, *there]:
            if there.get(key) != plan.get(key):
                _require_no_shard(corpus, key, there.get(key), plan.get(key))
    for left in unfinished(corpus.output):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    with atomic_file(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")


def _require_no_shard(corpus: Corpus, key: str, was: Any, now: Any) -> None:
    if next(pathlib.Path(corpus.output, SHARDS).glob(f"*/{DONE}"), None):
        if key == "manifest":
            how = (
                f"of other recordings or parts than are in {corpus.manifest} now; expected these "
                "again, without any that are new, or another output folder for all"
            )
        else:
            if key == "allow_truncated":  # as the flag has it
                key, was, now = "truncated", *("keep" if kept else "skip" for kept in (was, now))
            unset = dict.fromkeys(("window_seconds", "hop_seconds"), "the default")
            unset["chunk_seconds"] = "0"
            was, now = (unset.get(key) if value is None else value for value in (was, now))
            how = f"with {key}={was}, now {now}; expected another output folder"
        raise InputError(f"{corpus.output}: holds a corpus made {how}")


def _digest(shards: Sequence[Shard]) -> str:
    rows = [
        [str(row.recording), row.span.start, row.span.duration]
        for shard in shards
        for row in shard.rows
    ]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def missing_shards(corpus: Corpus, shards: Sequence[Shard]) -> tuple[list[Shard], list[str]]:
    """The shards still to be made, and the files for which those there are to be made anew.

    What killed processes have left unfinished is removed, and so are the shards of files whose
    content has changed since.

    Raises:
        InputError: if a file has changed, or a shard is missing, and the index is complete.
    """
    folder = pathlib.Path(corpus.output, SHARDS)
    folder.mkdir(exist_ok=True)
    for left in folder.glob(".*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    there = []
    for shard in shards:
        place = corpus.folder(shard)
        if (place / DONE).exists():
            there.append(shard)
        elif place.exists():  # a part of one: they appear whole
            _remove(place)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(functools.partial(_changed_file, corpus), there))
    index = pathlib.Path(corpus.output, INDEX)
    changed = [file for file in found if file]
    if changed and index.exists():
        raise InputError(
            f"{printable(changed[0])}: has changed since {index} was made; expected, from now on, "
            "sepssl-embed --output with that index, which embeds it anew, or another output folder"
        )
    for shard, file in zip(there, found, strict=True):
        if file:
            _remove(corpus.folder(shard))
    done = {shard.number for shard, file in zip(there, found, strict=True) if not file}
    missing = [shard for shard in shards if shard.number not in done]
    if missing and index.exists():
        raise InputError(
            f"{index}: was made of all shards, of which {len(missing)} are missing, the first "
            f"{corpus.folder(missing[0])}; expected the index to be deleted too, to make it again"
        )
    return missing, changed


def _remove(folder: pathlib.Path) -> None:
    """Removes a shard at once: nobody finds a part of it."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _changed_file(corpus: Corpus, shard: Shard) -> str:
    """A file of other content than a shard was made from, "" if there is none."""
    for file, (stamp, digest) in read_result(corpus, shard).files.items():
        now = file_stamp(pathlib.Path(file))
        if now in (stamp, "missing"):  # what was made of a file that is gone stays
            continue
        if file_digest(pathlib.Path(file), now) != digest:
            return file
    return ""


def read_result(corpus: Corpus, shard: Shard) -> ShardResult:
    """What became of a shard that is done.

    Raises:
        InputError: if that cannot be read.
    """
    path = corpus.folder(shard) / DONE
    try:
        return ShardResult.read(path.parent)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); expected the folder to be deleted, to make that "
            "shard again"
        ) from error


def finish(corpus: Corpus, shards: Sequence[Shard], skipped: Sequence[Skipped] = ()) -> Report:
    """Puts the results of all shards together, when they are done.

    Writes `failed.csv`, and the index of all shards or, of channels in files, `channels.csv` and
    `croissant.json`.

    Args:
        corpus: what was made.
        shards: all of them.
        skipped: files in the folder of recordings that are in none.

    Raises:
        InputError: if nothing could be made of any recording.
    """
    output = pathlib.Path(corpus.output)
    report = Report(sum(len(shard.rows) for shard in shards) + len(skipped))
    for shard in shards:
        result = read_result(corpus, shard)
        report.done += result.done
        report.seconds += result.seconds
        report.failed += [(file, clip, reason) for file, clip, reason in result.failed]
        report.notes += result.notes
    folder = pathlib.Path(corpus.manifest)
    report.failed += [(str(folder / name), name, reason) for name, reason in skipped]
    _write_table(output / FAILED, _FAILED_COLUMNS, report.failed)
    if not report.done:
        raise InputError(
            f"{corpus.manifest}: none of {report.recordings} recordings could be used; the first: "
            f"{report.failed[0][2]}"
        )
    if corpus.task == "embed":
        index = output / INDEX
        parts = [corpus.folder(shard) / INDEX for shard in shards]
        if not index.exists():
            merge_indexes([part for part in parts if part.exists()], index)
        report.result = str(index)
    elif corpus.format == STORE:
        report.result = str(output)
    else:
        report.result = str(output / CHANNELS)
        columns = _FRAME_COLUMNS if corpus.format == "log_mel" else _FILE_COLUMNS
        _write_table(output / CHANNELS, columns, _channel_rows(corpus, shards))
        listed = Table(CHANNELS, "The separated channels.", [_COLUMNS[name] for name in columns])
        includes, encoding = _FILES[corpus.format]
        files = Files("files", "Their samples or frames.", f"{SHARDS}/**/{includes}", encoding)
        description = "Recordings, separated into channels."
        write_croissant(output, description, [listed], [files], licences_of(corpus.manifest))
    return report


def _channel_rows(corpus: Corpus, shards: Sequence[Shard]) -> Iterator[Sequence[Any]]:
    for shard in shards:  # of a large corpus, all rows are more than memory holds
        folder = corpus.folder(shard).relative_to(corpus.output)
        for path, values in read_result(corpus, shard).channels:
            yield [(folder / path).as_posix(), *values]


def _write_table(path: pathlib.Path, head: Sequence[str], rows) -> None:
    """Written anew by every run that comes to its end."""
    with (
        atomic_file(path, overwrite=True) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as text,
    ):
        writer = csv.writer(text)
        writer.writerow(head)
        for row in rows:
            writer.writerow([in_utf8(v) if isinstance(v, str) else v for v in row])
