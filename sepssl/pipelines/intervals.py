"""Intervals of channels as files beside them: a selection table, labels, clips."""

import pathlib
from collections.abc import Sequence

import numpy as np

from sepssl.audio.files import audio_info, read_audio, read_blocks, write_audio
from sepssl.pipelines.activity import Activity, ChannelLevels, Interval
from sepssl.reports.selections import Selection, audacity_labels, raven_table

RAVEN, AUDACITY, CLIPS = ".selections.txt", ".labels.txt", "_clips"


def interval_tables(
    intervals: Sequence[Interval], path: str, offset: float, sample_rate: int
) -> dict[str, str]:
    """The text of each file of intervals, by what follows the recording's name in its own.

    Args:
        intervals: of the recording's channels.
        path: the recording.
        offset: where the clip begins in it, in seconds.
        sample_rate: of the channels, in Hz.
    """
    selections = [
        Selection(
            path,
            offset + start,
            offset + end,
            sample_rate / 2,
            f"channel {channel}",
            (channel, f"{level:.2f}"),
        )
        for channel, start, end, level in intervals
    ]
    raven = raven_table(selections, ["Separated Channel", "Level (dB)"])
    return {RAVEN: raven, AUDACITY: audacity_labels(selections)}


def measured(
    files: Sequence[pathlib.Path], power: float, levels_db: Sequence[float], activity: Activity
) -> tuple[np.ndarray, list[Interval]]:
    """The shares of activity, and the intervals, of channels that are written already.

    Args:
        files: the channels.
        power: mean of the recording's, which they need not add up to; 0 if it is not known, and
            follows from the loudest channel's level.
        levels_db: of each channel, relative to the recording.
        activity: what counts as such.

    Raises:
        InputError: if they cannot be read.
    """
    levels = ChannelLevels(len(files), audio_info(files[0]).sample_rate)
    for blocks in zip(*(read_blocks(file, allow_silence=True) for file in files), strict=True):
        levels.add(np.stack(blocks))
    if not power:
        loudest = int(np.argmax(levels.mean_powers))
        power = levels.mean_powers[loudest] / 10 ** (levels_db[loudest] / 10)
    return levels.relative_to(power, activity)[1:]


def write_clips(
    folder: pathlib.Path,
    files: Sequence[pathlib.Path],
    intervals: Sequence[Interval],
    offset: float,
) -> None:
    """Writes `channel1_START-END.wav` for every interval, as the channels have the samples.

    Args:
        folder: an empty folder.
        files: the channels.
        intervals: which parts of them.
        offset: where the clip begins in its recording, in seconds, for the names.

    Raises:
        InputError: if a channel cannot be read. OutputError: if a clip cannot be written.
    """
    infos = [audio_info(file) for file in files]
    for channel, start, end, _ in intervals:
        file, info = files[channel - 1], infos[channel - 1]
        clip = read_audio(file, None, start, end - start, allow_silence=True)
        name = f"channel{channel}_{offset + start:.2f}-{offset + end:.2f}.wav"
        write_audio(folder / name, clip, info.sample_rate, info.subtype)
