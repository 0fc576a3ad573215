"""Learners under Keras's own `fit`, `evaluate`, `predict` and saving."""

import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from sepssl.audio.log_mel import LogMel
from sepssl.representation import Encoder, SmallBackbone
from sepssl.separation import TDCN, Separator, STFTBasis, mixit_loss, pit_loss
from sepssl.training.learner import Learner
from sepssl.training.separator_learner import SeparatorLearner
from sepssl.training.similarity_learner import SimilarityLearner

RNG = np.random.default_rng(0)
WAVEFORMS = (RNG.normal(size=(12, 800)) * 10.0 ** RNG.uniform(-2, 0, (12, 1))).astype("float32")


class Epoch(keras.callbacks.Callback):
    """Keeps the logs of the batches."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(float(logs["loss"]))


def separator_learner():
    keras.utils.set_random_seed(0)
    return SeparatorLearner(
        Separator(2, STFTBasis(64, 32), TDCN(4, 6, 1, 1, unroll=True), "uniform")
    )


def test_a_separator_fits_plain_waveforms(tmp_path):
    learner = separator_learner()
    dataset = tf.data.Dataset.from_tensor_slices(WAVEFORMS).batch(4)
    held_out = tf.data.Dataset.from_tensor_slices(WAVEFORMS[::-1].copy()).batch(4)
    # Nothing moves, so that what the epoch should give can be worked out by hand.
    learner.compile(keras.optimizers.SGD(0.0))
    history = learner.fit(dataset, validation_data=held_out, verbose=0).history

    def expected(waveforms):
        references = waveforms.reshape(-1, 2, 800)
        estimates = learner.separator.predict(references.sum(axis=1), verbose=0)
        return np.asarray(mixit_loss(references, estimates)[0]).reshape(3, 2).mean(axis=1)

    by_hand = expected(WAVEFORMS)
    assert np.ptp(by_hand) > 1.0  # the last batch would not do
    assert history["loss"][0] == pytest.approx(by_hand.mean(), abs=1e-3)
    assert history["val_loss"][0] == pytest.approx(expected(WAVEFORMS[::-1]).mean(), abs=1e-3)
    assert {"snr", "gradient_norm", "val_snr", "val_references_used"} <= history.keys()
    assert "val_gradient_norm" not in history
    evaluated = learner.evaluate(dataset, verbose=0, return_dict=True)
    assert evaluated["loss"] == pytest.approx(by_hand.mean(), abs=1e-3)

    channels = learner.predict(dataset, verbose=0)
    np.testing.assert_allclose(channels, learner.separator.predict(WAVEFORMS, verbose=0), atol=1e-6)
    learner.save(tmp_path / "learner.keras")
    again = keras.saving.load_model(tmp_path / "learner.keras")
    np.testing.assert_array_equal(again.predict(dataset, verbose=0), channels)

    # Arrays, and mixtures with their sources: the same numbers by another way.
    epoch = Epoch()
    history = learner.fit(
        WAVEFORMS, batch_size=4, shuffle=False, callbacks=[epoch], verbose=0
    ).history
    assert epoch.losses == pytest.approx(by_hand.tolist(), abs=1e-3)
    assert history["loss"][0] == pytest.approx(np.mean(epoch.losses), rel=1e-6)
    sources = WAVEFORMS.reshape(6, 2, 800)
    mixtures = sources.sum(axis=1)
    loss, _ = pit_loss(sources, learner.separator.predict(mixtures, verbose=0))
    evaluated = learner.evaluate(mixtures, sources, batch_size=3, verbose=0, return_dict=True)
    assert evaluated["loss"] == pytest.approx(float(np.mean(loss)), abs=1e-3)
    assert "references_used" not in evaluated


@keras.saving.register_keras_serializable(package="test_fit")
class TwoEnds(keras.layers.Layer):
    """Views of one's own: the log-mel patches at a waveform's two ends, and nothing else."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.log_mel = LogMel()

    def call(self, waveforms):
        return self.log_mel(waveforms[:, :15600])[:, 0], self.log_mel(waveforms[:, -15600:])[:, 0]


@pytest.mark.parametrize("front_end", [TwoEnds, None])
def test_an_encoder_fits_two_plain_views(front_end, tmp_path):
    keras.utils.set_random_seed(0)
    learner = SimilarityLearner(
        Encoder(SmallBackbone(8, width=2)),
        front_end and front_end(),
        learn_temperature=True,
        projection_size=8,
        hidden_size=8,
    )
    waveforms = np.random.default_rng(0).normal(size=(12, 20000)).astype(np.float32)
    plain = tf.data.Dataset.from_tensor_slices(waveforms).batch(4)
    pairs = plain.map(lambda w: (w[:, :15600], w[:, -15600:]))
    dataset = plain if front_end else pairs
    # One of both in a graph, which takes long to trace.
    learner.compile(keras.optimizers.Adam(0.01), run_eagerly=front_end is None)
    epoch = Epoch()
    history = learner.fit(dataset, validation_data=dataset, callbacks=[epoch], verbose=0).history
    assert len(epoch.losses) == 3
    assert history["loss"][0] == pytest.approx(np.mean(epoch.losses), rel=1e-5)
    assert learner.optimizer.iterations == 3
    assert float(learner.current_temperature()) != pytest.approx(0.1, rel=1e-3)

    losses = [float(learner.test_step(batch)["loss"]) for batch in dataset]
    assert history["val_loss"][0] == pytest.approx(np.mean(losses), rel=1e-4)
    assert "val_gradient_norm" not in history
    assert "mixture_channel_share" not in history  # the views do not say what they show

    # In inference mode, in which batch norm takes its running moments.
    embeddings = learner.predict(plain, verbose=0)
    np.testing.assert_allclose(embeddings, learner.encoder(waveforms), atol=1e-4)
    learner.save(tmp_path / "learner.keras")
    again = keras.saving.load_model(tmp_path / "learner.keras")
    np.testing.assert_array_equal(again.predict(plain, verbose=0), embeddings)
    assert float(again.current_temperature()) == float(learner.current_temperature())
    assert again.optimizer.iterations == 3
    learner.encoder.save(tmp_path / "encoder.keras")
    encoder = keras.saving.load_model(tmp_path / "encoder.keras")
    np.testing.assert_allclose(encoder.predict(plain, verbose=0), embeddings, atol=1e-6)
    # In training mode they are others (and the running moments move, hence last).
    assert np.ptp(embeddings - learner.encoder(waveforms, training=True)) > 1e-3


def test_what_is_no_pair_of_views_is_refused():
    learner = SimilarityLearner(Encoder(SmallBackbone(8, width=2)))
    with pytest.raises(ValueError, match="expected two views"):
        learner.views(WAVEFORMS)


class Level(Learner):
    """Its loss is the mean of a batch, and so is the gradient's norm."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.gain = self.add_weight(shape=(), initializer="ones")

    def loss_and_metrics(self, data, training):
        return self.gain * ops.mean(data), {}


def test_averages_count_examples():
    learner = Level()
    learner.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    dataset = tf.data.Dataset.from_tensor_slices(np.float32([1, 1, 1, 1, 6])).batch(4)
    history = learner.fit(dataset, validation_data=dataset, verbose=0).history
    for name in ("loss", "val_loss", "gradient_norm"):
        assert history[name] == pytest.approx([(4 * 1 + 6) / 5])


def test_a_skipped_step_does_not_count_for_the_gradient_norm():
    learner = Level(dtype="mixed_float16")
    learner.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    # Only times the loss scale, 2 ** 15, are the second four beyond float32.
    values = np.float32([2] * 4 + [1e35] * 4 + [5] * 2)
    dataset = tf.data.Dataset.from_tensor_slices(values).batch(4)
    history = learner.fit(dataset, verbose=0).history
    assert history["skipped"] == pytest.approx([0.4])
    assert history["gradient_norm"] == pytest.approx([(4 * 2 + 2 * 5) / 6])


def test_averages_over_two_replicas_are_those_over_one(forks):
    finished = forks.run(pathlib.Path(__file__).with_name("toy_fit.py"))
    assert finished.returncode == 0, finished.stderr[-3000:]
    one, two = json.loads(finished.stdout.splitlines()[-1])
    assert set(one) == set(two)
    for name, values in one.items():
        assert two[name] == pytest.approx(values, rel=2e-4, abs=1e-5), name
