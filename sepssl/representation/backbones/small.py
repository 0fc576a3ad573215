"""A small convolutional encoder for CPUs."""

from typing import Any

import keras
from keras import ops

from sepssl.representation.backbones.batch_norm import GlobalBatchNorm
from sepssl.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="sepssl")
class SmallBackbone(keras.layers.Layer):
    """Strided 3 x 3 convolutions with batch norm, then mean plus maximum over time.

    Args:
        embedding_size: features of the embedding.
        width: channels of the first convolution; they double from one to the next.
        unpooled_channels: how many channels of the last convolution are not averaged over
            frequency: each makes a feature for each of the bands left, 4 for 64 mel bands. All
            other features are channels averaged over frequency; they come first, then these band
            by band, from low to high.
        dtype: policy of all layers; weights and batch statistics are float32 under the mixed ones.

    Shapes: log-mel patches [batch, frames, bands] -> [batch, embedding_size].

    Raises:
        ValueError: when it is built, if the unpooled channels make `embedding_size` features or
            more.

    Example:
        >>> SmallBackbone(8, width=2)(np.zeros([1, 96, 64])).shape
        (1, 8)

    Reference: our choice; the pooling over time is that of Kong et al., PANNs (2020). Bands are
    kept as in Niizumi et al., BYOL for Audio (2022).
    """

    def __init__(
        self, embedding_size: int = 256, width: int = 32, unpooled_channels: int = 0, **kwargs
    ):
        super().__init__(**kwargs)
        self.embedding_size = embedding_size
        self.width = width
        self.unpooled_channels = unpooled_channels

    def build(self, input_shape: Shape) -> None:
        shape: tuple[Any, ...] = (None, *input_shape[1:], 1)
        self._pooled_channels = self.embedding_size
        if self.unpooled_channels:
            bands = -(-shape[2] // 16)  # what four strides of 2 leave
            if not 0 < bands * self.unpooled_channels < self.embedding_size:
                raise ValueError(
                    f"unpooled_channels={self.unpooled_channels}: expected 0 to "
                    f"{(self.embedding_size - 1) // bands}, since each makes {bands} features of "
                    f"embedding_size={self.embedding_size}"
                )
            self._pooled_channels -= bands * self.unpooled_channels
        channels = self._pooled_channels + self.unpooled_channels
        # Two flat lists: Keras before 3.15 neither saves nor loads weights in lists of tuples.
        self.convs, self.norms = [], []
        for i, filters in enumerate([self.width, 2 * self.width, 4 * self.width, channels]):
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
        if not self.unpooled_channels:
            return _over_time(ops.mean(x, axis=2))
        pooled = _over_time(ops.mean(x[..., : self._pooled_channels], axis=2))
        others = _over_time(x[..., self._pooled_channels :])  # [batch, bands, unpooled_channels]
        others = ops.reshape(others, (-1, self.embedding_size - self._pooled_channels))
        return ops.concatenate([pooled, others], axis=1)

    def compute_output_shape(self, input_shape: Shape) -> tuple[int | None, ...]:
        return (input_shape[0], self.embedding_size)

    def get_config(self) -> dict:
        return super().get_config() | {
            "embedding_size": self.embedding_size,
            "width": self.width,
            "unpooled_channels": self.unpooled_channels,
        }


def _over_time(x: Tensor) -> Tensor:
    """Mean plus maximum over the axis after the batch's."""
    return ops.mean(x, axis=1) + ops.max(x, axis=1)
