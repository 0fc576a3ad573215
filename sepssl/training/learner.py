"""The base class of models that train another, in the training loop and under Keras's `fit`."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from sepssl.distribution import (
    STEP_METRICS,
    apply_global_mean,
    mean_over_parts,
    mean_over_replicas,
    replica_gradients,
)
from sepssl.typing import Tensor


class Learner(keras.Model):
    """A model that trains another one, its `product`.

    A subclass defines `product` and `loss_and_metrics`; everything else is here. It works under
    `fit`, `evaluate` and `predict`, and in `sepssl.training.loop.train`, on one replica or several:

        learner.compile(keras.optimizers.Adam(1e-3))
        learner.fit(dataset, validation_data=held_out)
        learner.product.save("model.keras")

    Logs of an epoch, and the results of `evaluate`, are means over batches, weighted by their size;
    logs within an epoch are those of the current batch. Under a float16 policy, a step whose
    gradient overflows changes only the loss scale.

    Args:
        clip_norm: largest global gradient norm, 0 for no clipping.
        gradient_accumulation_steps: equal parts of a batch that are computed one after the other,
            which takes less memory. Their mean gradient is clipped and applied once. Where the loss
            is a mean over examples this is the step of the whole batch; a loss that compares
            examples compares those of a part.
        dtype: policy, `keras.Model`'s; decides whether `compile` scales the loss.
    """

    metric_names: Sequence[str] = ()
    """All metrics that `loss_and_metrics` may return."""
    shown_metrics: Sequence[str] = ("loss",)
    """Metrics beside the progress bar."""

    def __init__(
        self,
        clip_norm: float = 0.0,
        gradient_accumulation_steps: int = 1,
        **kwargs,
    ):
        # Without autocast: waveforms and losses stay float32, the networks cast for themselves.
        super().__init__(autocast=False, **kwargs)
        if gradient_accumulation_steps < 1:
            raise ValueError(
                f"gradient_accumulation_steps={gradient_accumulation_steps}: expected 1 or more"
            )
        self.clip_norm = clip_norm
        self.gradient_accumulation_steps = gradient_accumulation_steps
        names = ("loss", *self.metric_names, *STEP_METRICS)
        self._means = [keras.metrics.Mean(name) for name in names]

    @property
    def gains_from_xla(self) -> bool:
        """Whether XLA makes a training step faster."""
        return False

    @property
    def product(self) -> keras.Model:
        """The model that training is for."""
        raise NotImplementedError

    def loss_and_metrics(self, data: Any, training: bool) -> tuple[Tensor, dict]:
        """Loss of a batch, or of one replica's share of it.

        Args:
            data: a batch.
            training: whether the networks run in training mode.

        Returns:
            A scalar, the mean over the examples, and a dict of scalar metrics.
        """
        raise NotImplementedError

    def work(self, data: Any) -> tuple[int, float]:
        """What a step has to do, for reports of speed.

        Args:
            data: this replica's part of a batch.

        Returns:
            The number of examples, and the floating-point operations of the networks that are
            trained, forward and backward, the latter counted as twice the former; NaN if unknown.
        """
        shape = keras.tree.flatten(data)[0].shape
        return int(shape[0]) if len(shape) else 1, math.nan

    def update(self, data: Any) -> dict[str, tf.Tensor]:
        """One step of the optimizer, in replica context.

        Args:
            data: this replica's part of the batch.

        Returns:
            Scalars, the same on every replica: "loss", the metrics of `loss_and_metrics`, and those
            of `apply_global_mean`.
        """

        def compute(part):
            with tf.GradientTape() as tape:
                loss, metrics = self.loss_and_metrics(part, training=True)
            return replica_gradients(self, loss, tape), {"loss": loss} | metrics

        gradients, metrics = mean_over_parts(compute, data, self.gradient_accumulation_steps)
        norms = apply_global_mean(self, gradients, self.clip_norm)
        return mean_over_replicas(metrics | norms)

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """`update`, for `fit`, which averages over the epoch."""
        return self._averaged(self.update(data), data)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Loss and metrics in inference mode, for `evaluate`, which averages over the batches."""
        loss, metrics = self.loss_and_metrics(data, training=False)
        return self._averaged(mean_over_replicas({"loss": loss} | metrics), data)

    def _averaged(self, values: dict, data: Any) -> dict:
        size = ops.cast(ops.shape(keras.tree.flatten(data)[0])[0], "float32")
        for mean in self._means:
            if mean.name in values:
                value, weight = values[mean.name], size
                if mean.name == "gradient_norm" and "skipped" in values:
                    used = ops.isfinite(value)
                    value, weight = ops.where(used, value, 0.0), size * ops.cast(used, "float32")
                mean.update_state(value, sample_weight=weight)
        return values

    def get_metrics_result(self) -> dict[str, float]:
        """Means since the last reset, of all metrics that have values."""
        own = {mean.name: mean for mean in self._means}
        return {
            name: value
            for name, value in super().get_metrics_result().items()
            if name not in own or float(ops.sum(own[name].count)) > 0
        }

    def get_config(self):
        return super().get_config() | {
            "clip_norm": self.clip_norm,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
        }
