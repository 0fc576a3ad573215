import json

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from sepssl.errors import InputError
from sepssl.export import ExportError, save_encoder
from sepssl.export.graphs import encoder_graph, windows_signature
from sepssl.representation import Encoder
from sepssl.representation.embed import embed_recording
from sepssl.representation.windows import WindowEmbedder
from sepssl.separation import Separator

# Runs in a process that has never heard of sepssl, and looks at everything an outside user can.
LOOK = """
import json, sys
import keras, numpy as np, tensorflow as tf

directory, waveforms, output = sys.argv[1:]
waveforms = dict(np.load(waveforms))
loaded = tf.saved_model.load(directory)
found, told = {}, {"signatures": sorted(loaded.signatures)}
for name, waveform in waveforms.items():
    waveform = tf.constant(waveform)
    found["call_" + name] = loaded(waveform)
    found["serving_default_" + name] = loaded.signatures["serving_default"](waveform=waveform)[
        "embedding"
    ]
    found["patches_" + name] = loaded.signatures["patches"](waveform=waveform)["embedding"]
    windows = loaded.signatures["windows"](waveform=waveform)
    found["windows_" + name], found["starts_" + name] = windows["embeddings"], windows["starts"]

broken = waveforms["long"].copy()
broken[:, 7::1000], broken[:, 8::1000], broken[:, 9::1000] = np.nan, np.inf, -np.inf
found["broken"] = loaded(tf.constant(broken))
found["huge"] = loaded(tf.constant(waveforms["long"] * np.float32(1e38)))

# TFSMLayer in a functional model, before anything below moves a weight.
layer = keras.layers.TFSMLayer(directory, call_endpoint="serving_default")
inputs = keras.Input([None])
outputs = keras.layers.Dense(1)(layer(inputs)["embedding"])
model = keras.Model(inputs, [layer(inputs)["embedding"], outputs])
found["tfsm"] = model(waveforms["batch"])[0]
before = [v.numpy() for v in layer.trainable_weights]
classifier = keras.Model(inputs, outputs)
classifier.compile(keras.optimizers.Adam(0.01), "mse")
classifier.optimizer.build(classifier.trainable_variables)  # as the README says
classifier.fit(waveforms["batch"], np.ones([5, 1]), epochs=1, verbose=0)
told["tfsm_moved"] = [
    bool(np.any(v.numpy() != old)) for v, old in zip(layer.trainable_weights, before)
]

with tf.GradientTape() as tape:
    embedding = loaded(tf.constant(waveforms["batch"]), training=True)
    loss = tf.reduce_sum(embedding**2)
found["training"] = embedding
for i, gradient in enumerate(tape.gradient(loss, loaded.trainable_variables)):
    found[f"gradient_{i}"] = gradient
for i, variable in enumerate(loaded.variables):
    found[f"variable_{i}"] = variable

told["regularization_losses"] = len(loaded.regularization_losses)
told["sepssl"] = any(name.split(".")[0] == "sepssl" for name in sys.modules)
np.savez(output, **{name: np.asarray(value) for name, value in found.items()})
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def exported(encoder, tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved_model") / "encoder"
    card = save_encoder(encoder, directory)
    return directory, card


@pytest.fixture(scope="module")
def look(exported, saved_waveforms, run_python, tmp_path_factory):
    output = tmp_path_factory.mktemp("found") / "found.npz"
    told, stderr = run_python(LOOK, exported[0], saved_waveforms, output)
    return dict(np.load(output)), told, stderr


def copy_of(encoder):
    copy = Encoder.from_config(encoder.get_config())
    copy.build()
    copy.set_weights(encoder.get_weights())
    return copy


def close(a, b, relative=1e-5):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=0, atol=relative * np.max(np.abs(b)))


def test_call_and_signatures_give_the_embedding(look, encoder, waveforms):
    found, told, _ = look
    assert told["signatures"] == ["patches", "serving_default", "windows"]
    assert not told["sepssl"]
    for name, waveform in waveforms.items():
        expected = np.asarray(encoder(waveform))
        assert expected.shape == (len(waveform), 16)
        close(found[f"call_{name}"], expected)
        close(found[f"serving_default_{name}"], expected)
        close(found[f"patches_{name}"], np.asarray(encoder.patch_embeddings(waveform)))


def test_patches_signature_has_one_embedding_per_patch(look):
    # 50,001 samples: 311 frames, so patches start at frames 0, 48, ... 192, and one more ends last.
    assert look[0]["patches_long"].shape == (1, 6, 16)
    assert look[0]["patches_one"].shape == (1, 1, 16)


def test_windows_signature_has_what_sepssl_embed_writes(look, exported, encoder, waveforms):
    found, _, _ = look
    embedder = WindowEmbedder(encoder)

    def expected(waveform):
        batches = list(embedder([waveform]))
        starts = np.concatenate([windows.starts for windows in batches])
        return starts, np.concatenate([windows.embeddings for windows in batches]).swapaxes(0, 1)

    for name, waveform in waveforms.items():
        starts, embeddings = expected(waveform)
        np.testing.assert_array_equal(found[f"starts_{name}"], starts)
        close(found[f"windows_{name}"], embeddings)
    # Five patches of "long", and one that ends with it.
    assert found["starts_long"].tolist() == [0, 7680, 15360, 23040, 30720, 50001 - 15600]
    half = np.concatenate([np.zeros(20_000), waveforms["long"][0, :9000]]).astype(np.float32)
    windows = tf.saved_model.load(str(exported[0])).signatures["windows"]
    silent = windows(waveform=tf.constant(half[None]))["embeddings"].numpy()[0]
    assert silent.any(axis=1).tolist() == [False, True, True]
    close(silent, expected(half[None])[1][0])


def test_an_encoder_that_leaves_out_the_end_does_so_in_its_export(encoder, waveforms):
    waveform = tf.constant(waveforms["long"])
    # The end may be what is loudest.
    encoder = encoder.with_patches(normalize_level="none")
    covering, grid = map(encoder_graph, (encoder, encoder.with_patches(cover_end=False)))
    patches = grid.signatures["patches"](waveform)["embedding"]
    assert patches.shape == (1, 5, 16)
    close(patches, np.asarray(covering.signatures["patches"](waveform)["embedding"])[:, :5])
    close(grid.call(waveform, False), np.mean(patches, axis=1))
    # But for windows, as sepssl-embed has them.
    windows = windows_signature(grid.models[0], grid.signatures["patches"])(waveform)
    assert windows["starts"].numpy()[-1] == 50001 - 15600
    close(windows["embeddings"], np.asarray(covering.signatures["patches"](waveform)["embedding"]))


def test_samples_that_are_not_finite_count_as_zeros(look, encoder, waveforms):
    repaired = waveforms["long"].copy()
    for start in (7, 8, 9):
        repaired[:, start::1000] = 0.0
    close(look[0]["broken"], np.asarray(encoder(repaired)))
    close(look[0]["huge"], np.asarray(encoder(np.zeros_like(repaired))))


def test_training_call_is_batch_norm_training_with_gradients(look, encoder, waveforms):
    found, _, stderr = look
    copy = copy_of(encoder)
    with tf.GradientTape() as tape:
        embedding = copy(waveforms["batch"], training=True)
        loss = tf.reduce_sum(embedding**2)
    # The Keras model sums squares for its synchronised variance, hence the wider margin.
    close(found["training"], embedding.numpy(), 1e-4)
    variables = [v.value for v in copy.trainable_variables]
    gradients = tape.gradient(loss, variables)
    assert len(gradients) == sum(name.startswith("gradient_") for name in found) == 12
    for i, gradient in enumerate(gradients):
        close(found[f"gradient_{i}"], gradient.numpy(), 1e-3)
    changed = 0
    for i, (new, old) in enumerate(zip(copy.variables, encoder.variables, strict=True)):
        close(found[f"variable_{i}"], new.numpy(), 1e-4)
        changed += bool(np.any(found[f"variable_{i}"] != old.numpy()))
    assert changed == 8  # moving mean and variance of four batch norms
    assert "custom gradients" not in stderr


def test_keras_layer_is_equal_and_fine_tunes(look, encoder, waveforms):
    found, told, _ = look
    close(found["tfsm"], np.asarray(encoder(waveforms["batch"])))
    assert len(told["tfsm_moved"]) == 12
    assert all(told["tfsm_moved"])


def test_a_model_around_it_is_saved_and_reloaded(exported, saved_waveforms, run_python, tmp_path):
    script = """
import json, sys
import keras, numpy as np

directory, waveforms, path = sys.argv[1:]
waveform = np.load(waveforms)["batch"]
layer = keras.layers.TFSMLayer(directory, call_endpoint="serving_default")
inputs = keras.Input([None])
model = keras.Model(inputs, keras.layers.Dense(1)(layer(inputs)["embedding"]))
untrained = model.predict(waveform, verbose=0)
model.compile(keras.optimizers.Adam(0.01), "mse")
model.optimizer.build(model.trainable_variables)
model.fit(waveform, np.ones([5, 1]), epochs=1, verbose=0)
trained = model.predict(waveform, verbose=0)
model.save(path)
# A TFSMLayer runs the graph that it names, so Keras asks whether that is trusted.
reloaded = keras.models.load_model(path, safe_mode=False)
found = reloaded.predict(waveform, verbose=0)
print(json.dumps([float(np.max(np.abs(x - trained))) for x in (untrained, found)]))
"""
    (moved, error), _ = run_python(script, exported[0], saved_waveforms, tmp_path / "model.keras")
    assert moved > 1e-3
    assert error <= 1e-6


def test_tensorflow_1_session(exported, encoder, forks, tmp_path):
    waveform = np.linspace(-1, 1, 40000, dtype=np.float32).reshape(2, -1)
    np.save(tmp_path / "waveform.npy", waveform)
    process = forks.run(
        *("run", "--dir", exported[0], "--tag_set", "serve", "--signature_def", "serving_default"),
        *("--inputs", f"waveform={tmp_path / 'waveform.npy'}", "--outdir", tmp_path),
        code="from tensorflow.python.tools import saved_model_cli; saved_model_cli.main()",
    )
    assert process.returncode == 0, process.stderr[-3000:]
    close(np.load(tmp_path / "embedding.npy"), np.asarray(encoder(waveform)))


def test_serving_contract(exported):
    """TensorFlow Serving goes by the names, types and method of the signatures in the file."""
    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString((exported[0] / "saved_model.pb").read_bytes())
    (graph,) = saved_model.meta_graphs
    assert list(graph.meta_info_def.tags) == ["serve"]
    for name, shape in {"serving_default": [-1, 16], "patches": [-1, -1, 16]}.items():
        signature = graph.signature_def[name]
        assert signature.method_name == "tensorflow/serving/predict"
        assert list(signature.inputs) == ["waveform"]
        assert signature.inputs["waveform"].dtype == types_pb2.DT_FLOAT
        assert [d.size for d in signature.inputs["waveform"].tensor_shape.dim] == [-1, -1]
        assert list(signature.outputs) == ["embedding"]
        assert signature.outputs["embedding"].dtype == types_pb2.DT_FLOAT
        assert [d.size for d in signature.outputs["embedding"].tensor_shape.dim] == shape
    # A REST request holds rows, and its answer one prediction for each.
    request = json.loads(json.dumps({"instances": [[0.0] * 100, [0.5] * 100]}))
    loaded = tf.saved_model.load(str(exported[0]))
    serve = loaded.signatures["serving_default"]
    assert serve(waveform=tf.constant(request["instances"]))["embedding"].shape == (2, 16)


def test_ten_minutes_and_silence(exported, encoder):
    loaded = tf.saved_model.load(str(exported[0]))
    long = np.random.default_rng(3).uniform(-1, 1, [1, 600 * 16000]).astype(np.float32)
    close(loaded(tf.constant(long)).numpy()[0], embed_recording(encoder, long[0]), 1e-4)
    silence = np.zeros([1, 20000], np.float32)
    close(loaded(tf.constant(silence)).numpy(), np.asarray(encoder(silence)))


def test_card_describes_the_files(exported):
    directory, card = exported
    assert json.loads((directory / "card.json").read_text()) == card
    assert card["format"] == "saved_model"
    assert (card["sample_rate"], card["embedding_size"]) == (16000, 16)
    assert card["log_mel"]["normalize_level"] == "waveform"
    assert card["checks"]["relative_error"] <= 1e-5
    assert "16000 Hz" in (directory / "README.md").read_text()


def test_regularisers_and_dropout(mean_backbone, tmp_path):
    encoder = Encoder(mean_backbone())
    save_encoder(encoder, tmp_path / "encoder")
    loaded = tf.saved_model.load(str(tmp_path / "encoder"))
    kernel = encoder.backbone.dense.kernel.numpy()
    (penalty,) = loaded.regularization_losses
    assert float(penalty()) == pytest.approx(0.01 * np.sum(kernel**2), rel=1e-5)
    waveform = tf.ones([1, 16000])
    first, second = (loaded(waveform, training=True).numpy() for _ in range(2))
    assert np.any(first != second)
    assert np.any(first == 0.0)


def test_weights_that_are_not_finite_leave_nothing(encoder, tmp_path):
    copy = copy_of(encoder)
    copy.trainable_variables[0].assign(np.full(copy.trainable_variables[0].shape, np.nan))
    with pytest.raises(InputError, match="not finite; expected a model whose weights"):
        save_encoder(copy, tmp_path / "encoder")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_computes_something_else_leaves_nothing(mean_backbone, tmp_path):
    encoder = Encoder(mean_backbone(lambda x: x if tf.executing_eagerly() else 1.0001 * x))
    with pytest.raises(ExportError, match=r"relative error of embedding 0\.0001"):
        save_encoder(encoder, tmp_path / "encoder")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_needs_this_process_leaves_nothing(mean_backbone, tmp_path):
    """A Python function in the graph is found by the process that made it, and by no other."""
    encoder = Encoder(mean_backbone(lambda x: tf.ensure_shape(
        tf.numpy_function(np.abs, [x], tf.float32), [None, 64]
    )))  # fmt: skip
    with pytest.raises(ExportError, match=r"encoder: .*pyfunc"):
        save_encoder(encoder, tmp_path / "encoder")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_holds_something_is_left_alone(encoder, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        save_encoder(encoder, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_separator_is_refused(tmp_path):
    with pytest.raises(InputError, match="is a Separator; expected a sepssl Encoder"):
        save_encoder(Separator(num_sources=2), tmp_path / "encoder")


HUB = """
import json, os, sys
os.environ["TF_USE_LEGACY_KERAS"] = "1"
import numpy as np, tensorflow as tf, tensorflow_hub as hub, tf_keras

waveform = np.load(sys.argv[2])["batch"]
layer = hub.KerasLayer(sys.argv[1], trainable=True)
model = tf_keras.Sequential([layer, tf_keras.layers.Dense(1)])
embedding = layer(tf.constant(waveform)).numpy()
model.compile("sgd", "mse")
model.fit(waveform, np.ones([5, 1]), epochs=1, verbose=0)
moved = float(np.max(np.abs(layer(tf.constant(waveform)).numpy() - embedding)))
called = hub.load(sys.argv[1])(tf.constant(waveform)).numpy()
print(json.dumps([embedding.tolist(), called.tolist(), moved, len(layer.trainable_weights)]))
"""


def test_tensorflow_hub(exported, encoder, waveforms, saved_waveforms, forks, tmp_path):
    process = forks.run(exported[0], saved_waveforms, code=HUB, cwd=tmp_path)
    assert process.returncode == 0, process.stderr[-3000:]
    embedding, called, moved, weights = json.loads(process.stdout.splitlines()[-1])
    expected = np.asarray(encoder(waveforms["batch"]))
    close(np.array(embedding), expected)
    close(np.array(called), expected)
    assert moved > 0
    assert weights == 12
