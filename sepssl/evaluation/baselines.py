"""What an embedding has to beat."""

import numpy as np

from sepssl.audio.log_mel import LogMel


def log_mel_statistics(log_mel: LogMel, waveform: np.ndarray) -> np.ndarray:
    """Mean, standard deviation and maximum over time of every mel band.

    Args:
        log_mel: `LogMel`.
        waveform: [samples], at least one frame long; shorter ones are padded with zeros.

    Returns:
        float32 [3 * bands].
    """
    missing = max(log_mel.frame_length - len(waveform), 0)
    mel = np.asarray(log_mel.spectrogram(np.pad(waveform, (0, missing))[None]))[0]
    return np.concatenate([mel.mean(axis=0), mel.std(axis=0), mel.max(axis=0)])
