"""Training of an encoder on labels: what the same network reaches with them."""

import keras
import tensorflow as tf
from keras import ops

from sepssl.replicas import global_mean_step, mean_over_replicas


@keras.saving.register_keras_serializable(package="sepssl")
class SupervisedLearner(keras.Model):
    """Trains an encoder to predict the labels of a clip from each of two views.

    Args:
        encoder: `Encoder`.
        front_end: `FrontEnd`, which makes the views.
        num_classes: of the labels.
        clip_norm: largest global gradient norm, 0 for no clipping.

    `train_step` takes the dict that `FrontEnd` takes, with "labels" [batch, num_classes] of 0 and
    1; the loss is the binary cross entropy, summed over classes. The interface is that of
    `SimilarityLearner`.

    Reference: our choice; a baseline.
    """

    gains_from_xla = False  # it ruins convolutions on CPUs
    shown_metrics = ("loss",)

    def __init__(self, encoder, front_end, num_classes: int, clip_norm: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.front_end = front_end
        self.num_classes = num_classes
        self.clip_norm = clip_norm
        self.classifier = keras.layers.Dense(num_classes, name="classifier")

    @property
    def product(self) -> keras.Model:
        """The model that training is for."""
        return self.encoder

    def build(self, input_shape=None):
        if not self.encoder.built:
            self.encoder.build((None, None))
        self.classifier.build((None, self.encoder.embedding_size))
        self.built = True

    def train_step(self, data):
        with tf.GradientTape() as tape:
            a, b, _ = self.front_end(data)
            embeddings = self.encoder.backbone(ops.concatenate([a, b]), training=True)
            logits = self.classifier(ops.cast(embeddings, "float32"))
            labels = ops.concatenate([data["labels"]] * 2)
            entropy = ops.softplus(logits) - labels * logits
            loss = ops.mean(ops.sum(entropy, axis=-1))
        norms = global_mean_step(self, loss, tape, self.clip_norm)
        return mean_over_replicas({"loss": loss} | norms)

    def get_config(self):
        return super().get_config() | {
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "front_end": keras.saving.serialize_keras_object(self.front_end),
            "num_classes": self.num_classes,
            "clip_norm": self.clip_norm,
        }

    @classmethod
    def from_config(cls, config):
        parts = {
            key: keras.saving.deserialize_keras_object(config[key])
            for key in ("encoder", "front_end")
        }
        return cls(**(config | parts))
