"""Recordings of any length at a sample rate, in blocks: memory does not grow with them."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import soxr

from sepssl.audio.files import (
    EDGE_SECONDS,
    MAX_FACTOR,
    audio_info,
    check_sample_rate,
    lost_in_resampling,
    nothing_in_band,
    read_blocks,
    resampled_length,
)
from sepssl.audio.level import Level
from sepssl.errors import InputError
from sepssl.files import printable

_LITTLE = 0.01  # of a recording's power


def stream_audio(path: str | os.PathLike, sample_rate: int) -> Iterator[np.ndarray]:
    """Reads a whole sound file as `read_audio` does, block by block.

    Args:
        path: the file.
        sample_rate: in Hz, of the blocks.

    Yields:
        float32 `[samples]`, mono, not empty. In order they equal `read_audio(path, sample_rate)`:
        exactly without resampling, to 1e-5 with it.

    Raises:
        InputError: as `read_audio`. That the file is silent, or holds nothing in the band of
            `sample_rate`, is raised after the last block.
    """
    check_sample_rate(sample_rate)
    name = printable(path)
    yield from at_rate(read_blocks(path), audio_info(path).sample_rate, sample_rate, name)


def little_in_band(
    name: str, sample_rate: int, before: float, after: float, speed: float = 1.0
) -> str:
    """One line if next to nothing of a recording lies in a model's band, else "".

    Args:
        name: of the recording.
        sample_rate: of the model, in Hz.
        before: power of the recording at its own sample rate.
        after: at the model's. Below 1 % of `before` is next to nothing (our choice).
        speed: at which the recording is played to the model.
    """
    share, band = after / max(before, 1e-30), sample_rate / 2 / speed
    if share >= _LITTLE:
        return ""
    return (
        f"{name}: only {100 * share:.2g} % of its power lies below {band:.0f} Hz, the band "
        "of this model; a lower speed brings more of it there"
    )


def at_rate(
    blocks: Iterable[np.ndarray],
    from_rate: int,
    to_rate: int,
    name: str,
    warn: Callable[[str], None] | None = None,
    speed: float = 1.0,
) -> Iterator[np.ndarray]:
    """Blocks of a recording at another sample rate.

    Args:
        blocks: float32 [samples] each.
        from_rate, to_rate: in Hz.
        name: of the recording, for messages.
        warn: is called after the last block if next to nothing of the recording lies in the band.
        speed: at which the recording is played; `from_rate` has been multiplied by it.

    Raises:
        InputError: as `read_audio`; that nothing of the recording lies in the band, after the last
            block.
    """
    if to_rate > MAX_FACTOR * from_rate:
        raise InputError(
            f"{name}: its header gives {from_rate} Hz; expected at least 1/{MAX_FACTOR} of the "
            f"{to_rate} Hz to resample to"
        )
    before, after = Level(), Level(round(EDGE_SECONDS * to_rate))
    try:
        if from_rate == to_rate:
            yield from blocks
            return
        for block in resample_blocks(_noted(blocks, before), from_rate, to_rate):
            after.add(block)
            yield block
    except OSError as error:  # a damaged drive, a share that is gone
        raise InputError(f"{name}: cannot be read: {error.strerror}") from error
    # A single sample is made of less than one.
    if after.samples > 1 and lost_in_resampling(before.peak, after.inner_peak):
        raise nothing_in_band(name, from_rate, to_rate, speed)
    line = little_in_band(name, to_rate, before.power, after.power, speed)
    if warn and line and to_rate < from_rate:
        warn(line)


def _noted(blocks: Iterable[np.ndarray], level: Level) -> Iterator[np.ndarray]:
    for block in blocks:
        level.add(block)
        yield block


def resample_blocks(
    blocks: Iterable[np.ndarray], from_rate: int, to_rate: int
) -> Iterator[np.ndarray]:
    """Resamples a signal in blocks, to the length that `read_audio` would have.

    Args:
        blocks: [samples] or [samples, channels] each, of any lengths.
        from_rate, to_rate: in Hz.

    Yields:
        float32 blocks, of other lengths.
    """
    blocks = iter(blocks)
    first = next(blocks, None)
    if first is None:
        return
    channels = 1 if first.ndim == 1 else first.shape[1]
    stream = soxr.ResampleStream(from_rate, to_rate, channels, dtype="float32", quality="HQ")
    received = returned = 0
    for block in itertools.chain([first], blocks):
        received += len(block)
        resampled = stream.resample_chunk(np.ascontiguousarray(block, np.float32))
        returned += len(resampled)
        if len(resampled):
            yield resampled
    rest = stream.resample_chunk(first[:0].astype(np.float32), last=True)
    # At least one sample, since there is a recording to separate.
    missing = max(resampled_length(received, from_rate, to_rate), 1) - returned
    short = max(missing - len(rest), 0)
    rest = np.concatenate([rest, np.zeros((short, *first.shape[1:]), np.float32)])
    if missing > 0:
        yield rest[:missing]
