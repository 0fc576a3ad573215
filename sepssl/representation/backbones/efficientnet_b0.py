"""EfficientNet-B0."""

from typing import Any

import keras
from keras import ops

from sepssl.representation.backbones.batch_norm import GlobalBatchNorm
from sepssl.typing import Shape, Tensor

# As (repeats, channels at a width of 32, expansion, kernel size, stride of the first).
STAGES = (
    (1, 16, 1, 3, 1),
    (2, 24, 6, 3, 2),
    (2, 40, 6, 5, 2),
    (3, 80, 6, 3, 2),
    (3, 112, 6, 5, 1),
    (4, 192, 6, 5, 2),
    (1, 320, 6, 3, 1),
)
SQUEEZE = 4  # ratio of a block's input channels to those inside its excitation
INITIALIZER = {
    "class_name": "VarianceScaling",
    "config": {"scale": 2.0, "mode": "fan_out", "distribution": "truncated_normal"},
}


@keras.saving.register_keras_serializable(package="sepssl")
class EfficientNetB0Backbone(keras.layers.Layer):
    """A strided convolution, 16 inverted bottlenecks, a last convolution, then its mean.

    As in `keras.applications`, without its input scaling and drop-connect (our choice, so that a
    step depends only on the batch). 4,006,972 trainable parameters.

    Args:
        embedding_size: channels of the last convolution, which are the embedding.
        width: channels of the first convolution; those of the bottlenecks are proportional to it,
            rounded down.
        dtype: policy of all layers; weights and batch statistics are float32 under the mixed ones.

    Shapes: log-mel patches [batch, frames, bands] -> [batch, embedding_size].

    Example:
        >>> EfficientNetB0Backbone(8, width=4)(np.zeros([1, 96, 64])).shape
        (1, 8)

    Reference: Tan & Le, EfficientNet (2019), table 1.
    """

    def __init__(self, embedding_size: int = 1280, width: int = 32, **kwargs):
        super().__init__(**kwargs)
        self.embedding_size = embedding_size
        self.width = width

    def build(self, input_shape: Shape) -> None:
        conv = keras.layers.Conv2D(self.width, 3, 2, **_conv_options(self.dtype_policy))
        self.stem, shape = _with_norm(conv, (None, *input_shape[1:], 1))
        self.blocks: list[InvertedBottleneck] = []
        for repeats, channels, expansion, kernel_size, stride in STAGES:
            for i in range(repeats):
                block = InvertedBottleneck(
                    max(1, channels * self.width // 32),
                    expansion,
                    kernel_size,
                    stride if i == 0 else 1,
                    dtype=self.dtype_policy,
                    name=f"block{len(self.blocks)}",
                )
                block.build(shape)
                shape = block.compute_output_shape(shape)
                self.blocks.append(block)
        conv = keras.layers.Conv2D(self.embedding_size, 1, **_conv_options(self.dtype_policy))
        self.top, _ = _with_norm(conv, shape)
        self.built = True

    def call(self, patches: Tensor, training: bool = False) -> Tensor:
        x = _conv_norm_swish(self.stem, ops.expand_dims(patches, -1), training)
        for block in self.blocks:
            x = block(x, training=training)
        return ops.mean(_conv_norm_swish(self.top, x, training), axis=(1, 2))

    def compute_output_shape(self, input_shape: Shape) -> tuple[int | None, ...]:
        return (input_shape[0], self.embedding_size)

    def get_config(self) -> dict:
        return super().get_config() | {"embedding_size": self.embedding_size, "width": self.width}


@keras.saving.register_keras_serializable(package="sepssl")
class InvertedBottleneck(keras.layers.Layer):
    """1 x 1 up, depthwise, squeeze-and-excitation, 1 x 1 down, plus the input if shapes match.

    Args:
        filters: channels of the output.
        expansion: channels in between, as a multiple of the input's; 1: no 1 x 1 up.
        kernel_size, stride: of the depthwise convolution.

    Shapes: [batch, height, width, channels] -> [batch, height / stride, width / stride, filters].

    Reference: Sandler et al., MobileNetV2 (2018); Hu et al., Squeeze-and-Excitation (2018).
    """

    def __init__(self, filters: int, expansion: int, kernel_size: int, stride: int, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.expansion = expansion
        self.kernel_size = kernel_size
        self.stride = stride

    def build(self, input_shape: Shape) -> None:
        channels: Any = input_shape[-1]
        inner = self.expansion * channels
        options = _conv_options(self.dtype_policy)
        shape = input_shape
        self.up = None
        if self.expansion > 1:
            self.up, shape = _with_norm(keras.layers.Conv2D(inner, 1, **options), shape)
        conv = keras.layers.DepthwiseConv2D(
            self.kernel_size,
            self.stride,
            depthwise_initializer=options.pop("kernel_initializer"),
            **options,
        )
        self.depthwise, shape = _with_norm(conv, shape)
        dense = {"kernel_initializer": INITIALIZER, "dtype": self.dtype_policy}
        squeezed = max(1, channels // SQUEEZE)
        self.squeeze = keras.layers.Dense(squeezed, "swish", **dense)
        self.squeeze.build((None, inner))
        self.excite = keras.layers.Dense(inner, "sigmoid", **dense)
        self.excite.build((None, squeezed))
        conv = keras.layers.Conv2D(self.filters, 1, **_conv_options(self.dtype_policy))
        self.down, shape = _with_norm(conv, shape)
        self.has_shortcut = self.stride == 1 and channels == self.filters
        self.built = True

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        x = inputs if self.up is None else _conv_norm_swish(self.up, inputs, training)
        x = _conv_norm_swish(self.depthwise, x, training)
        x = x * self.excite(self.squeeze(ops.mean(x, axis=(1, 2))))[:, None, None]
        conv, norm = self.down
        x = norm(conv(x), training=training)
        return x + inputs if self.has_shortcut else x

    def compute_output_shape(self, input_shape: Shape) -> tuple[int | None, ...]:
        batch, *size, _ = input_shape
        return (batch, *(n and -(-n // self.stride) for n in size), self.filters)

    def get_config(self) -> dict:
        return super().get_config() | {
            "filters": self.filters,
            "expansion": self.expansion,
            "kernel_size": self.kernel_size,
            "stride": self.stride,
        }


def _conv_options(dtype) -> dict:
    return {
        "padding": "same",
        "use_bias": False,
        "kernel_initializer": INITIALIZER,
        "dtype": dtype,
    }


def _with_norm(conv, shape):
    """Builds a convolution and its batch norm for an input shape; returns the output shape."""
    norm = GlobalBatchNorm(dtype=conv.dtype_policy)
    conv.build(shape)
    shape = conv.compute_output_shape(shape)
    norm.build(shape)
    return (conv, norm), shape


def _conv_norm_swish(layers, x, training):
    conv, norm = layers
    return ops.silu(norm(conv(x), training=training))
