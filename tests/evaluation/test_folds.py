import itertools

import numpy as np
import pytest
import threadpoolctl
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sepssl.errors import InputError
from sepssl.evaluation import folds as module
from sepssl.evaluation.folds import evaluate_folds, window_statistics

PENALTIES = (1e-3, 3e-2, 1.0)
NAMES = ["10", "2", "3", "a"]  # in another order as text than as numbers


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Few penalties, and classifiers of the minimum, whichever way leads to it."""
    monkeypatch.setattr(module, "INVERSE_PENALTIES", PENALTIES)
    monkeypatch.setattr(module, "_TOLERANCE", 1e-6)


@pytest.fixture(scope="module")
def clips():
    """Statistics of clips whose classes overlap, of which the second tells more than the first."""
    rng = np.random.default_rng(3)
    targets = np.tile(np.arange(4), 24)
    folds = np.repeat(NAMES, 24)
    centers = rng.normal(size=(4, 3, 5)) * np.array([0.5, 1.0, 0.1])[:, None]
    statistics = centers[targets] + rng.normal(size=(96, 3, 5)) * np.array([0.8, 1.3, 3])[:, None]
    return (statistics * [1, 50, 1, 1, 0.01]).astype(np.float32), targets, folds


def predicted(vectors, targets, penalty, train, test, tolerance=1e-6):
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=penalty, tol=tolerance, max_iter=10000)
    )
    with threadpoolctl.threadpool_limits(1):  # on matrices as small as these, faster than 2
        return model.fit(vectors[train], targets[train]).predict(vectors[test])


def test_every_fold_is_tested_by_what_the_others_chose(clips):
    statistics, targets, folds = clips
    vectors = {
        "mean": statistics[:, 0],
        "mean_max": np.concatenate([statistics[:, 0], statistics[:, 1]], axis=1),
        "mean_max_std": statistics.reshape(96, 15),
    }
    found = evaluate_folds(statistics, targets, folds, list(vectors))
    assert [fold.name for fold in found.folds] == ["2", "3", "10", "a"]
    chosen = set()
    for fold in found.folds:
        test = folds == fold.name
        best, choice = -1.0, None
        for pooling, penalty in itertools.product(vectors, PENALTIES):
            right = []
            for other in set(NAMES) - {fold.name}:
                held_out = folds == other
                train = ~test & ~held_out
                found_there = predicted(vectors[pooling], targets, penalty, train, held_out)
                right += (found_there == targets[held_out]).tolist()
            share = np.mean(right)
            if share > best + 1e-9:
                best, choice = share, (pooling, penalty)
        assert (fold.pooling, fold.inverse_penalty) == choice
        assert fold.inner_accuracy == pytest.approx(best)
        predictions = predicted(vectors[choice[0]], targets, choice[1], ~test, test)
        np.testing.assert_array_equal(found.predictions[test], predictions)
        assert fold.clips == 24
        assert fold.accuracy == pytest.approx(np.mean(predictions == targets[test]))
        chosen.add(choice)
    assert len({pooling for pooling, _ in chosen} | {penalty for _, penalty in chosen}) > 2
    accuracies = [fold.accuracy for fold in found.folds]
    assert found.accuracy == pytest.approx(sum(accuracies) / 4)
    squares = sum((share - sum(accuracies) / 4) ** 2 for share in accuracies)
    assert found.deviation == pytest.approx((squares / 3) ** 0.5)
    assert 0.4 < found.accuracy < 0.9


def test_what_is_tested_is_fitted_to_the_minimum(monkeypatch):
    """Though the settings are compared by fits that stop early."""
    monkeypatch.setattr(module, "_TOLERANCE", 1e-3)
    monkeypatch.setattr(module, "INVERSE_PENALTIES", (0.1,))
    rng = np.random.default_rng(0)
    targets, folds = np.tile(np.arange(20), 15), np.repeat(["1", "2", "3"], 100)
    vectors = rng.normal(size=(20, 200))[targets] * 0.3 + rng.normal(size=(300, 200))
    vectors = vectors @ rng.normal(size=(200, 200))  # some directions are far longer than others
    found = evaluate_folds(vectors[:, None], targets, folds)
    for fold in "123":
        test = folds == fold
        expected = predicted(vectors, targets, 0.1, ~test, test, tolerance=1e-8)
        np.testing.assert_array_equal(found.predictions[test], expected)


@pytest.mark.parametrize("name", ["10", "a"])
def test_nothing_is_learned_from_the_fold_tested_on(clips, name):
    statistics, targets, folds = clips
    test = folds == name
    other_targets, other = targets.copy(), statistics.copy()
    other_targets[test] = np.random.default_rng(0).permutation(targets[test])
    # Nor from its vectors, of which those that are kept are classified alike.
    changed = np.flatnonzero(test)[:12]
    other[changed] = 1e3
    found = evaluate_folds(statistics, targets, folds, ["mean", "mean_max"])
    same = evaluate_folds(other, other_targets, folds, ["mean", "mean_max"])
    settings = [
        [(f.pooling, f.inverse_penalty, f.inner_accuracy) for f in scores.folds if f.name == name]
        for scores in (found, same)
    ]
    assert settings[0] == settings[1]
    kept = np.setdiff1d(np.flatnonzero(test), changed)
    np.testing.assert_array_equal(found.predictions[kept], same.predictions[kept])
    # Other folds are trained on it, and do change.
    assert found.folds != same.folds


def test_vectors_of_an_encoder_for_each_fold(clips):
    statistics, targets, folds = clips
    rng = np.random.default_rng(4)
    own = {name: statistics + rng.normal(0, 1, statistics.shape) for name in NAMES}
    poolings = ["mean", "mean_max"]
    found = evaluate_folds(own | {"b": statistics}, targets, folds, poolings)
    for number, name in enumerate(["2", "3", "10", "a"]):
        expected = evaluate_folds(own[name], targets, folds, poolings)
        assert found.folds[number] == expected.folds[number]
        test = folds == name
        np.testing.assert_array_equal(found.predictions[test], expected.predictions[test])
    assert len({fold.accuracy for fold in found.folds}) > 1


def test_statistics_of_windows_do_not_depend_on_the_batches():
    windows = np.random.default_rng(0).normal(2, 1, [7, 4]).astype(np.float32)
    expected = [windows.mean(axis=0), windows.max(axis=0), windows.std(axis=0)]
    for ends in ([], [3], [1, 2, 6]):
        np.testing.assert_allclose(
            window_statistics(np.split(windows, ends)), expected, rtol=1e-5, atol=1e-6
        )
    one = window_statistics([windows[:1]])
    np.testing.assert_array_equal(one, [windows[0], windows[0], np.zeros(4)])


def test_what_cannot_be_evaluated(clips):
    statistics, targets, folds = clips
    two = np.isin(folds, ["2", "3"])
    with pytest.raises(InputError, match="the clips are in 2 folds; expected 3 or more"):
        evaluate_folds(statistics[two], targets[two], folds[two])
    with pytest.raises(InputError, match="all clips are of one class"):
        evaluate_folds(statistics, np.zeros(96, int), folds)
    with pytest.raises(InputError, match="of the class 4 are in the fold 10"):
        evaluate_folds(statistics, np.where(np.arange(96) == 5, 4, targets), folds)
    with pytest.raises(InputError, match="without the folds 2 and 3 there is only one class"):
        evaluate_folds(statistics, np.where(two, targets, 0), folds)
    with pytest.raises(InputError, match="hold NaN or infinity"):
        evaluate_folds(np.where(np.arange(5) == 2, np.nan, statistics), targets, folds)
    with pytest.raises(InputError, match="pooling 'mean_max': expected mean, for clips of one"):
        evaluate_folds(statistics[:, :1], targets, folds, ["mean_max"])
    with pytest.raises(InputError, match="pooling 'median': expected some of mean, mean_max, mean"):
        evaluate_folds(statistics, targets, folds, ["median"])
