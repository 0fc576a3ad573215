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


def make_learner(num_sources=3, blocks=2, **options):
    keras.utils.set_random_seed(0)
    tdcn = TDCN(8, 12, blocks, 1, unroll=True)
    separator = Separator(num_sources, STFTBasis(64, 32), tdcn, "uniform")
    learner = SeparatorLearner(separator, **options)
    learner.build()
    learner.compile(optimizer=keras.optimizers.SGD(0.0), jit_compile=False)
    return learner


def step(learner, data, compile_=False):
    """One step; compiled by XLA, as it is trained, or as it stands, which takes a tenth as long."""
    run = learner.train_step
    if compile_:
        run = tf.function(run, jit_compile=True, autograph=False)
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


@pytest.mark.parametrize("compile_", [False, pytest.param(True, marks=pytest.mark.slow)])
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


def test_options_for_silent_sources_reach_the_loss():
    options = {"silent_weight": 0.3, "silent_max_snr": 10.0}
    learner = make_learner(**options)
    data = batch(unsupervised=0, supervised=2)
    data["sources"][0, 1] = 0.0
    data["mixtures"] = data["sources"].sum(axis=1)
    estimates = learner(data["mixtures"])
    losses, _ = pit_loss(data["sources"], estimates, **options)
    expected = float(np.mean(losses))
    assert step(learner, data)["loss"] == pytest.approx(expected, abs=1e-3)
    for name in options:  # each makes a difference
        without = {key: value for key, value in options.items() if key != name}
        losses, _ = pit_loss(data["sources"], estimates, **without)
        assert abs(float(np.mean(losses)) - expected) > 0.05


def remixing_learner(**options):
    learner = make_learner(2, **{"objective": "remixit", "average_decay": 0.9} | options)
    # A teacher of its own, as after some steps.
    weights = [0.8 * w for w in learner.average.get_weights()]
    learner.average.set_weights(weights)
    return learner


def rearranged(learner, recordings, uniforms):
    """Teacher's channels of pairs of recordings, remixed: the first stays, the second goes over."""
    channels = np.asarray(learner.average(recordings))
    ordered = np.stack([c[np.argsort(u)] for c, u in zip(channels, uniforms, strict=True)])
    sources = ordered.copy()
    sources[0::2, 1], sources[1::2, 1] = ordered[1::2, 1], ordered[0::2, 1]
    return sources


def test_remixit_learns_the_teachers_channels():
    learner = remixing_learner(blocks=1)
    data = batch(unsupervised=4, supervised=2)
    data["uniforms"] = np.array([[0.1, 0.2], [0.4, 0.3], [0.9, 0.8], [0.1, 0.7]], np.float32)
    sources = rearranged(learner, data["recordings"], data["uniforms"])
    losses, _ = pit_loss(sources, learner(sources.sum(axis=1)))
    supervised, _ = pit_loss(data["sources"], learner(data["mixtures"]))
    found = step(learner, data, compile_=True)  # as it is trained
    assert found["loss"] == pytest.approx(np.mean([*losses, *supervised]), abs=1e-3)


def test_a_group_is_filled_up_with_the_first_recordings():
    data = batch(unsupervised=3, supervised=0)
    data["uniforms"] = np.array([[0.1, 0.2], [0.4, 0.3], [0.9, 0.8]], np.float32)
    filled = {name: np.concatenate([rows, rows[:1]]) for name, rows in data.items()}
    losses = [step(remixing_learner(), batch)["loss"] for batch in (data, filled)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_self_remixing_learns_the_recordings():
    learner = remixing_learner(objective="self_remixing", signal_loss="snr")
    data = batch(unsupervised=4, supervised=0)
    data["uniforms"] = np.array([[0.1, 0.2], [0.4, 0.3], [0.9, 0.8], [0.1, 0.7]], np.float32)
    sources = rearranged(learner, data["recordings"], data["uniforms"])
    found = np.array(learner(sources.sum(axis=1)))
    rebuilt = np.zeros_like(data["recordings"])
    for mixture in range(4):
        straight = np.sum((found[mixture] - sources[mixture]) ** 2, axis=-1)
        crossed = np.sum((found[mixture][::-1] - sources[mixture]) ** 2, axis=-1)
        if np.sum(np.log(crossed)) < np.sum(np.log(straight)):
            found[mixture] = found[mixture][::-1]
        rebuilt[mixture] += found[mixture, 0]
        rebuilt[mixture ^ 1] += found[mixture, 1]
    error = np.sum((data["recordings"] - rebuilt) ** 2, axis=-1)
    power = np.sum(data["recordings"] ** 2, axis=-1)
    expected = 10 * np.log10(error / power + 1e-3)
    metrics = step(learner, data)
    assert metrics["loss"] == pytest.approx(np.mean(expected), abs=1e-3)
    assert metrics["snr"] == pytest.approx(-np.mean(expected), abs=1e-3)


def test_the_average_follows_the_weights():
    learner = make_learner(average_decay=0.5, kept_weights="average")
    learner.compile(optimizer=keras.optimizers.SGD(0.01), jit_compile=False)
    assert learner.product is learner.average
    data = batch(unsupervised=4, supervised=0)
    expected = learner.separator.get_weights()
    # After the n-th update min(0.5, n / (n + 9)) of the average remains.
    for decay in (0.1, 2 / 11):
        step(learner, data)
        current = learner.separator.get_weights()
        expected = [decay * e + (1 - decay) * c for e, c in zip(expected, current, strict=True)]
        for found, value in zip(learner.average.get_weights(), expected, strict=True):
            np.testing.assert_allclose(found, value, atol=1e-6)
    assert not np.allclose(expected[0], current[0], atol=1e-7)
    learner.optimizer.iterations.assign(100)
    step(learner, data)
    current = learner.separator.get_weights()
    for found, old, new in zip(learner.average.get_weights(), expected, current, strict=True):
        np.testing.assert_allclose(found, 0.5 * old + 0.5 * new, atol=1e-6)
    assert not learner.average.trainable_variables
    assert len(learner.trainable_variables) == len(learner.separator.trainable_variables)


def test_penalties_grow_with_the_steps():
    learner = make_learner(sparsity_weight=2.0, penalty_ramp_steps=4)
    plain = make_learner()
    data = batch(unsupervised=4, supervised=0)
    base = step(plain, data)["loss"]
    estimates = learner(data["recordings"].reshape(2, 2, 700).sum(axis=1))
    penalty = 2.0 * float(np.mean(activity_sparsity(estimates)))
    # The learning rate is 0: only the weight changes.
    run = tf.function(learner.train_step, autograph=False)
    for share in (0, 0.25, 0.5, 0.75, 1, 1):
        loss = float(run(data)["loss"])
        assert loss == pytest.approx(base + share * penalty, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "remix"}, "expected one of mixit, remixit, self_remixing"),
        ({"objective": "remixit"}, "expected a decay above 0"),
        ({"kept_weights": "average"}, "expected a decay above 0"),
        ({"average_decay": 1.0}, "average_decay=1.0: expected 0 to below 1"),
        ({"silent_weight": -1.0}, "silent_weight=-1.0: expected 0 or more"),
        ({"silent_max_snr": 90.0}, "silent_max_snr=90.0: expected 0 to 60 dB"),
        ({"penalty_ramp_steps": -1}, "penalty_ramp_steps=-1: expected 0 or more"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        make_learner(**options)


def test_a_silent_second_recording_does_not_count_for_the_snr():
    learner = make_learner()
    data = batch(unsupervised=2, supervised=0)
    data["recordings"][1] = 0.0
    # The estimates add up to the only recording, so its remix is perfect.
    assert step(learner, data)["snr"] == pytest.approx(30.0, abs=0.01)
