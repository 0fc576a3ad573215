"""A small convolutional encoder for CPUs."""

import keras
from keras import ops

from sepssl.representation.backbones.batch_norm import GlobalBatchNorm
from sepssl.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="sepssl")
class SmallBackbone(keras.layers.Layer):
    """Strided 3 x 3 convolutions with batch norm, then mean and maximum over time.

    Args:
        embedding_size: channels of the last convolution, which are the embedding.
        width: channels of the first convolution; they double from one to the next.
        dtype: policy of all layers; weights and batch statistics are float32 under the mixed ones.

    Shapes: log-mel patches [batch, frames, bands] -> [batch, embedding_size].

    Example:
        >>> SmallBackbone(8, width=2)(np.zeros([1, 96, 64])).shape
        (1, 8)

    Reference: our choice; the pooling is that of Kong et al., PANNs (2020).
    """

    def __init__(self, embedding_size: int = 256, width: int = 32, **kwargs):
        super().__init__(**kwargs)
        self.embedding_size = embedding_size
        self.width = width

    def build(self, input_shape: Shape) -> None:
        shape = (None, *input_shape[1:], 1)
        # Two flat lists: Keras before 3.15 neither saves nor loads weights in lists of tuples.
        self.convs, self.norms = [], []
        for i, filters in enumerate(
            [self.width, 2 * self.width, 4 * self.width, self.embedding_size]
        ):
            conv = keras.layers.Conv2D(
                filters,
                3,
                strides=2,
                padding="same",
                use_bias=False,
                dtype=self.dtype_policy,
                name=f"conv{i}",
            )
            norm = GlobalBatchNorm(dtype=self.dtype_policy, name=f"norm{i}")
            conv.build(shape)
            shape = conv.compute_output_shape(shape)
            norm.build(shape)
            self.convs.append(conv)
            self.norms.append(norm)
        self.built = True

    def call(self, patches: Tensor, training: bool = False) -> Tensor:
        x = ops.expand_dims(patches, -1)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = ops.relu(norm(conv(x), training=training))
        x = ops.mean(x, axis=2)  # [batch, frames / 16, embedding_size]
        return ops.mean(x, axis=1) + ops.max(x, axis=1)

    def compute_output_shape(self, input_shape: Shape) -> tuple[int | None, ...]:
        return (input_shape[0], self.embedding_size)

    def get_config(self) -> dict:
        return super().get_config() | {"embedding_size": self.embedding_size, "width": self.width}
