"""Training of an encoder on labels: what the same network reaches with them."""

import keras
import tensorflow as tf
from keras import ops

from sepssl.distribution import global_mean_step, mean_over_replicas
from sepssl.training.encoder_learner import EncoderLearner


@keras.saving.register_keras_serializable(package="sepssl")
class SupervisedLearner(EncoderLearner):
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

    shown_metrics = ("loss",)

    def __init__(self, encoder, front_end, num_classes: int, clip_norm: float = 0.0, **kwargs):
        super().__init__(encoder, front_end, clip_norm, **kwargs)
        self.num_classes = num_classes
        self.classifier = keras.layers.Dense(num_classes, name="classifier")

    def build(self, input_shape=None):
        if not self.encoder.built:
            self.encoder.build((None, None))
        self.classifier.build((None, self.encoder.embedding_size))
        self.built = True

    def train_step(self, data):
        with tf.GradientTape() as tape:
            a, b, _ = self.front_end(data)
            logits = self.classifier(self.embed_views(a, b))
            labels = ops.concatenate([data["labels"]] * 2)
            entropy = ops.softplus(logits) - labels * logits
            loss = ops.mean(ops.sum(entropy, axis=-1))
        norms = global_mean_step(self, loss, tape, self.clip_norm)
        return mean_over_replicas({"loss": loss} | norms)

    def get_config(self):
        return super().get_config() | {"num_classes": self.num_classes}
