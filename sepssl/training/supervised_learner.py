"""Training steps of an encoder on labels: a baseline for the same network without labels."""

from typing import Any

import keras
from keras import ops

from sepssl.representation.encoder import Encoder
from sepssl.training.encoder_learner import EncoderLearner
from sepssl.typing import Tensor


@keras.saving.register_keras_serializable(package="sepssl")
class SupervisedLearner(EncoderLearner):
    """Trains an encoder to predict the labels of a clip from each of two views.

    Args:
        encoder: `Encoder`.
        front_end: `FrontEnd`, or any other layer that makes two views from a batch.
        num_classes: of the labels.
        clip_norm: largest global gradient norm, 0 for no clipping.

    A batch is the dict that `FrontEnd` takes, with "labels" [batch, num_classes] (0 or 1) added, or
    a pair of the front end's input and labels. The loss is the binary cross entropy, summed over
    classes.

    Reference: our choice; a baseline.
    """

    shown_metrics = ("loss",)

    def __init__(
        self,
        encoder: Encoder,
        front_end: keras.layers.Layer,
        num_classes: int,
        clip_norm: float = 0.0,
        **kwargs,
    ):
        super().__init__(encoder, front_end, clip_norm, **kwargs)
        self.num_classes = num_classes
        self.classifier = keras.layers.Dense(
            num_classes, dtype=self.dtype_policy, name="classifier"
        )

    def build(self, input_shape=None):
        super().build(input_shape)
        if not self.classifier.built:
            self.classifier.build((None, self.encoder.embedding_size))

    def loss_and_metrics(self, data: Any, training: bool) -> tuple[Tensor, dict]:
        x, labels, _ = keras.utils.unpack_x_y_sample_weight(data)
        if labels is None:
            labels = x["labels"]
        a, b, _ = self.views(x)
        logits = ops.cast(self.classifier(self.embed_views(a, b, training)), "float32")
        labels = ops.concatenate([ops.cast(labels, "float32")] * 2)
        entropy = ops.softplus(logits) - labels * logits
        return ops.mean(ops.sum(entropy, axis=-1)), {}

    def get_config(self):
        return super().get_config() | {"num_classes": self.num_classes}
