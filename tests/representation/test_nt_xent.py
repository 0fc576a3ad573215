import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from sepssl.representation.nt_xent import alignment, contrastive_accuracy, nt_xent, uniformity


def brute_force(a, b, temperature):
    """SimCLR's loss by loops over all 2 n projections, in float64."""
    z = np.concatenate([a, b]).astype(np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    n = len(a)
    losses = []
    for i in range(2 * n):
        scores = [np.exp(z[i] @ z[k] / temperature) for k in range(2 * n) if k != i]
        losses.append(-np.log(np.exp(z[i] @ z[(i + n) % (2 * n)] / temperature) / sum(scores)))
    return (np.array(losses[:n]) + losses[n:]) / 2


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(st.integers(0, 10**6), st.integers(1, 7), st.sampled_from([0.07, 0.2, 1.0]))
def test_equals_brute_force(seed, batch, temperature):
    a, b = np.random.default_rng(seed).normal(size=(2, batch, 5)).astype(np.float32)
    found = nt_xent(a, b, temperature)
    np.testing.assert_allclose(found, brute_force(a, b, temperature), atol=2e-5)


def test_hand_worked():
    # Two clips, views equal, clips orthogonal: -log(e^1 / (e^1 + 2 e^0)) at temperature 1.
    a = np.eye(2, dtype=np.float32)
    np.testing.assert_allclose(nt_xent(a, a, 1.0), [np.log(1 + 2 / np.e)] * 2, rtol=1e-6)


def test_slices_of_a_global_batch():
    a, b = np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32)
    parts = [nt_xent(a[i : i + 3], b[i : i + 3], 0.1, a, b, offset=i) for i in (0, 3)]
    np.testing.assert_allclose(np.concatenate(parts), nt_xent(a, b, 0.1), atol=1e-5)
    wrong = b[[1, 0, 2, 3, 4, 5]]
    accuracy = [contrastive_accuracy(b[i : i + 3], wrong[i : i + 3], wrong, i) for i in (0, 3)]
    np.testing.assert_allclose(accuracy, [1 / 3, 1.0])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_finite_where_half_precision_overflows(dtype):
    a = (200 * np.eye(4)).astype(dtype)
    assert np.all(np.isfinite(nt_xent(a, a[::-1], 0.01)))
    assert np.all(np.isfinite(nt_xent(0 * a, 0 * a, 0.01)))


def test_alignment_and_uniformity():
    a = np.array([[2.0, 0.0], [0.0, 3.0]], np.float32)
    assert float(alignment(a, a[::-1])) == pytest.approx(2.0)
    assert float(alignment(a, -a)) == pytest.approx(4.0)
    assert float(uniformity(a)) == pytest.approx(-4.0)  # one pair, squared distance 2
    assert float(uniformity(np.ones([3, 2], np.float32))) == pytest.approx(0.0, abs=1e-6)


def test_a_single_row_is_as_uniform_as_equal_ones():
    assert float(uniformity(np.ones((1, 4), np.float32))) == 0.0
    assert float(uniformity(np.ones((3, 4), np.float32))) == pytest.approx(0.0, abs=1e-6)
