import numpy as np
import pytest
from sklearn import linear_model

from sepssl.errors import InputError
from sepssl.evaluation.scores import macro_scores
from sepssl.evaluation.shallow import Split, evaluate_shallow

KINDS = ["linear", "mlp"]


def splits(sizes=(200, 80, 80), classes=5, dim=16, signal=1.0, seed=0):
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(classes, dim)) * signal
    made = []
    for size in sizes:
        labels = (rng.random((size, classes)) < 0.25).astype(int)
        made.append(Split(labels @ directions + rng.normal(size=(size, dim)), labels))
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_learns_what_is_there_and_nothing_else(kind):
    good = evaluate_shallow(*splits(), kind).scores
    assert good.map > 0.85
    none = evaluate_shallow(*splits(signal=0), kind).scores
    assert none.map < none.chance_map + 0.12
    assert none.auc == pytest.approx(0.5, abs=0.12)


def test_only_the_hidden_layer_solves_exclusive_or():
    rng = np.random.default_rng(0)
    made = []
    for size in (400, 150, 150):
        bits = rng.integers(0, 2, (size, 2))
        noise = rng.normal(size=(size, 2)) * 0.2
        made.append(Split(bits + noise, (bits[:, :1] ^ bits[:, 1:])))
    assert evaluate_shallow(*made, "linear").scores.auc < 0.65
    assert evaluate_shallow(*made, "mlp").scores.auc > 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_best_on_validation_is_chosen_and_scored(kind):
    train, validation, test = splits(signal=0.4)
    result = evaluate_shallow(train, validation, test, kind)
    chosen = dict((tuple(h.items()), score) for h, score in result.validation)
    assert chosen[tuple(result.hyperparameters.items())] == max(chosen.values())
    assert len(set(chosen.values())) > 1
    assert result.scores.map == macro_scores(test.labels, result.test_predictions).map


def test_stopped_network_is_the_one_that_was_validated():
    train, validation, _ = splits(sizes=(400, 80, 1), signal=0.2)  # noisy: it overfits
    result = evaluate_shallow(train, validation, validation, "mlp")
    assert result.hyperparameters["epochs"] < 80
    assert result.scores.map == max(score for _, score in result.validation)


def test_linear_is_logistic_regression_on_standardised_inputs():
    train, validation, test = splits()
    # Scales and offsets that a regularised classifier would trip over, were they not removed.
    scale, offset = np.logspace(-3, 3, 16), np.linspace(-5, 5, 16)
    moved = [Split((s.embeddings + offset) * scale, s.labels) for s in (train, validation, test)]
    result = evaluate_shallow(*moved, "linear")
    mean, deviation = train.embeddings.mean(0), train.embeddings.std(0)
    model = linear_model.LogisticRegression(C=result.hyperparameters["C"], max_iter=1000)
    for c in range(5):
        model.fit((train.embeddings - mean) / deviation, train.labels[:, c])
        logits = model.decision_function((test.embeddings - mean) / deviation)
        np.testing.assert_allclose(result.test_predictions[:, c], logits, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_test_labels_and_clips_do_not_influence_the_choice(kind):
    train, validation, test = splits((60, 30, 30), signal=0.4)
    result = evaluate_shallow(train, validation, test, kind)
    other = evaluate_shallow(train, validation, Split(-test.embeddings, 1 - test.labels), kind)
    assert other.validation == result.validation
    assert other.hyperparameters == result.hyperparameters


def test_seeded():
    made = splits((60, 30, 30), signal=0.4)
    first = evaluate_shallow(*made, "mlp", seed=3)
    np.testing.assert_array_equal(
        first.test_predictions, evaluate_shallow(*made, "mlp", seed=3).test_predictions
    )
    assert (first.test_predictions != evaluate_shallow(*made, "mlp").test_predictions).any()


@pytest.mark.parametrize("kind", KINDS)
def test_class_without_training_clips_ranks_nothing(kind):
    train, validation, test = splits()
    train.labels[:, 2] = 0
    result = evaluate_shallow(train, validation, test, kind)
    assert result.scores.left_out == ()
    if kind == "linear":
        assert np.ptp(result.test_predictions[:, 2]) == 0
        assert result.scores.per_class_auc[2] == 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_constant_dimension(kind):
    made = [Split(np.insert(s.embeddings, 0, 7.0, axis=1), s.labels) for s in splits()]
    assert evaluate_shallow(*made, kind).scores.map > 0.85


def test_refused():
    train, validation, test = splits()
    with pytest.raises(InputError, match="kind is 'svm'"):
        evaluate_shallow(train, validation, test, "svm")
    with pytest.raises(InputError, match="test split has 15 dimensions and 5 classes"):
        evaluate_shallow(train, validation, Split(test.embeddings[:, 1:], test.labels))
    with pytest.raises(InputError, match="validation split: none of 5 classes"):
        evaluate_shallow(train, Split(validation.embeddings, validation.labels * 0), test)
    with pytest.raises(InputError, match="train embeddings hold NaN"):
        evaluate_shallow(Split(train.embeddings * np.nan, train.labels), validation, test)
