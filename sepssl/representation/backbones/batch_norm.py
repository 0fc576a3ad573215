"""Batch normalisation with the statistics of the global batch."""

import keras
from keras import ops

from sepssl.distribution import batch_norm_over_replicas, normalized
from sepssl.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="sepssl")
class GlobalBatchNorm(keras.layers.Layer):
    """Batch normalisation of the last axis over all others and over all replicas.

    Unlike `keras.layers.BatchNormalization(synchronized=True)`, it computes the variance around the
    mean, not as a difference of large numbers: results are the same on any number of replicas, and
    a single one uses TensorFlow's fused kernel. Statistics are float32 under every dtype policy.

    Args:
        momentum: of the moving statistics used in inference.
        epsilon: added to the variance.
        scale: whether there is a factor (gamma) per channel; there always is a shift (beta).

    Shapes: [..., channels] -> the same shape.

    Example:
        >>> x = np.random.default_rng(0).normal(3.0, 2.0, size=(1000, 4))
        >>> normalized = np.asarray(GlobalBatchNorm()(x, training=True))
        >>> bool(np.allclose(normalized.mean(axis=0), 0.0, atol=1e-3))
        True

    Reference: Ioffe & Szegedy, Batch Normalization (2015).
    """

    def __init__(self, momentum: float = 0.99, epsilon: float = 1e-3, scale: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.momentum = momentum
        self.epsilon = epsilon
        self.scale = scale

    def build(self, input_shape: Shape) -> None:
        shape = (input_shape[-1],)
        if self.scale:
            self.gamma = self.add_weight(shape=shape, initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=shape, initializer="zeros", name="beta")
        self.moving_mean = self.add_weight(
            shape=shape, initializer="zeros", trainable=False, autocast=False, name="moving_mean"
        )
        self.moving_variance = self.add_weight(
            shape=shape, initializer="ones", trainable=False, autocast=False, name="moving_variance"
        )
        self.built = True

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        beta = ops.cast(self.beta, "float32")
        gamma = ops.cast(self.gamma, "float32") if self.scale else ops.ones_like(beta)
        if training and self.trainable:
            output, mean, variance = batch_norm_over_replicas(x, gamma, beta, self.epsilon)
            for moving, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(self.momentum * moving + (1.0 - self.momentum) * new)
            return output
        return normalized(x, self.moving_mean, self.moving_variance, gamma, beta, self.epsilon)

    def compute_output_shape(self, input_shape: Shape) -> tuple[int | None, ...]:
        return tuple(input_shape)

    def get_config(self) -> dict:
        return super().get_config() | {
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "scale": self.scale,
        }
