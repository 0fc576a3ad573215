"""Separation of recordings of any length and sample rate, in memory that does not grow with it."""

import collections
import itertools
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from sepssl.audio.streaming import resample_blocks

if typing.TYPE_CHECKING:
    from sepssl.separation.separator import Separator

CHUNK_SECONDS = 30.0
CONTEXT_SHARE = 0.1  # of a chunk, on each side
FADE_SHARE = 0.02
CLEARLY = 0.1
COMPILED_FROM = 4  # chunks: XLA takes seconds to compile, and is faster from then on


class ChunksDone(NamedTuple):
    """How far the separation of a recording has come, to take it up there.

    Attributes:
        chunks: how many are separated.
        position: samples of the channels that were yielded.
        overlapping: float32 [sources, samples], the last chunk where the next one overlaps it; None
            after the last chunk.
    """

    chunks: int
    position: int
    overlapping: np.ndarray | None


def separate_stream(
    separator: "Separator",
    blocks: Iterable[np.ndarray],
    sample_rate: int,
    chunk_seconds: float | None = CHUNK_SECONDS,
    keep_rate: bool = True,
    on_mixture: Callable[[np.ndarray], None] | None = None,
    on_chunk: Callable[[ChunksDone], None] | None = None,
    done: ChunksDone | None = None,
) -> Iterator[np.ndarray]:
    """Separates a recording read in blocks, yielding its channels piece by piece.

    Args:
        separator: `Separator`.
        blocks: float32 [samples] each, of any lengths.
        sample_rate: of the blocks, in Hz. If it is not the separator's, they are resampled.
        chunk_seconds: a longer recording is separated in chunks of this length, see
            `separate_chunks`; None separates it whole, in memory that grows with it.
        keep_rate: whether the channels are resampled back to `sample_rate`. What the separator has
            not heard of the recording (mainly the frequencies above its band) is then distributed
            over them by their power, so that they add up to the recording to the extent that the
            separator's outputs do.
        on_mixture: called with each block of the separator's input, float32 [samples] at its rate.
        on_chunk: called before a chunk's piece is yielded; only if nothing is resampled, in chunks.
        done: what `on_chunk` was called with: the pieces that follow it are yielded, the same to
            the last bit. `blocks` are the whole recording all the same.

    Yields:
        float32 [sources, samples of the piece], at `sample_rate` or the separator's rate.

    Raises:
        ValueError: if `done` is given, and the recording is resampled or not cut into chunks.
    """
    rate = separator.sample_rate
    if done is not None and (sample_rate != rate or chunk_seconds is None):
        raise ValueError("separation is taken up between chunks, at the separator's sample rate")
    if sample_rate == rate:
        heard = _passing(blocks, on_mixture) if on_mixture else blocks
        yield from _separated(separator, heard, chunk_seconds, on_chunk, done)
        return
    recording: collections.deque[np.ndarray] = collections.deque()
    if keep_rate:
        blocks = _passing(blocks, recording.append)
    heard = resample_blocks(blocks, sample_rate, rate)
    if on_mixture:
        heard = _passing(heard, on_mixture)
    if not keep_rate:
        yield from _separated(separator, heard, chunk_seconds)
        return
    mixture: collections.deque[np.ndarray] = collections.deque()
    channels = _separated(separator, _passing(heard, mixture.append), chunk_seconds)
    # The mixture last, since only together do all return with the same samples.
    rows = (np.concatenate([c, taken(mixture, c.shape[1])[None]]) for c in channels)
    back = (frames.T for frames in resample_blocks((r.T for r in rows), rate, sample_rate))
    yield from _completed(back, recording)


def _passing(
    blocks: Iterable[np.ndarray], note: Callable[[np.ndarray], None]
) -> Iterator[np.ndarray]:
    for block in blocks:
        note(block)
        yield block


def _separated(
    separator: "Separator",
    blocks: Iterable[np.ndarray],
    chunk_seconds: float | None,
    on_chunk: Callable[[ChunksDone], None] | None = None,
    done: ChunksDone | None = None,
) -> Iterator[np.ndarray]:
    if chunk_seconds is None:
        yield np.asarray(separator.predict_on_batch(np.concatenate(list(blocks))[None]))[0]
        return
    # Whole frames, since even steady sounds are separated differently off the basis's grid.
    grid = separator.basis.hop
    rate = separator.sample_rate
    samples = (chunk_seconds * rate * share for share in (1, CONTEXT_SHARE, FADE_SHARE))
    chunk, context, fade = (round(length / grid) * grid for length in samples)
    calls = itertools.count(done.chunks if done else 0)

    def separate(mixture):
        if mixture.shape[1] != chunk or next(calls) < COMPILED_FROM:
            return separator.predict_on_batch(mixture)
        return separator.compiled_call(mixture)

    yield from separate_chunks(separate, blocks, chunk, context, fade, grid, on_chunk, done)


def separate_chunks(
    separate: Callable[[np.ndarray], np.ndarray],
    blocks: Iterable[np.ndarray],
    chunk: int,
    context: int,
    fade: int,
    grid: int = 1,
    on_chunk: Callable[[ChunksDone], None] | None = None,
    done: ChunksDone | None = None,
) -> Iterator[np.ndarray]:
    """Separates a recording chunk by chunk.

    The first and last `context` samples of a chunk, which lack context on one side, are discarded;
    the remaining parts are cross-faded linearly. If the channels of a chunk are clearly those of
    the previous chunk in another order, they are reordered, so that a channel keeps its identity. A
    recording that fits into one chunk is separated whole, and the last chunk is as long as the
    others (except for rounding to `grid`), since the network normalises over its whole input.
    Pieces add up to the recording to the extent that the separator's outputs do.

    Args:
        separate: mixtures [1, samples] -> estimates [1, sources, samples].
        blocks: the recording, float32 [samples] each.
        chunk: samples in a chunk, more than `2 * context + fade`.
        context: samples, 0 or more.
        fade: samples, 0 or more.
        grid: chunks start at multiples of this many samples, if `chunk`, `context` and `fade` are
            multiples of it too.
        on_chunk, done: see `separate_stream`.

    Yields:
        float32 [sources, samples of the piece]; the pieces in order make up the recording.

    Raises:
        ValueError: if chunk, context and fade do not fit together.
    """
    overlap = 2 * context + fade
    if not (chunk > overlap and context >= 0 and fade >= 0):
        raise ValueError(
            f"chunk={chunk}, context={context}, fade={fade}: expected a chunk longer than twice "
            "the context and the fade"
        )
    ramp = (np.arange(fade, dtype=np.float32) + 0.5) / max(fade, 1)
    count, position, overlapping = done or (0, 0, None)
    for waveform, skip, is_last in itertools.islice(
        _chunks(blocks, chunk, chunk - overlap, grid), count, None
    ):
        estimates = np.asarray(separate(waveform[None]))[0, :, skip:]
        begin = 0
        if overlapping is not None:
            begin = context
            if overlap:  # a copy, which may be written to
                estimates = estimates[_matched(overlapping, estimates[:, :overlap])]
            if fade:
                fading = slice(context, context + fade)
                estimates[:, fading] *= ramp
                estimates[:, fading] += (1 - ramp) * overlapping[:, fading]
        if is_last:
            piece, overlapping = estimates[:, begin:], None
        else:
            piece = estimates[:, begin : -(context + fade) or None]
            overlapping = estimates[:, estimates.shape[1] - overlap :]
        count, position = count + 1, position + piece.shape[1]
        if on_chunk:
            on_chunk(ChunksDone(count, position, overlapping))
        yield piece


def _chunks(
    blocks: Iterable[np.ndarray], chunk: int, hop: int, grid: int
) -> Iterator[tuple[np.ndarray, int, bool]]:
    """Chunks every `hop` samples; the last one starts earlier, to be as long as the others.

    Yields:
        The chunk, by how many samples it starts earlier, and whether it is the last.
    """
    buffer, start, end = np.zeros(0, np.float32), 0, 0  # the buffer ends at `end`
    for block in blocks:
        buffer = np.concatenate([buffer, block])
        end += len(block)
        while end > start + chunk:
            buffer = buffer[len(buffer) - (end - start) :]
            yield buffer[:chunk], 0, False
            start += hop
    if end:
        begin = (end - chunk) // grid * grid if start else 0
        last = buffer[len(buffer) - (end - begin) :]
        yield last, len(last) - (end - start), True


def _matched(earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """The order in which `later`'s channels match `earlier`'s, or their own order.

    A trained separator keeps its own order, although the best matching of two different estimates
    often has another. So an order must remove more than nine tenths of the difference to be used.
    """
    products = earlier.astype(np.float64) @ later.T.astype(np.float64)
    best = linear_sum_assignment(products, maximize=True)[1]
    difference, left = (np.sum(np.square(earlier - x)) for x in (later, later[best]))
    return best if left < CLEARLY * difference else np.arange(len(later))


def _completed(
    pieces: Iterable[np.ndarray], recording: collections.deque[np.ndarray]
) -> Iterator[np.ndarray]:
    """Distributes the part of the recording that was not heard over the channels, by their power in
    the piece. Its last row is what was heard.
    """
    weights = None
    for rows in pieces:
        samples = min(rows.shape[1], sum(len(block) for block in recording))
        piece, heard = rows[:-1, :samples], rows[-1, :samples]
        power = np.mean(np.square(piece), axis=1) + 1e-12 if samples else np.ones(len(piece))
        target = (power / power.sum())[:, None].astype(np.float32)
        # Starting from those of the previous piece: a step in them could be audible.
        start = target if weights is None else weights
        ramp = np.linspace(0, 1, samples, dtype=np.float32)
        missing = taken(recording, samples) - heard
        yield piece + (start + (target - start) * ramp) * missing
        weights = target
    rest = taken(recording, sum(len(block) for block in recording))
    if len(rest) and weights is not None:  # the end, lost in resampling twice
        yield weights * rest


def taken(blocks: collections.deque[np.ndarray], samples: int) -> np.ndarray:
    """Takes `samples` samples off the front."""
    taken = []
    while samples:
        block = blocks.popleft()
        if len(block) > samples:
            blocks.appendleft(block[samples:])
            block = block[:samples]
        taken.append(block)
        samples -= len(block)
    return np.concatenate(taken) if taken else np.zeros(0, np.float32)
