"""The base class of learners that train an encoder on views."""

import math
from typing import Any

import keras
from keras import ops

from sepssl.representation.encoder import Encoder
from sepssl.training.learner import Learner
from sepssl.training.usage import patch_flop
from sepssl.typing import Tensor


class EncoderLearner(Learner):
    """An encoder and the front end that makes its training views.

    When called, or under `predict`, it embeds waveforms [batch, samples] as `encoder` does, log-mel
    patches [batch, frames, bands] with the backbone, and the two views that the front end makes
    from any other batch, as [batch, 2, embedding_size].

    Args:
        encoder: `Encoder`.
        front_end: layer that makes two views from a batch and may also return which channel each
            view shows (int [batch, 2], as `FrontEnd` does); None if a batch is a pair of views.
        clip_norm: largest global gradient norm, 0 for no clipping.
    """

    gains_from_xla = False  # XLA makes convolutions much slower on CPUs

    def __init__(
        self,
        encoder: Encoder,
        front_end: keras.layers.Layer | None = None,
        clip_norm: float = 0.0,
        **kwargs,
    ):
        super().__init__(clip_norm, **{"dtype": encoder.dtype_policy, **kwargs})
        self.supports_jit = False  # for `compile`, as `gains_from_xla` is for the loop
        self.encoder = encoder
        self.front_end = front_end

    @property
    def product(self) -> Encoder:
        return self.encoder

    def build(self, input_shape=None):
        if not self.encoder.built:
            self.encoder.build((None, None))
        self.built = True

    def views(self, data: Any) -> tuple:
        """Two views of every clip in a batch and, if known, which channel each shows.

        Returns:
            Two arrays, log-mel patches [batch, frames, bands] or waveforms [batch, samples], and
            int [batch, 2] or None.

        Raises:
            ValueError: if there are not two views.
        """
        if isinstance(data, tuple | list) and len(data) == 1:
            (data,) = data
        made = data if self.front_end is None else self.front_end(data)
        if not isinstance(made, tuple | list) or len(made) not in (2, 3):
            raise ValueError(
                "expected two views and, if known, which channel each shows, from "
                + ("the data" if self.front_end is None else type(self.front_end).__name__)
            )
        a, b, *shown = made
        return a, b, (shown[0] if shown else None)

    def embed_views(self, a: Tensor, b: Tensor, training: bool = True) -> Tensor:
        """Two views -> embeddings [2 batch, embedding_size], float32.

        Args:
            a, b: log-mel patches [batch, frames, bands], or waveforms [batch, samples], whose
                patch embeddings are averaged.
            training: whether the backbone runs in training mode.
        """
        # One pass over both views, so that batch norm sees mixtures and channels together.
        both = ops.concatenate([a, b])
        embed = self.encoder.backbone if len(both.shape) == 3 else self.encoder
        return ops.cast(embed(both, training=training), "float32")

    def work(self, data: Any) -> tuple[int, float]:
        examples, _ = super().work(data)
        if self.front_end is None:  # views, of which it is not known what they hold
            return examples, math.nan
        return examples, 3 * 2 * examples * patch_flop(self.encoder)

    def call(self, inputs, training=None):
        training = bool(training)
        if not isinstance(inputs, dict | tuple | list):
            if len(inputs.shape) == 2:
                return self.encoder(inputs, training=training)
            log_mel = self.encoder.log_mel
            if tuple(inputs.shape[1:]) == (log_mel.patch_frames, log_mel.bands):
                return ops.cast(self.encoder.backbone(inputs, training=training), "float32")
        a, b, _ = self.views(inputs)
        both = ops.split(self.embed_views(a, b, training), 2)
        return ops.stack(both, axis=1)

    def get_config(self):
        return super().get_config() | {
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "front_end": keras.saving.serialize_keras_object(self.front_end),
        }

    @classmethod
    def from_config(cls, config):
        parts = {
            key: keras.saving.deserialize_keras_object(config[key])
            for key in ("encoder", "front_end")
        }
        return cls(**(config | parts))
