"""What an embedding has to beat."""

import numpy as np

from sepssl.audio.log_mel import LogMel

_STRETCH_FRAMES = 6000  # computed at once: a minute


def log_mel_statistics(log_mel: LogMel, waveform: np.ndarray) -> np.ndarray:
    """Mean, standard deviation and maximum over time of every mel band.

    Args:
        log_mel: `LogMel`.
        waveform: [samples], at least one frame long; shorter ones are padded with zeros.

    Returns:
        float32 [3 * bands].
    """
    waveform = np.pad(waveform, (0, max(log_mel.frame_length - len(waveform), 0)))
    frames = 1 + (len(waveform) - log_mel.frame_length) // log_mel.frame_hop
    stretches = []
    for first in range(0, frames, _STRETCH_FRAMES):
        count = min(_STRETCH_FRAMES, frames - first)
        start = first * log_mel.frame_hop
        end = start + (count - 1) * log_mel.frame_hop + log_mel.frame_length
        stretches.append(np.asarray(log_mel.spectrogram(waveform[None, start:end]))[0])
    mel = np.concatenate(stretches)
    return np.concatenate([mel.mean(axis=0), mel.std(axis=0), mel.max(axis=0)])
