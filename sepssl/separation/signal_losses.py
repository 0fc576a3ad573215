"""Distances of an estimate from its reference, computed from energies alone.

Every loss is a function of four energies (sums over time, any shape):

    power      ||x||^2 of the reference x
    error      ||x - y||^2 of the estimate y
    cross      <x, x - y>
    threshold  the power that `max_snr` is relative to: `power`, except for silent references

so that one Gram matrix serves every pair of signals and every assignment of sources. Estimates
whose SNR has reached `max_snr` are hardly improved further.
"""

from collections.abc import Callable

from keras import ops

from sepssl.typing import Tensor

EPSILON = 1e-8

SignalLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""A loss of the four energies power, error, cross and threshold, any one shape, in dB."""


def log_mse(
    power: Tensor, error: Tensor, cross: Tensor, threshold: Tensor, max_snr: float = 30.0
) -> Tensor:
    """Energy of the error in dB: `10 log10(error + 10^(-max_snr/10) threshold + 1e-8)`.

    Reference: Wisdom et al., Unsupervised Sound Separation Using Mixture Invariant Training
    (2020), eq. 4, and the constants of its released code.
    """
    return _decibel(error + 10.0 ** (-max_snr / 10.0) * threshold)


def negative_snr(
    power: Tensor, error: Tensor, cross: Tensor, threshold: Tensor, max_snr: float = 30.0
) -> Tensor:
    """Negative signal-to-noise ratio in dB: `log_mse` without the level of the reference."""
    return log_mse(power, error, cross, threshold, max_snr) - _decibel(threshold)


def negative_si_snr(
    power: Tensor, error: Tensor, cross: Tensor, threshold: Tensor, max_snr: float = 30.0
) -> Tensor:
    """Negative scale-invariant signal-to-noise ratio in dB, without removal of the mean.

    For a silent reference, onto which nothing can be projected, it is the negative SNR; a silent
    estimate of a non-silent reference counts as 80 dB.

    Reference: Le Roux et al., SDR - half-baked or well done? (2019); the threshold as in `log_mse`.
    """
    # With y = x - n: <x, y> = power - cross, and the part of n orthogonal to x is the noise. Both
    # as shares of the power of y.
    silent = power < threshold
    reference = ops.where(silent, threshold, power) + EPSILON
    estimate = ops.maximum(power - 2.0 * cross + error, EPSILON * reference)
    target = ops.minimum(ops.square(power - cross) / (reference * estimate), 1.0)
    noise = ops.maximum(error - ops.square(cross) / reference, 0.0) / estimate
    # Each formula in the range where it is accurate.
    noise = ops.where(target < 0.5, 1.0 - target, noise)
    loss = _decibel(noise + 10.0 ** (-max_snr / 10.0) * target) - _decibel(target)
    return ops.where(silent, negative_snr(power, error, cross, threshold, max_snr), loss)


SIGNAL_LOSSES = {"log_mse": log_mse, "snr": negative_snr, "si_snr": negative_si_snr}


def energies(references: Tensor, estimates: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Energies of references with their estimates.

    Args:
        references, estimates: [batch, n, samples], float32.

    Returns:
        power, error, cross, threshold: [batch, n] each.
    """
    residual = references - estimates
    power = ops.sum(ops.square(references), axis=-1)
    error = ops.sum(ops.square(residual), axis=-1)
    cross = ops.sum(references * residual, axis=-1)
    return power, error, cross, thresholds(power)


def thresholds(power: Tensor) -> Tensor:
    """The powers of references [batch, n]; for silent ones, that of the example's loudest.

    Silent means 60 dB below the loudest (our choice). A threshold of zero would make the gradient
    of such a reference about 1,000 times that of the others.
    """
    loudest = ops.max(power, axis=-1, keepdims=True)
    return ops.where(power < 1e-6 * loudest, loudest, power)


def _decibel(energy):
    return 10.0 * ops.log10(energy + EPSILON)
