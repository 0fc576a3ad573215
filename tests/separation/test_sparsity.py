import numpy as np
import pytest

from sepssl.separation.sparsity import activity_sparsity, covariance_penalty


def test_sparsity_of_one_active_channel_and_of_all_alike():
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    one = np.stack([x, 0 * x, 0 * x, 0 * x])
    alike = np.stack([x, -x, x, x])
    found = activity_sparsity(np.stack([one, alike]))
    # Silence counts as -60 dB.
    np.testing.assert_allclose(found, [3e-3 / (4**0.5 - 1), 1.0], rtol=1e-2)


def test_sparsity_does_not_depend_on_the_level():
    estimates = np.random.default_rng(2).normal(size=(2, 3, 4000)).astype(np.float32)
    estimates[0, 1:] = 0
    estimates[1] *= np.array([1, 0.1, 0.01], np.float32)[:, None]
    found = activity_sparsity(1e-4 * estimates)
    np.testing.assert_allclose(found, activity_sparsity(estimates), rtol=1e-3)
    assert float(activity_sparsity(0 * estimates)[0]) == pytest.approx(1)


def test_sparsity_hand_worked():
    # RMS 3 and 4: (7 / 5 - 1) / (sqrt 2 - 1)
    found = activity_sparsity(np.array([[[3.0, -3.0], [4.0, 4.0]]], np.float32))
    assert float(found[0]) == pytest.approx(0.4 / (2**0.5 - 1), abs=1e-5)


def test_covariance_equals_the_mean_squared_correlation():
    rng = np.random.default_rng(1)
    estimates = rng.normal(size=(2, 3, 50)).astype(np.float32)
    estimates[1, 2] = 2 * estimates[1, 0]
    for found, s in zip(covariance_penalty(estimates), estimates.astype(np.float64), strict=True):
        unit = s / np.linalg.norm(s, axis=1, keepdims=True)
        expected = np.mean((unit @ unit.T)[~np.eye(3, dtype=bool)] ** 2)
        assert float(found) == pytest.approx(expected, abs=1e-5)
