"""Mixture invariant training: a separator learns from mixtures of mixtures, without sources.

Reference: Wisdom et al., Unsupervised Sound Separation Using Mixture Invariant Training (2020),
eqs. 2-4; the loss and its constants are those of Google's released code.
"""

import itertools

import numpy as np
from keras import ops

MAX_ASSIGNMENTS = 65536


def thresholded_log_mse(error, power, max_snr: float = 30.0):
    """Energy of an error in dB, flattening out where it is `max_snr` below the reference.

    Args:
        error: energy of the error (sum of squares over time), any shape.
        power: energy of the reference, the same shape.
        max_snr: in dB.

    Returns:
        `10 log10(error + 10^(-max_snr/10) power + 1e-8)`, the same shape.

    Reference: Wisdom et al. (2020), eq. 4.
    """
    return 10.0 * ops.log10(error + 10.0 ** (-max_snr / 10.0) * power + 1e-8)


def mixit_loss(references, estimates, max_snr: float = 30.0):
    """Loss of the best way to add the estimated sources up to the reference mixtures.

    Every source goes to exactly one reference. The best assignment is searched exhaustively
    through the Gram matrices of references and estimates, which needs [sources, sources] numbers
    instead of one remixed waveform per assignment; the gradient flows through the loss of that
    assignment only. Computed in float32.

    Args:
        references: [batch, mixtures, samples], at least two mixtures.
        estimates: [batch, sources, samples], at least two sources.
        max_snr: in dB; errors below it are not pushed further.

    Returns:
        loss: [batch], in dB: the mean over references of
            `10 log10(||x - x^||^2 + 10^(-max_snr/10) ||x||^2 + 1e-8)`.
        mixing matrix: [batch, mixtures, sources], float32, every column one-hot.

    Raises:
        ValueError: if there are more than 65,536 assignments (mixtures ** sources), or fewer than
            two mixtures or sources.

    Our choice: the threshold of a silent reference (60 dB below the loudest of its example) is
    that of the loudest, since its own would be zero and its gradient about 1,000 times the others'.
    """
    references = ops.cast(references, "float32")
    estimates = ops.cast(estimates, "float32")
    power = ops.sum(ops.square(references), axis=-1)  # [batch, mixtures]
    loudest = ops.max(power, axis=-1, keepdims=True)
    threshold = ops.where(power < 1e-6 * loudest, loudest, power)

    matrices = _assignments(references.shape[1], estimates.shape[1])
    losses = _assignment_losses(
        references, ops.stop_gradient(estimates), power, threshold, matrices, max_snr
    )
    best = ops.argmin(losses, axis=-1)
    mixing = ops.take(ops.convert_to_tensor(matrices), best, axis=0)

    remixed = ops.matmul(mixing, estimates)
    error = ops.sum(ops.square(references - remixed), axis=-1)
    loss = ops.mean(thresholded_log_mse(error, threshold, max_snr), axis=-1)
    return loss, mixing


def _assignment_losses(references, estimates, power, threshold, matrices, max_snr):
    """Loss of every assignment [batch, assignments] from inner products alone."""
    # ||x - a S||^2 = ||x||^2 - 2 a . (S x) + a (S S') a'
    # [batch, mixtures, sources]
    cross = ops.matmul(references, ops.transpose(estimates, (0, 2, 1)))
    gram = ops.matmul(estimates, ops.transpose(estimates, (0, 2, 1)))  # [batch, sources, sources]
    matrices = ops.convert_to_tensor(matrices)  # [assignments, mixtures, sources]
    linear = ops.einsum("knm,bnm->bkn", matrices, cross)
    quadratic = ops.sum(ops.einsum("knm,bmp->bknp", matrices, gram) * matrices, axis=-1)
    # Rounding can leave a perfect remix slightly below zero.
    error = ops.maximum(ops.expand_dims(power, 1) - 2.0 * linear + quadratic, 0.0)
    return ops.mean(thresholded_log_mse(error, ops.expand_dims(threshold, 1), max_snr), axis=-1)


def num_assignments(num_mixtures: int, num_sources: int) -> int:
    """How many ways there are to give each source to a mixture.

    Raises:
        ValueError: if there are more than 65,536, or fewer than 2 mixtures or sources.
    """
    count = num_mixtures**num_sources
    if min(num_mixtures, num_sources) < 2 or count > MAX_ASSIGNMENTS:
        raise ValueError(
            f"{num_sources} sources, {num_mixtures} mixtures: expected at least 2 of each and at "
            f"most {MAX_ASSIGNMENTS} assignments (mixtures ** sources) for an exhaustive search"
        )
    return count


def _assignments(num_mixtures: int, num_sources: int) -> np.ndarray:
    """All mixing matrices: float32 [mixtures ** sources, mixtures, sources]."""
    num_assignments(num_mixtures, num_sources)
    choices = np.array(list(itertools.product(range(num_mixtures), repeat=num_sources)))
    return (choices[:, None, :] == np.arange(num_mixtures)[None, :, None]).astype(np.float32)


def mixtures_of_mixtures(recordings):
    """Pairs recordings up: [2 n, samples] -> references [n, 2, samples], mixtures [n, samples].

    Neighbours in the batch make a pair; the mixture is their sum, without gains.
    """
    samples = ops.shape(recordings)[-1]
    references = ops.reshape(recordings, (-1, 2, samples))
    return references, ops.sum(references, axis=1)
