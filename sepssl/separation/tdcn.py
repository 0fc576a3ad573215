"""TDCN++: the time-dilated convolutional network that predicts the masks.

Reference: Kavalerov et al., Universal Sound Separation (2019), "improved TDCN"; the sizes and the
order of operations are those of Google's released MixIT model.
"""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="sepssl")
class ScaledDense(keras.layers.Layer):
    """A dense layer whose output is multiplied by one learned scalar.

    Args:
        units: output channels.
        use_bias: whether a bias is added before the scaling.
        initial_scale: start value of the scalar.
    """

    def __init__(self, units, use_bias=False, initial_scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.use_bias = use_bias
        self.initial_scale = initial_scale
        self.dense = keras.layers.Dense(
            units, use_bias=use_bias, dtype=self.dtype_policy, name="dense"
        )

    def build(self, input_shape):
        self.dense.build(input_shape)
        self.scale = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(self.initial_scale), name="scale"
        )
        self.built = True

    def call(self, x):
        return self.dense(x) * self.scale

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return super().get_config() | {
            "units": self.units,
            "use_bias": self.use_bias,
            "initial_scale": self.initial_scale,
        }


@keras.saving.register_keras_serializable(package="sepssl")
class PReLUNorm(keras.layers.Layer):
    """PReLU with one slope, then normalisation over time with one gain and one bias.

    Mean and variance are taken per example and channel over time, in float32.
    [batch, frames, channels] -> the same.
    """

    def __init__(self, epsilon=1e-3, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        self.slope = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(0.1), name="slope"
        )
        self.gain = self.add_weight(shape=(), initializer="ones", name="gain")
        self.bias = self.add_weight(shape=(), initializer="zeros", name="bias")
        self.built = True

    def call(self, x):
        x = ops.maximum(x, 0.0) + self.slope * ops.minimum(x, 0.0)
        mean, variance = ops.moments(ops.cast(x, "float32"), axes=1, keepdims=True)
        scale = ops.cast(self.gain, "float32") * ops.rsqrt(variance + self.epsilon)
        shift = ops.cast(self.bias, "float32") - mean * scale
        return x * ops.cast(scale, x.dtype) + ops.cast(shift, x.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {"epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="sepssl")
class DilatedDepthwiseConv(keras.layers.Layer):
    """Depthwise convolution over time, kernel 3, 'same' padding, with bias.

    Written as three shifted multiply-adds, which on CPUs are several times faster than a
    depthwise convolution. [batch, frames, channels] -> the same.
    """

    def __init__(self, dilation=1, **kwargs):
        super().__init__(**kwargs)
        self.dilation = dilation

    def build(self, input_shape):
        channels = input_shape[-1]
        limit = (6.0 / (2 * 3)) ** 0.5  # Glorot over a window of three taps on one channel
        self.kernel = self.add_weight(
            shape=(3, channels),
            initializer=keras.initializers.RandomUniform(-limit, limit),
            name="kernel",
        )
        self.bias = self.add_weight(shape=(channels,), initializer="zeros", name="bias")
        self.built = True

    def call(self, x):
        frames = ops.shape(x)[1]
        d = self.dilation
        padded = ops.pad(x, [[0, 0], [d, d], [0, 0]])
        return (
            padded[:, :frames] * self.kernel[0]
            + x * self.kernel[1]
            + padded[:, 2 * d :] * self.kernel[2]
            + self.bias
        )

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {"dilation": self.dilation}


@keras.saving.register_keras_serializable(package="sepssl")
class TDCNBlock(keras.layers.Layer):
    """Dense up, PReLU, norm, dilated depthwise convolution, PReLU, norm, dense down, residual.

    Args:
        conv_channels: channels of the convolution.
        dilation: frames between the taps of the convolution.
        residual_scale: start value of the scalar on the block's output.

    Shapes: [batch, frames, channels] -> the same.
    """

    def __init__(self, conv_channels=512, dilation=1, residual_scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.conv_channels = conv_channels
        self.dilation = dilation
        self.residual_scale = residual_scale

    def build(self, input_shape):
        channels = input_shape[-1]
        wide = (*input_shape[:-1], self.conv_channels)
        self.up = ScaledDense(self.conv_channels, dtype=self.dtype_policy, name="up")
        self.norm1 = PReLUNorm(dtype=self.dtype_policy, name="norm1")
        self.conv = DilatedDepthwiseConv(self.dilation, dtype=self.dtype_policy, name="conv")
        self.norm2 = PReLUNorm(dtype=self.dtype_policy, name="norm2")
        self.down = ScaledDense(
            channels, initial_scale=self.residual_scale, dtype=self.dtype_policy, name="down"
        )
        self.up.build(input_shape)
        for layer in (self.norm1, self.conv, self.norm2, self.down):
            layer.build(wide)
        self.built = True

    def call(self, x):
        y = self.norm1(self.up(x))
        y = self.norm2(self.conv(y))
        return x + self.down(y)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {
            "conv_channels": self.conv_channels,
            "dilation": self.dilation,
            "residual_scale": self.residual_scale,
        }


@keras.saving.register_keras_serializable(package="sepssl")
class TDCN(keras.layers.Layer):
    """Bottleneck, then `repeats` runs of blocks with dilations 1, 2, 4, ...

    Args:
        bottleneck_channels: channels between blocks.
        conv_channels: channels inside a block.
        dilations_per_repeat: blocks in a run; the last has dilation 2^(n - 1).
        repeats: runs.
        long_skips: whether the input of every run is also added, through a dense layer, to the
            input of every later run (FUSS baseline: yes; released MixIT model: no).

    Shapes: [batch, frames, features] -> [batch, frames, bottleneck_channels].
    """

    def __init__(
        self,
        bottleneck_channels=256,
        conv_channels=512,
        dilations_per_repeat=8,
        repeats=4,
        long_skips=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        sizes = (bottleneck_channels, conv_channels, dilations_per_repeat, repeats)
        if min(sizes) < 1:
            raise ValueError(
                f"bottleneck_channels, conv_channels, dilations_per_repeat, repeats = {sizes}: "
                "expected 1 or more of each"
            )
        self.bottleneck_channels = bottleneck_channels
        self.conv_channels = conv_channels
        self.dilations_per_repeat = dilations_per_repeat
        self.repeats = repeats
        self.long_skips = long_skips

    def build(self, input_shape):
        policy = self.dtype_policy
        channels = self.bottleneck_channels
        inner = (*input_shape[:-1], channels)
        self.bottleneck = ScaledDense(channels, use_bias=True, dtype=policy, name="bottleneck")
        self.bottleneck.build(input_shape)
        self.blocks = [
            TDCNBlock(
                self.conv_channels,
                dilation=2 ** (b % self.dilations_per_repeat),
                residual_scale=0.9**b,
                dtype=policy,
                name=f"block{b}",
            )
            for b in range(self.repeats * self.dilations_per_repeat)
        ]
        # skips[k][j]: from the input of run j to the input of the later run k.
        runs = self.repeats if self.long_skips else 0
        self.skips = [
            [ScaledDense(channels, True, dtype=policy, name=f"skip{j}_{k}") for j in range(k)]
            for k in range(runs)
        ]
        for layer in [*self.blocks, *(skip for row in self.skips for skip in row)]:
            layer.build(inner)
        self.built = True

    def call(self, x):
        x = self.bottleneck(x)
        run_inputs = []
        for b, block in enumerate(self.blocks):
            run, position = divmod(b, self.dilations_per_repeat)
            if self.long_skips and position == 0:
                for earlier, skip in zip(run_inputs, self.skips[run], strict=True):
                    x = x + skip(earlier)
                run_inputs.append(x)
            x = block(x)
        return x

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.bottleneck_channels)

    def get_config(self):
        return super().get_config() | {
            "bottleneck_channels": self.bottleneck_channels,
            "conv_channels": self.conv_channels,
            "dilations_per_repeat": self.dilations_per_repeat,
            "repeats": self.repeats,
            "long_skips": self.long_skips,
        }
