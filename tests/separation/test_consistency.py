import hypothesis
import numpy as np
from hypothesis import strategies as st

from sepssl.separation.consistency import apply_mixture_consistency, power_weights, uniform_weights


def test_hand_worked():
    mixture = np.array([[3.0, 1.0]], np.float32)
    estimates = np.array([[[1.0, 0.0], [0.0, 2.0]]], np.float32)
    weights = np.array([[0.25, 0.75]], np.float32)
    # missing: [2, -1]
    np.testing.assert_allclose(
        apply_mixture_consistency(mixture, estimates, weights), [[[1.5, -0.25], [1.5, 1.25]]]
    )


def test_weights():
    estimates = np.array([[[1.0, -1.0], [3.0, 3.0], [0.0, 0.0]]], np.float32)
    np.testing.assert_allclose(uniform_weights(estimates), [[1 / 3] * 3], rtol=1e-6)
    np.testing.assert_allclose(power_weights(estimates), [[0.1, 0.9, 0.0]], atol=1e-6)
    np.testing.assert_allclose(power_weights(0 * estimates), [[1 / 3] * 3], rtol=1e-6)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(st.integers(0, 10**6), st.integers(1, 8), st.sampled_from([1e-3, 1.0, 30.0]))
def test_consistent_estimates_add_up_to_the_mixture(seed, sources, scale):
    rng = np.random.default_rng(seed)
    mixture = rng.normal(size=(2, 50)).astype(np.float32)
    estimates = (scale * rng.normal(size=(2, sources, 50))).astype(np.float32)
    for weights in (uniform_weights(estimates), power_weights(estimates)):
        total = np.sum(apply_mixture_consistency(mixture, estimates, weights), axis=1)
        np.testing.assert_allclose(total, mixture, atol=2e-5 * max(1, scale))
