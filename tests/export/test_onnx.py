import json
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from sepssl.audio.log_mel import LogMel
from sepssl.audio.panns_log_mel import FLOOR, PannsLogMel
from sepssl.errors import InputError
from sepssl.evaluation.window_classifier import WindowClassifier
from sepssl.export import (
    ExportError,
    check_exports,
    save_onnx_classifier,
    save_onnx_encoder,
    save_onnx_separator,
)
from sepssl.export.graphs import backbone_graph
from sepssl.export.origin import Origin
from sepssl.representation import Encoder, SmallBackbone
from sepssl.representation.backbones.cnn14 import Cnn14Backbone
from sepssl.representation.backbones.efficientnet_b0 import EfficientNetB0Backbone
from sepssl.representation.backbones.mobilenet_v1 import MobileNetV1Backbone
from sepssl.representation.backbones.vggish import VggishBackbone
from sepssl.separation import TDCN, LearnedBasis, Separator, STFTBasis

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
onnx_graph = pytest.importorskip("sepssl.export.onnx_graph")

# Looks at files without anything of ours and without TensorFlow.
LOOK = """
import json, sys
import numpy as np, onnxruntime

inputs, output, *files = sys.argv[1:]
inputs = dict(np.load(inputs))
found, about = {}, {}
for file in files:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    about[file] = {
        "input": [taken.name, taken.type, taken.shape],
        "outputs": [[x.name, x.shape] for x in session.get_outputs()],
        "metadata": session.get_modelmeta().custom_metadata_map,
    }
    for key, value in inputs.items():
        name, clip = key.split("/")
        if name in file:
            for x, y in zip(session.get_outputs(), session.run(None, {taken.name: value})):
                found[f"{name}/{clip}/{x.name}"] = y
np.savez(output, **found)
assert not {"tensorflow", "keras", "sepssl", "onnx"} & set(sys.modules)
print(json.dumps(about))
"""
ARRAYS = ("inputs", "found")
ORIGIN = Origin(({"file": "final.keras", "sha256": "12ab"},), "CC0-1.0")


def make_separator(basis, tdcn, *arguments):
    keras.utils.set_random_seed(0)
    separator = Separator(3, basis, tdcn, *arguments)
    separator.build()
    return separator


@pytest.fixture(scope="module")
def separators():
    """Loops over blocks, an inverse Fourier transform, running sums."""
    return {
        "learned": make_separator(
            LearnedBasis(16), TDCN(4, 8, 1, 2, long_skips=True), "predicted", True
        ),
        "stft": make_separator(STFTBasis(64, 32), TDCN(4, 8, 2, 1, causal=True), "uniform"),
    }


@pytest.fixture(scope="module")
def classifier():
    random = np.random.default_rng(4)
    return WindowClassifier(
        ("wren", "zaunkönig"),
        random.normal(size=16),
        random.normal(size=[16, 2]),
        np.array([0.1, -0.2]),
        np.array([0.5, 0.5]),
        {},
    )


@pytest.fixture(scope="module")
def written(encoder, separators, classifier, tmp_path_factory):
    """Folders, and the cards."""
    folder = tmp_path_factory.mktemp("onnx")
    inputs = ["waveform", "log_mel"]
    cards = {
        "encoder": save_onnx_encoder(encoder, folder / "encoder", ORIGIN, inputs),
        "classifier": save_onnx_classifier(encoder, classifier, folder / "classifier"),
    }
    for name, separator in separators.items():
        cards[name] = save_onnx_separator(separator, folder / name)
    return folder, cards


@pytest.fixture(scope="module")
def inputs(encoder, waveforms):
    """ "file/clip" -> input."""
    longer = waveforms | {"noisy": np.concatenate([waveforms["long"]] * 2)}
    broken = waveforms["batch"].copy()
    broken[:, 7::1000] = np.nan
    broken[:, 8::1000] = -np.inf
    log_mel = np.asarray(encoder.log_mel(longer["long"])).reshape(-1, 96, 64)
    clips = {
        f"{file}/{name}": clip
        for file in ("encoder.", "classifier.", "learned", "stft")
        for name, clip in (longer | {"broken": broken}).items()
    }
    return clips | {"encoder_log_mel/patches": log_mel}


@pytest.fixture(scope="module")
def looked(written, inputs, tmp_path_factory):
    """What a process without TensorFlow finds in the files and computes by them."""
    folder, elsewhere = written[0], tmp_path_factory.mktemp("elsewhere")
    np.savez(elsewhere / "inputs.npz", **inputs)
    files = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.onnx"))]
    process = subprocess.run(
        [sys.executable, "-P", "-c", LOOK, *(elsewhere / f"{x}.npz" for x in ARRAYS), *files],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=280,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout), dict(np.load(elsewhere / "found.npz"))


def test_without_tensorflow_any_batch_and_length(looked, inputs, encoder, separators, classifier):
    found = looked[1]
    for key, clip in inputs.items():
        usable = np.where(np.isfinite(clip), clip, np.float32(0))
        name = key.split("/")[0]
        if name in separators:
            expected = {"sources": separators[name](usable)}
        elif name == "encoder_log_mel":
            expected = {"embedding": encoder.backbone(usable)}
        else:
            expected = {"embedding": encoder(usable)}
        if name == "classifier.":
            unit = np.asarray(expected["embedding"])
            unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
            logits = (unit - classifier.center) @ classifier.weights + classifier.biases
            expected["scores"] = 1 / (1 + np.exp(-logits))
        for output, value in expected.items():
            value = np.asarray(value)
            limit = 1e-4 * np.max(np.abs(value))
            np.testing.assert_allclose(found[f"{key}/{output}"], value, rtol=0, atol=limit)


def test_names_shapes_and_metadata(looked, written):
    about, (folder, cards) = looked[0], written
    assert about["encoder/encoder.onnx"]["input"] == [
        "waveform",
        "tensor(float)",
        ["batch", "samples"],
    ]
    assert about["encoder/encoder.onnx"]["outputs"] == [["embedding", ["batch", 16]]]
    assert about["encoder/encoder_log_mel.onnx"]["input"][2] == ["batch", 96, 64]
    assert about["stft/separator.onnx"]["outputs"] == [["sources", ["batch", 3, "samples"]]]
    metadata = about["encoder/encoder.onnx"]["metadata"]
    assert metadata["sample_rate"] == "16000"
    assert metadata["sha256"] == "12ab"
    assert metadata["license"] == "CC0-1.0"
    assert metadata["sepssl"] == cards["encoder"]["sepssl"]
    classes = about["classifier/classifier.onnx"]["metadata"]["classes"]
    assert json.loads(classes) == ["wren", "zaunkönig"]
    assert (folder / "classifier" / "labels.txt").read_text("utf-8") == "wren\nzaunkönig\n"


def test_card(written):
    folder, cards = written
    card = cards["encoder"]
    assert json.loads((folder / "encoder" / "card.json").read_text()) == card
    assert card["format"] == "onnx"
    for name, check in card["checks"].items():
        assert check["bytes"] == (folder / "encoder" / name).stat().st_size
        assert 0 < check["milliseconds"] < 1000
        assert check["cosine"] > 0.999999
    text = (folder / "encoder" / "README.md").read_text()
    assert "| `encoder_log_mel.onnx` | `log_mel`, float32 [batch, 96, 64] | " in text
    assert 'onnxruntime.InferenceSession("DIRECTORY/encoder.onnx")' in text
    # The files hold neither the transform's matrix nor anything twice.
    weights = 4 * card["parameters"]
    assert card["checks"]["encoder.onnx"]["bytes"] < weights + 4 * 257 * 64 + 60_000


def run(function, *shape):
    """By TensorFlow and by onnxruntime, on noise: output -> array."""
    outputs = function.get_concrete_function().structured_outputs
    sizes = {name: [None] * len(tensor.shape) for name, tensor in outputs.items()}
    (spec,) = function.input_signature
    model = onnx_graph.translate(function, [None] * len(spec.shape), sizes, "test")
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    x = np.random.default_rng(3).normal(0, 0.3, shape).astype(np.float32)
    found = session.run(list(outputs), {spec.name: x})
    expected = {name: tensor.numpy() for name, tensor in function(tf.constant(x)).items()}
    return x, expected, dict(zip(outputs, found, strict=True))


@pytest.mark.parametrize("log_mel", [LogMel(), PannsLogMel()], ids=lambda layer: layer.name)
def test_front_end(log_mel):
    """As exact as the Fourier transform that it replaces."""
    spec = tf.TensorSpec([None, None], tf.float32, name="waveform")
    function = tf.function(lambda waveform: {"log_mel": log_mel(waveform)}, input_signature=[spec])
    patch = log_mel.patch_samples
    x, expected, found = run(function, 2, 2 * patch)
    frames = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), log_mel.frame_length, 1)
    # Of every patch; the last ends with the waveform.
    starts = np.minimum(log_mel.patch_hop_samples * np.arange(found["log_mel"].shape[1]), patch)
    places = starts[:, None] + log_mel.frame_hop * np.arange(log_mel.patch_frames)
    bins = np.fft.rfft(frames[:, places] * log_mel._window, log_mel.fft_length)
    if isinstance(log_mel, PannsLogMel):
        exact = 10 * np.log10(np.maximum(np.abs(bins) ** 2 @ log_mel._mel, FLOOR))
    else:
        exact = np.log(np.abs(bins) @ log_mel._mel + log_mel.offset)
    assert (
        found["log_mel"].shape[1] == expected["log_mel"].shape[1] == log_mel.num_patches(2 * patch)
    )
    decibels = 4.343 if isinstance(log_mel, PannsLogMel) else 1.0  # per unit of the logarithm
    limit = 1e-5 * decibels
    np.testing.assert_allclose(found["log_mel"], expected["log_mel"], rtol=0, atol=limit)
    np.testing.assert_allclose(found["log_mel"], exact, rtol=0, atol=limit)


BACKBONES = [
    VggishBackbone(8, width=2),
    Cnn14Backbone(8, width=2),
    MobileNetV1Backbone(8, width=2),
    EfficientNetB0Backbone(8, width=4),
]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda layer: layer.name)
def test_backbones(backbone):
    graph = backbone_graph(Encoder(backbone), batch=None)
    _, expected, found = run(graph.signatures["serving_default"], 3, 96, 64)
    limit = 1e-4 * np.max(np.abs(expected["embedding"]))
    assert limit > 0
    np.testing.assert_allclose(found["embedding"], expected["embedding"], rtol=0, atol=limit)


def operations(x):
    """What the package's own models use little of; x is [batch, samples]."""
    samples = tf.shape(x)[1]
    image = tf.reshape(x, [-1, 8, 5, 2])
    kernel = tf.reshape(tf.range(24, dtype=tf.float32), [3, 2, 2, 2]) / 24
    third = tf.constant([1.0, -2.0, 0.5])
    norm = tf.compat.v1.nn.fused_batch_norm(
        image, [1.0, 2.0], [3.0, 4.0], [0.1, 0.2], [0.3, 0.4], is_training=False
    )
    spectrum = tf.signal.rfft(tf.reshape(x, [-1, 16]))
    numbers = [(3 - samples) // 7, (3 - samples) % 7, -samples // -7, samples // 7]
    return {
        "whole_numbers": tf.cast(tf.stack(numbers), tf.float32),
        "steps": x[:, 1:-1:2],
        "backwards": x[:, ::-3],
        "backwards_from": x[:, 30:2:-3],
        "last": x[..., -1],
        "axes": x[:, tf.newaxis, 2:, tf.newaxis],
        "image_corner": image[0, ..., -2:, 1],
        "moving_end": x[:, samples // 3 : samples - 2],
        "slice": tf.slice(x, [0, samples // 2], [-1, -1]),
        "unstacked": tf.add_n(tf.unstack(image, axis=2)[:1]),
        "pad": tf.pad(x, [[0, 0], [samples // 9, 1]], constant_values=2.0),
        "same": tf.nn.conv2d(image, kernel, 2, "SAME"),
        "explicit": tf.nn.conv2d(image, kernel, 1, [[0, 0], [2, 1], [0, 3], [0, 0]]),
        "dilated": tf.nn.conv2d(image, kernel, 1, "SAME", dilations=2),
        "depthwise": tf.nn.depthwise_conv2d(image, kernel, [1, 2, 2, 1], "SAME"),
        "moving_size": tf.nn.conv2d(x[:, :, None, None], kernel[..., :1, :], [2, 1], "SAME"),
        "average": tf.nn.avg_pool2d(image, 3, 2, "SAME"),
        "maximum": tf.nn.max_pool2d(image, 3, 2, "SAME"),
        "batch_norm": norm[0],
        "sum": tf.reduce_sum(image, axis=[1, -1], keepdims=True),
        "least": tf.reduce_min(x, axis=-1),
        "running": tf.cumsum(x, axis=1, exclusive=True, reverse=True),
        "product": tf.matmul(x, x, transpose_b=True),
        "batch_product": tf.matmul(image, image, transpose_a=True),
        "einsum": tf.einsum("bhwc,bhvc->bwv", image, image),
        "activations": tf.nn.leaky_relu(x) + tf.nn.relu6(20 * x) + tf.nn.softplus(x),
        "more": tf.exp(x) * tf.tanh(x) + tf.nn.softmax(x) + tf.math.squared_difference(x, 1.0),
        "where": tf.where(tf.logical_not(x > 0), tf.ones_like(x), x * third[1]),
        "inverse": tf.signal.irfft(tf.complex(2 * tf.math.real(spectrum), tf.math.imag(spectrum))),
        "gathered": tf.gather(x, tf.range(2, samples, 5), axis=1),
    }


def test_operations():
    spec = tf.TensorSpec([None, None], tf.float32, name="x")
    function = tf.function(operations, input_signature=[spec], autograph=False)
    _, expected, found = run(function, 2, 80)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_a_file_of_another_encoder_is_found(written, encoder):
    file = written[0] / "encoder" / "encoder.onnx"
    assert check_exports(None, None, encoder, file)["onnx"]["cosine"] > 0.999999
    other = Encoder(SmallBackbone(embedding_size=16, width=4))
    with pytest.raises(ExportError, match="relative error of embedding"):
        check_exports(None, None, other, file)


def test_operation_without_translation_is_named_and_leaves_nothing(mean_backbone, tmp_path):
    encoder = Encoder(mean_backbone(lambda x: x * tf.linalg.svd(x, compute_uv=False)[0]))
    with pytest.raises(ExportError, match=r"operation '.*' is a Svd, which has no translation"):
        save_onnx_encoder(encoder, tmp_path / "encoder")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["onnx", "onnxruntime"])
def test_the_extra_is_named(name, call, encoder, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, name, None)  # as if not installed
    message = rf"ONNX needs {name}; .*pip install 'sepssl\[onnx\]'"
    with pytest.raises(InputError, match=message):
        save_onnx_encoder(encoder, tmp_path / "encoder")
    result = call("export", "--separator=small", "--format=onnx", f"--output={tmp_path / 'out'}")
    assert result.status == 1
    (line,) = result.stderr.splitlines()
    assert re.search(message, line)


def test_bad_input_is_refused(encoder, separators, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="full: is not empty"):
        save_onnx_encoder(encoder, tmp_path / "full")
    with pytest.raises(InputError, match="is an Encoder; expected a sepssl Separator"):
        save_onnx_separator(encoder, tmp_path / "separator")
    with pytest.raises(InputError, match="input 'mel': expected some of waveform, patch, log_mel"):
        save_onnx_encoder(encoder, tmp_path / "encoder", inputs=["mel"])
    half = Encoder(SmallBackbone(embedding_size=8, width=2, dtype="mixed_float16"))
    with pytest.raises(InputError, match=r"computes in float16, .* under the dtype policy float32"):
        save_onnx_encoder(half, tmp_path / "half")
