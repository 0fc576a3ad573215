"""The fixed clips on which every export is compared with the encoder it was made from."""

import numpy as np
import tensorflow as tf

from sepssl.errors import InputError
from sepssl.representation.encoder import Encoder

# Larger samples are no audio on any scale (32-bit integers end at 2.1e9), and from about 1e17 on
# the squares in the spectrogram overflow float32.
LARGEST_SAMPLE = 1e10


def fixed_clips(encoder: Encoder) -> dict[str, np.ndarray]:
    """Name -> waveform, float32 [batch, samples], the same in every call.

    Silence, noise, a sine, one sample, lengths around one patch, and samples that are not finite.
    """
    rate, patch = encoder.sample_rate, encoder.log_mel.patch_samples
    hop = encoder.log_mel.patch_hop_frames * encoder.log_mel.frame_hop
    random = np.random.default_rng(0)

    def noise(batch, samples):
        return random.uniform(-0.5, 0.5, [batch, samples])

    sine = 0.5 * np.sin(2 * np.pi * 440.0 / rate * np.arange(patch + 2 * hop + 3))
    broken = noise(1, patch)
    broken[:, 100::1000] = np.nan
    broken[:, 200::1000] = np.inf
    broken[:, 300::1000] = -np.inf
    clips = {
        "silence": np.zeros([1, patch]),
        "noise": noise(3, patch + hop),
        "sine": sine[None],
        "one_sample": np.full([2, 1], 0.5),
        "short": noise(1, patch // 3),
        "patch_less_one": noise(1, patch - 1),
        "patch_and_one": noise(1, patch + 1),
        "not_finite": broken,
    }
    return {name: clip.astype(np.float32) for name, clip in clips.items()}


def expected_embeddings(encoder: Encoder, clips: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Name -> embedding [batch, embedding_size] by the Keras model, unusable samples zeroed.

    Raises:
        InputError: if an embedding is not finite, as happens when a weight is not.
    """
    embeddings = {}
    # On the CPU: convolutions on a GPU may round to 10 bits (TF32), which no comparison survives.
    with tf.device("CPU:0"):
        for name, clip in clips.items():
            usable = np.where(np.abs(clip) <= LARGEST_SAMPLE, clip, np.float32(0.0))
            embeddings[name] = np.asarray(encoder(usable, training=False))
            if not np.all(np.isfinite(embeddings[name])):
                raise InputError(
                    f"encoder: its embedding of the clip '{name}' is not finite; "
                    "expected an encoder whose weights are all finite"
                )
    return embeddings
