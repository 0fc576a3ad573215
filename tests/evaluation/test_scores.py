import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from sepssl.errors import InputError
from sepssl.evaluation.scores import (
    average_precision,
    bootstrap_intervals,
    d_prime,
    macro_scores,
    resampled_scores,
)


def random_case(clips=60, classes=4, seed=0, levels=None):
    rng = np.random.default_rng(seed)
    labels = (rng.random((clips, classes)) < 0.3).astype(int)
    labels[0], labels[1] = 1, 0
    predictions = labels + rng.normal(size=labels.shape)
    if levels:
        predictions = np.round(predictions * levels) / levels  # ties
    return labels, predictions


def test_average_precision_by_hand():
    # Ranks 1, 3 and 4 are relevant: (1/1 + 2/3 + 3/4) / 3.
    relevant, scores = np.array([1, 0, 1, 1, 0]), np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    assert average_precision(relevant, scores) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    # Reversed: ranks 2, 3 and 5.
    assert average_precision(relevant, -scores) == pytest.approx((1 / 2 + 2 / 3 + 3 / 5) / 3)
    # All tied: one step, of precision 3/5, in whatever order the clips come.
    assert average_precision(relevant, np.zeros(5)) == pytest.approx(3 / 5)
    assert average_precision(relevant[::-1], np.zeros(5)) == pytest.approx(3 / 5)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([None, 1, 3]))
def test_average_precision_is_that_of_scikit_learn(seed, levels):
    labels, predictions = random_case(seed=seed, levels=levels)
    expected = metrics.average_precision_score(labels[:, 0], predictions[:, 0])
    assert average_precision(labels[:, 0], predictions[:, 0]) == pytest.approx(expected)


def test_macro_scores_by_hand():
    labels = np.array([[1, 1], [0, 0], [1, 0], [0, 0]])
    predictions = np.array([[4.0, 1.0], [3.0, 2.0], [2.0, 3.0], [1.0, 4.0]])
    scores = macro_scores(labels, predictions)
    # Class 0 at ranks 1 and 3: AP (1 + 2/3)/2, 3 of 4 pairs in order. Class 1 at the last rank.
    np.testing.assert_allclose(scores.per_class_ap, [5 / 6, 1 / 4])
    np.testing.assert_allclose(scores.per_class_auc, [3 / 4, 0])
    assert scores.map == pytest.approx((5 / 6 + 1 / 4) / 2)
    assert scores.auc == pytest.approx(3 / 8)
    assert scores.chance_map == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert scores.left_out == ()


def test_auc_is_the_share_of_ordered_pairs():
    labels, predictions = random_case(levels=2)
    shares = []
    for c in range(labels.shape[1]):
        above = predictions[labels[:, c] == 1, c][:, None] - predictions[labels[:, c] == 0, c]
        shares.append(np.mean((above > 0) + 0.5 * (above == 0)))
    np.testing.assert_allclose(macro_scores(labels, predictions).per_class_auc, shares)


def test_d_prime_of_known_auc():
    assert d_prime(0.5) == 0
    # Two unit normals whose means are d apart have the AUC Phi(d / sqrt 2): d = 1 gives 0.76025.
    assert d_prime(0.7602499389065233) == pytest.approx(1)
    assert d_prime(1 - 0.7602499389065233) == pytest.approx(-1)
    assert d_prime(1.0) == np.inf


def test_d_prime_recovers_the_distance_of_two_normals():
    rng = np.random.default_rng(0)
    labels = np.repeat([[0], [1]], 20_000, axis=0)
    predictions = rng.normal(size=labels.shape) + 1.5 * labels
    assert macro_scores(labels, predictions).d_prime == pytest.approx(1.5, abs=0.03)


def test_classes_that_cannot_be_scored_are_left_out_and_named():
    labels, predictions = random_case()
    labels[:, 1], labels[:, 3] = 0, 1
    scores = macro_scores(labels, predictions)
    rest = macro_scores(labels[:, [0, 2]], predictions[:, [0, 2]])
    assert scores.left_out == (1, 3)
    assert np.isnan(scores.per_class_ap[[1, 3]]).all()
    assert (scores.map, scores.auc) == (rest.map, rest.auc)


@pytest.mark.parametrize(
    ("labels", "predictions", "reason"),
    [
        ([[0], [0]], [[1.0], [2.0]], "both a positive and a negative"),
        ([[0], [2]], [[1.0], [2.0]], "other than 0 and 1"),
        ([0, 1], [[1.0], [2.0]], "shape"),
        ([[0], [1]], [[1.0, 1.0], [2.0, 2.0]], "shape"),
        ([[0], [1]], [[1.0], [np.nan]], "NaN"),
    ],
)
def test_refused(labels, predictions, reason):
    with pytest.raises(InputError, match=reason):
        macro_scores(np.array(labels), np.array(predictions))


@pytest.mark.parametrize("levels", [None, 2])
def test_resampled_scores_are_those_of_the_resampled_clips(levels):
    labels, predictions = random_case(levels=levels)
    rng = np.random.default_rng(1)
    drawn = rng.integers(len(labels), size=(20, len(labels)))
    counts = np.stack([np.bincount(d, minlength=len(labels)) for d in drawn]).astype(float)
    ours = resampled_scores(labels[:, 0], predictions[:, 0], counts)
    for (ap, auc), d in zip(ours, drawn, strict=True):
        y, p = labels[d, 0], predictions[d, 0]
        assert ap == pytest.approx(metrics.average_precision_score(y, p))
        assert auc == pytest.approx(metrics.roc_auc_score(y, p))


def test_intervals_are_seeded_and_hold_the_score():
    labels, predictions = random_case(clips=300)
    scores = macro_scores(labels, predictions)
    intervals = bootstrap_intervals(labels, predictions, num_bootstrap=300)
    assert intervals == bootstrap_intervals(labels, predictions, num_bootstrap=300)
    assert intervals != bootstrap_intervals(labels, predictions, num_bootstrap=300, seed=1)
    for name, value in [("map", scores.map), ("auc", scores.auc), ("d_prime", scores.d_prime)]:
        assert intervals[name][0] < value < intervals[name][1]
    narrow = bootstrap_intervals(labels, predictions, num_bootstrap=300, confidence=0.5)
    assert intervals["map"][0] < narrow["map"][0] < narrow["map"][1] < intervals["map"][1]


def test_interval_of_auc_has_the_known_width():
    """Hanley and McNeil's standard error of the AUC, for two normals."""
    rng = np.random.default_rng(0)
    labels = np.repeat([[0], [1]], 500, axis=0)
    predictions = rng.normal(size=labels.shape) + labels
    low, high = bootstrap_intervals(labels, predictions, num_bootstrap=500)["auc"]
    a = macro_scores(labels, predictions).auc
    q1, q2 = a / (2 - a), 2 * a**2 / (1 + a)
    error = np.sqrt((a * (1 - a) + 499 * (q1 - a**2) + 499 * (q2 - a**2)) / 500**2)
    assert (high - low) / (2 * 1.96) == pytest.approx(error, rel=0.15)


def test_rare_class_missing_from_a_draw_is_left_out_of_it():
    labels = np.zeros((50, 2), int)
    labels[0, 0] = 1  # in 36 % of the draws it is missing
    labels[:25, 1] = 1
    predictions = np.linspace(1, 0, 50)[:, None] * [1, 1]
    intervals = bootstrap_intervals(labels, predictions, num_bootstrap=200)
    assert intervals["map"] == (1.0, 1.0)


def test_bad_bootstrap_arguments():
    labels, predictions = random_case()
    with pytest.raises(InputError, match="num_bootstrap"):
        bootstrap_intervals(labels, predictions, num_bootstrap=0)
    with pytest.raises(InputError, match="confidence"):
        bootstrap_intervals(labels, predictions, confidence=95)


def test_interval_lies_around_the_score_where_positives_are_few():
    rng = np.random.default_rng(0)
    labels = np.zeros((80, 20), np.int8)
    for column in labels.T:
        column[rng.choice(80, 5, replace=False)] = 1
    predictions = rng.normal(size=labels.shape) + 0.5 * labels
    score = macro_scores(labels, predictions).map
    low, high = bootstrap_intervals(labels, predictions)["map"]
    assert low < score < high
    assert score - low == pytest.approx(high - score, rel=0.5)


def test_intervals_hold_the_expected_score_as_often_as_they_say():
    rng, scores, intervals = np.random.default_rng(0), [], []
    for _ in range(40):
        labels = np.zeros((80, 4), np.int8)
        for column in labels.T:
            column[rng.choice(80, 5, replace=False)] = 1
        predictions = rng.normal(size=labels.shape) + labels
        scores.append(macro_scores(labels, predictions).map)
        intervals.append(bootstrap_intervals(labels, predictions, num_bootstrap=100)["map"])
    low, high = np.transpose(intervals)
    held = np.mean((low <= np.mean(scores)) & (np.mean(scores) <= high))
    assert 0.88 <= held <= 1.0  # BCa: 0.78


def test_interval_where_some_draws_hold_nothing_to_score():
    rng = np.random.default_rng(0)
    labels = np.zeros((20, 1), np.int8)
    labels[:1] = 1
    low, high = bootstrap_intervals(labels, rng.normal(size=labels.shape))["map"]
    assert 0 <= low < high <= 1
