"""Batches as pure functions of the step, so that a run can resume at any step exactly."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from sepssl.data.store import ClipStore
from sepssl.views.patches import draw_patch_starts


class Shuffle:
    """Which clips a step sees: a fresh permutation of all clips every epoch.

    Args:
        num_clips: number of clips.
        batch_size: clips in a global batch.
        seed: of the permutations.
    """

    def __init__(self, num_clips: int, batch_size: int, seed: int):
        self.num_clips = num_clips
        self.batch_size = batch_size
        self.seed = seed

    def indices(self, step: int) -> np.ndarray:
        """int [batch_size]."""
        positions = step * self.batch_size + np.arange(self.batch_size)
        epochs, places = np.divmod(positions, self.num_clips)
        orders = {
            epoch: np.random.default_rng([self.seed, epoch]).permutation(self.num_clips)
            for epoch in np.unique(epochs).tolist()
        }
        return np.array([orders[e][p] for e, p in zip(epochs.tolist(), places, strict=True)])


class RecordingBatches:
    """Random crops of recordings, for the separator.

    Args:
        mixtures: a store of one row per clip.
        clips: which of its clips, int [count].
        batch_size: crops in a global batch; even, since MixIT pairs neighbours.
        crop_samples: length of a crop.
        seed: of order and crops.
    """

    def __init__(
        self,
        mixtures: ClipStore,
        clips: np.ndarray,
        batch_size: int,
        crop_samples: int,
        seed: int,
    ):
        self.mixtures = mixtures
        self.clips = clips
        self.crop_samples = crop_samples
        self.seed = seed
        self.shuffle = Shuffle(len(clips), batch_size, seed)

    def names(self, step: int) -> list[str]:
        """Names of the clips in a step's batch."""
        names = self.mixtures.names
        return [names[i] for i in self.clips[self.shuffle.indices(step)]]

    def load(self, step: int) -> dict[str, np.ndarray]:
        """{"recordings": float32 [batch, crop_samples]}."""
        rng = np.random.default_rng([self.seed, step, 1])
        crops = []
        for index in self.clips[self.shuffle.indices(step)].tolist():
            spare = max(self.mixtures.num_samples(index) - self.crop_samples, 0)
            start = int(rng.integers(spare + 1))
            crops.append(self.mixtures.read(index, start, self.crop_samples)[0])
        return {"recordings": np.stack(crops)}


class ViewBatches:
    """Two patches of every clip, as mixture and as separated channels, for the encoder.

    One separator is drawn per clip, so that the batch holds one set of channels whatever the
    number of separators. All further choices are made in the graph, from the uniform numbers that
    come with the batch: the same views then result on any number of replicas.

    Args:
        mixtures: a store of one row per clip.
        channels: stores of separated channels of the same clips, one per separator, all with the
            same number of rows; may be empty.
        batch_size: clips in a global batch.
        patch_samples: length of a patch.
        max_distance_samples: largest distance of the two patches' starts.
        num_uniforms: numbers in [0, 1) per clip.
        seed: of everything that is drawn.
    """

    def __init__(
        self,
        mixtures: ClipStore,
        channels: Sequence[ClipStore],
        batch_size: int,
        patch_samples: int,
        max_distance_samples: int,
        num_uniforms: int,
        seed: int,
    ):
        self.mixtures = mixtures
        self.channels = list(channels)
        self.patch_samples = patch_samples
        self.max_distance_samples = max_distance_samples
        self.num_uniforms = num_uniforms
        self.seed = seed
        self.shuffle = Shuffle(len(mixtures), batch_size, seed)

    def names(self, step: int) -> list[str]:
        """Names of the clips in a step's batch."""
        names = self.mixtures.names
        return [names[i] for i in self.shuffle.indices(step)]

    def load(self, step: int) -> dict[str, np.ndarray]:
        """One global batch, float32.

        Returns:
            "mixtures" [batch, 2, patch_samples], "uniforms" [batch, num_uniforms] and, with
            separators, "channels" [batch, 2, sources, patch_samples].
        """
        rng = np.random.default_rng([self.seed, step, 2])
        indices = self.shuffle.indices(step)
        patch = self.patch_samples
        batch = {"mixtures": np.empty((len(indices), 2, patch), np.float32)}
        if self.channels:
            shape = (len(indices), 2, self.channels[0].rows, patch)
            batch["channels"] = np.empty(shape, np.float32)
        for i, index in enumerate(indices):
            store = self.channels[rng.integers(len(self.channels))] if self.channels else None
            starts = draw_patch_starts(
                rng, self.mixtures.num_samples(index), patch, self.max_distance_samples
            )
            for view, start in enumerate(starts):
                batch["mixtures"][i, view] = self.mixtures.read(index, start, patch)[0]
                if store is not None:
                    batch["channels"][i, view] = store.read(index, start, patch)
        batch["uniforms"] = rng.random((len(indices), self.num_uniforms), np.float32)
        return batch


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
