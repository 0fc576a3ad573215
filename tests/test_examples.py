"""The examples in docstrings: they run, and give what they show."""

import doctest
import importlib
import pkgutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import sepssl

PACKAGES = ("audio", "representation", "separation", "training", "views", "inference")


def examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for package in PACKAGES:
        root = importlib.import_module(f"sepssl.{package}")
        names = [root.__name__]
        if hasattr(root, "__path__"):
            names += [m.name for m in pkgutil.walk_packages(root.__path__, f"{root.__name__}.")]
        for name in names:
            module = importlib.import_module(name)
            yield from (test for test in finder.find(module, name) if test.examples)


EXAMPLES = list(examples())
# Trainings like those of other tests, some ten seconds each.
SLOW = ("SimilarityLearner", "SeparatorLearner", "train_on_dataset")
MARKED = [
    pytest.param(t, id=t.name, marks=[pytest.mark.slow] * (t.name.rsplit(".", 1)[-1] in SLOW))
    for t in EXAMPLES
]


@pytest.fixture
def names(eager, tmp_path, monkeypatch):
    """What examples take for granted: the public names, and some sound."""
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    waveforms = 0.1 * np.random.default_rng(0).normal(size=(8, 16000)).astype(np.float32)
    dataset = tf.data.Dataset.from_tensor_slices(waveforms).batch(4, drop_remainder=True)
    public = {name: getattr(sepssl, name) for name in sepssl.__all__ if name[0] != "_"}
    given = {"np": np, "keras": keras, "tf": tf, "waveforms": waveforms, "dataset": dataset}
    return {**public, **given, "held_out": dataset}


def plain(value):
    """Shapes as tuples, which they are but for TensorFlow's name for them."""
    if isinstance(value, (tuple, tf.TensorShape)):
        return tuple(map(plain, value))
    return value


@pytest.mark.parametrize("test", MARKED)
def test_example(test, names):
    names = {**vars(importlib.import_module(test.globs["__name__"])), **names}
    for example in test.examples:
        where = f"{test.filename}:{test.lineno + example.lineno + 1}"
        if not example.want:
            exec(compile(example.source, where, "exec"), names)
            continue
        found = eval(compile(example.source, where, "eval"), names)
        assert repr(plain(found)) == example.want.strip(), where


def test_there_are_examples_of_every_public_class_and_they_train():
    documented = {test.name.rsplit(".", 1)[-1] for test in EXAMPLES}
    classes = {
        name
        for name in sepssl.__all__
        if isinstance(getattr(sepssl, name), type)
        and issubclass(getattr(sepssl, name), keras.layers.Layer)
        and not name.endswith("Learner")  # how they train is shown where models are
    }
    assert classes - documented == set()
    sources = "".join(example.source for test in EXAMPLES for example in test.examples)
    assert ".fit(" in sources
