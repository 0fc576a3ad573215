"""Temporal proximity: two patches of one recording, close in time."""

import numpy as np
from keras import ops

from sepssl.typing import Tensor


def draw_patch_starts(
    rng: np.random.Generator,
    num_samples: int,
    patch_samples: int,
    max_distance: int,
    overlap: bool = True,
) -> tuple[int, int]:
    """Draws where two patches of a recording start.

    With `overlap`, the first start is uniform over the recording, the second uniform over the
    places within `max_distance` of it. Without, their distance is uniform from a patch's length to
    `max_distance`, then their place uniform over the recording, then their order; in a recording
    too short for two patches, they overlap as little as possible. A recording shorter than a patch
    gives (0, 0).

    Args:
        rng: the random generator.
        num_samples: length of the recording.
        patch_samples: length of a patch.
        max_distance: largest distance between the starts, in samples; without overlap, at least
            `patch_samples`.
        overlap: whether the patches may share samples.

    Returns:
        Two starts, in samples.

    Reference: temporal proximity as in Jansen et al., Unsupervised Learning of Semantic Audio
    Representations (2018); the distributions are our choice.
    """
    last = max(num_samples - patch_samples, 0)
    if overlap:
        first = int(rng.integers(last + 1))
        low, high = max(first - max_distance, 0), min(first + max_distance, last)
        return first, int(rng.integers(low, high + 1))
    largest = min(max_distance, last)
    distance = int(rng.integers(min(patch_samples, largest), largest + 1))
    early = int(rng.integers(last - distance + 1))
    return (early, early + distance) if rng.random() < 0.5 else (early + distance, early)


def cut_patches(waveforms: Tensor, starts: Tensor, patch_samples: int) -> Tensor:
    """One patch of every example, from all of its rows.

    Args:
        waveforms: [batch, rows, samples].
        starts: int [batch], in samples, from 0 to `samples - patch_samples`.
        patch_samples: length of a patch.

    Returns:
        [batch, rows, patch_samples].
    """
    places = ops.expand_dims(starts, 1) + ops.arange(patch_samples, dtype=starts.dtype)
    shape = (*ops.shape(waveforms)[:2], patch_samples)
    return ops.take_along_axis(
        waveforms, ops.broadcast_to(ops.expand_dims(places, 1), shape), axis=-1
    )
