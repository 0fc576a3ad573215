"""Temporal proximity: two patches of one recording, not far apart."""

import numpy as np


def draw_patch_starts(
    rng: np.random.Generator, num_samples: int, patch_samples: int, max_distance: int
) -> tuple[int, int]:
    """Draws where two patches of a recording start.

    The first start is uniform over the recording, the second uniform over what lies within
    `max_distance` of it; the patches may overlap. A recording shorter than a patch gives (0, 0).

    Args:
        rng: where the numbers come from.
        num_samples: length of the recording.
        patch_samples: length of a patch.
        max_distance: largest distance between the starts, in samples.

    Returns:
        Two starts, in samples.

    Reference: temporal proximity as in Jansen et al., Unsupervised Learning of Semantic Audio
    Representations (2018).
    """
    last = max(num_samples - patch_samples, 0)
    first_start = int(rng.integers(last + 1))
    low = max(first_start - max_distance, 0)
    high = min(first_start + max_distance, last)
    return first_start, int(rng.integers(low, high + 1))
