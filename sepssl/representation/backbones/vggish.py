"""VGGish, the network of the first AudioSet embeddings."""

import itertools
from typing import Any

import keras
from keras import ops

from sepssl.typing import Shape, Tensor

# Convolutions between two poolings, as (number, multiple of the width).
STAGES = ((1, 1), (1, 2), (2, 4), (2, 8))
DENSE_MULTIPLE = 64


@keras.saving.register_keras_serializable(package="sepssl")
class VggishBackbone(keras.layers.Layer):
    """Six 3 x 3 convolutions, maximum pooling after 1, 2, 4 and 6 of them, three dense layers.

    The embedding is the last dense layer before any activation, as in `vggish_slim.py`. There is no
    batch norm, so weights are initialised as in He et al. (2015) (our choice: with the original's
    standard deviation of 0.01, outputs would be close to 0). 72,141,184 parameters for 96 frames of
    64 bands.

    Args:
        embedding_size: units of the last dense layer.
        width: channels of the first convolution; the others have 2, 4, 4, 8, 8 times, the first
            two dense layers 64 times as many.
        dtype: policy of all layers; weights are float32 under the mixed ones.

    Shapes: log-mel patches [batch, frames, bands] -> [batch, embedding_size]; frames and bands must
    be those it was built for.

    Example:
        >>> VggishBackbone(8, width=2)(np.zeros([1, 96, 64])).shape
        (1, 8)

    Reference: Hershey et al., CNN Architectures for Large-Scale Audio Classification (2017), and
    `vggish_slim.py` of github.com/tensorflow/models.
    """

    def __init__(self, embedding_size: int = 128, width: int = 64, **kwargs):
        super().__init__(**kwargs)
        self.embedding_size = embedding_size
        self.width = width

    def build(self, input_shape: Shape) -> None:
        options = {"kernel_initializer": "he_normal", "dtype": self.dtype_policy}
        shape: tuple[Any, ...] = (None, *input_shape[1:], 1)
        self.convs = []  # flat: Keras before 3.15 neither saves nor loads weights in nested lists
        for count, multiple in STAGES:
            for _ in range(count):
                conv = keras.layers.Conv2D(
                    multiple * self.width, 3, padding="same", activation="relu", **options
                )
                conv.build(shape)
                shape = conv.compute_output_shape(shape)
                self.convs.append(conv)
            shape = (None, -(-shape[1] // 2), -(-shape[2] // 2), shape[3])
        size = shape[1] * shape[2] * shape[3]
        self.dense = []
        for _ in range(2):
            dense = keras.layers.Dense(DENSE_MULTIPLE * self.width, "relu", **options)
            dense.build((None, size))
            size = dense.units
            self.dense.append(dense)
        self.embedding = keras.layers.Dense(self.embedding_size, **options)
        self.embedding.build((None, size))
        self.built = True

    def call(self, patches: Tensor, training: bool = False) -> Tensor:
        x = ops.expand_dims(patches, -1)
        convs = iter(self.convs)
        for count, _ in STAGES:
            for conv in itertools.islice(convs, count):
                x = conv(x)
            x = ops.max_pool(x, 2, padding="same")
        x = ops.reshape(x, (-1, self.dense[0].kernel.shape[0]))
        for dense in self.dense:
            x = dense(x)
        return self.embedding(x)

    def compute_output_shape(self, input_shape: Shape) -> tuple[int | None, ...]:
        return (input_shape[0], self.embedding_size)

    def get_config(self) -> dict:
        return super().get_config() | {"embedding_size": self.embedding_size, "width": self.width}
