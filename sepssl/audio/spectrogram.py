"""Spectrograms to look at."""

import math

import matplotlib
import numpy as np
from scipy import signal

LOWEST_DB = -70.0  # the dark end of the colour scale; 0 dB is the loudest point of an example
COLOURS = "magma"
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
    window = signal.windows.hann(length, sym=False)
    transform = signal.ShortTimeFFT(
        window, hop, sample_rate, fft_mode="onesided2X", scale_to="magnitude"
    )
    frames = 1 + math.ceil(max(len(waveform) - length, 0) / hop)
    # Its frame p is centred on sample p * hop; the first wanted one begins at the first sample.
    before = -transform.m_num_mid % hop
    first = (transform.m_num_mid + before) // hop
    after = length + (frames - 1) * hop - len(waveform)
    padded = np.pad(np.asarray(waveform, np.float64), (before, max(after, 0)))
    magnitude = np.abs(transform.stft(padded, first, first + frames))
    return (20 * np.log10(np.maximum(magnitude, 1e-10))).astype(np.float32)


def spectrogram_picture(level: np.ndarray) -> np.ndarray:
    """Colours of levels, one pixel each, the highest frequency at the top.

    Args:
        level: [bins, frames], in dB relative to the loudest point.

    Returns:
        uint8 [bins, frames, 3].
    """
    return matplotlib.colormaps[COLOURS](1 - level[::-1] / LOWEST_DB, bytes=True)[..., :3]
