"""Mixture invariant training: a separator learns from mixtures of mixtures, without sources.

Reference: Wisdom et al., Unsupervised Sound Separation Using Mixture Invariant Training (2020),
eqs. 2-4.
"""

import itertools
from collections.abc import Collection, Sequence

import numpy as np
from keras import ops

from sepssl.separation.signal_losses import SignalLoss, energies, log_mse, thresholds
from sepssl.typing import Tensor

MAX_ASSIGNMENTS = 65536


def mixit_loss(
    references: Tensor,
    estimates: Tensor,
    signal_loss: SignalLoss = log_mse,
    mixing: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Loss of the best assignment of the estimated sources to the reference mixtures.

    Every source goes to exactly one reference. The gradient flows only through the loss of that
    assignment; the search for it does not remix anything. Computed in float32.

    Args:
        references: [batch, mixtures, samples], at least two mixtures.
        estimates: [batch, sources, samples], at least two sources.
        signal_loss: one of `sepssl.separation.signal_losses`.
        mixing: the assignment, [batch, mixtures, sources], instead of the best of all: from
            `least_squares_mixing` (efficient MixIT), or from `best_mixing` with a list of
            assignments.

    Returns:
        loss: [batch], in dB: the mean over references of the signal loss.
        mixing matrix: [batch, mixtures, sources], float32, every column one-hot.

    Raises:
        ValueError: without `mixing`, if there are more than 65,536 assignments (mixtures **
            sources), or fewer than two mixtures or sources.
    """
    references = ops.cast(references, "float32")
    estimates = ops.cast(estimates, "float32")
    if mixing is None:
        mixing = best_mixing(references, estimates, signal_loss)
    remixed = ops.matmul(mixing, estimates)
    return ops.mean(signal_loss(*energies(references, remixed)), axis=-1), mixing


def best_mixing(
    references: Tensor,
    estimates: Tensor,
    signal_loss: SignalLoss = log_mse,
    allowed: Sequence[Sequence[int]] | None = None,
    denied: Collection[Sequence[int]] = (),
) -> Tensor:
    """The assignment with the lowest loss, by exhaustive search.

    The energies of all remixes follow from the Gram matrices of references and estimates,
    [sources, sources] numbers instead of one remixed waveform per assignment.

    Args:
        references: [batch, mixtures, samples].
        estimates: [batch, sources, samples].
        signal_loss: one of `sepssl.separation.signal_losses`.
        allowed: assignments to consider, all by default. An assignment gives the index of a mixture
            for every source.
        denied: assignments to exclude.

    Returns:
        [batch, mixtures, sources], float32, every column one-hot. No gradient flows through it.

    Raises:
        ValueError: if no assignment remains, one is malformed, there are more than 16 sources or
            65,536 assignments, or fewer than two mixtures or sources.
    """
    choices = _assignments(references.shape[1], estimates.shape[1], allowed, denied)
    references, gram, linear = _gram(references, estimates)
    # For the remix y of every set of sources: <x, y> and ||y||^2.
    members = _members(estimates.shape[1])  # [sets, sources]
    product = ops.matmul(linear, members.T)  # [batch, mixtures, sets]
    remix_power = ops.sum(ops.matmul(members, gram) * members, axis=-1)  # [batch, sets]
    power = ops.sum(ops.square(references), axis=-1)  # [batch, mixtures]
    power, threshold = (ops.expand_dims(p, 2) for p in (power, thresholds(power)))
    # Rounding can leave a perfect remix slightly below zero.
    error = ops.maximum(power - 2.0 * product + ops.expand_dims(remix_power, 1), 0.0)
    losses = signal_loss(power, error, power - product, threshold)  # [batch, mixtures, sets]
    # An assignment gives every mixture a set.
    sets = choices[:, :, None] == np.arange(references.shape[1])  # [count, sources, mixtures]
    sets = np.sum(sets << np.arange(estimates.shape[1])[:, None], axis=1)
    total = sum(ops.take(losses[:, n], sets[:, n], axis=1) for n in range(references.shape[1]))
    best = ops.take(choices, ops.argmin(total, axis=-1), axis=0)  # [batch, sources]
    return ops.transpose(ops.one_hot(best, references.shape[1], dtype="float32"), (0, 2, 1))


def least_squares_mixing(references: Tensor, estimates: Tensor, ridge: float = 1e-3) -> Tensor:
    """Efficient MixIT: every source goes to the mixture with its largest least-squares coefficient.

    For many sources: cost and memory grow with the square of their number, not with the number of
    assignments. The assignment need not be the best one.

    Args:
        references: [batch, mixtures, samples].
        estimates: [batch, sources, samples].
        ridge: added to the diagonal of the estimates' Gram matrix.

    Returns:
        [batch, mixtures, sources], float32, every column one-hot. No gradient flows through it.

    Reference: Wisdom et al., Sparse, Efficient, and Semantic Mixture Invariant Training (2021).
    """
    _, gram, linear = _gram(references, estimates)
    gram = gram + ridge * ops.eye(gram.shape[-1])
    coefficients = ops.solve(gram, ops.transpose(linear, (0, 2, 1)))  # [batch, sources, mixtures]
    chosen = ops.one_hot(ops.argmax(coefficients, axis=-1), references.shape[1], dtype="float32")
    return ops.transpose(chosen, (0, 2, 1))


def _gram(references, estimates):
    """References in float32, S S' [batch, sources, sources], X S' [batch, mixtures, sources]."""
    references = ops.stop_gradient(ops.cast(references, "float32"))
    estimates = ops.stop_gradient(ops.cast(estimates, "float32"))
    # As einsum, which does not write transposed copies of the waveforms.
    gram = ops.einsum("bmt,bpt->bmp", estimates, estimates)
    return references, gram, ops.einsum("bnt,bmt->bnm", references, estimates)


def num_assignments(num_mixtures: int, num_sources: int) -> int:
    """Number of ways to assign each source to a mixture.

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


def _assignments(num_mixtures, num_sources, allowed, denied) -> np.ndarray:
    """The assignments to consider: int [count, sources], the index of a mixture each."""
    if allowed is None:
        num_assignments(num_mixtures, num_sources)
        allowed = itertools.product(range(num_mixtures), repeat=num_sources)
    if num_sources > 16:  # all 2 ** 16 = 65,536 sets are tabulated
        raise ValueError(f"{num_sources} sources: expected at most 16 for an exhaustive search")
    denied = {tuple(assignment) for assignment in denied}
    choices = [tuple(assignment) for assignment in allowed]
    for choice in (*choices, *denied):
        if len(choice) != num_sources or min(choice) < 0 or max(choice) >= num_mixtures:
            raise ValueError(
                f"assignment {choice}: expected {num_sources} indices of 0 to {num_mixtures - 1}"
            )
    choices = [choice for choice in choices if choice not in denied]
    if not choices:
        raise ValueError("no assignment remains: expected at least one that is allowed")
    return np.array(choices)


def _members(num_sources: int) -> np.ndarray:
    """The members of all sets of sources, as bit patterns: float32 [2 ** sources, sources]."""
    sets = np.arange(2**num_sources)
    return (sets[:, None] >> np.arange(num_sources) & 1).astype(np.float32)


def filled_up(rows: Tensor, multiple: int) -> Tensor:
    """[count, ...] with as many of the first rows at its end as make the count a multiple."""
    if rows.shape[0] is not None and rows.shape[0] % multiple == 0:
        return rows
    count = ops.shape(rows)[0]
    return ops.concatenate([rows] * multiple)[: count + -count % multiple]


def mixtures_of_mixtures(recordings: Tensor, num_mixtures: int = 2) -> tuple[Tensor, Tensor]:
    """Groups neighbours in the batch.

    [num_mixtures n, samples] -> references [n, num_mixtures, samples], their sums [n, samples]. If
    recordings are left over, the last group is filled up with the first recordings (our choice).
    """
    recordings = filled_up(recordings, num_mixtures)
    references = ops.reshape(recordings, (-1, num_mixtures, ops.shape(recordings)[-1]))
    return references, ops.sum(references, axis=1)
