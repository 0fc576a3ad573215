"""What all ways of training an encoder on views share."""

import keras
from keras import ops


class EncoderLearner(keras.Model):
    """An encoder and the front end that makes what it is trained on.

    Args:
        encoder: `Encoder`.
        front_end: `FrontEnd`, which makes the views.
        clip_norm: largest global gradient norm, 0 for no clipping.
    """

    gains_from_xla = False  # it ruins convolutions on CPUs

    def __init__(self, encoder, front_end, clip_norm: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.front_end = front_end
        self.clip_norm = clip_norm

    @property
    def product(self) -> keras.Model:
        """The model that training is for."""
        return self.encoder

    def embed_views(self, a, b):
        """Two views [batch, frames, bands] -> embeddings [2 batch, embedding_size], float32."""
        # One pass over both views: batch norm then sees mixtures and channels together.
        return ops.cast(self.encoder.backbone(ops.concatenate([a, b]), training=True), "float32")

    def get_config(self):
        return super().get_config() | {
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "front_end": keras.saving.serialize_keras_object(self.front_end),
            "clip_norm": self.clip_norm,
        }

    @classmethod
    def from_config(cls, config):
        parts = {
            key: keras.saving.deserialize_keras_object(config[key])
            for key in ("encoder", "front_end")
        }
        return cls(**(config | parts))
