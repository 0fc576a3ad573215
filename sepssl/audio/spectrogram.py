"""Spectrograms to look at."""

import math

import numpy as np

_WINDOW_SECONDS, _HOP_SECONDS = 0.032, 0.008


def spectrogram_db(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Short-time Fourier transform: level in dB, 0 for a sine of amplitude 1, at least -200.

    Args:
        waveform: [samples].
        sample_rate: in Hz.

    Returns:
        float32 [bins, frames]: bins from 0 Hz to `sample_rate / 2`; Hann windows of 32 ms every
        8 ms, padded with zeros so that the last samples are seen.
    """
    length, hop = round(_WINDOW_SECONDS * sample_rate), round(_HOP_SECONDS * sample_rate)
    frames = 1 + math.ceil(max(len(waveform) - length, 0) / hop)
    padded = np.pad(waveform, (0, max(length + (frames - 1) * hop - len(waveform), 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, length)[::hop]
    window = np.hanning(length + 1)[:-1]
    magnitude = np.abs(np.fft.rfft(windows * window)) * (2 / window.sum())
    return (20 * np.log10(np.maximum(magnitude, 1e-10))).T.astype(np.float32)
