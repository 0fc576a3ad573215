"""An audio encoder behind the interface of MTEB.

    mteb.evaluate(sepssl_mteb.SepsslEncoder(), mteb.get_tasks(tasks=["ESC50"]))

Needs TensorFlow, mteb with its extra `audio`, and what lies in its folder: a SavedModel and
`sepssl_hear.py`.
"""

import hashlib
import pathlib
from typing import Any

import numpy as np
import sepssl_hear
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.modality_collators import AudioCollator
from mteb.models.model_meta import ModelMeta, ScoringFunction


class SepsslEncoder(AbsEncoder):
    """Embeds recordings, one vector for each.

    Attributes:
        model: the loaded SavedModel.
        mteb_model_meta: what MTEB files results under; its revision is a digest of the weights.
    """

    def __init__(self, model_name: str = "sepssl/encoder", revision: str | None = None, **kwargs):
        self.model = sepssl_hear.load_model()
        weights = pathlib.Path(__file__).with_name("variables") / "variables.data-00000-of-00001"
        facts = {
            "name": model_name,
            "revision": revision or hashlib.sha256(weights.read_bytes()).hexdigest(),
            "embed_dim": self.model.scene_embedding_size,
            "framework": ["TensorFlow"],
            "modalities": ["audio"],
            "similarity_fn_name": ScoringFunction.COSINE,
            "use_instructions": False,
        }
        self.mteb_model_meta = ModelMeta.create_empty(facts)

    def encode(self, inputs: Any, **kwargs) -> np.ndarray:
        """Embeds what a DataLoader of MTEB yields; recordings of other rates are resampled.

        Args:
            inputs: its batches hold `audio`, a list of dicts with `array` and `sampling_rate`.
            **kwargs: the task and split, which make no difference.

        Returns:
            float32 [recordings, embedding_size].
        """
        inputs.collate_fn = AudioCollator(target_sampling_rate=self.model.sample_rate)
        waveforms = (item["array"] for batch in inputs for item in batch["audio"])
        embeddings = [
            sepssl_hear.get_scene_embeddings(np.reshape(waveform, [1, -1]), self.model)
            for waveform in waveforms
        ]
        return np.concatenate(embeddings)
