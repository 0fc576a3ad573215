import itertools

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from sepssl.separation.mixit import (
    best_mixing,
    least_squares_mixing,
    mixit_loss,
    mixtures_of_mixtures,
)
from sepssl.separation.signal_losses import SIGNAL_LOSSES, log_mse


def log_mse_formula(x, y, threshold):
    return 10 * np.log10(np.sum((x - y) ** 2) + 1e-3 * threshold + 1e-8)


def snr_formula(x, y, threshold):
    noise = np.sum((x - y) ** 2) + 1e-3 * threshold
    return 10 * np.log10(noise + 1e-8) - 10 * np.log10(threshold + 1e-8)


def si_snr_formula(x, y, threshold):
    share = (x @ y) ** 2 / ((x @ x) * (y @ y)) if y.any() else 0.0
    return 10 * np.log10(1 - share + 1e-3 * share + 1e-8) - 10 * np.log10(share + 1e-8)


FORMULAS = {"log_mse": log_mse_formula, "snr": snr_formula, "si_snr": si_snr_formula}


def brute_force(references, estimates, formula=log_mse_formula):
    """Loss and mixing matrix of one example by remixing every assignment, in float64."""
    references, estimates = references.astype(np.float64), estimates.astype(np.float64)
    power = np.sum(references**2, axis=-1)
    threshold = np.where(power < 1e-6 * power.max(), power.max(), power)
    best = (np.inf, None)
    for choice in itertools.product(range(len(references)), repeat=len(estimates)):
        mixing = np.eye(len(references))[list(choice)].T
        loss = np.mean(
            [formula(*xy) for xy in zip(references, mixing @ estimates, threshold, strict=True)]
        )
        best = min(best, (loss, mixing.tolist()))
    return best


def test_hand_worked():
    # x1 = s1 + s3, x2 = s2: a perfect remix leaves only the threshold.
    estimates = np.array([[[1.0, 0, 0], [0, 2.0, 0], [0, 0, 3.0]]], np.float32)
    references = np.array([[[1.0, 0, 3.0], [0, 2.0, 0]]], np.float32)
    loss, mixing = mixit_loss(references, estimates)
    np.testing.assert_array_equal(mixing[0], [[1, 0, 1], [0, 1, 0]])
    assert float(loss[0]) == pytest.approx((10 * np.log10(10e-3) + 10 * np.log10(4e-3)) / 2, 1e-5)


def test_threshold_is_30_db_below_the_reference():
    assert float(log_mse(100.0, 0.0, 0.0, 100.0)) == pytest.approx(-10.0, abs=1e-4)
    assert float(log_mse(100.0, 100.0, 0.0, 100.0)) == pytest.approx(20.0 + 0.00434, abs=1e-4)


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    st.integers(0, 10**6),
    st.sampled_from([(2, 2), (2, 4), (2, 6), (3, 3), (3, 4), (4, 2)]),
    st.sampled_from(list(SIGNAL_LOSSES)),
)
def test_equals_brute_force(seed, sizes, name):
    mixtures, sources = sizes
    rng = np.random.default_rng(seed)
    estimates = rng.normal(size=(2, sources, 64)).astype(np.float32)
    references = rng.normal(size=(2, mixtures, 64)).astype(np.float32)
    if seed % 2:  # near a perfect remix, where inner products cancel
        mixing = np.eye(mixtures)[rng.integers(mixtures, size=sources)].T
        references = (mixing @ estimates + 0.01 * references).astype(np.float32)
    loss, found = mixit_loss(references, estimates, SIGNAL_LOSSES[name])
    for example in range(2):
        expected, expected_mixing = brute_force(
            references[example], estimates[example], FORMULAS[name]
        )
        assert float(loss[example]) == pytest.approx(expected, abs=1e-3)
        np.testing.assert_array_equal(found[example], expected_mixing)
        np.testing.assert_array_equal(np.sum(found[example], axis=0), np.ones(sources))


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(st.integers(0, 10**6))
def test_does_not_depend_on_the_order_of_the_sources(seed):
    rng = np.random.default_rng(seed)
    references = rng.normal(size=(1, 2, 64)).astype(np.float32)
    estimates = rng.normal(size=(1, 5, 64)).astype(np.float32)
    order = rng.permutation(5)
    loss, mixing = mixit_loss(references, estimates)
    permuted_loss, permuted_mixing = mixit_loss(references, estimates[:, order])
    assert float(loss[0]) == pytest.approx(float(permuted_loss[0]), abs=1e-4)
    np.testing.assert_array_equal(np.asarray(mixing)[..., order], permuted_mixing)


def gradient_norms(references, estimates, name="log_mse"):
    estimates = tf.Variable(estimates)
    with tf.GradientTape() as tape:
        loss, _ = mixit_loss(references, estimates, SIGNAL_LOSSES[name])
    gradient = tape.gradient(loss, estimates)
    assert np.all(np.isfinite(loss))
    return np.linalg.norm(np.reshape(gradient, (len(references), -1)), axis=-1)


@pytest.mark.parametrize("name", SIGNAL_LOSSES)
def test_gradients_are_finite_and_alike_for_silence(name):
    rng = np.random.default_rng(0)
    references = rng.normal(size=(4, 2, 1000)).astype(np.float32)
    estimates = 0.3 * rng.normal(size=(4, 4, 1000)).astype(np.float32)
    references[1, 0] = 0.0  # a silent reference
    references[2] = 0.0  # two of them
    estimates[3] = 0.0
    norms = gradient_norms(references, estimates, name)
    assert np.all(np.isfinite(norms))
    assert norms[1] < 10 * norms[0]


def test_gradient_equals_that_of_the_chosen_assignment():
    rng = np.random.default_rng(1)
    references = rng.normal(size=(1, 2, 32)).astype(np.float32)
    estimates = rng.normal(size=(1, 3, 32)).astype(np.float32)
    variable = tf.Variable(estimates)
    with tf.GradientTape() as tape:
        loss, mixing = mixit_loss(references, variable)
    found = tape.gradient(loss, variable).numpy()[0]
    # d/ds mean_n 10 log10(e_n + t_n) = mean_n 10 / ln 10 * 2 A_n (A s - x)_n / (e_n + t_n)
    a, s, x = mixing.numpy()[0], estimates[0], references[0]
    residual = a @ s - x
    error = np.sum(residual**2, axis=-1) + 1e-3 * np.sum(x**2, axis=-1) + 1e-8
    expected = a.T @ (residual * (10 / np.log(10) / error)[:, None])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_half_precision_input_is_computed_in_float32():
    rng = np.random.default_rng(2)
    references = rng.normal(size=(1, 2, 4000)).astype(np.float16)
    estimates = rng.normal(size=(1, 4, 4000)).astype(np.float16)
    loss, _ = mixit_loss(references, estimates)
    assert loss.dtype == "float32"
    assert float(loss[0]) == pytest.approx(brute_force(references[0], estimates[0])[0], abs=1e-3)


@pytest.mark.parametrize("sources", [1, 17])
def test_numbers_of_sources_that_cannot_be_searched_are_refused(sources):
    with pytest.raises(ValueError, match=f"{sources} sources, 2 mixtures"):
        mixit_loss(np.zeros([1, 2, 8], np.float32), np.zeros([1, sources, 8], np.float32))


def test_neighbours_are_mixed():
    recordings = np.arange(8.0, dtype=np.float32).reshape(4, 2)
    references, mixtures = mixtures_of_mixtures(recordings)
    np.testing.assert_array_equal(references, recordings.reshape(2, 2, 2))
    np.testing.assert_array_equal(mixtures, [[2, 4], [10, 12]])


def test_three_mixtures_are_mixed():
    references, mixtures = mixtures_of_mixtures(np.arange(12.0).reshape(6, 2), 3)
    np.testing.assert_array_equal(references[1], [[6, 7], [8, 9], [10, 11]])
    np.testing.assert_array_equal(mixtures, [[6, 9], [24, 27]])


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("count", "rows"), [(4, [0, 1, 2, 3, 0, 1]), (1, [0, 0, 0])])
def test_recordings_left_over_are_mixed_with_the_first(known, count, rows):
    recordings = np.arange(2.0 * count, dtype=np.float32).reshape(count, 2)
    specification = tf.TensorSpec([count if known else None, 2])
    group = tf.function(lambda x: mixtures_of_mixtures(x, 3), input_signature=[specification])
    references, mixtures = group(recordings)
    np.testing.assert_array_equal(references, recordings[rows].reshape(-1, 3, 2))
    np.testing.assert_array_equal(mixtures, recordings[rows].reshape(-1, 3, 2).sum(axis=1))


def test_assignments_can_be_allowed_and_denied():
    rng = np.random.default_rng(3)
    estimates = rng.normal(size=(1, 3, 64)).astype(np.float32)
    references = np.stack([estimates[:, 0] + estimates[:, 2], estimates[:, 1]], axis=1)
    best = np.array([[1, 0, 1], [0, 1, 0]])
    np.testing.assert_array_equal(best_mixing(references, estimates)[0], best)
    second = best_mixing(references, estimates, denied=[(0, 1, 0)])
    assert not np.array_equal(second[0], best)
    only = best_mixing(references, estimates, allowed=[[1, 1, 0]])
    found, mixing = mixit_loss(references, estimates, mixing=only)
    np.testing.assert_array_equal(mixing[0], [[0, 0, 1], [1, 1, 0]])
    remixed = np.asarray(mixing[0]) @ estimates[0]
    expected = [log_mse_formula(x, y, x @ x) for x, y in zip(references[0], remixed, strict=True)]
    assert float(found[0]) == pytest.approx(np.mean(expected), abs=1e-3)
    with pytest.raises(ValueError, match=r"assignment \(0, 2, 0\): expected 3 indices of 0 to 1"):
        best_mixing(references, estimates, denied=[(0, 2, 0)])
    with pytest.raises(ValueError, match="17 sources: expected at most 16"):
        best_mixing(references, np.zeros([1, 17, 64], np.float32), allowed=[[0] * 17])
    with pytest.raises(ValueError, match="no assignment remains"):
        best_mixing(references, estimates, allowed=[(0, 1, 0)], denied=[(0, 1, 0)])


@pytest.mark.parametrize(("mixtures", "sources"), [(2, 4), (2, 16), (4, 8)])
def test_a_true_assignment_is_found_among_many(mixtures, sources):
    rng = np.random.default_rng(4)
    estimates = rng.normal(size=(2, sources, 256)).astype(np.float32)
    mixing = np.stack([np.eye(mixtures)[rng.integers(mixtures, size=sources)].T for _ in range(2)])
    references = mixing @ estimates + 0.1 * rng.normal(size=(2, mixtures, 256))
    references = references.astype(np.float32)
    np.testing.assert_array_equal(best_mixing(references, estimates), mixing)
    np.testing.assert_array_equal(least_squares_mixing(references, estimates), mixing)


def test_least_squares_equals_its_formula():
    rng = np.random.default_rng(5)
    estimates = rng.normal(size=(3, 5, 40)).astype(np.float32)
    references = rng.normal(size=(3, 2, 40)).astype(np.float32)
    found = np.asarray(least_squares_mixing(references, estimates))
    for x, s, a in zip(references, estimates, found, strict=True):
        coefficients = np.linalg.solve(s @ s.T + 1e-3 * np.eye(5), s @ x.T)
        np.testing.assert_array_equal(a.T, np.eye(2)[coefficients.argmax(axis=1)])


def test_least_squares_is_finite_for_silence():
    silence = np.zeros([1, 2, 50], np.float32)
    mixing = least_squares_mixing(silence, np.zeros([1, 20, 50], np.float32))
    np.testing.assert_array_equal(np.sum(mixing, axis=1), np.ones([1, 20]))
