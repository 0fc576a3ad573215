"""Embeddings of recordings of any length, in bounded memory."""

import numpy as np

from sepssl.representation.encoder import Encoder


def embed_recording(encoder: Encoder, waveform: np.ndarray, max_patches: int = 256) -> np.ndarray:
    """The encoder's embedding of a recording, computed over stretches of at most `max_patches`.

    The same as `encoder(waveform)`, whose mean over patches does not care how they are grouped.

    Args:
        encoder: `Encoder`.
        waveform: [samples], at the encoder's sample rate.
        max_patches: patches computed at once; bounds the memory.

    Returns:
        float32 [embedding_size].
    """
    log_mel = encoder.log_mel
    hop = log_mel.patch_hop_frames * log_mel.frame_hop
    patches = 1 + max(len(waveform) - log_mel.patch_samples, 0) // hop
    total = np.zeros(encoder.embedding_size, np.float64)
    for first in range(0, patches, max_patches):
        count = min(max_patches, patches - first)
        start = first * hop
        stretch = waveform[start : start + (count - 1) * hop + log_mel.patch_samples]
        total += count * np.asarray(encoder.predict_on_batch(stretch[None]))[0]
    return (total / patches).astype(np.float32)
