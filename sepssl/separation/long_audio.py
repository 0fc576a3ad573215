"""Separation of recordings of any length, chunk by chunk."""

from collections.abc import Iterator

import numpy as np
from scipy.optimize import linear_sum_assignment


def separate_chunks(
    separate, waveform: np.ndarray, sample_rate: int, chunk_seconds: float, context_seconds: float
) -> Iterator[np.ndarray]:
    """Separates a long recording, yielding the sources piece by piece.

    Chunks overlap by twice the context. Of each chunk the context is discarded, never cross-faded,
    and its channels are put into the order of the chunk before by the best one-to-one matching of
    the overlap, so that a channel keeps its identity. A recording that fits into one chunk is
    separated whole. Pieces add up to the mixture as the separator's outputs do.

    Args:
        separate: mixtures [1, samples] -> estimates [1, sources, samples].
        waveform: [samples].
        sample_rate: in Hz.
        chunk_seconds: length of a chunk, its context included.
        context_seconds: context on each side, less than half a chunk.

    Yields:
        float32 [sources, samples of the piece]; the pieces in order make up the recording.
    """
    chunk = round(chunk_seconds * sample_rate)
    context = round(context_seconds * sample_rate)
    if not 0 < 2 * context < chunk:
        raise ValueError(
            f"chunk_seconds={chunk_seconds}, context_seconds={context_seconds}: expected a "
            "context of more than 0 and less than half a chunk"
        )
    samples = len(waveform)
    previous_tail = None
    start = 0
    while True:
        # The last chunk reaches back to be as long as the others: the network normalises over
        # the time it sees, and a short rest would be separated differently.
        end = min(start + chunk, samples)
        begin = max(min(start, end - chunk), 0)
        estimates = np.asarray(separate(waveform[None, begin:end]))[0]
        estimates = estimates[:, start - begin :]
        if previous_tail is not None:
            shared = min(2 * context, estimates.shape[1])
            estimates = estimates[_order(previous_tail[:, :shared], estimates[:, :shared])]
        first = context if start else 0
        if end == samples:
            yield estimates[:, first:]
            return
        previous_tail = estimates[:, -2 * context :]
        yield estimates[:, first:-context]
        start += chunk - 2 * context


def _order(earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """The permutation of `later`'s channels with the largest inner products with `earlier`'s."""
    _, columns = linear_sum_assignment(earlier @ later.T, maximize=True)
    return columns
