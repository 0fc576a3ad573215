"""CNN14, the convolutional network of PANNs."""

import keras
from keras import ops

from sepssl.representation.backbones.batch_norm import GlobalBatchNorm
from sepssl.typing import Shape, Tensor

BLOCKS = 6
MIN_SIZE = 2 ** (BLOCKS - 1)  # smallest size of which the poolings between blocks leave 1


@keras.saving.register_keras_serializable(package="sepssl")
class Cnn14Backbone(keras.layers.Layer):
    """Six pairs of 3 x 3 convolutions with batch norm, pooled by 2 between the pairs.

    Mean over bands, mean plus maximum over time, then a dense layer, all as in PANNs, without its
    dropout (our choice, so that a step depends only on the batch). 79,673,792 trainable parameters.

    Args:
        embedding_size: units of the dense layer, whose output after a ReLU is the embedding.
        width: channels of the first two convolutions; they double from one pair to the next.
        dtype: policy of all layers; weights and batch statistics are float32 under the mixed ones.

    Shapes: log-mel patches [batch, frames, bands] -> [batch, embedding_size]; at least 32 frames
    and 32 bands. Weights do not depend on the number of frames.

    Raises:
        ValueError: when built, if there are fewer frames or bands.

    Example:
        >>> Cnn14Backbone(8, width=2)(np.zeros([1, 96, 64])).shape
        (1, 8)

    Reference: Kong et al., PANNs (2020), table II.
    """

    def __init__(self, embedding_size: int = 2048, width: int = 64, **kwargs):
        super().__init__(**kwargs)
        self.embedding_size = embedding_size
        self.width = width

    def build(self, input_shape: Shape) -> None:
        if any(size is not None and size < MIN_SIZE for size in input_shape[1:]):
            raise ValueError(
                f"patches of {input_shape[1]} frames x {input_shape[2]} bands: "
                f"expected at least {MIN_SIZE} of each"
            )
        self.band_norm = self._norm("band_norm", input_shape)
        shape = (None, *input_shape[1:], 1)
        # Two flat lists: Keras before 3.15 neither saves nor loads weights in lists of tuples.
        self.convs, self.norms = [], []
        for block in range(BLOCKS):
            for half in range(2):
                conv = keras.layers.Conv2D(
                    self.width * 2**block,
                    3,
                    padding="same",
                    use_bias=False,
                    dtype=self.dtype_policy,
                    name=f"conv{block}{half}",
                )
                conv.build(shape)
                shape = conv.compute_output_shape(shape)
                self.convs.append(conv)
                self.norms.append(self._norm(f"norm{block}{half}", shape))
        self.dense = keras.layers.Dense(
            self.embedding_size, "relu", dtype=self.dtype_policy, name="dense"
        )
        self.dense.build((None, shape[-1]))
        self.built = True

    def call(self, patches: Tensor, training: bool = False) -> Tensor:
        x = ops.expand_dims(self.band_norm(patches, training=training), -1)
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            if i in range(2, 2 * BLOCKS, 2):
                x = ops.average_pool(x, 2, strides=2)
            x = ops.relu(norm(conv(x), training=training))
        x = ops.mean(x, axis=2)  # [batch, frames // 32, 32 * width]
        return self.dense(ops.max(x, axis=1) + ops.mean(x, axis=1))

    def _norm(self, name, shape):
        # PyTorch's momentum of 0.1 corresponds to Keras's 0.9.
        norm = GlobalBatchNorm(momentum=0.9, epsilon=1e-5, dtype=self.dtype_policy, name=name)
        norm.build(shape)
        return norm

    def compute_output_shape(self, input_shape: Shape) -> tuple[int | None, ...]:
        return (input_shape[0], self.embedding_size)

    def get_config(self) -> dict:
        return super().get_config() | {"embedding_size": self.embedding_size, "width": self.width}
