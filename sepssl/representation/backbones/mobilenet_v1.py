"""MobileNet v1, the network of YAMNet."""

import keras
from keras import ops

from sepssl.representation.backbones.batch_norm import GlobalBatchNorm
from sepssl.typing import Shape, Tensor

# The separable convolutions, as (multiple of the width, stride); the last is the embedding.
LAYERS = (
    (2, 1),
    (4, 2),
    (4, 1),
    (8, 2),
    (8, 1),
    (16, 2),
    *[(16, 1)] * 5,
    (32, 2),
    (32, 1),
)
DEPTHWISE_INITIALIZER = {  # He et al. (2015); Keras overestimates a depthwise kernel's fan-in
    "class_name": "VarianceScaling",
    "config": {"scale": 2.0, "mode": "fan_out", "distribution": "truncated_normal"},
}


@keras.saving.register_keras_serializable(package="sepssl")
class MobileNetV1Backbone(keras.layers.Layer):
    """A strided convolution and 13 depthwise-separable ones with batch norm, then their mean.

    As in YAMNet: ReLU, batch norm without a scale, no dropout. 3,217,344 parameters. Weights are
    initialised such that each convolution keeps its input's variance (our choice: Keras's default
    reduces it to 1e-40 before batch norm has seen data).

    Args:
        embedding_size: channels of the last convolution, which are the embedding.
        width: channels of the first convolution; the others have 2, 4, 4, 8, 8 ... times as many.
        dtype: policy of all layers; weights and batch statistics are float32 under the mixed ones.

    Shapes: log-mel patches [batch, frames, bands] -> [batch, embedding_size].

    Example:
        >>> MobileNetV1Backbone(8, width=2)(np.zeros([1, 96, 64])).shape
        (1, 8)

    Reference: Howard et al., MobileNets (2017), table 1; Plakal & Ellis, YAMNet.
    """

    def __init__(self, embedding_size: int = 1024, width: int = 32, **kwargs):
        super().__init__(**kwargs)
        self.embedding_size = embedding_size
        self.width = width

    def build(self, input_shape: Shape) -> None:
        shared = {"padding": "same", "use_bias": False, "dtype": self.dtype_policy}
        full = {"kernel_initializer": "he_normal", **shared}
        depthwise = {"depthwise_initializer": DEPTHWISE_INITIALIZER, **shared}
        convs = [keras.layers.Conv2D(self.width, 3, strides=2, name="conv", **full)]
        filters = [multiple * self.width for multiple, _ in LAYERS[:-1]] + [self.embedding_size]
        for i, (_, stride) in enumerate(LAYERS):
            convs += [
                keras.layers.DepthwiseConv2D(3, stride, name=f"depthwise{i}", **depthwise),
                keras.layers.Conv2D(filters[i], 1, name=f"pointwise{i}", **full),
            ]
        shape = (None, *input_shape[1:], 1)
        # Two flat lists: Keras before 3.15 neither saves nor loads weights in lists of tuples.
        self.convs, self.norms = convs, []
        for conv in convs:
            norm = GlobalBatchNorm(
                epsilon=1e-4, scale=False, dtype=self.dtype_policy, name=f"{conv.name}_norm"
            )
            conv.build(shape)
            shape = conv.compute_output_shape(shape)
            norm.build(shape)
            self.norms.append(norm)
        self.built = True

    def call(self, patches: Tensor, training: bool = False) -> Tensor:
        x = ops.expand_dims(patches, -1)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = ops.relu(norm(conv(x), training=training))
        return ops.mean(x, axis=(1, 2))

    def compute_output_shape(self, input_shape: Shape) -> tuple[int | None, ...]:
        return (input_shape[0], self.embedding_size)

    def get_config(self) -> dict:
        return super().get_config() | {"embedding_size": self.embedding_size, "width": self.width}
