"""What Keras promises of layers and models, checked for every class of this package."""

import inspect
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import CASES, Whole, map_inputs, without_build

every_case = pytest.mark.parametrize("case", CASES, ids=str)
TRAINED = [case for case in CASES if case.trained and not case.deep]
SHALLOW = [case for case in CASES if not case.deep]


def arrays(outputs):
    """Outputs of any structure as a list of float32 arrays."""
    return [np.asarray(keras.ops.cast(x, "float32")) for x in keras.tree.flatten(outputs)]


def assert_close(found, expected, relative=1e-5):
    for x, y in zip(arrays(found), arrays(expected), strict=True):
        assert np.all(np.isfinite(x))
        np.testing.assert_allclose(x, y, atol=relative * max(np.abs(y).max(), 1e-3), rtol=0)


def broadcast_products(function):
    """Products of matrices in two batch axes or more by fewer matrices, in a traced function.

    oneDNN's, in TensorFlow 2.17 to 2.21, write beyond their memory where the second of these axes
    is 1 (https://github.com/tensorflow/tensorflow/issues/117700). Keras from 3.15 on makes other
    products of `ops.matmul` by a matrix. Functions that a graph calls are not looked into.
    """
    return [
        (operation.name, x, y)
        for operation in function.graph.get_operations()
        if operation.type.startswith("BatchMatMul")
        for x, y in [[part.shape for part in operation.inputs]]
        if x.rank is None or (x.rank > 3 and not _alike(x[:-2], y[:-2]))
    ]


def _alike(a, b):
    """Whether both shapes are known and equal."""
    return a.is_fully_defined() and b.is_fully_defined() and a == b


@every_case
def test_arguments_are_attributes_and_configuration(case):
    arguments = case.arguments() if callable(case.arguments) else case.arguments
    layer = case.kind(**arguments, name="some_name")
    names = {
        name
        for kind in case.kind.__mro__[: case.kind.__mro__.index(keras.layers.Layer)]
        for name, p in inspect.signature(kind.__init__).parameters.items()
        if kind.__module__.startswith("sepssl") and p.kind is p.POSITIONAL_OR_KEYWORD
    } & set(inspect.signature(case.kind.__init__).parameters) - {"self"}
    assert names == set(arguments), "declare every argument"
    config = layer.get_config()
    for name, value in arguments.items():
        default = inspect.signature(case.kind.__init__).parameters[name].default
        if name != "separation":
            assert value != default, f"{name}: declare another value than the default"
        if not isinstance(value, list):  # of layers, which may be copied
            assert getattr(layer, name) is value or getattr(layer, name) == value
        if not isinstance(value, (list, keras.layers.Layer)):
            assert config[name] == value
    serialized = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    assert serialized["registered_name"] == f"sepssl>{case}"
    copy = keras.saving.deserialize_keras_object(serialized)
    assert type(copy) is case.kind
    assert without_build(copy.get_config()) == without_build(config)
    assert copy.name == "some_name"


@every_case
def test_shapes_and_values_are_the_same_eagerly_symbolically_and_in_a_graph(case):
    layer, data = case.make(), case.data()
    outputs = case.call(layer, data)
    if isinstance(case.output, dict):
        outputs = {name: outputs[name] for name in case.output}
    shapes = [tuple(x.shape) for x in keras.tree.flatten(outputs)]
    wanted = [case.output] if isinstance(case.output, tuple) else case.output
    wanted = list(wanted.values()) if isinstance(wanted, dict) else wanted
    assert sorted(shapes) == sorted(wanted)

    def signature(spec):
        whole = isinstance(spec, Whole)
        shape = spec.shape if whole else spec
        return tf.TensorSpec((None, *shape[1:]), tf.int32 if whole else tf.float32)

    graph = tf.function(
        lambda inputs: case.call(layer, inputs),
        input_signature=[map_inputs(signature, case.inputs)],
    )
    assert broadcast_products(graph.get_concrete_function()) == []
    found = graph(data)
    if isinstance(case.output, dict):
        found = {name: found[name] for name in case.output}
    assert_close(found, outputs)

    symbolic = case.call(layer, case.symbols())
    if isinstance(case.output, dict):
        symbolic = {name: symbolic[name] for name in case.output}
    for symbol, shape in zip(keras.tree.flatten(symbolic), shapes, strict=True):
        assert len(symbol.shape) == len(shape)
        assert all(a in (None, b) for a, b in zip(symbol.shape[1:], shape[1:], strict=True))
        assert symbol.dtype == keras.tree.flatten(outputs)[0].dtype or len(shapes) > 1
    if isinstance(case.inputs, tuple) and isinstance(case.output, tuple):
        assert tuple(layer.compute_output_shape((None, *case.inputs[1:])))[1:] == shapes[0][1:]


@every_case
def test_saved_and_loaded_inside_a_larger_model(case, tmp_path):
    keras.utils.set_random_seed(1)
    model, data = case.model(), case.data()
    rng = np.random.default_rng(0)
    for weight in model.weights:  # Or a weight that was not saved would start at the same value.
        if weight.dtype == "float32":
            weight.assign(weight + 0.1 * rng.random(weight.shape))
    expected = model(data)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_close(loaded(data), expected, 0.0)
    if not case.deep:
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        assert_close(copy(data), expected, 0.0)


@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_a_compiled_fit_changes_every_trainable_weight(case):
    keras.utils.set_random_seed(1)
    model, data = case.model(), case.data()
    target = np.random.default_rng(2).normal(size=case.output).astype(np.float32)
    # A graph of few operations, and traced once: no variables are left to be made in it.
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=case.xla)
    model.optimizer.build(model.trainable_weights)
    before = [np.asarray(weight) for weight in model.trainable_weights]
    history = model.fit(data, target, epochs=2, batch_size=4, verbose=0).history
    assert np.all(np.isfinite(history["loss"]))
    changed = [
        not np.array_equal(weight, old)
        for weight, old in zip(model.trainable_weights, before, strict=True)
    ]
    stuck = [
        weight.path
        for change, weight in zip(changed, model.trainable_weights, strict=True)
        if not change
    ]
    assert not stuck


@pytest.mark.parametrize("case", SHALLOW, ids=str)
def test_half_precision(case):
    keras.utils.set_random_seed(1)
    layer, data = case.make(), case.data()
    expected = arrays(case.call(layer, data))
    for policy, close in (("mixed_bfloat16", 0.1), ("mixed_float16", 0.02)):
        keras.config.set_dtype_policy(policy)
        try:
            half = case.make()
        finally:
            keras.config.set_dtype_policy("float32")
        case.call(half, data)  # makes the weights
        assert all(a.dtype == b.dtype for a, b in zip(half.weights, layer.weights, strict=True))
        half.set_weights(layer.get_weights())
        for x, y in zip(arrays(case.call(half, data)), expected, strict=True):
            assert np.linalg.norm(x - y) <= (1e-6 if case.wide else close) * np.linalg.norm(y)


@pytest.mark.parametrize(
    "case", [case for case in CASES if issubclass(case.kind, keras.Model)], ids=str
)
def test_exported_as_keras_does(case, tmp_path):
    model, data = case.make(), case.data()
    expected = model(data)
    model.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved")
    assert_close(loaded.serve(data), expected)


def test_every_class_is_declared():
    registered = {
        value.__name__
        for key, value in keras.saving.get_custom_objects().items()
        if key.startswith("sepssl>") and value.__module__.startswith("sepssl")
    }
    layers = {str(case) for case in CASES}
    learners = {"SeparatorLearner", "SimilarityLearner", "SupervisedLearner"}  # test_learners.py
    schedules = {"LearningRate"}  # tests/training/test_loop.py
    assert registered - schedules == layers | learners
