import keras
import numpy as np
import pytest
import tensorflow as tf

from sepssl.errors import InputError
from sepssl.export import convert_separator, save_scene, save_separator
from sepssl.representation import Encoder, SmallBackbone
from sepssl.representation.windows import WindowEmbedder
from sepssl.separation import TDCN, LearnedBasis, Separator, STFTBasis

LOOK = """
import json, sys
import keras, numpy as np, tensorflow as tf

directory, waveforms, output = sys.argv[1:]
waveforms = dict(np.load(waveforms))
loaded = tf.saved_model.load(directory)
found = {}
for name, waveform in waveforms.items():
    called = loaded(tf.constant(waveform))
    called = called if isinstance(called, dict) else {"sources": called}
    for key, value in loaded.signatures["serving_default"](waveform=waveform).items():
        found[f"{key}_{name}"] = value
        found[f"called_{key}_{name}"] = called[key]
broken = waveforms["batch"].copy()
broken[:, 7::1000] = np.nan
for key, value in loaded.signatures["serving_default"](waveform=broken).items():
    found[f"{key}_broken"] = value

with tf.GradientTape() as tape:
    outputs = loaded(tf.constant(waveforms["batch"]), training=True)
    outputs = outputs.values() if isinstance(outputs, dict) else [outputs]
    loss = sum(tf.reduce_sum(x**2) for x in outputs)
gradients = tape.gradient(loss, loaded.trainable_variables)

layer = keras.layers.TFSMLayer(directory, call_endpoint="serving_default")
inputs = keras.Input([None])
(key, *_) = layer(inputs)
model = keras.Model(inputs, layer(inputs)[key])
model.compile(keras.optimizers.Adam(0.01), "mse")
model.optimizer.build(model.trainable_variables)
before = [v.numpy() for v in layer.trainable_weights]
model.fit(waveforms["batch"], 0.5 * model(waveforms["batch"]).numpy(), verbose=0)
moved = [bool(np.any(v.numpy() != b)) for v, b in zip(layer.trainable_weights, before)]
np.savez(output, **{name: np.asarray(value) for name, value in found.items()})
print(json.dumps({
    "sepssl": any(name.split(".")[0] == "sepssl" for name in sys.modules),
    "gradients": [g is not None and bool(np.any(g.numpy() != 0)) for g in gradients],
    "moved": moved,
}))
"""


def make_separator(basis, **kwargs):
    keras.utils.set_random_seed(0)
    tdcn = {"bottleneck_channels": 8, "conv_channels": 16, "dilations_per_repeat": 3, "repeats": 2}
    separator = Separator(3, basis, TDCN(**tdcn | kwargs), normalize_input=True)
    separator.build()
    return separator


# With what loaders could stumble on: a loop with gradients of its own, an inverse FFT.
SEPARATORS = {
    "learned": lambda: make_separator(LearnedBasis(32), rematerialize=True, long_skips=True),
    "STFT": lambda: make_separator(STFTBasis(512, 256)),
}
FEWER = [pytest.param("learned", marks=pytest.mark.slow), "STFT"]


@pytest.mark.parametrize("name", FEWER)
def test_saved_model(name, waveforms, saved_waveforms, run_python, tmp_path):
    separator = SEPARATORS[name]()
    card = save_separator(separator, tmp_path / "separator")
    assert card["outputs"] == {
        "sources": {"dtype": "float32", "shape": ["batch", 3, "samples"]},
    }
    told, stderr = run_python(LOOK, tmp_path / "separator", saved_waveforms, tmp_path / "found.npz")
    found = np.load(tmp_path / "found.npz")
    assert not told["sepssl"]
    assert "custom gradient" not in stderr
    assert len(told["gradients"]) == len(separator.trainable_variables)
    assert all(told["gradients"])
    assert all(told["moved"])
    repaired = waveforms["batch"].copy()
    repaired[:, 7::1000] = 0.0
    for key, waveform in (waveforms | {"broken": repaired}).items():
        expected = np.asarray(separator(waveform))
        limit = 1e-5 * np.max(np.abs(expected))
        np.testing.assert_allclose(found[f"sources_{key}"], expected, rtol=0, atol=limit)
        np.testing.assert_allclose(found[f"sources_{key}"].sum(axis=1), waveform, atol=1e-5)
        if key != "broken":
            np.testing.assert_array_equal(found[f"called_sources_{key}"], found[f"sources_{key}"])


@pytest.mark.parametrize("name", FEWER)
def test_tflite(name, waveforms, tmp_path):
    separator = SEPARATORS[name]()
    card = convert_separator(separator, tmp_path / "separator", precisions=["float32", "float16"])
    assert list(card["checks"]) == ["separator.tflite", "separator_float16.tflite"]
    float32, float16 = (check["bytes"] for check in card["checks"].values())
    network = separator.tdcn.count_params() + separator.mask.count_params()
    assert (float32 - float16) / (4 * network) > 0.45  # half of the weights, and some graph
    for file, limit in {"separator": 1e-4, "separator_float16": 1e-2}.items():
        path = tmp_path / "separator" / f"{file}.tflite"
        run = tf.lite.Interpreter(str(path)).get_signature_runner("serving_default")
        for waveform in waveforms.values():
            expected = np.asarray(separator(waveform))
            found = run(waveform=waveform)["sources"]
            assert found.shape == expected.shape
            bound = limit * np.max(np.abs(expected))
            np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


def test_tflite_of_one_length(tmp_path):
    separator = make_separator(STFTBasis(512, 256), dilations_per_repeat=2, repeats=1)
    card = convert_separator(separator, tmp_path / "separator", seconds=0.5)
    samples = 32 * 256  # half a second is 31.25 hops
    assert card["hop_samples"] == 256
    (check,) = card["checks"].values()
    assert check["shape"] == [1, samples]
    file = tmp_path / "separator" / "separator.tflite"
    run = tf.lite.Interpreter(str(file)).get_signature_runner("serving_default")
    (detail,) = run.get_input_details().values()
    assert detail["shape_signature"].tolist() == [1, samples]
    (detail,) = run.get_output_details().values()
    assert detail["shape_signature"].tolist() == [1, 3, samples]
    waveform = np.random.default_rng(4).uniform(-0.5, 0.5, [1, samples]).astype(np.float32)
    expected = np.asarray(separator(waveform))
    limit = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(run(waveform=waveform)["sources"], expected, rtol=0, atol=limit)
    for seconds in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(InputError, match=f"seconds={seconds}: expected more than 0"):
            convert_separator(separator, tmp_path / "other", seconds=seconds)


def test_scene(encoder, waveforms, saved_waveforms, run_python, tmp_path):
    # Without the loop, whose blocks XLA compiles in training; test_saved_model has it.
    separator = make_separator(STFTBasis(512, 256), unroll=True, dilations_per_repeat=2, repeats=1)
    save_scene(separator, encoder, tmp_path / "scene")
    told, _ = run_python(LOOK, tmp_path / "scene", saved_waveforms, tmp_path / "found.npz")
    found = np.load(tmp_path / "found.npz")
    assert all(told["gradients"])
    assert len(told["gradients"]) == len(separator.trainable_variables) + len(
        encoder.trainable_variables
    )
    for key, waveform in waveforms.items():
        channels = np.asarray(separator(waveform))
        expected = {
            "embedding": np.asarray(encoder(waveform)),
            "channel_embeddings": np.stack(
                [np.asarray(encoder(channels[:, i])) for i in range(3)], axis=1
            ),
            "channel_energies": np.sum(channels.astype(np.float64) ** 2, axis=-1),
        }
        for output, value in expected.items():
            for way in ("", "called_"):
                limit = 1e-4 * np.max(np.abs(value))
                np.testing.assert_allclose(found[f"{way}{output}_{key}"], value, rtol=0, atol=limit)

    windows = tf.saved_model.load(str(tmp_path / "scene")).signatures["windows"]
    embedder = WindowEmbedder(encoder)
    for key in ("long", "short", "batch"):
        found = windows(waveform=tf.constant(waveforms[key]))
        channels = np.asarray(separator(waveforms[key]))
        np.testing.assert_allclose(found["sources"], channels, atol=1e-5 * np.abs(channels).max())
        sounds = np.concatenate([waveforms[key][:, None], channels], axis=1)
        for item, embeddings in zip(sounds, found["embeddings"].numpy(), strict=True):
            batches = list(embedder([item]))
            starts = np.concatenate([windows.starts for windows in batches])
            np.testing.assert_array_equal(found["starts"], starts)
            expected = np.concatenate([windows.embeddings for windows in batches])
            limit = 1e-4 * np.max(np.abs(expected))
            np.testing.assert_allclose(embeddings, expected, rtol=0, atol=limit)


def test_scene_of_two_sample_rates_is_refused(encoder, tmp_path):
    separator = Separator(2, STFTBasis(), TDCN(4, 4, 1, 1), sample_rate=22050)
    with pytest.raises(InputError, match="is for 22050 Hz, the encoder for 16000 Hz"):
        save_scene(separator, encoder, tmp_path / "scene")
    assert list(tmp_path.iterdir()) == []


def test_encoder_is_no_separator(tmp_path):
    encoder = Encoder(SmallBackbone(embedding_size=8, width=2))
    for write in (save_separator, convert_separator):
        with pytest.raises(InputError, match="is an Encoder; expected a sepssl Separator"):
            write(encoder, tmp_path / "separator")
