"""A linear classifier of windows from few labels, validated on recordings that it has not seen."""

import dataclasses
import json
import os
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import threadpoolctl
from scipy import special
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from sepssl.errors import InputError
from sepssl.evaluation.scores import average_precision, grouped_interval
from sepssl.files import atomic_file

INVERSE_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C; our choice
FOLDS = 5
_DEFAULT_PENALTY = 1e-2  # where there are too few recordings to choose
_AS_GOOD = 0.01  # of average precision
_ROUNDS = 3  # of choosing the row of a window that has the class
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class WindowClassifier:
    """One logistic regression for each class, of vectors of length 1.

    Attributes:
        classes: names.
        center: float32 [dim], subtracted from vectors; what float32 rounds stays small so.
        weights: float32 [dim, classes].
        biases: float32 [classes].
        thresholds: float32 [classes], probabilities from which on a class is detected.
        about: values that JSON knows: what the vectors were made with, and how it was trained.
    """

    classes: tuple[str, ...]
    center: np.ndarray
    weights: np.ndarray
    biases: np.ndarray
    thresholds: np.ndarray
    about: dict[str, Any]

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """float32 [rows, classes] for vectors of length 1, [rows, dim]."""
        return (np.asarray(vectors, np.float32) - self.center) @ self.weights + self.biases

    def scores(self, vectors: np.ndarray, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of windows: of each, those of its best row.

        Args:
            vectors: float32 [rows, dim], of length 1.
            windows: int [rows], the window of each row, ascending, without gaps from 0.

        Returns:
            float32 [windows, classes], and int64 [windows, classes]: which row that is.
        """
        logits = self.logits(vectors)
        best = np.stack([_best_rows(column, windows) for column in logits.T], axis=1)
        return special.expit(np.take_along_axis(logits, best, axis=0)), best

    def save(self, path: str | os.PathLike) -> None:
        """Writes a `.npz` file, without pickles."""
        arrays = {
            "classes": np.array(self.classes, np.str_),
            "center": self.center,
            "weights": self.weights,
            "biases": self.biases,
            "thresholds": self.thresholds,
            "about": np.array(json.dumps(self.about | {"format": _FORMAT})),
        }
        with atomic_file(path) as temporary:
            np.savez(temporary, **arrays)  # type: ignore[arg-type]  # taken for allow_pickle


def load_classifier(path: str | os.PathLike) -> WindowClassifier:
    """Reads what `WindowClassifier.save` has written.

    Raises:
        InputError: if the file is no such classifier.
    """
    expected = "expected a classifier that sepssl-classify has trained (.npz)"
    try:
        with np.load(path, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            classes = tuple(map(str, stored["classes"]))
            center, weights, biases, thresholds = arrays = [
                np.asarray(stored[name], np.float32)
                for name in ("center", "weights", "biases", "thresholds")
            ]
        matching = weights.shape == (*center.shape, len(classes))
        matching &= biases.shape == thresholds.shape == (len(classes),)
        if about.get("format") != _FORMAT or not matching:
            raise ValueError("another format")
    except OSError as error:
        reason = error.strerror or "not a .npz file"
        raise InputError(f"{path}: cannot be read: {reason}; {expected}") from error
    except (ValueError, KeyError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read; {expected}") from error
    if not all(np.isfinite(values).all() for values in arrays):
        raise InputError(f"{path}: holds values that are not finite; {expected}")
    return WindowClassifier(classes, center, weights, biases, thresholds, about)


@dataclasses.dataclass(frozen=True)
class ClassReport:
    """How a class was learned.

    Attributes:
        label: its name.
        windows, recordings: that have it.
        negatives: windows without it.
        average_precision: of windows of held-out recordings; None if it could not be validated.
        low, high: bounds of its 95 % interval, from drawing recordings anew.
        chance: share of windows that have it.
        threshold: probability with the largest F1 on held-out recordings, midway (in log odds)
            between the last window that is detected and the next, if there is one (our choice);
            else 0.5.
        precision, recall: there.
        c: scikit-learn's inverse of the penalty.
        note: why it could not be validated, or "".
    """

    label: str
    windows: int
    recordings: int
    negatives: int
    average_precision: float | None
    low: float | None
    high: float | None
    chance: float
    threshold: float
    precision: float | None
    recall: float | None
    c: float
    note: str = ""


def missing_windows(labels: np.ndarray) -> str:
    """What a class lacks to be learned, "" for nothing; `labels` of windows, 1, 0 or -1."""
    for value, kind in ((1, "with"), (0, "without")):
        if not np.any(labels == value):
            return f"no window is known to be {kind} it"
    return ""


def train_classifier(
    vectors: np.ndarray,
    windows: np.ndarray,
    groups: np.ndarray,
    labels: np.ndarray,
    classes: list[str],
    about: dict[str, Any],
    seed: int = 0,
) -> tuple[WindowClassifier, list[ClassReport]]:
    """Trains and validates a classifier for each class on its own.

    Each is validated on folds of recordings, at most five, those that have the class dealt out
    first. The penalty with which a fold is scored is the best on the other folds, each held out in
    its turn; that of the classifier itself, which is trained on all recordings, the best on all
    folds. The best has the largest average precision; within 0.01 of that, the smallest log loss,
    since average precision does not see how sure scores are (our choice). The average precision of
    the report is that of all held-out windows together.

    Of a window with several rows (channels), one row at least has the class, which one is not
    known: the mixture's at first, then the one that scores best, as in mi-SVM (Andrews et al.,
    Support vector machines for multiple-instance learning, 2003).

    Args:
        vectors: float32 [rows, dim], of length 1.
        windows: int [rows], the window of each row, ascending, without gaps from 0.
        groups: int [windows], the recording of each window.
        labels: int8 [windows, classes]: 1, 0, or -1 where that is not known.
        classes: their names.
        about: kept with the classifier.
        seed: of the folds and the bootstrap.

    Raises:
        InputError: if there are no classes, or one has no window with or without it.
    """
    if not classes:
        raise InputError("the labels name no class; expected one at least")
    for label, column in zip(classes, labels.T, strict=True):
        if missing := missing_windows(column):
            raise InputError(f"class {label}: {missing}; expected one at least")
    parameters, reports = [], []
    # One thread, as in the evaluation: the matrices are small.
    with threadpoolctl.threadpool_limits(1):
        for label, column in zip(classes, labels.T, strict=True):
            data = _Data(vectors, windows, groups, column).part(column >= 0)
            one, report = _train_class(data, label, seed)
            parameters.append(one)
            reports.append(report)
    weights, biases = zip(*parameters, strict=True)
    center = vectors.mean(axis=0)
    weights = np.stack(weights, axis=1)
    classifier = WindowClassifier(
        tuple(classes),
        center,
        weights.astype(np.float32),
        (np.array(biases) + center @ weights).astype(np.float32),
        np.array([report.threshold for report in reports], np.float32),
        about,
    )
    return classifier, reports


@dataclasses.dataclass(frozen=True)
class _Data:
    """Rows, the window of each, and of each window the recording and whether it has the class."""

    vectors: np.ndarray
    windows: np.ndarray
    groups: np.ndarray
    labels: np.ndarray

    def part(self, kept: np.ndarray) -> "_Data":
        """Some of the windows, by a mask."""
        rows = kept[self.windows]
        numbers = np.cumsum(kept) - 1
        return _Data(
            self.vectors[rows], numbers[self.windows[rows]], self.groups[kept], self.labels[kept]
        )


def _train_class(
    data: _Data, label: str, seed: int
) -> tuple[tuple[np.ndarray, float], ClassReport]:
    fold = _folds(data, seed)
    scores = np.full((len(INVERSE_PENALTIES), len(data.labels)), np.nan)
    for number in range(fold.max() + 1):
        inside, outside = data.part(fold != number), fold == number
        if 0 < inside.labels.sum() < len(inside.labels):
            part = data.part(outside)
            for row, (weights, bias) in zip(scores, _fits(inside, INVERSE_PENALTIES), strict=True):
                row[outside] = _window_logits(part, weights, bias)
    held_out = np.full(len(data.labels), np.nan)
    for number in range(fold.max() + 1):
        outside = fold == number
        held_out[outside] = scores[_best_penalty(data, scores, ~outside), outside]
    c = INVERSE_PENALTIES[_best_penalty(data, scores, np.full(len(fold), True))]
    ((weights, bias),) = _fits(data, (c,))
    positives = data.labels == 1
    report = ClassReport(
        label,
        int(positives.sum()),
        len(np.unique(data.groups[positives])),
        int((~positives).sum()),
        **_validated(data, held_out, seed),
        chance=float(positives.mean()),
        c=c,
    )
    return (weights, bias), report


def _validated(data: _Data, logits: np.ndarray, seed: int) -> dict[str, Any]:
    scored = np.isfinite(logits)
    relevant = (data.labels[scored] == 1).astype(np.int8)
    nothing = dict.fromkeys(("average_precision", "low", "high", "precision", "recall"))
    if not relevant.any() or relevant.all():
        few = "only one recording has it" if _one(data) else "too few recordings are without it"
        return nothing | {"threshold": 0.5, "note": f"not validated: {few}"}
    scores, groups = logits[scored], data.groups[scored]
    low, high = grouped_interval(relevant, scores, groups, seed=seed)
    precision, recall, thresholds = metrics.precision_recall_curve(relevant, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(np.argmax(f1[:-1]))
    # As good on these recordings, and farther from their scores: between the last detected one and
    # the next.
    threshold = special.expit(np.mean(thresholds[max(best - 1, 0) : best + 1]))
    return {
        "average_precision": float(average_precision(relevant, scores)),
        "low": low,
        "high": high,
        "threshold": float(threshold),
        "precision": float(precision[best]),
        "recall": float(recall[best]),
    }


def _one(data: _Data) -> bool:
    return len(np.unique(data.groups[data.labels == 1])) < 2


def _folds(data: _Data, seed: int) -> np.ndarray:
    """int64 [windows]: the fold of each, the same for a recording's; 0 for all if one has it."""
    rng = np.random.default_rng(seed)
    with_it = rng.permutation(np.unique(data.groups[data.labels == 1]))
    others = rng.permutation(np.setdiff1d(data.groups, with_it))
    order = np.concatenate([with_it, others])
    # argsort: of each recording, by its number, the place in that order.
    folds = np.argsort(order) % min(FOLDS, len(with_it))
    return folds[np.searchsorted(np.sort(order), data.groups)]


def _best_penalty(data: _Data, scores: np.ndarray, kept: np.ndarray) -> int:
    """Which C is the best on some held-out windows."""
    kept = kept & np.isfinite(scores[0])
    relevant = (data.labels[kept] == 1).astype(np.int8)
    if not relevant.any() or relevant.all():
        return INVERSE_PENALTIES.index(_DEFAULT_PENALTY)
    precisions = np.array([average_precision(relevant, row[kept]) for row in scores])
    signs = 1.0 - 2.0 * relevant
    losses = np.array([np.logaddexp(0.0, signs * row[kept]).mean() for row in scores])
    losses[precisions < precisions.max() - _AS_GOOD] = np.inf
    return int(np.argmin(losses))


def _fits(data: _Data, penalties: tuple[float, ...]) -> Iterator[tuple[np.ndarray, float]]:
    """Weights and bias for each C, each fit beginning where the one before ended."""
    mean = data.vectors.mean(axis=0)
    deviation = data.vectors.std(axis=0)
    deviation[deviation < 1e-6] = 1.0
    inputs = (data.vectors - mean) / deviation
    count = len(data.labels)
    positive = data.labels == 1
    negatives = np.flatnonzero(~positive[data.windows])
    chosen = np.searchsorted(data.windows, np.arange(count))[positive]
    model = LogisticRegression(max_iter=500, warm_start=True)
    for c in penalties:
        model.set_params(C=c)
        for _ in range(_ROUNDS):
            used = np.concatenate([chosen, negatives])
            model.fit(inputs[used], np.arange(len(used)) < len(chosen))
            if len(data.vectors) == count:
                break
            logits = inputs @ model.coef_[0] + model.intercept_[0]
            best = _best_rows(logits, data.windows)[positive]
            if np.array_equal(best, chosen):
                break
            chosen = best
        weights = model.coef_[0] / deviation
        yield weights, float(model.intercept_[0] - weights @ mean)


def _window_logits(data: _Data, weights: np.ndarray, bias: float) -> np.ndarray:
    logits = data.vectors @ weights + bias
    return logits[_best_rows(logits, data.windows)]


def _best_rows(scores: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Of each window the row with the largest score, the first of equals."""
    order = np.lexsort((-scores, windows))
    return order[np.searchsorted(windows, np.arange(windows[-1] + 1))]
