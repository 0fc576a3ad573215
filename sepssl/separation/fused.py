"""Parts of a network that XLA compiles separately, forward and backward."""

from collections.abc import Callable

import keras
import tensorflow as tf


def fused(function: Callable) -> Callable:
    """Compiles `function(setting, *tensors)` to one operation that stores only its inputs.

    For chains of elementwise operations and reductions between matrix products: XLA fuses dozens of
    memory passes into a few and recomputes activations in the backward pass, which takes less time
    than storing and reading them. Matrix products stay outside, since TensorFlow's are faster than
    XLA's.

    Args:
        function: returns one tensor; recompiled for every shape of its inputs. `setting`, an
            integer tensor, gets no gradient.

    Returns:
        A function of the same arguments with the same value and gradient; on another backend of
        Keras than TensorFlow, `function` itself.
    """
    if keras.config.backend() != "tensorflow":
        return function
    forward = tf.function(function, jit_compile=True, autograph=False)

    @tf.function(jit_compile=True, autograph=False)
    def backward(upstream, setting, *tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            output = function(setting, *tensors)
        return tape.gradient(output, tensors, upstream)

    @tf.custom_gradient
    def apply(setting, *tensors):
        def gradient(upstream):
            return (None, *backward(upstream, setting, *tensors))

        return forward(setting, *tensors), gradient

    return apply
