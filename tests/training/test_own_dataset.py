"""The resumable loop on a dataset of one's own."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import sepssl
from sepssl.errors import InputError
from sepssl.separation import TDCN, Separator, STFTBasis
from sepssl.training.checkpoints import RunFolder
from sepssl.training.loop import train, train_on_dataset
from sepssl.training.separator_learner import SeparatorLearner

WAVEFORMS = np.random.default_rng(0).normal(size=(12, 400)).astype(np.float32)


def make_learner():
    return SeparatorLearner(
        Separator(2, STFTBasis(64, 32), TDCN(4, 6, 1, 1, unroll=True), "uniform")
    )


def dataset():
    made = tf.data.Dataset.from_tensor_slices(WAVEFORMS)
    return made.shuffle(12, seed=1).batch(4, drop_remainder=True)


class Killed(Exception):
    pass


def test_a_run_on_a_dataset_goes_on_to_the_last_bit(eager, tmp_path):
    def run(folder, evaluate=None, **options):
        keras.utils.set_random_seed(0)
        return train_on_dataset(
            dataset(),
            make_learner,
            folder,
            steps=7,
            log_every=1,
            checkpoint_every=2,
            state_steps=(0, 5),
            evaluate=evaluate,
            verbose=False,
            **options,
        )

    def losses(folder):
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return {r["step"]: r["loss"] for r in map(json.loads, lines) if "loss" in r}

    def die_at_5(separator):
        if (tmp_path / "stopped" / "checkpoints" / "ckpt-4.index").exists():
            raise Killed
        return {}

    straight = run(tmp_path / "straight")
    with pytest.raises(Killed):
        run(tmp_path / "stopped", die_at_5)
    resumed = run(tmp_path / "stopped")
    assert losses(tmp_path / "stopped") == losses(tmp_path / "straight")
    for ours, theirs in zip(resumed.variables, straight.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    final = sepssl.load_separator(tmp_path / "straight" / "final.keras")
    np.testing.assert_array_equal(final(WAVEFORMS), straight(WAVEFORMS))
    states = sorted(p.name for p in (tmp_path / "stopped" / "states").glob("*.keras"))
    assert states == ["step-0000000.keras", "step-0000005.keras"]
    with pytest.raises(InputError, match=r"now data='other'"):
        run(tmp_path / "straight", settings={"data": "other"})


def test_what_an_update_moves_is_logged_as_it_is(eager, tmp_path):
    learners = []

    def make():
        learners.append(make_learner())
        learners[-1].compile(keras.optimizers.SGD(0.5))  # its own optimizer is kept
        return learners[-1]

    run = {"steps": 2, "log_every": 2, "verbose": False}
    train_on_dataset(dataset(), make, tmp_path / "run", **run)
    (line,) = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert isinstance(learners[0].optimizer, keras.optimizers.SGD)
    record = json.loads(line)
    # The log has the mean norm of two gradients, and the length of the second update.
    assert record["update_norm"] == pytest.approx(0.5 * record["gradient_norm"], rel=0.2)


def test_what_cannot_be_is_refused_before_training(tmp_path):
    with pytest.raises(InputError, match="the dataset is empty"):
        train_on_dataset(dataset().take(0), make_learner, tmp_path / "a", steps=3)
    assert not (tmp_path / "a").exists()
    run = RunFolder(tmp_path / "b", {})
    for states in ((5000,), (-3,)):
        with pytest.raises(InputError, match=rf"state_steps: {states[0]} is not one of"):
            train(
                run, tf.distribute.get_strategy(), make_learner, None, None, 100, 1e-3, 1, 1, states
            )
