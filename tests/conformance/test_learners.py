"""The same for the learners: configuration, fit, half precision, saving, exact resumption."""

import json

import keras
import numpy as np
import pytest
from cases import without_build
from learners import LEARNERS, compiled

from sepssl.training.checkpoints import Resume, RunFolder

every_learner = pytest.mark.parametrize("case", LEARNERS, ids=str)


def weights(learner):
    return [np.asarray(v) for v in learner.variables]


@every_learner
def test_configuration_round_trip(case):
    arguments = case.arguments()
    learner = case.kind(**arguments)
    config = learner.get_config()
    for name, value in arguments.items():
        if isinstance(value, keras.layers.Layer):
            assert getattr(learner, name) is value
        else:
            assert getattr(learner, name) == value == config[name]
    serialized = json.loads(json.dumps(keras.saving.serialize_keras_object(learner)))
    copy = keras.saving.deserialize_keras_object(serialized)
    assert type(copy) is case.kind
    assert without_build(copy.get_config()) == without_build(config)


@every_learner
def test_a_step_changes_the_product_and_half_precision_takes_about_the_same(case):
    learners = {p: compiled(case, p) for p in ("float32", "mixed_bfloat16", "mixed_float16")}
    exact = learners["float32"]
    before = [np.asarray(v) for v in exact.product.weights]
    start = exact.product.get_weights(), [np.asarray(v) for v in exact.trainable_variables]
    expected = exact.train_step(case.data(4))
    norm = float(expected["gradient_norm"])
    assert norm > 0
    for policy, learner in learners.items():
        if policy == "mixed_float16":  # Its start value overflows, and such steps change nothing.
            learner.optimizer.dynamic_scale.assign(256.0)
        if learner is not exact:
            learner.product.set_weights(start[0])
            for own, given in zip(learner.trainable_variables, start[1], strict=True):
                own.assign(given)
            metrics = learner.train_step(case.data(4))
            assert float(metrics["loss"]) == pytest.approx(float(expected["loss"]), rel=0.03)
            assert float(metrics["gradient_norm"]) == pytest.approx(norm, rel=0.05)
        for variable in learner.product.weights:
            assert variable.dtype == "float32"
            assert np.all(np.isfinite(variable))
        moved = zip(learner.product.weights, before, strict=True)
        assert np.mean([not np.array_equal(variable, old) for variable, old in moved]) > 0.8


@every_learner
def test_saved_and_loaded(case, tmp_path):
    learner = compiled(case)
    learner.train_step(case.data(4))
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras", compile=False)
    if not loaded.built:
        loaded.build()
    sound = (0.1 * np.random.default_rng(0).normal(size=(2, 4000))).astype(np.float32)
    np.testing.assert_array_equal(loaded.product(sound), learner.product(sound))
    assert without_build(loaded.get_config()) == without_build(learner.get_config())


@every_learner
def test_resumed_it_takes_the_same_steps(case, tmp_path):
    run = RunFolder(tmp_path, {})
    first = compiled(case)
    first.train_step(case.data(4))
    Resume(run, first).save(1)
    # From generators that have gone on as well, where the front end draws its own numbers.
    first.train_step(case.data(4, seed=1))
    second = compiled(case, seed=1)
    assert Resume(run, second).restore() == 1
    second.train_step(case.data(4, seed=1))
    for expected, found in zip(weights(first), weights(second), strict=True):
        np.testing.assert_array_equal(found, expected)
