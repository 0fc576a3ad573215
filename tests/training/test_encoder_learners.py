import keras
import numpy as np
import pytest
import tensorflow as tf

from sepssl.audio.log_mel import LogMel
from sepssl.representation import Encoder, SmallBackbone
from sepssl.training.collapse import (
    collapse_warning,
    projection_warning,
    spread_and_rank,
)
from sepssl.training.similarity_learner import MIN_TEMPERATURE, SimilarityLearner
from sepssl.training.supervised_learner import SupervisedLearner
from sepssl.views import FrontEnd


def make(kind, **options):
    keras.utils.set_random_seed(0)
    front_end = FrontEnd(LogMel(), 1.0, 0.0, 0.0)
    learner = kind(Encoder(SmallBackbone(8, width=2)), front_end, **options)
    learner.build()
    learner.compile(optimizer=keras.optimizers.Adam(0.01), jit_compile=False)
    return learner


def noise(batch=8, labels=0):
    rng = np.random.default_rng(0)
    made = {
        "mixtures": rng.normal(size=(batch, 2, 15600)).astype(np.float32),
        "uniforms": rng.random((batch, 15), np.float32),
    }
    if labels:
        made["labels"] = rng.integers(0, 2, (batch, labels)).astype(np.float32)
    return made


def test_a_learned_temperature_moves_and_has_a_floor():
    learner = make(SimilarityLearner, temperature=0.2, learn_temperature=True)
    first = learner.train_step(noise())
    assert float(first["temperature"]) == pytest.approx(0.2, rel=1e-6)
    assert float(learner.current_temperature()) != pytest.approx(0.2, rel=1e-3)
    learner.log_temperature.assign(-20.0)
    with tf.GradientTape() as tape:
        temperature = learner.current_temperature()
    assert float(temperature) == pytest.approx(MIN_TEMPERATURE)
    # From below the floor it can still come back.
    gradient = tape.gradient(temperature, learner.log_temperature.value)
    assert float(gradient) == pytest.approx(MIN_TEMPERATURE)
    assert "log_temperature" not in {v.name for v in make(SimilarityLearner).trainable_variables}


def test_an_objective_is_needed():
    with pytest.raises(ValueError, match="coincidence_weight=0"):
        make(SimilarityLearner, similarity_weight=0.0, coincidence_weight=0.0)


def test_the_loss_is_the_weighted_sum_of_the_objectives():
    learner = make(SimilarityLearner, similarity_weight=0.5, coincidence_weight=3.0)
    metrics = {name: float(value) for name, value in learner.train_step(noise()).items()}
    expected = 0.5 * metrics["similarity_loss"] + 3.0 * metrics["coincidence_loss"]
    assert metrics["loss"] == pytest.approx(expected, rel=1e-6)


def test_supervised_loss_equals_its_formula_and_falls():
    learner = make(SupervisedLearner, num_classes=3)
    batch = noise(labels=3)
    a, b, _ = learner.front_end(batch)
    embeddings = learner.encoder.backbone(np.concatenate([a, b]), training=True)
    p = 1 / (1 + np.exp(-np.asarray(learner.classifier(embeddings))))
    y = np.concatenate([batch["labels"]] * 2)
    expected = -np.sum(y * np.log(p) + (1 - y) * np.log(1 - p), axis=1).mean()
    losses = [float(learner.train_step(batch)["loss"]) for _ in range(20)]
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    assert losses[-1] < 0.7 * losses[0]


def test_spread_and_rank_equal_their_formula():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(50, 6)) * [5, 3, 1, 1, 0.1, 0] + 2).astype(np.float32)
    spread, rank = spread_and_rank(x)
    covariance = np.cov(x.T, bias=True)
    values = np.linalg.eigvalsh(covariance)
    expected = np.trace(covariance) / np.mean(np.sum(x**2, axis=1))
    assert float(spread) == pytest.approx(expected, rel=1e-4)
    assert float(rank) == pytest.approx(values.sum() ** 2 / np.sum(values**2), rel=1e-4)
    line = np.outer(np.arange(10), np.ones(4)).astype(np.float32)
    assert float(spread_and_rank(line)[1]) == pytest.approx(1.0, rel=1e-5)
    assert [float(v) for v in spread_and_rank(np.ones((4, 3), np.float32))] == [0.0, 1.0]


def test_a_collapse_is_said():
    assert collapse_warning({"embedding_spread": 0.2, "embedding_rank": 5.0}) is None
    says = collapse_warning({"embedding_spread": 0.001, "embedding_rank": 5.0})
    assert "embedding_spread=0.001" in says
    assert "embedding_rank=1.2" in collapse_warning(
        {"embedding_spread": 0.2, "embedding_rank": 1.2}
    )


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_similarity_maximization_that_learns_nothing_is_said(bias):
    learner = make(SimilarityLearner)
    batch = noise()
    metrics = {k: float(v) for k, v in learner.train_step(batch).items()}
    assert projection_warning(metrics) is None
    *_, kernel, last = learner.projection.trainable_variables
    kernel.assign(np.zeros(kernel.shape))  # the same projection of all, of length 0 or not
    last.assign(np.full(last.shape, bias))
    metrics = {k: float(v) for k, v in learner.train_step(batch).items()}
    assert metrics["uniformity"] == pytest.approx(0 if bias else -4, abs=1e-5)
    assert "is not learning" in projection_warning(metrics)
    assert collapse_warning(metrics) is None
