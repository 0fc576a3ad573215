"""Shallow classifiers on frozen clip embeddings: how well do these predict the labels?"""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import threadpoolctl
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from sepssl.errors import InputError
from sepssl.evaluation.scores import Scores, check_multi_hot, macro_scores, scorable_classes

HIDDEN_UNITS = 512
INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C; our choice
WEIGHT_DECAYS = (0.1, 1.0, 3.0, 10.0)  # scikit-learn's alpha; our choice
EPOCHS = (5, 10, 20, 40, 80)  # at which the hidden-layer classifier is validated; our choice


class Split(NamedTuple):
    """Clips with labels.

    Attributes:
        embeddings: float `[clips, dim]`.
        labels: multi-hot `[clips, classes]`.
    """

    embeddings: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class ShallowResult:
    """The result of a shallow classifier.

    Attributes:
        scores: on the test split, for the classifier chosen on the validation split.
        hyperparameters: the chosen ones: `{"C": ...}`, or `{"alpha": ..., "epochs": ...}`.
        validation: macro mAP on the validation split of every setting tried, as
            `(hyperparameters, mAP)` in the order tried.
        test_predictions: float `[test clips, classes]`, logits ("linear") or probabilities ("mlp"),
            for `bootstrap_intervals`.
    """

    scores: Scores
    hyperparameters: dict[str, float]
    validation: list[tuple[dict[str, float], float]]
    test_predictions: np.ndarray


class _Classifier(Protocol):
    def predict(self, embeddings: np.ndarray) -> np.ndarray: ...


def evaluate_shallow(
    train: Split, validation: Split, test: Split, kind: str = "linear", seed: int = 0
) -> ShallowResult:
    """Trains shallow classifiers on frozen embeddings and scores the best one on the test split.

    Embeddings are standardised with the mean and deviation of the training split. Each setting of
    the hyperparameters is trained on the training split and scored by macro mAP on the validation
    split; the best (among equals, the more regularised) is scored once on the test split.

    "linear": one-vs-rest logistic regression, L2 penalty, `C` from `INVERSE_PENALTIES`.
    "mlp": one hidden layer of 512 ReLU units, a sigmoid for each class, Adam at 1e-3, batches of
    200; weight decay from `WEIGHT_DECAYS`, stopped at one of `EPOCHS`. All values except the width
    of the hidden layer are our choice.

    600 training clips of 128 dimensions and 28 classes take about 1 s ("linear") or 3 s ("mlp") on
    one core.

    Args:
        train: clips to fit.
        validation: clips to choose hyperparameters on.
        test: clips to score.
        kind: "linear" or "mlp".
        seed: of the initial weights and the batches ("linear" has no randomness).

    Raises:
        InputError: if the splits differ in dimension or classes, embeddings are not finite, labels
            not 0 or 1, or a split has no class with both a positive and a negative clip.
    """
    if kind not in ("linear", "mlp"):
        raise InputError(f"kind is {kind!r}; expected 'linear' or 'mlp'")
    train = _checked(train, "train")
    validation = _checked(validation, "validation", like=train)
    test = _checked(test, "test", like=train)

    # One thread: the matrices are small, and threads that wait for each other on a busy machine
    # took ten times as long.
    with threadpoolctl.threadpool_limits(1):
        return _evaluate(train, validation, test, _linear if kind == "linear" else _mlp, seed)


def _evaluate(
    train: Split, validation: Split, test: Split, candidates: Callable, seed: int
) -> ShallowResult:
    scaler = StandardScaler().fit(train.embeddings)
    inputs, validation_inputs = map(scaler.transform, (train.embeddings, validation.embeddings))
    best: tuple[dict, Any] = ({}, None)  # until the first is tried
    best_map, tried = -1.0, []
    for hyperparameters, classifier in candidates(inputs, train.labels, seed):
        predictions = classifier.predict(validation_inputs)
        validation_map = macro_scores(validation.labels, predictions).map
        tried.append((hyperparameters, validation_map))
        if validation_map > best_map:
            best, best_map = (hyperparameters, classifier), validation_map
    hyperparameters, classifier = best
    predictions = classifier.predict(scaler.transform(test.embeddings))
    return ShallowResult(
        macro_scores(test.labels, predictions), hyperparameters, tried, predictions
    )


@dataclasses.dataclass(frozen=True)
class _Linear:
    weights: np.ndarray  # [dim, classes]
    biases: np.ndarray  # [classes]

    def predict(self, embeddings: np.ndarray) -> np.ndarray:
        return embeddings @ self.weights + self.biases


def _linear(
    embeddings: np.ndarray, labels: np.ndarray, seed: int
) -> Iterator[tuple[dict[str, float], _Classifier]]:
    """Yields (hyperparameters, classifier), the most regularised first."""
    del seed  # a convex problem
    # A class that no or every training clip has keeps zeros: the same score for all clips.
    # Each penalty starts from the solution for the previous one.
    models = {
        k: LogisticRegression(max_iter=1000, warm_start=True) for k in scorable_classes(labels)
    }
    for c in INVERSE_PENALTIES:
        weights = np.zeros((embeddings.shape[1], labels.shape[1]))
        biases = np.zeros(labels.shape[1])
        for k, model in models.items():
            model.set_params(C=c).fit(embeddings, labels[:, k])
            weights[:, k], biases[k] = model.coef_[0], model.intercept_[0]
        yield {"C": c}, _Linear(weights, biases)


@dataclasses.dataclass(frozen=True)
class _Mlp:
    network: MLPClassifier
    single_class: bool

    def predict(self, embeddings: np.ndarray) -> np.ndarray:
        probabilities = self.network.predict_proba(embeddings)
        return probabilities[:, 1:] if self.single_class else probabilities


def _mlp(
    embeddings: np.ndarray, labels: np.ndarray, seed: int
) -> Iterator[tuple[dict[str, float], _Classifier]]:
    """Yields (hyperparameters, classifier), the most regularised first."""
    classes = labels.shape[1]
    targets = labels if classes > 1 else labels[:, 0]
    for alpha in reversed(WEIGHT_DECAYS):
        network = MLPClassifier((HIDDEN_UNITS,), alpha=alpha, random_state=seed)
        for epoch in range(1, EPOCHS[-1] + 1):
            network.partial_fit(embeddings, targets, classes=np.arange(max(classes, 2)))
            if epoch in EPOCHS:
                yield (
                    {"alpha": alpha, "epochs": epoch},
                    _Mlp(copy.deepcopy(network), classes == 1),
                )


def _checked(split: Split, name: str, like: Split | None = None) -> Split:
    embeddings = np.asarray(split.embeddings, np.float32)
    if embeddings.ndim != 2 or embeddings.size == 0:
        raise InputError(
            f"{name} embeddings have the shape {list(embeddings.shape)}; expected [clips, dim]"
        )
    if not np.isfinite(embeddings).all():
        raise InputError(f"{name} embeddings hold NaN or infinity; expected finite numbers")
    try:
        labels = check_multi_hot(split.labels, len(embeddings))
        scorable_classes(labels)
    except InputError as error:
        raise InputError(f"{name} split: {error}") from error
    if like is not None and (
        embeddings.shape[1] != like.embeddings.shape[1] or labels.shape[1] != like.labels.shape[1]
    ):
        raise InputError(
            f"{name} split has {embeddings.shape[1]} dimensions and {labels.shape[1]} classes; "
            f"expected {like.embeddings.shape[1]} and {like.labels.shape[1]}, as in the train split"
        )
    return Split(embeddings, labels)
