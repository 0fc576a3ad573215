import numpy as np
import pytest

from sepssl.separation.sparsity import activity_sparsity, covariance_penalty


def test_sparsity_of_one_active_channel_and_of_all_alike():
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    one = np.stack([x, 0 * x, 0 * x, 0 * x])
    alike = np.stack([x, -x, x, x])
    found = activity_sparsity(np.stack([one, alike]))
    np.testing.assert_allclose(found, [0.0, 1.0], atol=1e-3)  # silence counts as -80 dB


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
