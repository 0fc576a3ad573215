import itertools

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from sepssl.separation.permutation import best_matching, pit_loss
from sepssl.separation.signal_losses import SIGNAL_LOSSES


def test_hand_worked():
    # Source 1 is estimate 3 but for 0.1, source 2 is estimate 1; estimate 2 is left for silence.
    sources = np.array([[[1.0, 0, 0], [0, 2.0, 0]]], np.float32)
    estimates = np.array([[[0, 2.0, 0], [0, 0, 0.5], [1.1, 0, 0]]], np.float32)
    loss, matching = pit_loss(sources, estimates)
    np.testing.assert_array_equal(matching[0], [[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    # 0.01 + 1e-3 * 1; 1e-3 * 4; silence: 0.25 + 1e-3 * 4, the power of the loudest source.
    expected = np.mean(10 * np.log10([0.011, 0.004, 0.254]))
    assert float(loss[0]) == pytest.approx(expected, abs=1e-4)


def test_silence_by_hand():
    # As above, but for silence: half the weight, and its threshold 20 dB below the loudest source.
    sources = np.array([[[1.0, 0, 0], [0, 2.0, 0]]], np.float32)
    estimates = np.array([[[0, 2.0, 0], [0, 0, 0.5], [1.1, 0, 0]]], np.float32)
    loss, matching = pit_loss(sources, estimates, silent_weight=0.5, silent_max_snr=20.0)
    np.testing.assert_array_equal(matching[0], [[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    expected = np.sum([1, 1, 0.5] * np.log10([0.011, 0.004, 0.25 + 1e-2 * 4])) * 10 / 3
    assert float(loss[0]) == pytest.approx(expected, abs=1e-4)


def test_the_weight_of_silence_decides_what_is_matched_with_it():
    # Estimate 1 is the source with noise (error 0.25), estimate 2 half of it (error 1).
    sources = np.array([[[2.0, 0, 0], [0, 0, 0]]], np.float32)
    estimates = np.array([[[2.0, 0.5, 0], [1.0, 0, 0]]], np.float32)
    # Straight: 0.254 and silence 1.004; crossed: 1.004 and silence 4.254.
    for weight in (1.0, 0.01):
        _, matching = pit_loss(sources, estimates, silent_weight=weight)
        np.testing.assert_array_equal(matching[0], np.eye(2))
    # Half of the source is hardly quieter than the noise, but cheaper as silence than as a source.
    estimates = np.array([[[2.0, 0, 1.2], [0.9, 0, 0]]], np.float32)
    losses = [pit_loss(sources, estimates, silent_weight=w) for w in (1.0, 0.0)]
    np.testing.assert_array_equal(losses[1][1][0], [[0, 1], [1, 0]])
    assert float(losses[1][0][0]) == pytest.approx(5 * np.log10(1.21 + 0.004), abs=1e-4)


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(st.integers(0, 10**6), st.integers(1, 9))
def test_matching_equals_the_hungarian_method(seed, n):
    costs = np.random.default_rng(seed).normal(size=(3, n, n)).astype(np.float32)
    for cost, matching in zip(costs, np.asarray(best_matching(costs)), strict=True):
        expected = np.zeros((n, n))
        expected[linear_sum_assignment(cost)] = 1
        np.testing.assert_array_equal(matching, expected)


@pytest.mark.parametrize("name", SIGNAL_LOSSES)
def test_equals_brute_force(name):
    rng = np.random.default_rng(0)
    sources = rng.normal(size=(4, 3, 100)).astype(np.float32)
    sources[1, 2] = 0.0
    noise = rng.normal(size=(4, 3, 100)).astype(np.float32)
    estimates = sources[:, [2, 0, 1]] + 0.3 * noise
    power = np.sum(sources.astype(np.float64) ** 2, axis=-1)

    def loss_of(b, n, m):
        x, y = sources[b, n].astype(np.float64), estimates[b, m].astype(np.float64)
        threshold = power[b, n] or power[b].max()
        target, error = threshold, np.sum((x - y) ** 2)
        if name == "si_snr" and power[b, n]:
            projection = (x @ y) / (x @ x) * x
            target, error = (
                projection @ projection / (y @ y),
                np.sum((y - projection) ** 2) / (y @ y),
            )
        loss = 10 * np.log10(error + 1e-3 * target + 1e-8)
        return loss - (0 if name == "log_mse" else 10 * np.log10(target + 1e-8))

    found, matching = pit_loss(sources, estimates, SIGNAL_LOSSES[name])
    for b in range(4):
        expected, order = min(
            (np.mean([loss_of(b, n, m) for n, m in enumerate(order)]), order)
            for order in itertools.permutations(range(3))
        )
        assert float(found[b]) == pytest.approx(expected, abs=1e-3)
        np.testing.assert_array_equal(matching[b], np.eye(3)[list(order)])


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(st.integers(0, 10**6))
def test_does_not_depend_on_the_order_of_sources_and_estimates(seed):
    rng = np.random.default_rng(seed)
    sources, estimates = rng.normal(size=(2, 1, 4, 64)).astype(np.float32)
    loss, _ = pit_loss(sources, estimates)
    permuted, _ = pit_loss(sources[:, rng.permutation(4)], estimates[:, rng.permutation(4)])
    assert float(loss[0]) == pytest.approx(float(permuted[0]), abs=1e-4)


@pytest.mark.parametrize("name", SIGNAL_LOSSES)
def test_gradients_are_finite_and_alike_for_silence(name):
    rng = np.random.default_rng(0)
    sources = rng.normal(size=(4, 3, 500)).astype(np.float32)
    estimates = 0.3 * rng.normal(size=(4, 4, 500)).astype(np.float32)
    sources[1, 0] = 0.0
    sources[2] = 0.0
    estimates[3] = 0.0
    estimates = tf.Variable(estimates)
    with tf.GradientTape() as tape:
        loss, _ = pit_loss(sources, estimates, SIGNAL_LOSSES[name])
    norms = np.linalg.norm(np.reshape(tape.gradient(loss, estimates), (4, -1)), axis=-1)
    assert np.all(np.isfinite(loss))
    assert np.all(np.isfinite(norms))
    assert norms[1] < 10 * norms[0]


@pytest.mark.parametrize(("references", "estimates"), [(3, 2), (2, 17)])
def test_numbers_that_cannot_be_matched_are_refused(references, estimates):
    with pytest.raises(ValueError, match=f"{references} references, {estimates} estimates"):
        pit_loss(np.zeros([1, references, 8]), np.zeros([1, estimates, 8], np.float32))
