"""A sound in, the windows of an index that are nearest to it out.

What needs TensorFlow is imported where it is used: a row of the index is a query without it.
"""

import os
import pathlib
import typing
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from sepssl.audio.files import audio_info, played_rate, read_audio, read_blocks, write_audio
from sepssl.audio.streaming import at_rate
from sepssl.errors import InputError
from sepssl.files import atomic_folder, printable, require_apart, require_new
from sepssl.index.search import Found, WindowIndex
from sepssl.index.store import MIXTURE
from sepssl.reports.found import (
    Sound,
    in_file,
    recording_of,
    write_audacity,
    write_found_csv,
    write_found_page,
    write_raven,
)

if typing.TYPE_CHECKING:
    from sepssl.representation.encoder import Encoder
    from sepssl.separation.separator import Separator

CONTEXT_SECONDS = 10.0  # on both sides of what is separated, where there is as much; our choice
_SHOWN_SECONDS = 0.0005  # half of the last digit of times in tables
OUTPUTS = "a name that ends in .csv, .selections.txt, .txt or .html, or a new folder's"


def row_of(index: WindowIndex, query: str, channel: int = MIXTURE) -> Found:
    """The row of an index that a string names.

    Args:
        index: the index.
        query: the id of a row, or "RECORDING@SECONDS": a name in the index or the path of a file,
            and a time in the file.
        channel: which row of its window, if not 0.

    Raises:
        InputError: if there is none, or its window is without sound; if several recordings have
            the name.
    """
    if query.isdecimal():
        row = index.row(int(query))
        recording, start = row.recording, in_file(row)[0]
        same = channel in (MIXTURE, row.channel)
        found = row if same else index.channel_of(row.row, channel)
    else:
        recording, start = _place_of(query)
        found = index.row_at(recording, start, channel)
    if found is None:
        where = f"channel {channel} of a window" if channel else "a window"
        raise InputError(
            f"{index.folder}: holds no row for {where} of {printable(recording)} at {start:g} s; "
            f"expected a recording of the index, by its path or by a name such as "
            f"{printable(index.any_name())}, and a time in it"
        )
    if not index.vector(found.row).any():
        begin, end = in_file(found)
        raise InputError(
            f"{index.folder}: row {found.row}, {printable(recording)} from {begin:g} to "
            f"{end:g} s, is a window without sound; expected one with sound"
        )
    return found


def _place_of(query: str) -> tuple[str, float]:
    """The two parts of RECORDING@SECONDS."""
    recording, at, seconds = query.rpartition("@")
    try:
        start = float(seconds)
    except ValueError:
        at, start = "", 0.0
    if not at or not np.isfinite(start):
        raise InputError(
            f"{printable(query)}: names no row; expected the number of a row, or RECORDING@SECONDS"
        )
    return recording, start


def embed_query(
    index: WindowIndex,
    encoder: "Encoder",
    recording: str | os.PathLike,
    start: float = 0.0,
    end: float | None = None,
    separator: "Separator | None" = None,
    channel: int = MIXTURE,
    allow_truncated: bool = False,
    warn: Callable[[str], None] | None = None,
) -> np.ndarray:
    """The vector of a sound file, or of a part of it, to search an index for.

    It is embedded as the recordings of the index were, at the same speed: one shorter than a window
    as one window of its length, padded with zeros to a patch; of one that is longer, windows are
    embedded, and their mean is the query (or what else rows of the index are pooled by).

    Args:
        index: what is to be searched.
        encoder: that of the index.
        recording: sound file.
        start, end: in seconds; None for the end of the file.
        separator: separates the recording, for a channel.
        channel: number of a channel, from 1, or 0 for the recording itself.
        allow_truncated: whether a recording that ends early is no error.
        warn: is called with one line if the recording ends before `end`, or next to nothing of that
            part lies in the encoder's band.

    Returns:
        float32 [dim].

    Raises:
        InputError: if the encoder or the separator is not that of the index, or the recording
            cannot be read, is silent, or holds nothing in the encoder's band.
    """
    from sepssl.pipelines.channel_record import model_digest
    from sepssl.representation.windows import WindowEmbedder, pooled

    settings = index.settings
    if settings is None:
        raise InputError(
            f"{index.folder}: another program has written it, and which encoder it is of is not "
            "known; expected a row of it as the query"
        )
    models = (
        {"encoder": encoder} if separator is None else {"encoder": encoder, "separator": separator}
    )
    for kind, model in models.items():
        digest = model_digest(model)
        if settings[kind] is not None and settings[kind] != digest:
            raise InputError(
                f"{index.folder}: holds rows of the {kind} {settings[kind]}, this one is {digest}; "
                f"expected the {kind} of the index"
            )
    rate, speed = encoder.sample_rate, settings.get("speed", 1.0)
    if end is not None and not end > start:
        raise InputError(
            f"{printable(recording)}: ends at {end:g} s; expected an end after {start:g} s"
        )
    if channel == MIXTURE:
        duration = None if end is None else end - start
        waveform = read_audio(
            recording, rate, start, duration, allow_truncated=allow_truncated, speed=speed
        )
    else:
        if separator is None:
            raise InputError(f"channel {channel} of a query: expected a separator")
        stop = audio_info(recording, allow_truncated).duration if end is None else end
        waveform = _channel(
            separator, recording, start, stop, channel, rate, allow_truncated, speed
        )
    _check_part(recording, start, end, rate, allow_truncated, speed, warn)
    embedder = WindowEmbedder(
        encoder, settings["window_samples"] / rate, settings["hop_samples"] / rate
    )
    batches = list(embedder([waveform[None]]))
    vectors = np.concatenate([windows.embeddings[:, 0] for windows in batches])
    if not vectors.any():
        until = "on" if end is None else f"to {end:g} s"
        raise InputError(
            f"{printable(recording)}: is silent from {start:g} s {until}; expected a sound to "
            "search for"
        )
    pool = settings["pool"]
    return pooled(iter(vectors), "mean" if pool == "window" else pool)


def _check_part(
    recording: str | os.PathLike,
    start: float,
    end: float | None,
    rate: int,
    allow_truncated: bool,
    speed: float,
    warn: Callable[[str], None] | None,
) -> None:
    """Warns if the recording ends before `end`, and of the band as `at_rate` does of whole ones."""
    info, name = audio_info(recording, allow_truncated), printable(recording)
    if warn and end is not None and end > info.duration + _SHOWN_SECONDS:
        warn(f"{name}: ends at {info.duration:.2f} s; the query ends there, not at {end:g} s")
    own = played_rate(info.sample_rate, speed, name)
    if own > rate:
        first = round(start * info.sample_rate)
        stop = None if end is None else round(end * info.sample_rate)
        blocks = read_blocks(recording, False, first, stop, allow_truncated)
        for _ in at_rate(blocks, own, rate, name, warn, speed):
            pass


def sounds_of(found: Found, separator: "Separator | None", speed: float = 1.0) -> list[Sound]:
    """A window's sound, mono at its file's sample rate, and that of the channel that was found.

    Args:
        found: the window.
        separator: for the channel.
        speed: at which the recording is played to the separator.

    Raises:
        InputError: if the recording cannot be read.
    """
    if not found.path:
        raise InputError(f"{printable(found.recording)}: was not read from a file")
    start, end = in_file(found)
    rate = audio_info(found.path, allow_truncated=True).sample_rate
    waveform = read_audio(found.path, None, start, end - start, allow_truncated=True)
    sounds = [Sound("recording", waveform, rate)]
    if found.channel and separator is not None:
        channel = _channel(separator, found.path, start, end, found.channel, None, True, speed)
        sounds.append(Sound(f"channel {found.channel}", channel, rate))
    return sounds


def _channel(
    separator: "Separator",
    recording: str | os.PathLike,
    start: float,
    end: float,
    channel: int,
    sample_rate: int | None,
    allow_truncated: bool,
    speed: float,
) -> np.ndarray:
    """A part of a channel, separated with what is around it.

    Without a `sample_rate`, it has as many samples as that part of the file.
    """
    if not 1 <= channel <= separator.num_sources:
        raise InputError(
            f"channel {channel}: expected 1 to {separator.num_sources}, the separator's"
        )
    info = audio_info(recording, allow_truncated)
    rate = sample_rate or played_rate(info.sample_rate, speed, printable(recording))
    before = max(0.0, start - CONTEXT_SECONDS * speed)
    length = end + CONTEXT_SECONDS * speed - before
    waveform = read_audio(
        recording, rate, before, length, allow_truncated=allow_truncated, speed=speed
    )
    first = round((start - before) / speed * rate)
    channels = separator.separate(waveform, rate)
    return channels[channel - 1, first : first + round((end - start) / speed * rate)]


def require_results(outputs: Sequence[str | os.PathLike], found: Sequence[Found] = ()) -> None:
    """Raises one InputError that names all of the outputs to which results cannot be written.

    Args:
        outputs: files and folders.
        found: the results, if they are known.
    """
    faults = []
    try:
        require_apart(outputs)
    except InputError as error:
        faults.append(str(error))
    for path in map(pathlib.Path, outputs):
        if path.suffix.lower() not in ("", ".csv", ".txt", ".html"):
            faults.append(f"{path}: expected {OUTPUTS}")
            continue
        try:
            require_new(path)
        except InputError as error:
            faults.append(str(error))
            continue
        if is_label_track(path) and (count := len({recording_of(row) for row in found})) > 1:
            faults.append(
                f"{path}: a label track belongs to one recording, windows of {count} were found; "
                "expected a name that ends in .selections.txt, .csv or .html, or a folder"
            )
    if faults:
        raise InputError("; ".join(dict.fromkeys(faults)))


def is_label_track(path: pathlib.Path) -> bool:
    """Whether results are written to `path` as labels for Audacity."""
    name = path.name.lower()
    return name.endswith(".txt") and not name.endswith(".selections.txt")


def write_results(
    output: str | os.PathLike,
    found: Sequence[Found],
    title: str,
    separator: "Separator | None" = None,
    speed: float = 1.0,
) -> list[str]:
    """Writes found windows in the form that the output's name asks for.

    `.csv`; `.selections.txt`, a selection table for Raven; `.txt`, a label track for Audacity, of
    windows of one recording; `.html`, one page with players and spectrograms; without a suffix, a
    folder with the sound of every window, and of the channel that was found, as 24-bit wav files.

    Args:
        output: a new file or folder.
        found: the windows.
        title: of the page.
        separator: for the sound of channels; without it, a window's is that of the recording.
        speed: that of the index, at which recordings are played to the separator.

    Returns:
        For each window whose sound could not be read, the reason.

    Raises:
        InputError, OutputError: if the output cannot be written.
    """
    path = pathlib.Path(output)
    require_results([path], found)
    if path.suffix.lower() == ".csv":
        write_found_csv(path, found)
    elif path.name.lower().endswith(".selections.txt"):
        write_raven(path, found, highest_hz(window.path for window in found))
    elif is_label_track(path):
        write_audacity(path, found)
    else:
        sounds: list[list[Sound]] = []
        skipped = []
        for window in found:
            try:
                sounds.append(sounds_of(window, separator, speed))
            except InputError as error:
                sounds.append([])
                skipped.append(str(error))
        if path.suffix:
            write_found_page(path, title, found, sounds)
        else:
            _write_clips(path, found, sounds)
        return skipped
    return []


def _write_clips(
    folder: pathlib.Path, found: Sequence[Found], sounds: Sequence[Sequence[Sound]]
) -> None:
    with atomic_folder(folder) as temporary:
        for rank, (window, tracks) in enumerate(zip(found, sounds, strict=True), start=1):
            start, end = in_file(window)
            stem = printable(pathlib.PurePath(window.recording).stem)
            stem = stem.encode(errors="replace")[:80].decode(
                errors="ignore"
            )  # names are limited in bytes
            name = f"{rank:03d}_{stem}_{start:.2f}-{end:.2f}"
            for track, suffix in zip(tracks, ("", f"_channel{window.channel}"), strict=False):
                path = temporary / f"{name}{suffix}.wav"
                write_audio(path, track.waveform, track.sample_rate, "PCM_24")


def highest_hz(paths: Iterable[str]) -> float:
    """Half of the highest sample rate among recordings, in Hz; 24 kHz if none can be read."""
    rates = []
    for path in set(filter(None, paths)):
        try:
            rates.append(audio_info(path, allow_truncated=True).sample_rate)
        except InputError:
            continue
    return max(rates, default=48000) / 2
