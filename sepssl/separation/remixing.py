"""Mixtures made of a separator's own estimates: RemixIT and Self-Remixing.

A teacher separates recordings; its channels, each with those of other recordings, make up new
mixtures, which a student separates. These hold no more sources than a recording, whereas MixIT's
mixtures of mixtures do, from which it learns to separate into too many channels.

References: Tzinis et al., RemixIT: Continual Self-Training of Speech Enhancement Models via
Bootstrapped Remixing (2022); Saijo and Ogawa, Self-Remixing: Unsupervised Speech Separation via
Separation and Remixing (2023), and Remixing-based Unsupervised Source Separation from Scratch
(2023), whose constrained shuffle this is, for groups of as many recordings as there are channels.
"""

import numpy as np
from keras import ops

from sepssl.typing import Tensor


def remix(estimates: Tensor, uniforms: Tensor) -> Tensor:
    """Sources of new mixtures, each with one channel of every recording in a group.

    As many neighbours in the batch as there are sources form a group. The channels of a recording
    are put in random order; then channel n moves n mixtures back within the group, cyclically. So
    no two channels of a recording meet again, and each is used once.

    Args:
        estimates: [batch, sources, samples], the batch a multiple of the sources.
        uniforms: [batch, sources] numbers in [0, 1): ranked, they give the order of the channels.

    Returns:
        [batch, sources, samples]; summed over the sources, they are the mixtures.
    """
    order = ops.argsort(uniforms, axis=1)
    shuffled = ops.take_along_axis(estimates, order[:, :, None], axis=1)
    return _moved(shuffled, 1)


def recordings_of(sources: Tensor) -> Tensor:
    """Puts together what `remix` has taken apart.

    Args:
        sources: [batch, sources, samples], in the order of what `remix` returns.

    Returns:
        [batch, samples]: for each recording, the sum of its channels.
    """
    return ops.sum(_moved(sources, -1), axis=1)


def _moved(sources, step: int):
    """Channel n of mixture b is that of mixture b + n * step in its group, cyclically."""
    count, samples = sources.shape[1], ops.shape(sources)[2]
    mixture, channel = np.indices((count, count))
    source = (mixture + step * channel) % count * count + channel
    grouped = ops.reshape(sources, (-1, count * count, samples))
    return ops.reshape(ops.take(grouped, source.ravel(), axis=1), (-1, count, samples))
