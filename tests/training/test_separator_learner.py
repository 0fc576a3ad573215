import keras
import numpy as np
import pytest
import tensorflow as tf

from sepssl.separation import (
    TDCN,
    Separator,
    STFTBasis,
    least_squares_mixing,
    mixit_loss,
    pit_loss,
)
from sepssl.separation.signal_losses import negative_si_snr
from sepssl.separation.sparsity import activity_sparsity, covariance_penalty
from sepssl.training.separator_learner import SeparatorLearner


def make_learner(num_sources=3, **options):
    keras.utils.set_random_seed(0)
    tdcn = TDCN(8, 12, 2, 1, unroll=True)
    separator = Separator(num_sources, STFTBasis(64, 32), tdcn, "uniform")
    learner = SeparatorLearner(separator, **options)
    learner.build()
    learner.compile(optimizer=keras.optimizers.SGD(0.0), jit_compile=False)
    return learner


def step(learner, data, compile_=False):
    run = tf.function(learner.train_step, jit_compile=compile_)
    return {name: float(value) for name, value in run(data).items()}


def batch(unsupervised, supervised, num_sources=2):
    rng = np.random.default_rng(0)
    data = {}
    if unsupervised:
        data["recordings"] = rng.normal(size=(unsupervised, 700)).astype(np.float32)
    if supervised:
        data["sources"] = rng.normal(size=(supervised, num_sources, 700)).astype(np.float32)
        data["mixtures"] = data["sources"].sum(axis=1)
    return data


@pytest.mark.parametrize("compile_", [False, True])
def test_both_kinds_of_training_count_by_their_mixtures(compile_):
    learner = make_learner()
    data = batch(unsupervised=4, supervised=3)
    references = data["recordings"].reshape(2, 2, 700)
    mixit, mixing = mixit_loss(references, learner(references.sum(axis=1)))
    pit, _ = pit_loss(data["sources"], learner(data["mixtures"]))
    found = step(learner, data, compile_)
    assert found["loss"] == pytest.approx(np.mean([*mixit, *pit]), abs=1e-3)
    used = np.mean(np.asarray(mixing).sum(axis=-1) > 0)
    assert found["references_used"] == pytest.approx(used)
    alone = step(learner, {"recordings": data["recordings"]}, compile_)
    assert alone["loss"] == pytest.approx(np.mean(mixit), abs=1e-3)
    del data["recordings"]
    assert step(learner, data, compile_)["loss"] == pytest.approx(np.mean(pit), abs=1e-3)


def test_options_reach_the_loss():
    learner = make_learner(
        num_sources=4,
        num_mixtures=3,
        signal_loss="si_snr",
        search="least_squares",
        sparsity_weight=2.0,
        covariance_weight=3.0,
    )
    data = batch(unsupervised=6, supervised=0)
    references = data["recordings"].reshape(2, 3, 700)
    estimates = learner(references.sum(axis=1))
    mixing = least_squares_mixing(references, estimates)
    losses, _ = mixit_loss(references, estimates, negative_si_snr, mixing)
    expected = losses + 2.0 * activity_sparsity(estimates) + 3.0 * covariance_penalty(estimates)
    assert step(learner, data)["loss"] == pytest.approx(float(np.mean(expected)), abs=1e-3)


def test_a_silent_second_recording_does_not_count_for_the_snr():
    learner = make_learner()
    data = batch(unsupervised=2, supervised=0)
    data["recordings"][1] = 0.0
    # The estimates add up to the only recording, so its remix is perfect.
    assert step(learner, data)["snr"] == pytest.approx(30.0, abs=0.01)


def test_a_learner_is_the_same_after_its_configuration():
    learner = make_learner(num_mixtures=3, signal_loss="snr", sparsity_weight=0.5, clip_norm=1.0)
    config = SeparatorLearner.from_config(learner.get_config()).get_config()
    assert config == learner.get_config()
    assert (config["num_mixtures"], config["signal_loss"], config["clip_norm"]) == (3, "snr", 1.0)
