"""Training of a separator by MixIT."""

import keras
import tensorflow as tf
from keras import ops

from sepssl.replicas import global_mean_step, mean_over_replicas
from sepssl.separation.mixit import mixit_loss, mixtures_of_mixtures, num_assignments


@keras.saving.register_keras_serializable(package="sepssl")
class MixITLearner(keras.Model):
    """Trains a separator on recordings alone: mixtures of two of them are its input.

    Args:
        separator: `Separator`.
        clip_norm: largest global gradient norm, 0 for no clipping.

    Raises:
        ValueError: if the separator has fewer than 2 sources, or too many for `mixit_loss`.

    `train_step` takes a dict with "recordings" [batch, samples], an even batch, whose neighbours
    are paired; it works under `model.fit` and under `strategy.run`.
    """

    gains_from_xla = True  # matrix products and elementwise operations: about twice as fast on CPUs
    shown_metrics = ("loss", "snr")

    def __init__(self, separator, clip_norm: float = 5.0, **kwargs):
        super().__init__(**kwargs)
        num_assignments(2, separator.num_sources)
        self.separator = separator
        self.clip_norm = clip_norm

    @property
    def product(self) -> keras.Model:
        """The model that training is for."""
        return self.separator

    def build(self, input_shape=None):
        if not self.separator.built:
            self.separator.build((None, None))
        self.built = True

    def call(self, recordings):
        references, mixtures = mixtures_of_mixtures(recordings)
        return references, self.separator(mixtures)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            references, estimates = self(data["recordings"])
            losses, mixing = mixit_loss(references, estimates)
            loss = ops.mean(losses)
        norms = global_mean_step(self, loss, tape, self.clip_norm)
        # How far remixing brings the error down: 0 dB for estimates of silence.
        power = ops.mean(10.0 * ops.log10(ops.sum(ops.square(references), axis=-1) + 1e-8))
        used = ops.mean(ops.cast(ops.sum(mixing, axis=-1) > 0, "float32"))
        return mean_over_replicas(
            {"loss": loss, "snr": power - loss, "references_used": used} | norms
        )

    def get_config(self):
        return super().get_config() | {
            "separator": keras.saving.serialize_keras_object(self.separator),
            "clip_norm": self.clip_norm,
        }

    @classmethod
    def from_config(cls, config):
        separator = keras.saving.deserialize_keras_object(config["separator"])
        return cls(**(config | {"separator": separator}))
