"""Batches as pure functions of the step, so that a run can resume at any step exactly."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from sepssl.errors import InputError
from sepssl.progress import counted
from sepssl.training.strategy import worker_of


def part_of(count: int, worker: int, workers: int) -> slice:
    """The rows of a batch that a worker loads; `workers` divides `count`."""
    return slice(worker * count // workers, (worker + 1) * count // workers)


def require_batch(num_clips: int, batch_size: int) -> None:
    """Raises InputError if there are fewer clips than a batch holds."""
    if num_clips < batch_size:
        raise InputError(
            f"train.batch_size={batch_size}, but only {counted(num_clips, 'clip')} to train on; "
            "expected at least a batch of clips; set a lower train.batch_size"
        )


class Shuffle:
    """The order of clips: a fresh permutation every epoch.

    A batch never contains a clip twice, since a clip would then be its own negative: clips left
    after the last full batch of an epoch are dropped. Parts of one recording are poor negatives of
    each other too, so they are spread evenly over the epoch: a recording with a share s of all
    clips has about `s * batch_size` parts in every batch and, if that is below 1, hardly ever more
    than one (our choice). This has no effect if every clip is a recording of its own.

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
        # For each recording, its first clip and number of clips; for each clip, its recording.
        _, self._first, self._groups, self._sizes = np.unique(
            range(num_clips) if groups is None else groups, True, True, True
        )
        # Two, since batches are loaded ahead across the end of an epoch.
        self._order = functools.lru_cache(maxsize=2)(self._draw_order)

    def _draw_order(self, epoch: int) -> np.ndarray:
        order = np.random.default_rng([self.seed, epoch]).permutation(self.num_clips)
        if self._sizes.max() == 1:
            return order
        # The parts of a recording come at equal distances, in random order. The first comes at a
        # random place within that distance, which the permutation of its first clip determines.
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


class Batches(Protocol):
    """Training data as a function of the step, so that a run can resume exactly at any step."""

    def load(self, step: int, worker: int = 0, workers: int = 1) -> dict[str, np.ndarray]:
        """The global batch of a step; always the same for the same step.

        Called by several threads. The first axis of every array is the batch, divisible by the
        number of replicas; none is empty, and shapes do not depend on the step.

        Args:
            step: counted from 0.
            worker, workers: which of so many equal parts of the batch to load, in their order; not
                passed if there is only one.
        """

    def names(self, step: int) -> list[str]:
        """Names of the clips in that batch, for messages; [] if they have none."""


class DatasetBatches:
    """A dataset of global batches, in place of `Batches`: see `train_on_dataset`.

    Args:
        dataset: its first element is the batch of step 0; repeated at its end.

    Raises:
        InputError: if its length is known to be 0.
    """

    def __init__(self, dataset: tf.data.Dataset):
        if dataset.cardinality() == 0:
            raise InputError("the dataset is empty; expected at least one batch")
        self.dataset = dataset

    def names(self, step: int) -> list[str]:
        return []

    def distribute(self, strategy: tf.distribute.Strategy, first_step: int, end_step: int) -> Any:
        """As `distribute`, after skipping to the first step."""
        part = self.dataset.repeat().skip(first_step).take(end_step - first_step)
        return strategy.experimental_distribute_dataset(part.prefetch(2))


def distribute(
    strategy: tf.distribute.Strategy,
    load: Callable[..., dict[str, np.ndarray]],
    first_step: int,
    end_step: int,
    workers: int = 2,
) -> Any:
    """Global batches of steps [first_step, end_step), each replica with its own slice.

    Slices are in the order of the replicas: n replicas together see what one would.

    Args:
        strategy: any. Of several workers, each loads its own part.
        load: `Batches.load`.
        first_step, end_step: range of steps.
        workers: number of loading threads, and of batches loaded ahead.

    Returns:
        An iterable of per-replica batches.
    """
    worker, count = worker_of(strategy)
    replicas = strategy.num_replicas_in_sync // count
    if count > 1:
        load = functools.partial(load, worker=worker, workers=count)
    example = load(first_step)
    loaded = {first_step: example}  # not to be loaded twice

    def load_once(step: np.ndarray) -> list[np.ndarray]:
        batch = loaded.pop(int(step), None) or load(int(step))
        return [batch[key] for key in example]

    dtypes = [tf.as_dtype(array.dtype) for array in example.values()]

    def split(step):
        arrays = tf.numpy_function(load_once, [step], dtypes)
        batch = {}
        for (key, sample), array in zip(example.items(), arrays, strict=True):
            shape = (replicas, len(sample) // replicas, *sample.shape[1:])
            batch[key] = tf.reshape(array, shape)
        return batch

    def parts(_: tf.distribute.InputContext) -> tf.data.Dataset:
        steps = tf.data.Dataset.range(first_step, end_step)
        split_up = steps.map(split, num_parallel_calls=workers, deterministic=True).unbatch()
        return split_up.prefetch(workers * replicas)

    return strategy.distribute_datasets_from_function(parts)
