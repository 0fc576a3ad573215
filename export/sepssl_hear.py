"""An audio encoder behind the interface of HEAR (Holistic Evaluation of Audio Representations).

    hear-validator sepssl_hear

Needs TensorFlow and the SavedModel in whose folder it lies, nothing else.
"""

import json
import pathlib

import tensorflow as tf

# Patches of a recording that are embedded at once; bounds the memory.
PATCHES_AT_ONCE = 256


class Model(tf.Module):
    """A loaded encoder with the attributes that HEAR asks for.

    Args:
        folder: of the SavedModel and its `card.json`.
    """

    def __init__(self, folder: str):
        super().__init__(name="sepssl")
        card = json.loads((pathlib.Path(folder) / "card.json").read_text(encoding="utf-8"))
        self.sample_rate = card["sample_rate"]
        self.scene_embedding_size = card["embedding_size"]
        self.timestamp_embedding_size = card["embedding_size"]
        self.patch_samples = card["timestamps"]["patch_samples"]
        self.hop_samples = card["timestamps"]["hop_samples"]
        self.encoder = tf.saved_model.load(str(folder))


def load_model(model_file_path: str = "") -> Model:
    """Loads the SavedModel in a folder, by default that of this module."""
    return Model(model_file_path or str(pathlib.Path(__file__).parent))


def get_scene_embeddings(audio: tf.Tensor, model: Model) -> tf.Tensor:
    """One embedding for each sound.

    Args:
        audio: float32 [sounds, samples] in [-1, 1], at `model.sample_rate`.
        model: from `load_model`.

    Returns:
        float32 [sounds, model.scene_embedding_size].
    """
    audio = _checked(audio)
    return tf.concat([model.encoder(sound[None]) for sound in audio], axis=0)


def get_timestamp_embeddings(audio: tf.Tensor, model: Model) -> tuple[tf.Tensor, tf.Tensor]:
    """An embedding every 50 ms or less, of the patch around that time.

    Args:
        audio: float32 [sounds, samples] in [-1, 1], at `model.sample_rate`.
        model: from `load_model`.

    Returns:
        Embeddings, float32 [sounds, timestamps, model.timestamp_embedding_size], and the patches'
        centres in milliseconds, float64 [sounds, timestamps], from 0 to the end of the sounds.
        Beyond the ends of a sound, patches hold zeros.
    """
    audio = _checked(audio)
    sounds, samples = audio.shape
    patch, hop = model.patch_samples, model.hop_samples
    count = 1 + samples // hop
    embed = model.encoder.signatures["timestamps"]
    padded = tf.pad(audio, [[0, 0], [patch // 2, patch]])
    embeddings = []
    for sound in padded:
        parts = []
        for first in range(0, count, PATCHES_AT_ONCE):
            last = min(first + PATCHES_AT_ONCE, count) - 1
            stretch = sound[None, first * hop : last * hop + patch]
            parts.append(embed(waveform=stretch)["embedding"][0])
        embeddings.append(tf.concat(parts, axis=0))
    # HEAR prescribes float32 for embeddings only. It resolves 1 ms from 2.3 hours on.
    milliseconds = tf.range(count, dtype=tf.float64) * (1000.0 * hop / model.sample_rate)
    return tf.stack(embeddings), tf.tile(milliseconds[None], [sounds, 1])


def _checked(audio: tf.Tensor) -> tf.Tensor:
    audio = tf.cast(audio, tf.float32)
    if audio.shape.rank != 2 or 0 in audio.shape:
        raise ValueError(f"audio of shape {audio.shape}: expected [sounds, samples], not empty")
    return audio
