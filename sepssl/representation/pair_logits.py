"""Logits of all pairs of rows without storing the hidden layer, for coincidence prediction."""

import math

import tensorflow as tf

from sepssl.typing import Tensor

BLOCK = 16  # rows at a time: 16 x 1024 x 256 floats are 16 MB


@tf.custom_gradient
def pair_logits(left: Tensor, right: Tensor, weights: Tensor) -> Tensor:
    """`logits[i, j] = weights . relu(left[i] + right[j])` and its gradient, in blocks of rows.

    XLA compiles a block to one pass that does not store hidden layers; the gradient recomputes
    them. Recompiled for every shape.

    Args:
        left: float32 [rows, hidden].
        right: float32 [columns, hidden].
        weights: float32 [hidden].

    Returns:
        float32 [rows, columns].
    """

    # Otherwise, an outer tape would request XLA's own gradient.
    left, right, weights = (tf.stop_gradient(x) for x in (left, right, weights))

    def gradient(upstream):
        return _backward(upstream, left, right, weights)

    return _forward(left, right, weights), gradient


@tf.function(jit_compile=True, autograph=False)
def _forward(left, right, weights):
    def block(rows):
        hidden = tf.nn.relu(rows[:, tf.newaxis] + right[tf.newaxis])
        return tf.reduce_sum(hidden * weights, axis=-1)

    logits = tf.map_fn(block, _blocks(left))
    return tf.reshape(logits, [left.shape[0], right.shape[0]])


@tf.function(jit_compile=True, autograph=False)
def _backward(upstream, left, right, weights):
    def block(parts):
        rows, above = parts
        hidden = tf.nn.relu(rows[:, tf.newaxis] + right[tf.newaxis])
        above = above[:, :, tf.newaxis]
        active = tf.where(hidden > 0.0, above, 0.0)
        return (
            tf.reduce_sum(active, axis=1),
            tf.reduce_sum(active, axis=0),
            tf.reduce_sum(above * hidden, axis=[0, 1]),
        )

    signature = (tf.float32, tf.float32, tf.float32)
    of_left, of_right, of_weights = tf.map_fn(
        block, (_blocks(left), _blocks(upstream)), fn_output_signature=signature
    )
    return (
        tf.reshape(of_left, left.shape) * weights,
        tf.reduce_sum(of_right, axis=0) * weights,
        tf.reduce_sum(of_weights, axis=0),
    )


def _blocks(rows):
    """[rows, ...] -> [blocks, rows per block, ...], blocks of equal size."""
    return tf.reshape(rows, [-1, math.gcd(rows.shape[0], BLOCK), *rows.shape[1:]])
