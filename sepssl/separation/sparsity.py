"""Penalties against spreading one source over several channels.

Both depend on the estimates alone and are added to a training loss with a weight.

Reference: after Wisdom et al., Sparse, Efficient, and Semantic Mixture Invariant Training (2021),
which proposes a sparsity and a covariance loss; the normalisation here is our choice.
"""

from keras import ops

from sepssl.typing import Tensor

EPSILON = 1e-8
QUIET = 1e-6  # share of the energy, -60 dB, below which a channel counts as silent; our choice


def activity_sparsity(estimates: Tensor) -> Tensor:
    """How evenly the energy is spread over channels: ratio of the l1 and l2 norms of their RMS.

    Args:
        estimates: [batch, sources, samples], of two sources or more.

    Returns:
        [batch], 0 if one channel has all the energy, 1 if all have the same; whatever the level,
        from -110 dB RMS up.
    """
    estimates = ops.cast(estimates, "float32")
    sources = estimates.shape[1]
    power = ops.mean(ops.square(estimates), axis=-1)
    whole = ops.sum(power, axis=-1, keepdims=True) + 1e-12
    rms = ops.sqrt(power / whole + QUIET)
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
