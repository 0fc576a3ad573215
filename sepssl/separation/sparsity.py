"""Penalties against spreading one source over several channels.

Both depend on the estimates alone and are added to a training loss with a weight.

Reference: after Wisdom et al., Sparse, Efficient, and Semantic Mixture Invariant Training (2021),
which proposes a sparsity and a covariance loss; the normalisation here is our choice.
"""

from keras import ops

from sepssl.typing import Tensor

EPSILON = 1e-8


def activity_sparsity(estimates: Tensor) -> Tensor:
    """How evenly the energy is spread over channels: ratio of the l1 and l2 norms of their RMS.

    Args:
        estimates: [batch, sources, samples].

    Returns:
        [batch], 0 if one channel has all the energy, 1 if all have the same.
    """
    estimates = ops.cast(estimates, "float32")
    sources = estimates.shape[1]
    rms = ops.sqrt(ops.mean(ops.square(estimates), axis=-1) + EPSILON)
    ratio = ops.sum(rms, axis=-1) / ops.sqrt(ops.sum(ops.square(rms), axis=-1))
    return (ratio - 1.0) / (sources**0.5 - 1.0)


def covariance_penalty(estimates: Tensor) -> Tensor:
    """How much channels resemble each other: mean squared correlation of pairs of channels.

    Args:
        estimates: [batch, sources, samples].

    Returns:
        [batch], 0 if all are orthogonal, 1 if all are proportional.
    """
    estimates = ops.cast(estimates, "float32")
    sources = estimates.shape[1]
    gram = ops.einsum("bmt,bpt->bmp", estimates, estimates)
    power = ops.sum(ops.square(estimates), axis=-1) + EPSILON
    squared = ops.square(gram) / (ops.expand_dims(power, 1) * ops.expand_dims(power, 2))
    others = ops.sum(squared * (1.0 - ops.eye(sources)), axis=(1, 2))
    return others / (sources * (sources - 1))
