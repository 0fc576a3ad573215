import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from sepssl.representation import Encoder, SmallBackbone
from sepssl.separation import TDCN, LearnedBasis, Separator
from sepssl.serialization import save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    encoder = Encoder(SmallBackbone(embedding_size=16, width=4))
    encoder.build()
    save_model(encoder, folder / "encoder.keras")
    separator = Separator(
        num_sources=2,
        basis=LearnedBasis(num_coefficients=8),
        tdcn=TDCN(bottleneck_channels=4, conv_channels=4, dilations_per_repeat=1, repeats=1),
    )
    separator.build((None, 4000))
    save_model(separator, folder / "separator.keras")
    (folder / "text.keras").write_text("not a model")
    (folder / "empty").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("mine")
    (folder / "calibration").mkdir()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 30000)
    soundfile.write(folder / "calibration" / "noise.wav", noise, 16000)
    (folder / "calibration" / "broken.wav").write_text("RIFF")
    return folder


ERRORS = {
    "missing": (["--encoder=nothing.keras", "--output=a"], "nothing.keras: no such file"),
    "text": (["--encoder=text.keras", "--output=b"], "text.keras: could not be loaded"),
    "no encoder": (["--encoder=separator.keras", "--output=c"], "holds a Separator; expected"),
    "full": (["--encoder=encoder.keras", "--output=full"], "full: is not empty"),
    "format": (
        ["--encoder=encoder.keras", "--output=d", "--format=onnx"],
        "should be one of <saved_model|tflite|hear>",
    ),
    "argument": (["--encoder=encoder.keras", "--output=e", "tflite"], "unexpected argument"),
    "flag": (["--encoder=encoder.keras", "--output=f", "--fromat=tflite"], "flag 'fromat'"),
    "no model": (["--output=g"], "expected --encoder, --separator, or both"),
    "precision of a SavedModel": (
        ["--encoder=encoder.keras", "--output=h", "--precision=int8"],
        "--precision: is for --format=tflite",
    ),
    "input of a separator": (
        ["--separator=separator.keras", "--output=h", "--format=tflite", "--input=patch"],
        "--input: is for --format=tflite of an encoder",
    ),
    "unknown precision": (
        ["--encoder=encoder.keras", "--output=h", "--format=tflite", "--precision=int4"],
        "'int4': expected some of float32, float16, dynamic, int8",
    ),
    "precision before recordings": (
        [
            *("--encoder=encoder.keras", "--output=h", "--format=tflite"),
            *("--precision=int8,int4", "--calibration=nowhere"),
        ],
        "'int4': expected some of float32, float16, dynamic, int8",
    ),
    "no such recordings": (
        [
            *("--encoder=encoder.keras", "--output=h", "--format=tflite"),
            *("--precision=int8", "--calibration=nowhere"),
        ],
        "nowhere: does not exist",
    ),
    "current folder": (["--encoder=../encoder.keras", "--output=."], "is the current folder"),
    "int8 without recordings": (
        ["--encoder=encoder.keras", "--output=h", "--format=tflite", "--precision=int8"],
        "expected recordings to calibrate on",
    ),
    "hear of a separator": (
        ["--separator=separator.keras", "--output=h", "--format=hear"],
        "is for encoders",
    ),
}
WRITES = {
    "saved_model": ["--encoder=encoder.keras", "--output=saved", "--license=CC-BY-4.0"],
    "tflite": [
        *("--encoder=encoder.keras", "--output=new/lite", "--format=tflite"),
        *("--precision=float32,int8", "--input=log_mel", "--calibration=calibration"),
        "--accept_errors",  # the weights are random
    ],
    "scenes": [
        *("--encoder=encoder.keras", "--output=on_scenes", "--format=tflite"),
        *("--precision=int8", "--input=log_mel", "--calibration=scenes", "--accept_errors"),
    ],
    "hear": ["--encoder=encoder.keras", "--output=hear", "--format=hear"],
    "separator": ["--separator=separator.keras", "--output=separator"],
    "scene": ["--separator=separator.keras", "--encoder=encoder.keras", "--output=scene"],
}
OUTPUTS = {
    "saved_model": ["embedding [batch, 16]"],
    "tflite": ["embedding [batch, 16]"],
    "scenes": ["embedding [batch, 16]"],
    "hear": ["embedding [batch, 16]"],
    "separator": ["sources [batch, 2, samples]"],
    "scene": [
        "embedding [batch, 16]",
        "channel_embeddings [batch, 2, 16]",
        "channel_energies [batch, 2]",
    ],
}
FORMATS = {"tflite": "tflite", "scenes": "tflite", "hear": "hear"}


def run(folder, arguments):
    return subprocess.run(
        [sys.executable, "-m", "sepssl.cli.export", *arguments],
        capture_output=True,
        text=True,
        cwd=folder / "empty" if "--output=." in arguments else folder,
        # Not inherited from the tests' own TensorFlow: the entry point sets it.
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
        timeout=120,
    )


@pytest.mark.parametrize("name", ERRORS)
def test_bad_input_is_one_line_and_leaves_nothing(folder, name):
    arguments, says = ERRORS[name]
    before = {path.name for path in folder.iterdir()}
    process = run(folder, arguments)
    assert process.returncode == 1
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith("sepssl-export: error: ")
    assert says in line
    assert {path.name for path in folder.iterdir()} == before
    assert [path.name for path in (folder / "full").iterdir()] == ["mine.txt"]
    assert not list((folder / "empty").iterdir())


@pytest.mark.parametrize("name", WRITES)
def test_writes_an_export_with_a_card(folder, name):
    process = run(folder, WRITES[name])
    assert process.returncode == 0, process.stderr
    assert "\n  ".join(["16000 Hz in, out:", *OUTPUTS[name]]) in process.stdout
    (output,) = (flag for flag in WRITES[name] if flag.startswith("--output="))
    output = folder / output.removeprefix("--output=")
    card = json.loads((output / "card.json").read_text())
    assert card["format"] == FORMATS.get(name, "saved_model")
    if name == "tflite":
        assert set(card["checks"]) == {"encoder_log_mel.tflite", "encoder_log_mel_int8.tflite"}
        assert "broken.wav" in process.stdout + process.stderr
    if name == "saved_model":
        assert card["license"] == "CC-BY-4.0"
        assert "CC-BY-4.0" in (output / "README.md").read_text()
    subprocess.run(["sha256sum", "--check", "--quiet", "manifest.sha256"], cwd=output, check=True)


def test_help_names_the_flags():
    process = subprocess.run(
        [sys.executable, "-m", "sepssl.cli.export", "--help"], capture_output=True, text=True
    )
    assert process.returncode == 0
    for text in (
        "--encoder:",
        "--output:",
        "--format:",
        "--precision:",
        "Writes an encoder, a separator",
    ):
        assert text in process.stdout
