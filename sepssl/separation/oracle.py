"""Oracle masks: separation with masks computed from the true sources.

Upper bounds for the scores of a separator that masks a spectrogram. Any part of the mixture that
the sources do not account for (recording noise, for example) is treated as one more source.
"""

import numpy as np
from scipy import signal

KINDS = ("binary", "ratio")
SECONDS_PER_FRAME = 0.032  # our choice; frames start every quarter of that
EPSILON = 1e-12


def oracle_masks(
    mixture: np.ndarray, sources: np.ndarray, sample_rate: int, kind: str
) -> np.ndarray:
    """Separates a mixture with masks computed from its sources.

    Args:
        mixture: [samples].
        sources: [count, samples].
        sample_rate: in Hz.
        kind: "binary": each bin goes to the source with the largest magnitude there; "ratio": it is
            divided in proportion to the magnitudes.

    Returns:
        [count, samples].

    Reference: Wang, On Ideal Binary Mask as the Computational Goal of Auditory Scene Analysis
    (2005); Huang et al., Joint Optimization of Masks and Deep Recurrent Neural Networks (2015).
    """
    hop = round(SECONDS_PER_FRAME * sample_rate / 4)
    transform = signal.ShortTimeFFT(np.sqrt(signal.windows.hann(4 * hop, sym=False)), hop, 1.0)
    parts = np.concatenate([sources, [mixture - np.sum(sources, axis=0)]]).astype(np.float64)
    short = max(4 * hop - len(mixture), 0)  # shorter than a frame
    magnitudes = np.abs(transform.stft(np.pad(parts, ((0, 0), (0, short)))))
    if kind == "binary":
        masks = np.arange(len(parts))[:, None, None] == np.argmax(magnitudes, axis=0)
    else:
        masks = magnitudes / (np.sum(magnitudes, axis=0) + EPSILON)
    spectrum = transform.stft(np.pad(np.asarray(mixture, np.float64), (0, short)))
    estimates = transform.istft(masks[:-1] * spectrum, k1=len(mixture) + short)
    return estimates[:, : len(mixture)]
