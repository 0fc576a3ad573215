import numpy as np
import pytest

from sepssl.representation.coincidence import CoincidenceHead, coincidence_loss


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_loss_hand_worked():
    logits = np.array([[2.0, -1.0], [0.0, 3.0]], np.float32)
    positive = -(np.log(sigmoid(2.0)) + np.log(sigmoid(3.0))) / 2
    negative = -(np.log(1 - sigmoid(-1.0)) + np.log(1 - sigmoid(0.0))) / 2
    assert float(coincidence_loss(logits)) == pytest.approx(positive + negative, rel=1e-6)


def test_slices_average_to_the_whole():
    logits = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)
    parts = [float(coincidence_loss(logits[i : i + 2], offset=i)) for i in (0, 2, 4)]
    assert np.mean(parts) == pytest.approx(float(coincidence_loss(logits)), rel=1e-6)


def test_head_equals_a_perceptron_on_concatenated_pairs():
    head = CoincidenceHead(hidden_size=7)
    left, right = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    found = np.asarray(head(left, right))
    w1 = np.concatenate([head.left.kernel, head.right.kernel])
    w2, b2 = np.asarray(head.logit.kernel)[:, 0], float(head.logit.bias[0])
    for i in range(5):
        for j in range(5):
            pair = np.concatenate([left[i], right[j]])
            expected = np.maximum(pair @ w1 + np.asarray(head.left.bias), 0) @ w2 + b2
            assert found[i, j] == pytest.approx(expected, abs=1e-5)


def test_large_logits_stay_finite():
    logits = 1e4 * (1 - 2 * np.eye(3, dtype=np.float32))
    assert float(coincidence_loss(logits)) == pytest.approx(2e4)
