"""TDCN++: the time-dilated convolutional network that predicts the masks.

Reference: Kavalerov et al., Universal Sound Separation (2019), "improved TDCN"; the sizes and the
order of operations are those of Google's released MixIT model.
"""

import functools

import keras
import numpy as np
from keras import ops

from sepssl.separation.fused import fused
from sepssl.typing import Tensor

EPSILON = 1e-3  # of the norms
MAX_DILATIONS = 16  # the last block then reaches 32,768 frames back and ahead
MAX_REPEATS = 64


@keras.saving.register_keras_serializable(package="sepssl")
class ScaledDense(keras.layers.Layer):
    """A dense layer whose output is multiplied by one learned scalar.

    Args:
        units: output channels.
        use_bias: whether a bias is added before the scaling.
        initial_scale: start value of the scalar.
    """

    def __init__(self, units: int, use_bias: bool = False, initial_scale: float = 1.0, **kwargs):
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
class TDCN(keras.layers.Layer):
    """Bottleneck, then `repeats` runs of blocks with dilations 1, 2, 4, ...

    A block is dense up, PReLU, norm, dilated depthwise convolution, PReLU, norm, dense down,
    residual. A norm takes mean and variance of every channel over time, in float32, and has one
    gain and one bias. The weights of all blocks are stacked, `[blocks, ...]` each.

    Args:
        bottleneck_channels: channels between blocks.
        conv_channels: channels inside a block.
        dilations_per_repeat: blocks in a run; the last has dilation 2^(n - 1).
        repeats: runs.
        long_skips: whether the input of every run is also added, through a dense layer, to the
            input of every later run (FUSS baseline: yes; released MixIT model: no).
        causal: whether frames are independent of later ones: convolutions only look back, and norms
            use the moments of the frames so far (our choice). A `Separator` then looks ahead by no
            more than the length of a frame.
        unroll: whether the graph contains every block, or one block in a loop. Outputs are equal.
            Unrolled, XLA makes training steps faster, especially of small networks; in a loop,
            which XLA cannot train, a step needs half the memory and a tenth of the time to compile.
        rematerialize: whether training stores only the input of every block and recomputes the
            rest: less memory, more time. For networks that are not unrolled.

    Shapes: [batch, frames, features] -> [batch, frames, bottleneck_channels].

    Example:
        >>> TDCN(8, 16, dilations_per_repeat=2, repeats=1)(np.zeros([1, 20, 5])).shape
        (1, 20, 8)
    """

    def __init__(
        self,
        bottleneck_channels: int = 256,
        conv_channels: int = 512,
        dilations_per_repeat: int = 8,
        repeats: int = 4,
        long_skips: bool = False,
        causal: bool = False,
        unroll: bool = False,
        rematerialize: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        sizes = (bottleneck_channels, conv_channels, dilations_per_repeat, repeats)
        if min(sizes) < 1:
            raise ValueError(
                f"bottleneck_channels, conv_channels, dilations_per_repeat, repeats = {sizes}: "
                "expected 1 or more of each"
            )
        if dilations_per_repeat > MAX_DILATIONS or repeats > MAX_REPEATS:
            raise ValueError(
                f"dilations_per_repeat={dilations_per_repeat}, repeats={repeats}: expected at most "
                f"{MAX_DILATIONS} and {MAX_REPEATS}"
            )
        self.bottleneck_channels = bottleneck_channels
        self.conv_channels = conv_channels
        self.dilations_per_repeat = dilations_per_repeat
        self.repeats = repeats
        self.long_skips = long_skips
        self.causal = causal
        self.unroll = unroll
        self.rematerialize = rematerialize

    @property
    def num_blocks(self) -> int:
        return self.dilations_per_repeat * self.repeats

    def build(self, input_shape):
        policy = self.dtype_policy
        channels, wide = self.bottleneck_channels, self.conv_channels
        self.bottleneck = ScaledDense(channels, use_bias=True, dtype=policy, name="bottleneck")
        self.bottleneck.build(input_shape)
        # From the input of run j to that of the later run k, by k, then by j. A flat list: Keras
        # before 3.15 neither saves nor loads weights in nested lists.
        self.skips = [
            ScaledDense(channels, True, dtype=policy, name=f"skip{j}_{k}")
            for k in range(self.repeats if self.long_skips else 0)
            for j in range(k)
        ]
        for skip in self.skips:
            skip.build((*input_shape[:-1], channels))

        dense = (6.0 / (channels + wide)) ** 0.5  # limits of Glorot's uniform distribution
        taps = (6.0 / (2 * 3)) ** 0.5  # three on one channel
        self.up_kernel = self._stacked("up_kernel", (channels, wide), dense)
        self.up_scale = self._stacked("up_scale", (), 1.0)
        self.slope1 = self._stacked("slope1", (), 0.1)
        self.gain1 = self._stacked("gain1", (), 1.0)
        self.bias1 = self._stacked("bias1", (), 0.0)
        self.conv_kernel = self._stacked("conv_kernel", (3, wide), taps)
        self.conv_bias = self._stacked("conv_bias", (wide,))
        self.slope2 = self._stacked("slope2", (), 0.1)
        self.gain2 = self._stacked("gain2", (), 1.0)
        self.bias2 = self._stacked("bias2", (), 0.0)
        self.down_kernel = self._stacked("down_kernel", (wide, channels), dense)
        self.down_scale = self._stacked("down_scale", (), 0.9 ** np.arange(self.num_blocks))
        self.built = True

    def _stacked(self, name: str, shape: tuple, start=0.0):
        """A weight of every block: kernels uniform up to `start`, scalars equal to it."""
        if len(shape) == 2:
            initializer = keras.initializers.RandomUniform(-start, start)
        else:
            values = np.broadcast_to(np.float32(start), (self.num_blocks,))
            values = np.broadcast_to(values.reshape(-1, *(1,) * len(shape)), (len(values), *shape))
            initializer = lambda shape, dtype: ops.convert_to_tensor(values, dtype)  # noqa: E731
        return self.add_weight(shape=(self.num_blocks, *shape), initializer=initializer, name=name)

    @property
    def _block_weights(self) -> tuple:
        return (
            self.up_kernel,
            self.up_scale,
            self.down_kernel,
            self.down_scale,
            self.slope1,
            self.gain1,
            self.bias1,
            self.conv_kernel,
            self.conv_bias,
            self.slope2,
            self.gain2,
            self.bias2,
        )

    def call(self, x, training=None):
        x = self.bottleneck(x)
        weights = [ops.convert_to_tensor(weight) for weight in self._block_weights]
        run_inputs: list[Tensor] = []
        skips = iter(self.skips)
        for run in range(self.repeats if self.long_skips else 1):
            for earlier in run_inputs:
                x = x + next(skips)(earlier)
            run_inputs.append(x)
            blocks = self.dilations_per_repeat if self.long_skips else self.num_blocks
            x = self._blocks(x, weights, run * blocks, (run + 1) * blocks, training)
        return x

    def _blocks(self, x, weights, first: int, end: int, training):
        """Blocks `first` to `end`, unrolled or in a loop."""
        wrap = keras.remat if self.rematerialize else lambda block: block
        dilations = [2 ** (b % self.dilations_per_repeat) for b in range(first, end)]
        if self.unroll:
            block = functools.partial(self._block, self._between)
            blocks = zip(*(ops.unstack(weight)[first:end] for weight in weights), strict=True)
            for dilation, part in zip(dilations, blocks, strict=True):
                x = wrap(functools.partial(block, dilation))(x, *part)
            return x
        # Compiled for every length of input; training has only one.
        between = self._fused_between if training else self._between
        block = wrap(functools.partial(self._block, between))
        # A scan, not a loop that slices: its gradient is written in parts, not accumulated.
        parts = [ops.convert_to_tensor(dilations, "int32"), *(w[first:end] for w in weights)]
        return ops.scan(lambda x, part: (block(part[0], x, *part[1:]), None), x, parts)[0]

    def _block(
        self, between, dilation, x, up_kernel, up_scale, down_kernel, down_scale, *between_weights
    ):
        y = ops.matmul(x, up_kernel * up_scale)
        y = between(dilation, y, *between_weights)
        return x + ops.matmul(y, down_kernel * down_scale)

    def _between(
        self, dilation, y, slope1, gain1, bias1, conv_kernel, conv_bias, slope2, gain2, bias2
    ):
        """The part between a block's dense layers; unlike them, it is memory-bound."""
        y = self._norm(_prelu(y, slope1), gain1, bias1)
        y = self._convolve(y, dilation, conv_kernel) + conv_bias
        return self._norm(_prelu(y, slope2), gain2, bias2)

    @functools.cached_property
    def _fused_between(self):
        return fused(self._between)

    def _convolve(self, x, dilation, kernel):
        """Depthwise convolution with three taps, output as long as the input.

        As three shifted multiply-adds, which on CPUs are several times faster than a depthwise
        convolution. In a loop, where XLA needs shapes independent of the dilation, all blocks use
        the padding of the largest.
        """
        widest = dilation if self.unroll else 2 ** (self.dilations_per_repeat - 1)
        before, after = (2 * widest, 0) if self.causal else (widest, widest)
        padded = ops.pad(x, [[0, 0], [before, after], [0, 0]])
        first = before - 2 * dilation if self.causal else before - dilation
        shape = ops.shape(x)
        return sum(
            ops.slice(padded, (0, first + tap * dilation, 0), shape) * kernel[tap]
            for tap in range(3)
        )

    def _norm(self, x, gain, bias):
        frames = ops.cast(x, "float32")
        if self.causal:
            return self._causal_norm(frames, gain, bias, x.dtype)
        mean, variance = ops.moments(frames, axes=1, keepdims=True)
        scale = ops.cast(gain, "float32") * ops.rsqrt(variance + EPSILON)
        shift = ops.cast(bias, "float32") - mean * scale
        return x * ops.cast(scale, x.dtype) + ops.cast(shift, x.dtype)

    def _causal_norm(self, frames, gain, bias, dtype):
        """Normalises by the moments of the frames so far, which stay accurate over hours.

        Means are taken of the differences from the first frame. Variances are sums of `(x_n -
        mean_n-1) (x_n - mean_n)`, which are never negative, so that nothing cancels.

        Reference: Welford, Note on a Method for Calculating Corrected Sums of Squares and Products
        (1962).
        """
        count = ops.cumsum(ops.ones_like(frames[:1, :, :1]), axis=1)
        moved = frames - frames[:, :1]
        mean = ops.cumsum(moved, axis=1) / count
        before = ops.pad(mean[:, :-1], [[0, 0], [1, 0], [0, 0]])
        variance = ops.cumsum((moved - before) * (moved - mean), axis=1) / count
        scale = ops.cast(gain, "float32") * ops.rsqrt(ops.maximum(variance, 0.0) + EPSILON)
        return ops.cast((moved - mean) * scale + ops.cast(bias, "float32"), dtype)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.bottleneck_channels)

    def get_config(self):
        return super().get_config() | {
            "bottleneck_channels": self.bottleneck_channels,
            "conv_channels": self.conv_channels,
            "dilations_per_repeat": self.dilations_per_repeat,
            "repeats": self.repeats,
            "long_skips": self.long_skips,
            "causal": self.causal,
            "unroll": self.unroll,
            "rematerialize": self.rematerialize,
        }


def _prelu(x, slope):
    return ops.maximum(x, 0.0) + slope * ops.minimum(x, 0.0)
