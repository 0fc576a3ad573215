"""A shard of a corpus, from its rows of the manifest to the files that stay."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import platform
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from sepssl.audio.encoding import flac_has
from sepssl.audio.files import write_audio
from sepssl.audio.log_mel import LogMel
from sepssl.data.channel_shards import STORE
from sepssl.data.clips import Clips, Skipped
from sepssl.data.folder import file_digest, file_stamp
from sepssl.data.manifest import Manifest, ManifestRow
from sepssl.data.segments import Segments
from sepssl.data.store import store_channels, store_clips
from sepssl.errors import InputError, OutputError, input_errors
from sepssl.files import atomic_folder, in_utf8, writing_to
from sepssl.pipelines.activity import Activity
from sepssl.pipelines.channel_record import ClipIdentity
from sepssl.pipelines.corpus import DONE, INDEX, Corpus, Shard, ShardResult
from sepssl.pipelines.embed import embed_recordings
from sepssl.pipelines.separate import (
    SeparatedClip,
    channel_rate,
    named,
    output_names,
    separate_clip,
)
from sepssl.representation import Encoder, load_encoder
from sepssl.representation.windows import WindowEmbedder
from sepssl.separation import Separator, load_separator
from sepssl.separation.long_audio import CHUNK_SECONDS
from sepssl.weights import references

OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
LOG_MEL, FRAMES = "log_mel.npy", 6000  # frames computed at once: a minute
# Puts a clip's channels into a shard: given also its name there and its recording, the rows of
# `channels.csv`.
ChannelRow = tuple[str, list[Any]]
Writer = Callable[[SeparatedClip, str, str], list[ChannelRow]]


@dataclasses.dataclass(frozen=True)
class Models:
    """The models of a corpus; None for those that it does without."""

    separator: Separator | None
    encoder: Encoder | None


_LOADING = threading.Lock()  # runners may use several threads


def models_of(corpus: Corpus) -> Models:
    """The models of a corpus, loaded once in a process.

    Raises:
        InputError: if they cannot be loaded, or are none that can do what is asked of them.
    """
    with _LOADING:
        return _loaded(corpus)


@functools.lru_cache(maxsize=1)
def _loaded(corpus: Corpus) -> Models:
    here = dataclasses.replace(corpus).models  # `corpus` may come from another machine
    if here != corpus.models:
        raise InputError(
            f"{platform.node()}: has the models {here}, the corpus is made with "
            f"{corpus.models}; expected the same"
        )
    separator = load_separator(corpus.separator) if corpus.separator else None
    encoder = load_encoder(corpus.encoder) if corpus.encoder else None
    # What no recording can do anything about.
    if encoder is not None:
        WindowEmbedder(encoder, corpus.window_seconds, corpus.hop_seconds)
    elif separator is not None and corpus.format != STORE:
        rate = channel_rate(separator.sample_rate, corpus.speed)
        if corpus.format == "opus" and rate not in OPUS_RATES:
            raise InputError(
                f"format=opus: is not for channels at {rate} Hz; expected one of "
                f"{', '.join(map(str, OPUS_RATES))}, or another format"
            )
        if corpus.format == "flac" and not flac_has(rate):
            raise InputError(
                f"format=flac: is not for channels at {rate} Hz; expected another format or speed"
            )
        if corpus.format == "log_mel":
            with input_errors("format=log_mel"):
                LogMel(separator.sample_rate)
    return Models(separator, encoder)


def process_shard(corpus: Corpus, shard: Shard) -> ShardResult | None:
    """Makes a shard, all of it or nothing, unless it is there.

    What comes of it depends on the arguments and on the sound files alone, so that it does not
    matter which process makes it, how often it is begun, or whether two do so at the same time.

    Returns:
        What became of it; None if another process was first.

    Raises:
        InputError: if the models cannot be loaded. OutputError: if it cannot be written.
    """
    folder = corpus.folder(shard)
    if (folder / DONE).exists():
        return None
    models = models_of(corpus)
    try:
        with atomic_folder(folder) as temporary:
            # Before they are read: what is written to them meanwhile is a change.
            files = {}
            for path in dict.fromkeys(row.span.path for row in shard.rows):
                stamp = file_stamp(path)
                files[str(path)] = (stamp, file_digest(pathlib.Path(path), stamp))
            result = _made(corpus, models, shard.rows, temporary)
            result.files = files
            with writing_to(folder):
                result.write(temporary)
    except InputError:
        if (folder / DONE).exists():
            return None
        raise
    return result


def _made(
    corpus: Corpus, models: Models, rows: Sequence[ManifestRow], folder: pathlib.Path
) -> ShardResult:
    try:
        make = _embed if corpus.task == "embed" else _store if corpus.format == STORE else _separate
        return make(corpus, models, rows, folder)
    except OutputError:
        raise
    except InputError as error:
        for left in folder.iterdir():
            shutil.rmtree(left)
        if len(rows) == 1:
            (row,) = rows
            reason = str(error).rpartition("; the first: ")[2]  # a store names itself before it
            return ShardResult(failed=[(str(row.span.path), row.span.name, reason)])
    # None could be used: one by one, each has its own reason.
    alone = [_made(corpus, models, [row], folder) for row in rows]
    if any(result.done for result in alone):
        raise InputError(
            f"{folder}: some recordings could be used at a second try only; the same command makes "
            "this shard again"
        )
    return ShardResult(failed=[failure for result in alone for failure in result.failed])


def _opened(corpus: Corpus, rate: int, rows: Sequence[ManifestRow]) -> Manifest:
    return Manifest(
        corpus.base,
        rate,
        allow_truncated=corpus.allow_truncated,
        speed=corpus.speed,
        rows=rows,
    )


def _failures(
    rows: Sequence[ManifestRow], skipped: Sequence[Skipped]
) -> list[tuple[str, str, str]]:
    files = {row.span.name: str(row.span.path) for row in rows}
    return [(files.get(clip, clip), clip, reason) for clip, reason in skipped]


def _truncated(clips: Clips) -> list[str]:
    parts = ((name, clips.truncated(index)) for index, name in enumerate(clips.names))
    return [f"{name}: {there}" for name, there in parts if there]


def _embed(corpus, models, rows, folder):
    clips = _opened(corpus, models.encoder.sample_rate, rows)
    summary = embed_recordings(
        models.encoder,
        clips,
        folder / INDEX,
        models.separator,
        corpus.window_seconds,
        corpus.hop_seconds,
        corpus.pool,
        corpus.audible_db,
        references(corpus.encoder, corpus.separator),
        verbose=False,
    )
    (folder / INDEX / ".lock").unlink(missing_ok=True)
    return ShardResult(
        done=summary.embedded,
        failed=_failures(rows, summary.skipped),
        notes=summary.warnings + summary.truncated,
        seconds=summary.audio_seconds,
    )


def _store(corpus, models, rows, folder):
    """Stores what training stores, in the same way; see `sepssl.training.encoder`."""
    recordings = _opened(corpus, corpus.sample_rate, rows)
    parts = Segments(recordings, corpus.clip_seconds)
    mixtures = store_clips(parts, folder, verbose=False)
    channels = store_channels(
        models.separator,
        corpus.models["separator"],
        mixtures,
        corpus.sample_rate,
        folder,
        max(CHUNK_SECONDS, 1.5 * corpus.clip_seconds),
        verbose=False,
    )
    shutil.rmtree(mixtures.folder)
    whole = {
        name: recordings.names[index] for name, index in zip(parts.names, parts.wholes, strict=True)
    }
    used = {whole[name] for name in channels.names}
    # Of a recording that is used, parts without sound are left out. Of others, one reason will do.
    reasons = {whole[name]: reason for name, reason in reversed(mixtures.skipped)}
    failed = [Skipped(name, reason) for name, reason in reasons.items() if name not in used]
    left_out = [reason for name, reason in mixtures.skipped if whole[name] in used]
    samples = sum(channels.num_samples(index) for index in range(len(channels)))
    return ShardResult(
        done=len(used),
        failed=_failures(rows, [*recordings.skipped, *failed]),
        notes=left_out + _truncated(recordings),
        seconds=samples / corpus.sample_rate * corpus.speed,
    )


def _separate(corpus, models, rows, folder):
    """Channels of whole recordings: a file for each, or log-mel frames of all."""
    separator = models.separator
    clips = _opened(corpus, separator.sample_rate, rows)
    result = ShardResult(failed=_failures(rows, clips.skipped), notes=_truncated(clips))
    # Beside the shard, since a recording may have any name in it.
    beside = tempfile.TemporaryDirectory(prefix=".scratch.", suffix=".tmp", dir=folder.parent)
    with (
        beside as temporary,
        _WRITERS[corpus.format](folder, pathlib.Path(temporary), separator.sample_rate) as write,
    ):
        scratch = pathlib.Path(temporary)
        names = zip(output_names(clips), clips.recordings, strict=True)
        for index, (name, recording) in enumerate(names):
            clip = ClipIdentity(clips, index)
            try:
                made = separate_clip(
                    separator, clip, scratch, False, corpus.chunk_seconds, Activity()
                )
                result.channels += write(made, name, recording)
            except OutputError:
                raise
            except InputError as error:
                result.failed += _failures(rows, [Skipped(clips.names[index], str(error))])
            else:
                result.done += 1
                result.seconds += clips.num_samples(index) / clips.sample_rate * clips.speed
                result.notes += [made.warning] if made.warning else []
    return result


@contextlib.contextmanager
def _sound_files(folder: pathlib.Path, suffix: str) -> Iterator[Writer]:
    """Writes `NAME_channel1.flac` and so on.

    Neither FLAC nor Opus goes beyond full scale: where a channel does, all of the recording's are
    made as much quieter as it takes.
    """

    def write(made: SeparatedClip, name: str, recording: str) -> list[ChannelRow]:
        entry, rows, name = made.entry, [], in_utf8(name)
        gain = 1.0 / max(made.peak, 1.0)
        targets = [folder / f"{name}_channel{c + 1}{suffix}" for c in range(len(made.samples))]
        if any(target.exists() for target in targets):
            raise InputError(
                f"{name}: another recording's channels have this name; expected names that differ"
            )
        for channel, (file, target) in enumerate(zip(made.samples, targets, strict=True)):
            samples = np.memmap(file, np.float32, "r+")
            if gain < 1:
                samples *= gain
            encoded = file.with_suffix(suffix)
            lossless = "PCM_24" if made.fine else "PCM_16"
            subtype = "OPUS" if suffix == ".opus" else lossless
            write_audio(encoded, samples, entry.rate, subtype, overwrite=True)
            with named(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(encoded, target)
            values = [
                recording,
                entry.offset,
                channel + 1,
                entry.levels[channel],
                entry.active[channel],
                round(20 * float(np.log10(gain)), 6),
            ]
            rows.append((target.relative_to(folder).as_posix(), values))
        return rows

    yield write


@contextlib.contextmanager
def _log_mels(folder: pathlib.Path, scratch: pathlib.Path, sample_rate: int) -> Iterator[Writer]:
    """Writes `log_mel.npy`, float16 [frames, 1 + channels, bands].

    The frames of all recordings, one after the other; first of each the recording's own, which are
    those of the sum of its channels.
    """
    log_mel = LogMel(sample_rate)
    there, raw = 0, scratch / "frames.raw"

    def write(made: SeparatedClip, name: str, recording: str) -> list[ChannelRow]:
        nonlocal there
        channels = [np.memmap(file, np.float32, "r") for file in made.samples]
        count = 1 + max(len(channels[0]) - log_mel.frame_length, 0) // log_mel.frame_hop
        with writing_to(folder), open(raw, "ab") as file:
            for first in range(0, count, FRAMES):
                start, frames = first * log_mel.frame_hop, min(FRAMES, count - first)
                length = (frames - 1) * log_mel.frame_hop + log_mel.frame_length
                block = np.stack([samples[start : start + length] for samples in channels])
                block = np.pad(block, [(0, 0), (0, length - block.shape[1])])
                block = np.concatenate([block.sum(axis=0, keepdims=True), block])
                spectra = np.asarray(log_mel.spectrogram(block)).swapaxes(0, 1)
                file.write(np.ascontiguousarray(spectra, "<f2").tobytes())
        first, there = there, there + count
        return [(LOG_MEL, [recording, made.entry.offset, first, count])]

    yield write
    if there:
        with writing_to(folder):
            values = np.memmap(raw, "<f2").reshape(there, -1, log_mel.bands)
            np.save(folder / LOG_MEL, values)


_WRITERS = {
    "flac": lambda folder, scratch, sample_rate: _sound_files(folder, ".flac"),
    "opus": lambda folder, scratch, sample_rate: _sound_files(folder, ".opus"),
    "log_mel": _log_mels,
}
