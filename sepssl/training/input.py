"""Batches as pure functions of the step, so that a run can resume at any step exactly."""

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from sepssl.errors import InputError


def require_batch(num_clips: int, batch_size: int) -> None:
    """Raises InputError if there are fewer clips than a batch holds."""
    if num_clips < batch_size:
        raise InputError(
            f"train.batch_size={batch_size}, but there are {num_clips} clips; expected at least "
            "as many clips as a batch holds"
        )


class Shuffle:
    """Which clips a step sees: a fresh permutation of all clips every epoch.

    A batch never holds a clip twice: what is left of an epoch after its last whole batch is not
    seen in it. (Twice in a batch, a clip would be its own negative.)

    Args:
        num_clips: number of clips.
        batch_size: clips in a global batch.
        seed: of the permutations.

    Raises:
        InputError: if there are fewer clips than a batch holds.
    """

    def __init__(self, num_clips: int, batch_size: int, seed: int):
        require_batch(num_clips, batch_size)
        self.num_clips = num_clips
        self.batch_size = batch_size
        self.seed = seed
        # Two: batches are loaded ahead, over the end of an epoch.
        self._order = functools.lru_cache(maxsize=2)(self._draw_order)

    def _draw_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_clips)

    def indices(self, step: int) -> np.ndarray:
        """int [batch_size], all different."""
        epoch, batch = divmod(step, self.num_clips // self.batch_size)
        return self._order(epoch)[batch * self.batch_size : (batch + 1) * self.batch_size]


def distribute(
    strategy: tf.distribute.Strategy,
    load: Callable[[int], dict[str, np.ndarray]],
    first_step: int,
    end_step: int,
):
    """Global batches of steps [first_step, end_step), each replica with its own slice.

    Slices are in the order of the replicas: n replicas together see what one would.

    Args:
        strategy: any data-parallel strategy, also the default one.
        load: step -> dict of arrays whose first axis is the global batch, divisible by the number
            of replicas. None may be empty: tf.numpy_function crashes the process on such.
        first_step, end_step: range of steps.

    Returns:
        An iterable of per-replica batches.
    """
    example = load(first_step)
    replicas = strategy.num_replicas_in_sync
    dtypes = [tf.as_dtype(array.dtype) for array in example.values()]

    def per_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        local = replicas // context.num_input_pipelines
        first = context.input_pipeline_id * local

        def split(step):
            arrays = tf.numpy_function(lambda s: list(load(int(s)).values()), [step], dtypes)
            batch = {}
            for (key, sample), array in zip(example.items(), arrays, strict=True):
                size = len(sample) // replicas
                parts = tf.reshape(array, (replicas, size, *sample.shape[1:]))
                batch[key] = parts[first : first + local]
            return batch

        steps = tf.data.Dataset.range(first_step, end_step)
        batches = steps.map(split, num_parallel_calls=2, deterministic=True)
        return batches.unbatch().prefetch(2 * local)

    return strategy.distribute_datasets_from_function(per_worker)
