"""Batches as pure functions of the step, so that a run can resume at any step exactly."""

import functools
from collections.abc import Callable, Sequence

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
    seen in it. (Twice in a batch, a clip would be its own negative.) Parts of one recording, which
    are no good negatives of each other either, are spread evenly over the epoch: a recording with
    a share s of all clips has about `s * batch_size` parts in every batch, and where that is less
    than 1, hardly ever more than one (our choice). Where every clip is a recording of its own, that
    changes nothing.

    Args:
        num_clips: number of clips.
        batch_size: clips in a global batch.
        seed: of the permutations.
        groups: of each clip, the recording it is a part of; None: every clip is its own.

    Raises:
        InputError: if there are fewer clips than a batch holds.
    """

    def __init__(
        self,
        num_clips: int,
        batch_size: int,
        seed: int,
        groups: Sequence[str] | None = None,
    ):
        require_batch(num_clips, batch_size)
        self.num_clips = num_clips
        self.batch_size = batch_size
        self.seed = seed
        # Of each recording, its first clip and how many it has; of each clip, its recording.
        _, self._first, self._groups, self._sizes = np.unique(
            range(num_clips) if groups is None else groups, True, True, True
        )
        # Two: batches are loaded ahead, over the end of an epoch.
        self._order = functools.lru_cache(maxsize=2)(self._draw_order)

    def _draw_order(self, epoch: int) -> np.ndarray:
        order = np.random.default_rng([self.seed, epoch]).permutation(self.num_clips)
        if self._sizes.max() == 1:
            return order
        # The parts of a recording come at equal distances, in random order, from a random place
        # within the first such distance on: what the permutation says of its first clip.
        place = np.empty(self.num_clips, np.int64)
        place[order] = np.arange(self.num_clips)
        sizes = np.repeat(self._sizes, self._sizes)
        number = np.arange(self.num_clips) - np.repeat(
            np.cumsum(self._sizes) - self._sizes, self._sizes
        )
        offset = np.repeat(place[self._first] / self.num_clips, self._sizes)
        by_recording = np.lexsort((place, self._groups))
        return by_recording[np.argsort((number + offset) / sizes, kind="stable")]

    def shared_share(self) -> float:
        """The share of a clip's negatives that are parts of its own recording, in the first epoch.

        0 to 1; a clip's negatives are the others of its batch.
        """
        if self._sizes.max() == 1 or self.batch_size == 1:
            return 0.0
        batches = self.num_clips // self.batch_size
        groups = self._groups[self._order(0)[: batches * self.batch_size]]
        pairs = 0
        for batch in groups.reshape(batches, self.batch_size):
            counts = np.unique(batch, return_counts=True)[1]
            pairs += int(np.sum(counts * (counts - 1)))
        return pairs / (batches * self.batch_size * (self.batch_size - 1))

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
