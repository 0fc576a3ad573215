"""Cross-replica communication in a data-parallel step.

All functions are called in replica context, from a `train_step`; with a single replica they cost
nothing. On another backend of Keras than TensorFlow there is one replica.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from sepssl.typing import Tensor

STEP_METRICS = ("gradient_norm", "parameter_norm", "loss_scale", "skipped")


def replica_id() -> Tensor:
    """Number of this replica, int32 scalar."""
    if keras.config.backend() != "tensorflow":
        return ops.zeros((), "int32")
    return tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)


def num_replicas() -> int:
    """How many replicas share a step; 1 outside replica context."""
    if keras.config.backend() != "tensorflow":
        return 1
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def gather(values: Tensor) -> Tensor:
    """[batch, ...] of every replica -> [replicas * batch, ...] on each, in order; differentiable.

    Each replica writes its part into zeros and all add up: exact, and it works where
    `all_gather` does not (two logical CPUs).
    """
    if keras.config.backend() != "tensorflow":
        return values
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync
    if replicas == 1:
        return values
    own = tf.one_hot(replica_id(), replicas, dtype=values.dtype)
    scattered = tf.reshape(own, [replicas] + [1] * len(values.shape)) * values[tf.newaxis]
    total = context.all_reduce(tf.distribute.ReduceOp.SUM, scattered)
    return tf.reshape(total, [-1, *values.shape[1:]])


def batch_norm_over_replicas(
    x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalises the last axis by mean and variance over all others and over all replicas.

    Replicas hold equally much. Outside replica context, or on another backend of Keras than
    TensorFlow: over this `x` alone.

    Args:
        x: [..., channels], of any floating type.
        gamma, beta: float32 [channels], scale and shift afterwards.
        epsilon: added to the variance.

    Returns:
        Normalised [..., channels] of the type of `x`, and mean and variance, float32 [channels].
    """
    channels, axes = x.shape[-1], list(range(len(x.shape) - 1))
    if keras.config.backend() != "tensorflow":
        mean, variance = ops.moments(ops.cast(x, "float32"), axes)
        return normalized(x, mean, variance, gamma, beta, epsilon), mean, variance
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        rows = tf.reshape(x, [1, 1, -1, channels])
        output, mean, unbiased, *_ = tf.raw_ops.FusedBatchNormV3(
            x=rows, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon
        )
        count = tf.cast(tf.shape(rows)[2], tf.float32)
        variance = unbiased * (count - 1.0) / count
        return tf.reshape(output, tf.shape(x)), mean, variance
    wide = tf.cast(x, tf.float32)
    mean = context.all_reduce(tf.distribute.ReduceOp.MEAN, tf.reduce_mean(wide, axes))
    variance = tf.reduce_mean(tf.math.squared_difference(wide, mean), axes)
    variance = context.all_reduce(tf.distribute.ReduceOp.MEAN, variance)
    return normalized(x, mean, variance, gamma, beta, epsilon), mean, variance


def normalized(
    x: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor, beta: Tensor, epsilon: float
) -> Tensor:
    """Normalises the last axis by given moments; see `batch_norm_over_replicas`."""
    scale = gamma * ops.rsqrt(variance + epsilon)
    shift = beta - mean * scale
    return x * ops.cast(scale, x.dtype) + ops.cast(shift, x.dtype)


def mean_over_replicas(values: dict) -> dict:
    """Scalars of one replica -> their means over all replicas, the same on each."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return values
    means = context.all_reduce(tf.distribute.ReduceOp.MEAN, list(values.values()))
    return dict(zip(values, means, strict=True))


def mean_over_parts(compute: Callable[[Any], Any], data: Any, parts: int) -> Any:
    """Means of what is computed from equal parts of a batch, one part after the other.

    Only one part's intermediate results are in memory at a time. On one replica the parts go
    through a loop, which is compiled once; on several, whose layers meet in each part, they follow
    each other in the graph.

    Args:
        compute: a part -> nested floating-point tensors, of the same shapes for every part.
        data: this replica's share of the batch, nested tensors [batch, ...]; neighbours stay
            together.
        parts: how many; 1 costs nothing.

    Raises:
        ValueError: if the batch cannot be divided.
    """
    if parts == 1:
        return compute(data)

    def split(x):
        if x.shape[0] is not None and x.shape[0] % parts:
            raise ValueError(f"a batch of {x.shape[0]} in {parts} parts: expected a multiple of it")
        return tf.reshape(x, tf.concat([[parts, tf.shape(x)[0] // parts], tf.shape(x)[1:]], 0))

    stacked = keras.tree.map_structure(split, data)

    def part(i):
        return keras.tree.map_structure(lambda x: x[i], stacked)

    if num_replicas() == 1 and not tf.executing_eagerly():
        step = tf.function(lambda i: compute(part(i)), autograph=False)
        traced = step.get_concrete_function(tf.TensorSpec([], tf.int32))
        zeros = keras.tree.map_structure(
            lambda x: tf.zeros(x.shape, x.dtype), traced.structured_outputs
        )
        _, total = tf.while_loop(
            lambda i, total: i < parts,
            lambda i, total: (i + 1, keras.tree.map_structure(tf.add, total, traced(i))),
            (tf.constant(0), zeros),
            parallel_iterations=1,
        )
    else:
        total = compute(part(0))
        for i in range(1, parts):
            with tf.control_dependencies(keras.tree.flatten(total)):
                total = keras.tree.map_structure(tf.add, total, compute(part(i)))
    return keras.tree.map_structure(lambda x: x / parts, total)


def replica_gradients(
    model: keras.Model, loss: tf.Tensor, tape: tf.GradientTape
) -> list[tf.Tensor]:
    """The gradient of a loss, for `apply_global_mean`.

    Where the optimizer scales the loss, for float16, the gradient is unscaled again.

    Args:
        model: a compiled `keras.Model`.
        loss: scalar, not scaled.
        tape: the `tf.GradientTape` that recorded `loss`.

    Returns:
        Of each of the model's `trainable_variables`.
    """
    scale = _loss_scale(model.optimizer)
    gradients = tape.gradient(
        loss,
        [v.value for v in model.trainable_variables],
        output_gradients=None if scale is None else tf.cast(scale, loss.dtype),
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    if scale is not None:
        gradients = [gradient / tf.cast(scale, gradient.dtype) for gradient in gradients]
    return gradients


def apply_global_mean(
    model: keras.Model, gradients: list[tf.Tensor], clip_norm: float
) -> dict[str, tf.Tensor]:
    """Applies the mean of gradients over the replicas, clipped by its global norm.

    They are averaged *before* they are clipped: the optimizers' own clipping acts on each replica's
    part and gives another result. `clip_norm` is that of the true gradient, not of a scaled one.

    Args:
        model: a compiled `keras.Model`; its `trainable_variables` are updated.
        gradients: `replica_gradients` of the mean loss over this replica's equal share of the
            global batch.
        clip_norm: largest norm of the whole gradient; 0 for no clipping.

    Returns:
        Scalars "gradient_norm" (before clipping) and "parameter_norm" (after the update). With a
        `LossScaleOptimizer` also "loss_scale" (that of this step) and "skipped": 1 if the gradient
        was not finite, so that the optimizer lowered the scale instead of updating; else 0.
    """
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync
    variables = model.trainable_variables
    scale = _loss_scale(model.optimizer)
    if replicas > 1:
        gradients = context.all_reduce(tf.distribute.ReduceOp.MEAN, gradients)
    norm = tf.linalg.global_norm(gradients)
    if clip_norm:
        gradients, _ = tf.clip_by_global_norm(gradients, clip_norm, use_norm=norm)
    if replicas > 1:
        # The optimizer sums what the replicas hand in, and all hand in the same.
        gradients = [gradient / replicas for gradient in gradients]
    if replicas > 1 and isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
        _apply_if_finite(model.optimizer, gradients, variables, tf.math.is_finite(norm))
    else:
        if scale is not None:
            gradients = [gradient * tf.cast(scale, gradient.dtype) for gradient in gradients]
        model.optimizer.apply(gradients, variables)
    metrics = {
        "gradient_norm": norm,
        "parameter_norm": tf.linalg.global_norm([v.value for v in variables]),
    }
    if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
        finite = tf.math.is_finite(norm)
        metrics |= {"loss_scale": scale, "skipped": 1.0 - tf.cast(finite, tf.float32)}
    return metrics


def _apply_if_finite(
    optimizer: keras.optimizers.LossScaleOptimizer,
    gradients: list[tf.Tensor],
    variables: list[keras.Variable],
    finite: tf.Tensor,
) -> None:
    """What `optimizer.apply` does, on several replicas.

    Keras's own (3.15) assigns the scale and its counter on every replica, which variables without
    an aggregation refuse. Here they are assigned once, where all replicas meet.

    Args:
        optimizer: with the scale.
        gradients: not scaled, the same on every replica.
        variables: to be updated.
        finite: bool scalar, whether the gradients are finite, the same on every replica.
    """
    scale, counter = optimizer.dynamic_scale, optimizer.step_counter

    def together(strategy, gradients, finite):
        def update():
            inner = optimizer.inner_optimizer
            strategy.extended.call_for_each_replica(inner.apply, args=(gradients, variables))
            grows = ops.equal(counter, optimizer.dynamic_growth_steps - 1)
            scale.assign(ops.where(grows, 2.0 * scale, scale))
            counter.assign(ops.where(grows, 0, counter + 1))

        def lower():
            scale.assign(0.5 * scale)
            counter.assign(0)

        tf.cond(strategy.experimental_local_results(finite)[0], update, lower)

    tf.distribute.get_replica_context().merge_call(together, args=(gradients, finite))


def _loss_scale(optimizer: keras.optimizers.Optimizer) -> tf.Tensor | float | None:
    """What the optimizer is going to divide gradients by, or None."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return tf.convert_to_tensor(optimizer.scale_loss(tf.ones([])))
    return optimizer.loss_scale_factor
