import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from sepssl.representation.coincidence import CoincidenceHead, coincidence_auc, coincidence_loss
from sepssl.representation.pair_logits import pair_logits


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


@pytest.mark.parametrize(("rows", "columns"), [(5, 7), (32, 32), (48, 20)])
def test_blocks_of_pairs_have_the_value_and_gradient_of_all_pairs_at_once(rows, columns):
    rng = np.random.default_rng(0)
    left, right, weights, upstream = (
        tf.constant(rng.normal(size=shape), tf.float32)
        for shape in ((rows, 9), (columns, 9), (9,), (rows, columns))
    )

    def gradients(function):
        with tf.GradientTape() as tape:
            tape.watch([left, right, weights])
            logits = function(left, right, weights)
        return [logits, *tape.gradient(logits, [left, right, weights], upstream)]

    def all_at_once(left, right, weights):
        return tf.linalg.matvec(tf.nn.relu(left[:, None] + right[None]), weights)

    for found, expected in zip(gradients(pair_logits), gradients(all_at_once), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_training_takes_the_same_logits_as_inference():
    left, right = np.random.default_rng(0).normal(size=(2, 32, 6)).astype(np.float32)
    for policy in ("float32", "mixed_float16", "mixed_bfloat16"):
        head = CoincidenceHead(hidden_size=8, dtype=policy)
        expected = head(left, right)
        found = head(left, right, training=True)
        assert found.dtype == "float32"
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert np.isfinite(np.asarray(coincidence_loss(head(1e3 * left, right, training=True))))


def test_a_batch_of_unknown_size_is_trained_on_as_well():
    head = CoincidenceHead(hidden_size=8)
    head.build((None, 6), (None, 6))

    @tf.function(input_signature=[tf.TensorSpec([None, 6])])
    def logits(rows):
        return head(rows, rows, training=True)

    rows = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    np.testing.assert_allclose(logits(rows), head(rows, rows), atol=1e-5)


def test_auc_is_the_mean_of_the_rows_own():
    rng = np.random.default_rng(0)
    logits = np.round(rng.normal(size=(4, 9)), 1).astype(np.float32)  # some are equal
    logits[2, 7] = logits[2, 5]
    own = np.eye(9)[3:7]
    expected = np.mean([roc_auc_score(own[i], logits[i]) for i in range(4)])
    assert float(coincidence_auc(logits, offset=3)) == pytest.approx(expected, abs=1e-6)
    assert float(coincidence_auc(np.eye(3, dtype=np.float32))) == 1.0


def test_large_logits_stay_finite():
    logits = 1e4 * (1 - 2 * np.eye(3, dtype=np.float32))
    assert float(coincidence_loss(logits)) == pytest.approx(2e4)


def test_a_single_pair_has_no_others():
    logits = np.array([[0.3]], np.float32)
    assert float(coincidence_loss(logits)) == pytest.approx(np.log1p(np.exp(-0.3)), rel=1e-6)
    assert float(coincidence_auc(logits)) == 0.0
