"""Embeddings of the windows of a recording, which may be of any length."""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from sepssl.audio.decoding import SILENCE
from sepssl.errors import InputError
from sepssl.representation.encoder import Encoder

BATCH = 64  # patches embedded at once: more are no faster on CPUs


class Windows(NamedTuple):
    """Windows of a recording, or some of them, in the order of time.

    Attributes:
        starts, ends: int64 [windows], in samples at the encoder's rate; `ends` are exclusive.
        embeddings: float32 [windows, channels, embedding_size].
        powers: float64 [windows, channels], mean squares.
    """

    starts: np.ndarray
    ends: np.ndarray
    embeddings: np.ndarray
    powers: np.ndarray


class WindowEmbedder:
    """Embeds windows of equal length, one hop apart.

    Windows begin at multiples of the hop. Where none of them ends with the recording, one more
    does. A recording shorter than a window is one window of its own length.

    A window's embedding is the mean over its patches, which begin at multiples of the encoder's
    patch hop in it; where none of them ends with the window, one more does, also with an encoder
    made with `cover_end=False`. A window shorter than a patch is padded with zeros to one. So every
    sample lies in a patch (our choice).

    Where the encoder normalises levels, each window is brought to that level for itself.

    A window without sound, whose root mean square is at most `SILENCE`, is like no other: its
    embedding is 0.

    What is embedded together depends on the recording alone, so that its embeddings are the same to
    the last bit wherever the work is taken up.

    Args:
        encoder: `Encoder`.
        window_seconds: at least the encoder's patch; None for the patch.
        hop_seconds: at most the window. None for the encoder's patch hop if the window is the
            patch, else half of the window.

    Attributes:
        window, hop: in samples.

    Raises:
        InputError: if `window_seconds` or `hop_seconds` is out of range.
    """

    def __init__(
        self,
        encoder: Encoder,
        window_seconds: float | None = None,
        hop_seconds: float | None = None,
    ):
        encoder = encoder.with_patches(cover_end=True)
        log_mel, rate = encoder.log_mel, encoder.sample_rate
        self._patch = log_mel.patch_samples
        self.window = self._patch if window_seconds is None else round(window_seconds * rate)
        if self.window < self._patch:
            raise InputError(
                f"window_seconds={window_seconds}: expected the encoder's patch of "
                f"{self._patch / rate:g} s or more"
            )
        if hop_seconds is not None:
            self.hop = round(hop_seconds * rate)
        else:
            at_patches = self.window == self._patch
            self.hop = log_mel.patch_hop_samples if at_patches else self.window // 2
        if not 1 <= self.hop <= self.window:
            given = f"hop_seconds={hop_seconds}"
            if hop_seconds is None:
                given += f", and the encoder's is {self.hop / rate:g} s"
            raise InputError(
                f"{given}: expected one sample (1/{rate} s) to the window of "
                f"{self.window / rate:g} s"
            )
        self._patches = log_mel.num_patches(self.window)
        self._embed_patches = encoder.compiled_patch_embeddings
        self._embed_dense = None
        if self.window == self._patch and self.hop % log_mel.frame_hop == 0:
            # Overlapping windows share the frames of one spectrogram.
            frames = self.hop // log_mel.frame_hop
            dense = encoder.of_windows(patch_hop_frames=frames, cover_end=False)
            self._embed_dense = dense.compiled_patch_embeddings

    def __call__(
        self, blocks: Iterable[np.ndarray], first: int = 0, begin: int = 0
    ) -> Iterator[Windows]:
        """Embeds a recording.

        Args:
            blocks: float32 [channels, samples] each, in order, of any lengths.
            first: windows to pass over, all those of earlier batches.
            begin: sample at which the blocks begin, a window or more before window `first`, or 0.

        Yields:
            The next windows. All but the last two batches hold `batch_size(channels)` of them.
        """
        buffer = None  # samples from `begin` on
        number = first if begin else 0  # of the next window
        size = 1
        for block in blocks:
            if buffer is None:
                buffer = np.asarray(block, np.float32)
                size = self.batch_size(len(block))
            else:
                buffer = np.concatenate([buffer, block], axis=1)
            needed = (size - 1) * self.hop + self.window
            while begin + buffer.shape[1] >= number * self.hop + needed:
                if number >= first:
                    yield self._grid(buffer, begin, number, size)
                number += size
            # The end may need a whole window.
            keep = min(number * self.hop, begin + buffer.shape[1] - self.window)
            if keep > begin:
                buffer, begin = buffer[:, keep - begin :], keep
        if buffer is None:
            return
        total = begin + buffer.shape[1]
        rest = (total - self.window) // self.hop + 1 - number
        if rest > 0:
            if number >= first:
                yield self._grid(buffer, begin, number, rest)
            number += rest
        if total < self.window or (number - 1) * self.hop + self.window < total:
            start = max(total - self.window, 0)
            yield self._embedded(buffer[None, :, start - begin :], np.array([start]))

    def batch_size(self, channels: int) -> int:
        """Windows embedded at once."""
        return max(1, BATCH // (channels * self._patches))

    def _grid(self, buffer: np.ndarray, begin: int, number: int, count: int) -> Windows:
        starts = (number + np.arange(count)) * self.hop
        stretch = buffer[:, starts[0] - begin : starts[-1] + self.window - begin]
        view = np.lib.stride_tricks.sliding_window_view(stretch, self.window, axis=1)
        windows = view[:, :: self.hop].swapaxes(0, 1)  # [count, channels, samples]
        if self._embed_dense is None:
            return self._embedded(windows, starts)
        embeddings = np.asarray(self._embed_dense(np.ascontiguousarray(stretch)))
        return _windows(windows, starts, embeddings.swapaxes(0, 1))

    def _embedded(self, windows: np.ndarray, starts: np.ndarray) -> Windows:
        count, channels, samples = windows.shape
        rows = np.ascontiguousarray(windows).reshape(count * channels, samples)
        patches = np.asarray(self._embed_patches(rows))
        embeddings = patches[:, 0] if patches.shape[1] == 1 else patches.mean(axis=1)
        return _windows(windows, starts, embeddings.reshape(count, channels, -1))


def _windows(windows: np.ndarray, starts: np.ndarray, embeddings: np.ndarray) -> Windows:
    powers = np.einsum("ncs,ncs->nc", windows, windows).astype(np.float64) / windows.shape[2]
    heard = powers[:, :, None] > SILENCE**2
    return Windows(starts, starts + windows.shape[2], np.where(heard, embeddings, 0), powers)


def pooled(vectors: Iterator[np.ndarray], pool: str) -> np.ndarray:
    """One vector for many: their "mean", their "max", or both, one after the other ("mean_max").

    Vectors of 0, those of windows without sound, do not count unless there are no others.

    Args:
        vectors: float32 [dim] each, one or more.
        pool: how.

    Returns:
        float32 [dim], or [2 * dim].
    """
    first = next(vectors)
    heard = (vector for vector in itertools.chain([first], vectors) if vector.any())
    first = next(heard, first)
    total, largest, count = first.astype(np.float64), first.copy(), 1
    for vector in heard:
        total += vector
        np.maximum(largest, vector, out=largest)
        count += 1
    mean = (total / count).astype(np.float32)
    return {"mean": mean, "max": largest, "mean_max": np.concatenate([mean, largest])}[pool]
