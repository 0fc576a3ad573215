"""Permutation invariant training: a separator learns from mixtures whose sources are known.

Reference: Yu et al., Permutation Invariant Training of Deep Models for Speaker-Independent
Multi-talker Speech Separation (2017).
"""

import itertools

import numpy as np
from keras import ops

from sepssl.separation.signal_losses import SignalLoss, energies, log_mse, thresholds
from sepssl.typing import Tensor

MAX_SOURCES = 16


def pit_loss(
    references: Tensor,
    estimates: Tensor,
    signal_loss: SignalLoss = log_mse,
    silent_weight: float = 1.0,
    silent_max_snr: float = 30.0,
) -> tuple[Tensor, Tensor]:
    """Loss of the best one-to-one matching of estimates to true sources.

    Surplus estimates are matched with silence. Where mixtures have fewer sources than there are
    estimates, silent references can outweigh the others, and everything ends up in one channel; a
    smaller weight, or a larger threshold, makes less of them. The gradient flows only through the
    loss of the best matching. Computed in float32.

    Args:
        references: true sources, [batch, count, samples]; silent ones count as absent.
        estimates: [batch, sources, samples], at least as many as references.
        signal_loss: one of `sepssl.separation.signal_losses`.
        silent_weight: of the loss of a silent reference, where that of any other has weight 1.
        silent_max_snr: in dB: how far below the loudest reference an estimate of silence is hardly
            improved further, for losses whose own `max_snr` is 30 dB, as by default. The baseline
            of FUSS has 20 dB (below the mixture), and weighs silent references apart.

    Returns:
        loss: [batch], in dB: the mean over estimates of the weighted losses.
        matching: [batch, sources, sources], float32, a permutation matrix: row n picks the
            estimate for reference n.

    Raises:
        ValueError: if there are more references than estimates, or more than 16 estimates.
    """
    missing = estimates.shape[1] - references.shape[1]
    if missing < 0 or estimates.shape[1] > MAX_SOURCES:
        raise ValueError(
            f"{references.shape[1]} references, {estimates.shape[1]} estimates: expected no more "
            f"references than estimates, and at most {MAX_SOURCES} estimates"
        )
    references = ops.pad(ops.cast(references, "float32"), [[0, 0], [0, missing], [0, 0]])
    estimates = ops.cast(estimates, "float32")
    power = ops.sum(ops.square(references), axis=-1)
    threshold = thresholds(power)
    silent = threshold > power
    threshold = ops.where(silent, 10 ** ((30.0 - silent_max_snr) / 10) * threshold, threshold)
    weights = ops.where(silent, silent_weight, 1.0)
    costs = _pairwise(references, ops.stop_gradient(estimates), power, threshold, signal_loss)
    matching = best_matching(weights[:, :, None] * costs)
    matched = ops.matmul(matching, estimates)
    power, error, cross, _ = energies(references, matched)
    return ops.mean(weights * signal_loss(power, error, cross, threshold), axis=-1), matching


def _pairwise(references, estimates, power, threshold, signal_loss):
    """Loss of every pair: [batch, references, estimates]."""
    product = ops.einsum("bnt,bmt->bnm", references, estimates)
    threshold = ops.expand_dims(threshold, 2)
    power = ops.expand_dims(power, 2)
    estimate_power = ops.expand_dims(ops.sum(ops.square(estimates), axis=-1), 1)
    error = ops.maximum(power - 2.0 * product + estimate_power, 0.0)
    return signal_loss(power, error, power - product, threshold)


def best_matching(costs: Tensor) -> Tensor:
    """The permutation with the lowest total cost, exactly.

    Dynamic programming, row by row, over the sets of columns used so far: 2^n sets, not n!
    permutations, and in the graph, whereas the Hungarian method would need Python.

    Args:
        costs: [batch, n, n], n at most 16; row n is matched with one column.

    Returns:
        [batch, n, n], float32, one 1 in every row and column.
    """
    n = costs.shape[-1]
    least = ops.zeros_like(costs[:, 0, :1])  # [batch, sets of k columns]: the first k rows' cost
    steps = []
    for row, (columns, earlier) in enumerate(_column_sets(n)):
        # [batch, sets, members]: the row takes one member, the rows before it the others.
        totals = ops.take(least, earlier, axis=1) + ops.take(costs[:, row], columns, axis=1)
        steps.append((columns, earlier, ops.argmin(totals, axis=-1)))
        least = ops.min(totals, axis=-1)
    rows: list[Tensor] = []
    chosen_set = ops.zeros_like(steps[-1][2][:, 0])  # [batch]: all columns are the only set of n
    for columns, earlier, best in reversed(steps):
        member = ops.take_along_axis(best, chosen_set[:, None], axis=1)[:, 0]
        at = chosen_set * columns.shape[1] + member
        rows.insert(0, ops.one_hot(ops.take(columns.ravel(), at), n, dtype="float32"))
        chosen_set = ops.cast(ops.take(earlier.ravel(), at), chosen_set.dtype)
    return ops.stack(rows, axis=1)


def _column_sets(n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For k = 1 ... n, all sets of k of n columns, int [sets, k] each.

    Returns:
        The members of each set, and the index, among the sets of k - 1, of what is left of it
        without that member.
    """
    levels = []
    index: dict[tuple[int, ...], int] = {(): 0}
    for k in range(1, n + 1):
        sets = list(itertools.combinations(range(n), k))
        earlier = [[index[s[:j] + s[j + 1 :]] for j in range(k)] for s in sets]
        levels.append((np.array(sets), np.array(earlier)))
        index = {s: i for i, s in enumerate(sets)}
    return levels
