import json
import pathlib
import runpy
import subprocess
import sys

import keras
import numpy as np
import pytest
import soundfile
import tensorflow as tf

from sepssl.errors import InputError
from sepssl.export import (
    ExportError,
    check_exports,
    conversion,
    convert_encoder,
    processes,
    save_encoder,
    tflite,
)
from sepssl.export.check import TFLITE_LIMITS, compare
from sepssl.export.processes import Check, check_in_fresh_process, run_script
from sepssl.representation import Encoder, SmallBackbone
from sepssl.representation.backbones.vggish import VggishBackbone

LISTEN = pathlib.Path(__file__).parents[2] / "docs" / "listen.py"
ALL = "--threshold=-1"

# Both runtimes, ai_edge_litert first, while TensorFlow is not yet there to help it.
LOOK = """
import importlib.util, json, sys
import numpy as np

path, waveforms = sys.argv[1:]
waveforms = dict(np.load(waveforms))
waveforms["broken"] = np.where(np.arange(16000) % 1000 == 7, np.nan, waveforms["batch"])
waveforms["broken"] = waveforms["broken"].astype(np.float32)

def look(interpreter):
    runner = interpreter.get_signature_runner("serving_default")
    (name, detail), = runner.get_input_details().items()
    return {
        "signatures": interpreter.get_signature_list(),
        "input": [name, detail["dtype"].__name__, detail["shape_signature"].tolist()],
        "embeddings": {
            key: runner(waveform=value)["embedding"].tolist() for key, value in waveforms.items()
        },
    }

told = {}
if importlib.util.find_spec("ai_edge_litert"):
    from ai_edge_litert.interpreter import Interpreter
    told["ai_edge_litert"] = look(Interpreter(path))
    told["tensorflow_needed"] = "tensorflow" in sys.modules
import tensorflow as tf
told["tensorflow"] = look(tf.lite.Interpreter(path))
told["sepssl"] = any(name.split(".")[0] == "sepssl" for name in sys.modules)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def converted(encoder, tmp_path_factory):
    directory = tmp_path_factory.mktemp("tflite") / "encoder"
    return directory, convert_encoder(encoder, directory)


@pytest.fixture(scope="module")
def look(converted, saved_waveforms, tmp_path_factory):
    process = subprocess.run(
        [sys.executable, "-c", LOOK, converted[0] / "encoder.tflite", saved_waveforms],
        capture_output=True,
        text=True,
        cwd=tmp_path_factory.mktemp("elsewhere"),
        timeout=280,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize("runtime", ["ai_edge_litert", "tensorflow"])
def test_any_batch_and_length(look, encoder, waveforms, runtime):
    if runtime == "ai_edge_litert":
        pytest.importorskip("ai_edge_litert")
        assert not look["tensorflow_needed"]
    assert not look["sepssl"]
    told = look[runtime]
    assert told["signatures"] == {
        "serving_default": {"inputs": ["waveform"], "outputs": ["embedding"]}
    }
    assert told["input"] == ["waveform", "float32", [-1, -1]]
    broken = np.where(np.arange(16000) % 1000 == 7, np.float32(0), waveforms["batch"])
    for name, waveform in (waveforms | {"broken": broken}).items():
        expected = np.asarray(encoder(waveform))
        embedding = np.array(told["embeddings"][name])
        assert embedding.shape == expected.shape
        np.testing.assert_allclose(embedding, expected, rtol=0, atol=1e-3 * expected.max())


def test_listening_for_an_example(converted, encoder, tmp_path, monkeypatch, capsys):
    pytest.importorskip("ai_edge_litert")
    random = np.random.default_rng(7)
    recording = 0.1 * random.uniform(-1, 1, [4 * 16000 + 5000, 2])
    chirp = np.sin(2 * np.pi * 700 * np.arange(16000) ** 1.05 / 16000)
    recording[24000:40000] += 0.5 * chirp[:, None]
    soundfile.write(tmp_path / "recording.wav", recording, 16000, "FLOAT")
    soundfile.write(tmp_path / "example.wav", recording[24000:40000], 16000, "FLOAT")
    soundfile.write(tmp_path / "fast.wav", recording, 44100)

    def listen(*arguments):
        model, example = converted[0] / "encoder.tflite", tmp_path / "example.wav"
        arguments = [f"--model={model}", f"--example={example}", *arguments]
        monkeypatch.setattr(sys, "argv", ["listen.py", *arguments])
        runpy.run_path(str(LISTEN), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    mono = np.pad(recording.mean(axis=1), (0, 3000)).astype(np.float32)
    windows = np.stack([mono[at : at + 16000] for at in range(0, 4 * 16000 - 8000 + 1, 8000)])
    embeddings = np.asarray(encoder(windows))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    lines = [line.split(" s: ") for line in listen(f"--input={tmp_path}/recording.wav", ALL)]
    assert [float(time) for time, _ in lines] == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]
    found = [float(value) for _, value in lines]
    np.testing.assert_allclose(found, unit @ unit[3], atol=1e-3)
    assert max(found) == found[3] == 1
    assert listen(f"--input={tmp_path}/recording.wav", "--threshold=0.9995") == ["1.5 s: 1.000"]
    # Silence, before the sound of the example and in the recording, is like nothing.
    silence = np.zeros([32000, 2])
    for name, sound in (("example", recording[24000:40000]), ("recording", recording)):
        padded = np.concatenate([silence, sound])
        soundfile.write(tmp_path / f"{name}.wav", padded, 16000, "FLOAT")
    padded = [line.split(" s: ") for line in listen(f"--input={tmp_path}/recording.wav", ALL)]
    assert [float(time) for time, _ in padded] == [1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5]
    np.testing.assert_allclose([float(value) for _, value in padded][1:], found, atol=1e-3)
    with pytest.raises(SystemExit, match=r"example\.wav: .*; expected sepssl-export's"):
        listen(f"--model={tmp_path}/example.wav")
    with pytest.raises(SystemExit, match=r"fast\.wav: 44100 Hz; expected 16000 Hz"):
        listen(f"--input={tmp_path}/fast.wav")
    soundfile.write(tmp_path / "example.wav", silence, 16000, "FLOAT")
    with pytest.raises(SystemExit, match=r"example\.wav: is silent"):
        listen(f"--input={tmp_path}/recording.wav")


def test_card(converted):
    directory, card = converted
    names = sorted(path.name for path in directory.iterdir())
    assert names == ["README.md", "card.json", "encoder.tflite", "manifest.sha256"]
    assert json.loads((directory / "card.json").read_text()) == card
    assert card["format"] == "tflite"
    (check,) = card["checks"].values()
    assert check["cosine"] >= 0.9999
    assert 0 < check["max_error"] < 1e-2
    assert check["bytes"] == (directory / "encoder.tflite").stat().st_size
    assert 0 < check["milliseconds"] < 1000


@pytest.fixture(scope="module")
def wide():
    """An encoder of which the weights are most."""
    keras.utils.set_random_seed(0)
    encoder = Encoder(SmallBackbone(embedding_size=64, width=16))
    encoder(np.random.default_rng(1).uniform(-1, 1, [4, 20000]), training=True)
    return encoder


@pytest.fixture(scope="module")
def quantized(wide, tmp_path_factory):
    directory = tmp_path_factory.mktemp("quantized") / "encoder"
    random = np.random.default_rng(5)
    calibration = [g * random.uniform(-1, 1, 40000).astype(np.float32) for g in (0.01, 0.1, 1)]
    card = convert_encoder(
        wide,
        directory,
        precisions=["float32", "float16", "dynamic", "int8"],
        inputs=["waveform", "patch", "log_mel"],
        calibration=calibration,
        accept_errors=True,  # silence is far from the noise that this encoder has seen
    )
    return directory, card


# Of an encoder with random weights. The front end is in float32 under every precision.
COSINES = {"float32": 0.999999, "float16": 0.99999, "dynamic": 0.999, "int8": 0.98}


@pytest.mark.parametrize("input", ["waveform", "patch", "log_mel"])
@pytest.mark.parametrize("precision", COSINES)
def test_precisions_and_inputs(quantized, wide, precision, input):
    directory, card = quantized
    parts = ["encoder"] + [input] * (input != "waveform") + [precision] * (precision != "float32")
    file = "_".join(parts) + ".tflite"
    check = card["checks"][file]
    assert check["precision"] == precision
    runner = tf.lite.Interpreter(str(directory / file)).get_signature_runner("serving_default")
    ((name, detail),) = runner.get_input_details().items()
    assert check["dtype"] == np.dtype(detail["dtype"]).name
    assert name == ("log_mel" if input == "log_mel" else "waveform")
    random = np.random.default_rng(6)
    for gain in (0.02, 0.5):
        waveform = (gain * random.uniform(-1, 1, [1, 15600])).astype(np.float32)
        expected = np.asarray(wide(waveform))[0]
        value = np.asarray(wide.log_mel(waveform))[:, 0] if input == "log_mel" else waveform
        if detail["dtype"] == np.int8:
            scale, zero = detail["quantization"]
            value = np.clip(np.round(value / scale) + zero, -128, 127).astype(np.int8)
        found = runner(**{name: value})["embedding"]
        if found.dtype == np.int8:
            scale, zero = runner.get_output_details()["embedding"]["quantization"]
            found = (found.astype(np.float32) - zero) * scale
        cosine = found[0] @ expected / np.linalg.norm(found[0]) / np.linalg.norm(expected)
        assert cosine >= COSINES[precision]


def test_integers_are_for_the_backbone_alone(quantized):
    directory, card = quantized
    details = tf.lite.Interpreter(
        str(directory / "encoder_log_mel_int8.tflite")
    ).get_tensor_details()
    assert {d["dtype"] for d in details if d["name"].startswith("serving_default")} == {np.int8}
    assert card["checks"]["encoder_patch.tflite"]["shape"] == [1, 15600]
    assert card["checks"]["encoder_log_mel_int8.tflite"]["shape"] == [1, 96, 64]
    table = (directory / "README.md").read_text()
    assert "| `encoder_log_mel_int8.tflite` | `log_mel`, int8 [1, 96, 64] | " in table
    assert "| `encoder_int8.tflite` | `waveform`, float32 [batch, samples] | " in table


@pytest.mark.parametrize("input", ["", "_patch", "_log_mel"])
@pytest.mark.parametrize(
    ("precision", "least"), [("float16", 0.48), ("dynamic", 0.7), ("int8", 0.7)]
)
def test_half_and_three_quarters_of_the_weights_are_saved(quantized, wide, input, precision, least):
    """What is not weights takes the same in every precision, but for a quantized file's scales."""
    checks = quantized[1]["checks"]
    float32 = checks[f"encoder{input}.tflite"]["bytes"]
    saved = float32 - checks[f"encoder{input}_{precision}.tflite"]["bytes"]
    assert least < saved / (4 * wide.backbone.count_params()) < 0.76


@pytest.mark.parametrize("file", ["encoder_int8", "encoder_patch_int8", "encoder_dynamic"])
def test_the_front_end_stays_in_float32(quantized, wide, file):
    interpreter = tf.lite.Interpreter(str(quantized[0] / f"{file}.tflite"))
    details = interpreter.get_tensor_details()
    filters = {wide.log_mel.bands, 257}
    assert {d["dtype"] for d in details if set(d["shape"]) == filters} == {np.float32}
    results = [d for d in details if "log_mel" in d["name"] and "_quantized" not in d["name"]]
    assert {d["dtype"] for d in results} == {np.float32, np.complex64, np.int32}
    assert np.int8 in {d["dtype"] for d in details}  # of the backbone


@pytest.mark.parametrize("precision", ["float16", "dynamic"])
def test_a_file_of_which_nothing_is_quantized_is_refused(converted, tmp_path, precision):
    file, output = converted[0] / "encoder.tflite", tmp_path / "quantized.tflite"
    job = {"file": str(file), "output": str(output), "precision": precision}
    (tmp_path / "jobs.json").write_text(json.dumps([job | {"parts": ".*nothing.*"}]))
    process = run_script(conversion.__file__, "quantize", str(tmp_path / "jobs.json"))
    assert process.returncode != 0
    assert "nothing was quantized; expected operations under names like" in process.stderr
    assert not output.exists()


def test_the_whole_backbone_is_quantized(tmp_path):
    """Also a last dense layer, whose output bears the name of the graph's."""
    encoder = Encoder(VggishBackbone(embedding_size=16, width=2))
    calibration = [np.random.default_rng(0).uniform(-1, 1, 20000).astype(np.float32)]
    precisions = ["float32", "float16", "dynamic", "int8"]
    card = convert_encoder(
        encoder,
        tmp_path / "encoder",
        precisions=precisions,
        inputs=["log_mel"],
        calibration=calibration,
        accept_errors=True,
    )
    sizes = [check["bytes"] for check in card["checks"].values()]
    assert [check["precision"] for check in card["checks"].values()] == precisions
    assert sizes[1] < 0.55 * sizes[0]
    assert sizes[2] < 0.35 * sizes[0]
    assert sizes[3] < 0.35 * sizes[0]
    file = tmp_path / "encoder" / "encoder_log_mel_int8.tflite"
    details = tf.lite.Interpreter(str(file)).get_tensor_details()
    shapes = [tuple(v.shape)[::-1] for v in encoder.trainable_variables if len(v.shape) == 2]
    for shape in shapes:
        (dtype,) = {d["dtype"] for d in details if tuple(d["shape"]) == shape}
        assert dtype == np.int8


def test_an_output_of_zeros_is_wrong():
    expected = {"silence": {"embedding": np.ones([2, 4])}}
    for values in (np.zeros([2, 4]), np.ones([2, 4]) * [[0], [1]]):
        with pytest.raises(ValueError, match=r"cosine of embedding 0\.0"):
            compare(expected, {"silence": [{"embedding": values}]}, TFLITE_LIMITS["int8"])
    zeros = {"silence": {"embedding": np.zeros([2, 4])}}
    same = compare(zeros, {"silence": [zeros["silence"]]}, TFLITE_LIMITS["int8"])
    assert same["cosine"] == 1.0
    expected["silence"]["energies"] = np.ones([2, 1])
    with pytest.raises(ValueError, match="no energies to compare"):
        compare(expected, {"silence": [{"embedding": np.ones([2, 4])}]}, {})


def test_an_embedding_much_shorter_than_others_counts_by_its_error():
    # An error of 0.3 turns one of length 1 by 17 degrees, one half as long as the longest by 4.
    expected = {"silence": {"embedding": np.array([[1.0, 0.0]])},
                "noise": {"embedding": np.array([[0.0, 8.0]])}}  # fmt: skip

    def cosine(value, limits):
        found = {"silence": [{"embedding": np.array([value])}], "noise": [expected["noise"]]}
        return compare(expected, found, limits)["cosine"]

    assert cosine([1.0, 0.3], {}) == pytest.approx(1.09**-0.5)
    assert cosine([1.0, 0.3], {"short": 0.5}) == pytest.approx(1 - (0.3 / 4) ** 2 / 2)
    with pytest.raises(
        ValueError, match=r"clip 'silence': cosine of embedding 0\.968750; expected"
    ):
        cosine([1.0, 1.0], TFLITE_LIMITS["int8"])
    # Of one that is long enough, the direction counts as before.
    expected["silence"]["embedding"] = np.array([[4.0, 0.0]])
    assert cosine([4.0, 1.2], {"short": 0.5}) == pytest.approx(1.09**-0.5)


@pytest.mark.parametrize("waveform", [np.zeros([1, 16000]), np.zeros(16000, np.int16)])
def test_calibration_of_another_form_is_refused(encoder, tmp_path, waveform):
    with pytest.raises(InputError, match=r"calibration\[1\]: of shape .* expected floating-point"):
        convert_encoder(
            encoder,
            tmp_path / "encoder",
            precisions=["int8"],
            calibration=[np.zeros(16000), waveform],
        )


def test_too_large_an_error_is_refused(encoder, tmp_path):
    quiet = 1e-4 * np.random.default_rng(0).uniform(-1, 1, 20000).astype(np.float32)
    with pytest.raises(ExportError, match=r"encoder_int8\.tflite: .*; expected at least 0\.98"):
        convert_encoder(encoder, tmp_path / "encoder", precisions=["int8"], calibration=[quiet])
    assert list(tmp_path.iterdir()) == []


def test_int8_without_calibration_is_refused(encoder, tmp_path):
    with pytest.raises(InputError, match="expected recordings to calibrate on"):
        convert_encoder(encoder, tmp_path / "encoder", precisions=["int8"])


def test_operator_that_tflite_lacks_is_named_and_leaves_nothing(mean_backbone, tmp_path):
    encoder = Encoder(mean_backbone(lambda x: x * tf.linalg.svd(x, compute_uv=False)[0]))
    with pytest.raises(ExportError, match=r"tf\.Svd") as error:
        convert_encoder(encoder, tmp_path / "encoder")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_refused(dtype, tmp_path):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(f"mixed_{dtype}")
    try:
        encoder = Encoder(SmallBackbone(embedding_size=16, width=4))
        with pytest.raises(InputError, match=f"computes in {dtype}"):
            convert_encoder(encoder, tmp_path / "encoder")
    finally:
        keras.config.set_dtype_policy(policy)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_holds_something_is_left_alone(encoder, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        convert_encoder(encoder, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_one_process_for_each_kind_of_work(encoder, tmp_path, monkeypatch):
    """However many files there are: a start of TensorFlow takes as long as several of them."""
    started = []

    def counted(script, *arguments, **options):
        started.append((pathlib.Path(script).stem, *arguments[:1]))
        return run_script(script, *arguments, **options)

    monkeypatch.setattr(processes, "run_script", counted)
    monkeypatch.setattr(tflite, "run_script", counted)
    card = convert_encoder(
        encoder,
        tmp_path / "encoder",
        precisions=["float32", "float16"],
        inputs=["patch", "log_mel"],
    )
    assert [name for name, _ in started] == ["conversion", "conversion", "check"]
    assert [argument for _, argument in started[:2]] == ["convert", "quantize"]
    assert list(card["checks"]) == [
        "encoder_patch.tflite",
        "encoder_patch_float16.tflite",
        "encoder_log_mel.tflite",
        "encoder_log_mel_float16.tflite",
    ]


def test_the_wrong_one_of_several_files_is_named(converted, encoder, waveforms):
    file = converted[0] / "encoder.tflite"
    expected = {name: {"embedding": np.asarray(encoder(x))} for name, x in waveforms.items()}
    wrong = {name: {"embedding": 1.01 * x["embedding"]} for name, x in expected.items()}
    right, off = (Check(n, waveforms, x, tflite=file) for n, x in (("a", expected), ("b", wrong)))
    assert len(check_in_fresh_process([right, right])) == 2
    with pytest.raises(ExportError, match=r"^b: .*relative error of embedding 0\.0099"):
        check_in_fresh_process([right, off, right])
    missing = right._replace(name="c", tflite=file.with_name("missing.tflite"))
    with pytest.raises(ExportError, match=r"^c: .*missing\.tflite"):
        check_in_fresh_process([right, missing])


def test_a_child_that_hangs_is_ended(converted, waveforms, real_processes, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import time; time.sleep(60)")
    with pytest.raises(ExportError, match=r"script\.py: not finished after 0\.5 s"):
        run_script(str(script), timeout=0.5)
    check = Check("a", waveforms, {}, tflite=converted[0] / "encoder.tflite")
    with pytest.raises(ExportError, match=r"check\.py: not finished after 0\.01 s"):
        check_in_fresh_process([check], timeout=0.01)


def test_check_exports(converted, encoder, tmp_path):
    save_encoder(encoder, tmp_path / "saved_model")
    checks = check_exports(tmp_path / "saved_model", converted[0] / "encoder.tflite", encoder)
    assert checks["saved_model"]["relative_error"] <= 1e-5
    assert checks["tflite"]["cosine"] >= 0.9999
    assert checks["tensorflow"] == tf.__version__


def test_check_exports_finds_another_encoder(converted):
    other = Encoder(SmallBackbone(embedding_size=16, width=4))
    with pytest.raises(ExportError, match="relative error"):
        check_exports(None, converted[0] / "encoder.tflite", other)


@pytest.mark.parametrize("scale", [1.0, 1.01])
def test_check_as_a_program_never_imports_the_models(
    converted, encoder, waveforms, tmp_path, scale
):
    pairs = {}
    for name, waveform in waveforms.items():
        pairs[f"{name}/waveform"] = waveform
        pairs[f"{name}/embedding"] = scale * np.asarray(encoder(waveform))
    np.savez(tmp_path / "pairs.npz", **pairs)
    process = subprocess.run(
        [
            sys.executable,
            *("-X", "importtime", "-m", "sepssl.export.check"),
            f"--tflite={converted[0] / 'encoder.tflite'}",
            f"--expected={tmp_path / 'pairs.npz'}",
        ],
        capture_output=True,
        text=True,
    )
    (line,) = process.stdout.splitlines()
    assert process.returncode == (0 if scale == 1.0 else 1)
    assert ("tflite" in json.loads(line)) == (scale == 1.0)
    assert ("relative error of embedding 0.0099" in line) == (scale != 1.0)
    assert "sepssl.export" in process.stderr
    assert "sepssl.representation" not in process.stderr
