"""Mixture consistency: estimates that add up to the mixture exactly.

Reference: Wisdom et al., Differentiable Consistency Constraints for Improved Deep Speech
Enhancement (2019), eq. 5 and following.
"""

from keras import ops

from sepssl.typing import Tensor

KINDS = ("predicted", "uniform", "power", "none")


def apply_mixture_consistency(mixture: Tensor, estimates: Tensor, weights: Tensor) -> Tensor:
    """Distributes the part of the mixture that estimates miss over them: s_m + w_m (x - sum s).

    Args:
        mixture: [batch, samples].
        estimates: [batch, sources, samples].
        weights: [batch, sources], which add up to 1 over the sources.

    Returns:
        [batch, sources, samples] that add up to `mixture`.
    """
    missing = mixture - ops.sum(estimates, axis=1)
    return estimates + ops.expand_dims(weights, -1) * ops.expand_dims(missing, 1)


def uniform_weights(estimates: Tensor) -> Tensor:
    """The same share for every estimate: [batch, sources, samples] -> [batch, sources]."""
    ones = ops.ones_like(estimates[..., 0])
    return ones / estimates.shape[1]


def power_weights(estimates: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Shares proportional to the estimates' power: [batch, sources, samples] -> [batch, sources].

    Near-silent estimates (all powers far below `epsilon`) get equal shares.
    """
    power = ops.mean(ops.square(estimates), axis=-1) + epsilon
    return power / ops.sum(power, axis=-1, keepdims=True)
