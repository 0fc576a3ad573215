"""A separator and an encoder behind the interface of perch-hoplite's models.

    model = sepssl_hoplite.SceneModel.load()
    worker = EmbedWorker(..., embedding_model=model)  # of perch_hoplite.agile.embed

Needs TensorFlow, perch-hoplite 1.0 and the SavedModel in whose folder it lies, nothing else.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf
from perch_hoplite.zoo import zoo_interface


@dataclasses.dataclass
class SceneModel(zoo_interface.EmbeddingModel):
    """Embeds the windows of a recording and of its separated channels.

    Windows are a hop apart, as perch-hoplite counts their times: what follows the last of them is
    in none. A recording shorter than a window is one window.

    Attributes:
        scene: the loaded SavedModel.
        window_size_s, hop_size_s: of the windows, in seconds.
        embed_raw: whether the recording is channel 0 of the embeddings, before its channels, as in
            perch-hoplite's `SeparateEmbedModel`.
    """

    scene: Any
    window_size_s: float
    hop_size_s: float
    embed_raw: bool = True

    @classmethod
    def load(cls, folder: str | os.PathLike = "", embed_raw: bool = True) -> "SceneModel":
        """Loads the SavedModel in a folder, by default that of this module."""
        path = pathlib.Path(folder or pathlib.Path(__file__).parent)
        card = json.loads((path / "card.json").read_text(encoding="utf-8"))
        return cls(
            sample_rate=card["sample_rate"],
            scene=tf.saved_model.load(str(path)),
            window_size_s=card["patch_seconds"],
            hop_size_s=card["patch_hop_seconds"],
            embed_raw=embed_raw,
        )

    @classmethod
    def from_config(cls, model_config) -> "SceneModel":
        """As perch-hoplite loads models: `model_path` and, optionally, `embed_raw`."""
        return cls.load(model_config.model_path, model_config.get("embed_raw", True))

    def embed(self, audio_array: np.ndarray) -> zoo_interface.InferenceOutputs:
        """Embeds and separates a recording.

        Args:
            audio_array: [samples] in [-1, 1], at `sample_rate`.

        Returns:
            `embeddings` float32 [windows, channels, features], 0 where a window is without sound,
            and `separated_audio` float32 [channels, samples].
        """
        outputs = self.batch_embed(np.asarray(audio_array)[np.newaxis])
        return zoo_interface.InferenceOutputs(
            embeddings=outputs.embeddings[0], separated_audio=outputs.separated_audio[0]
        )

    def batch_embed(self, audio_batch: np.ndarray) -> zoo_interface.InferenceOutputs:
        """`embed` of recordings of one length, [recordings, samples]: one more axis in front."""
        audio = tf.convert_to_tensor(np.asarray(audio_batch, np.float32))
        found = self.scene.signatures["windows"](waveform=audio)
        starts, embeddings = found["starts"].numpy(), found["embeddings"].numpy()
        hop = round(self.hop_size_s * self.sample_rate)
        on_grid = starts == hop * np.arange(len(starts))
        first = 0 if self.embed_raw else 1
        return zoo_interface.InferenceOutputs(
            embeddings=embeddings[:, on_grid, first:],
            separated_audio=found["sources"].numpy(),
            batched=True,
        )
