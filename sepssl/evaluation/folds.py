"""Accuracy over the folds of a labelled set, as the protocol of ESC-50 has it."""

import concurrent.futures
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import threadpoolctl
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from sepssl.data.folds import check_folds
from sepssl.data.splits import fold_names
from sepssl.errors import InputError
from sepssl.progress import Progress

# How many of a clip's statistics make up its vector; they are the mean over its windows, the
# maximum and the standard deviation.
POOLINGS = {"mean": 1, "mean_max": 2, "mean_max_std": 3}
INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # scikit-learn's C; our choice
# At which gradient a fit ends. Settings are compared with ten times scikit-learn's default, which
# saves more than two thirds of the time. The classifiers that are tested are fitted to the minimum:
# on a fold of ESC-50, one that stopped at 1e-3 was 3.5 points off it. Our choice.
_TOLERANCE, _FINAL_TOLERANCE = 1e-3, 1e-6
_ITERATIONS = 10000


@dataclasses.dataclass(frozen=True)
class FoldScore:
    """A fold that was tested on.

    Attributes:
        name: of the fold.
        clips: how many it has.
        accuracy: share of them that were classified right.
        pooling: one of `POOLINGS`, chosen on the other folds.
        inverse_penalty: scikit-learn's C, chosen on the other folds.
        inner_accuracy: of that choice in the cross-validation over the other folds.
    """

    name: str
    clips: int
    accuracy: float
    pooling: str
    inverse_penalty: float
    inner_accuracy: float


@dataclasses.dataclass(frozen=True)
class FoldScores:
    """The result of `evaluate_folds`.

    Attributes:
        folds: in numerical or alphabetical order.
        predictions: int64 [clips], the class of each clip, from the one classifier that was not
            trained on its fold.
    """

    folds: list[FoldScore]
    predictions: np.ndarray

    @property
    def accuracy(self) -> float:
        """Mean over folds."""
        return float(np.mean([fold.accuracy for fold in self.folds]))

    @property
    def deviation(self) -> float:
        """Standard deviation over folds, with one less than their number in the denominator."""
        return float(np.std([fold.accuracy for fold in self.folds], ddof=1))


def window_statistics(batches: Iterable[np.ndarray]) -> np.ndarray:
    """Mean, maximum and standard deviation over the windows of a clip.

    Args:
        batches: float [windows, dim] each, one window or more in all.

    Returns:
        float32 [3, dim].
    """
    count, total, squares, largest = 0, np.float64(0), np.float64(0), np.float64(-np.inf)
    for batch in batches:
        windows = np.asarray(batch, np.float64)
        count += len(windows)
        total = total + windows.sum(axis=0)
        squares = squares + np.square(windows).sum(axis=0)
        largest = np.maximum(largest, windows.max(axis=0))
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return np.stack([mean, largest, deviation]).astype(np.float32)


def evaluate_folds(
    statistics: np.ndarray | Mapping[str, np.ndarray],
    targets: np.ndarray,
    folds: Sequence[str],
    poolings: Sequence[str] = ("mean",),
    verbose: bool = False,
) -> FoldScores:
    """Tests on each fold a classifier that was trained on all others.

    The classifier is a multinomial logistic regression with an L2 penalty, on vectors standardised
    by the mean and deviation of those that it is trained on. Pooling and penalty (`C` from
    `INVERSE_PENALTIES`) are chosen without the test fold: by cross-validation over the other folds,
    each left out in turn, the most clips classified right wins; among equals the first pooling,
    and the larger penalty. For that comparison, fits stop early; the classifiers that are tested
    are fitted to the minimum. The protocol of folds is that of Piczak (ESC: Dataset for
    environmental sound classification, 2015); how settings are chosen is our choice. Nothing in it
    is random.

    Args:
        statistics: float [clips, statistics, dim], see `window_statistics`; one statistic, for
            clips of one vector each, allows the pooling "mean" only. Or such statistics of all
            clips by the name of the fold tested on: those of an encoder that has not heard it.
        targets: int [clips], the class of each clip.
        folds: the name of each clip's fold.
        poolings: which of `POOLINGS` to choose from.
        verbose: whether to show progress.

    Raises:
        InputError: as `check_folds`, or if vectors are not finite or a pooling does not apply.
        KeyError: if a fold has no statistics.
    """
    targets, folds = np.asarray(targets), [str(fold) for fold in folds]
    check_folds(targets, folds)
    names = fold_names(folds)
    own = isinstance(statistics, Mapping)
    parts = [np.asarray(statistics[name] if own else statistics) for name in names]
    for part in parts:
        _check(part, poolings)
    of_clip = np.array([names.index(fold) for fold in folds])
    # By pooling and fold tested on.
    vectors = {
        (name, fold): part[:, : POOLINGS[name]].reshape(len(part), -1)
        for name in poolings
        for fold, part in enumerate(parts)
    }
    # Of the same vectors, the classifier for test fold a that leaves b out is that for test fold b
    # that leaves a out.
    pair_up = itertools.permutations if own else itertools.combinations
    jobs = list(itertools.product(poolings, pair_up(range(len(names)), 2)))
    correct: dict[tuple[str, int], np.ndarray] = {
        (name, fold): np.zeros(len(INVERSE_PENALTIES), int)
        for name in poolings
        for fold in range(len(names))
    }
    total = len(jobs) + len(names)
    with Progress("classifiers", total, "classifier", verbose=verbose) as progress:

        def inner(job: tuple[str, tuple[int, int]]) -> np.ndarray:
            pooling, pair = job
            return _inner_counts(vectors[pooling, pair[0]], targets, of_clip, pair)

        for (pooling, (a, b)), (right_a, right_b) in zip(
            jobs, _in_threads(inner, jobs, progress), strict=True
        ):
            # What is right in b is what test fold a is judged by.
            correct[pooling, a] += right_b
            if not own:
                correct[pooling, b] += right_a
        chosen = []
        for fold in range(len(names)):
            counts = np.stack([correct[name, fold] for name in poolings])
            best, penalty = divmod(int(np.argmax(counts)), len(INVERSE_PENALTIES))
            share = float(counts.max() / np.sum(of_clip != fold))
            chosen.append((poolings[best], INVERSE_PENALTIES[penalty], share))

        def outer(fold: int) -> np.ndarray:
            pooling, penalty, _ = chosen[fold]
            rest = of_clip != fold
            inputs = vectors[pooling, fold].astype(np.float64)
            scaler = StandardScaler().fit(inputs[rest])
            model = _classifier(penalty, _FINAL_TOLERANCE)
            model.fit(scaler.transform(inputs[rest]), targets[rest])
            return model.predict(scaler.transform(inputs[~rest]))

        predictions = np.zeros(len(targets), np.int64)
        for fold, predicted in enumerate(_in_threads(outer, range(len(names)), progress)):
            predictions[of_clip == fold] = predicted
    right = predictions == targets
    scores = [
        FoldScore(name, int(np.sum(of_clip == fold)), float(right[of_clip == fold].mean()), *choice)
        for fold, (name, choice) in enumerate(zip(names, chosen, strict=True))
    ]
    return FoldScores(scores, predictions)


def _classifier(penalty: float, tolerance: float) -> LogisticRegression:
    return LogisticRegression(C=penalty, tol=tolerance, max_iter=_ITERATIONS)


def _inner_counts(
    vectors: np.ndarray, targets: np.ndarray, of_clip: np.ndarray, pair: tuple[int, int]
) -> np.ndarray:
    """How many clips of two folds a classifier of the others gets right: [2, penalties]."""
    rest = ~np.isin(of_clip, pair)
    vectors = vectors.astype(np.float64)
    scaler = StandardScaler().fit(vectors[rest])
    inputs = scaler.transform(vectors[rest])
    held_out = [(scaler.transform(vectors[of_clip == f]), targets[of_clip == f]) for f in pair]
    # Each penalty starts from the solution for the previous one.
    model = _classifier(INVERSE_PENALTIES[0], _TOLERANCE).set_params(warm_start=True)
    counts = np.zeros((2, len(INVERSE_PENALTIES)), int)
    for number, penalty in enumerate(INVERSE_PENALTIES):
        model.set_params(C=penalty).fit(inputs, targets[rest])
        counts[:, number] = [np.sum(model.predict(x) == y) for x, y in held_out]
    return counts


def _in_threads(
    work: Callable[[Any], np.ndarray], jobs: Iterable[Any], progress: Progress
) -> list[np.ndarray]:
    """Does jobs at the same time, each on one core.

    The matrices are small: two threads on one of them took ten times as long as one.
    """
    with (
        threadpoolctl.threadpool_limits(1),
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        results = []
        for result in pool.map(work, jobs):
            results.append(result)
            progress.update()
    return results


def _check(statistics: np.ndarray, poolings: Sequence[str]) -> None:
    if not np.isfinite(statistics).all():
        raise InputError("embeddings hold NaN or infinity; expected finite numbers")
    for name in poolings:
        if name not in POOLINGS:
            raise InputError(f"pooling {name!r}: expected some of {', '.join(POOLINGS)}")
        if POOLINGS[name] > statistics.shape[1]:
            raise InputError(f"pooling {name!r}: expected mean, for clips of one vector each")
