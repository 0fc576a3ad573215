import json

import numpy as np
import pytest
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler

from sepssl.errors import InputError
from sepssl.evaluation.scores import average_precision, grouped_interval
from sepssl.evaluation.window_classifier import load_classifier, train_classifier

RECORDINGS, PER, DIM = 20, 10, 6


@pytest.fixture(scope="module")
def data():
    """Windows whose recording adds what no other recording has; half have the class."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(RECORDINGS), PER)
    labels = (groups % 2)[:, None].astype(np.int8)
    vectors = rng.normal(size=(len(groups), DIM))
    vectors[:, 0] += 2.0 * labels[:, 0]
    vectors += 1.5 * rng.normal(size=(RECORDINGS, DIM))[groups]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), groups, labels


def train(vectors, groups, labels, windows=None, classes=("owl",), seed=0):
    windows = np.arange(len(vectors)) if windows is None else windows
    return train_classifier(vectors, windows, groups, labels, list(classes), {"rows": "x"}, seed)


def test_the_classifier_is_scikit_learns(data):
    vectors, groups, labels = data
    classifier, (report,) = train(vectors, groups, labels)
    scaler = StandardScaler().fit(vectors)
    model = LogisticRegression(C=report.c, max_iter=1000, tol=1e-8)
    model.fit(scaler.transform(vectors.astype(np.float64)), labels[:, 0])
    expected = model.predict_proba(scaler.transform(vectors.astype(np.float64)))[:, 1]
    scores, best = classifier.scores(vectors, np.arange(len(vectors)))
    np.testing.assert_allclose(scores[:, 0], expected, atol=5e-3)
    np.testing.assert_array_equal(best[:, 0], np.arange(len(vectors)))
    assert (report.windows, report.recordings, report.negatives) == (100, 10, 100)
    assert report.chance == 0.5


def test_windows_of_a_recording_are_never_on_both_sides():
    """Vectors that tell nothing but the recording: seen ones are known, held-out ones by chance."""
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(40), 10)
    labels = rng.permutation(np.arange(40) % 2)[groups][:, None].astype(np.int8)
    vectors = (rng.normal(size=(40, 60))[groups] + 0.01 * rng.normal(size=(400, 60))).astype("f4")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    classifier, (report,) = train(vectors, groups, labels)
    scores, _ = classifier.scores(vectors, np.arange(400))
    assert average_precision(labels[:, 0], scores[:, 0]) > 0.95
    assert report.average_precision < 0.75
    assert report.low < 0.5 < report.high


def test_the_interval_draws_recordings(data):
    _, groups, labels = data
    scores = np.random.default_rng(2).normal(size=len(groups)) + 0.5 * labels[:, 0]
    rng = np.random.default_rng(3)
    replicates = []
    for _ in range(400):
        drawn = rng.integers(RECORDINGS, size=RECORDINGS)
        rows = np.concatenate([np.flatnonzero(groups == group) for group in drawn])
        replicates.append(average_precision_score(labels[rows, 0], scores[rows]))
    centred = replicates + average_precision(labels[:, 0], scores) - np.mean(replicates)
    found = grouped_interval(labels[:, 0], scores, groups + 100)
    np.testing.assert_allclose(found, np.quantile(centred, [0.025, 0.975]), atol=0.03)


def test_one_channel_of_a_window_has_the_class():
    """Three rows of a window, one of which has the class where the window does; not the first."""
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(30), 4)
    labels = (groups % 3 == 0)[:, None].astype(np.int8)
    vectors = rng.normal(size=(120, 3, 5))
    vectors[:, 0] += 0.5 * labels * np.eye(5)[0]  # the mixture has a little of it
    vectors[np.arange(120), rng.integers(1, 3, 120), 0] += 5.0 * labels[:, 0]
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    windows = np.repeat(np.arange(120), 3)
    flat = vectors.reshape(360, 5).astype(np.float32)
    classifier, (report,) = train(flat, groups, labels, windows)
    scores, best = classifier.scores(flat, windows)
    logits = (flat - classifier.center) @ classifier.weights + classifier.biases
    np.testing.assert_allclose(
        scores[:, 0], special.expit(logits).reshape(120, 3).max(axis=1), rtol=1e-6
    )
    has = labels[:, 0] == 1
    assert np.mean(best[has, 0] % 3 > 0) > 0.9
    _, (mixture,) = train(vectors[:, 0].astype(np.float32), groups, labels)
    assert report.average_precision > mixture.average_precision + 0.1


def test_the_threshold_lies_between_scores():
    """All windows with the class score p when held out, all others 1 - p: midway is 0.5."""
    groups = np.repeat(np.arange(RECORDINGS), PER)
    labels = (groups % 2)[:, None].astype(np.int8)
    vectors = np.pad(2.0 * labels - 1.0, ((0, 0), (0, 1))).astype(np.float32)
    classifier, (report,) = train(vectors, groups, labels)
    assert (report.precision, report.recall) == (1, 1)
    assert report.threshold == pytest.approx(0.5, abs=1e-3)
    assert classifier.thresholds[0] == pytest.approx(report.threshold, abs=1e-6)


def test_few_recordings_and_unknown_windows(data):
    vectors, groups, labels = data
    # All recordings but one are unknown or without it.
    one = np.where(groups == 1, 1, 0)[:, None].astype(np.int8)
    _, (report,) = train(vectors, groups, one)
    assert report.average_precision is None
    assert report.note == "not validated: only one recording has it"
    # Of two, each is held out once, whatever the seed and the numbers of recordings.
    two = np.isin(groups, (3, 7))[:, None].astype(np.int8)
    for seed in range(4):
        assert train(vectors, groups, two, seed=seed)[1][0].average_precision is not None
    # What is not known makes no difference.
    known = np.where(groups[:, None] < 12, labels, -1).astype(np.int8)
    classifier, (report,) = train(vectors, groups, known)
    other, (same,) = train(vectors[:120], groups[:120], labels[:120])
    assert (report, report.recordings) == (same, 6)
    logits = [c.logits(vectors) for c in (classifier, other)]
    np.testing.assert_allclose(*logits, atol=1e-3)
    for bad, message in (
        (labels * 0, "known to be with it"),
        (labels * 0 + 1, "known to be without it"),
    ):
        with pytest.raises(InputError, match=f"class owl: no window is {message}"):
            train(vectors, groups, bad)
    with pytest.raises(InputError, match="the labels name no class"):
        train(vectors, groups, labels[:, :0], classes=())


def test_saved_without_pickles_and_read_again(data, tmp_path):
    classifier, _ = train(*data)
    classifier.save(tmp_path / "c.npz")
    again = load_classifier(tmp_path / "c.npz")
    assert (again.classes, again.about["rows"]) == (("owl",), "x")
    np.testing.assert_array_equal(again.logits(data[0]), classifier.logits(data[0]))
    with np.load(tmp_path / "c.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
        assert json.loads(str(arrays["about"]))["format"] == 1
    for name, change in (
        ("none", {"weights": arrays["weights"][:3]}),
        ("nan", {"biases": arrays["biases"] * np.nan}),
        ("format", {"about": np.array('{"format": 2}')}),
    ):
        np.savez(tmp_path / f"{name}.npz", **(arrays | change))
        with pytest.raises(InputError, match=f"{name}.npz: .* that sepssl-classify has trained"):
            load_classifier(tmp_path / f"{name}.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "c.npz").read_bytes()[:300])
    for name in ("cut", "gone"):
        with pytest.raises(InputError, match="cannot be read"):
            load_classifier(tmp_path / f"{name}.npz")
