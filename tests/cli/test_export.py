import json
import subprocess

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
    (folder / "calibration").mkdir()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 30000)
    soundfile.write(folder / "calibration" / "noise.wav", noise, 16000)
    (folder / "calibration" / "broken.wav").write_text("RIFF")
    return folder


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
    "onnx": ["--encoder=encoder.keras", "--output=onnx", "--format=onnx", "--input=log_mel"],
    "hear": ["--encoder=encoder.keras", "--output=hear", "--format=hear"],
    "separator": ["--separator=separator.keras", "--output=separator"],
    "scene": ["--separator=separator.keras", "--encoder=encoder.keras", "--output=scene"],
}
OUTPUTS = {
    "saved_model": ["embedding [batch, 16]"],
    "tflite": ["embedding [batch, 16]"],
    "scenes": ["embedding [batch, 16]"],
    "onnx": ["embedding [batch, 16]"],
    "hear": ["embedding [batch, 16]"],
    "separator": ["sources [batch, 2, samples]"],
    "scene": [
        "embedding [batch, 16]",
        "channel_embeddings [batch, 2, 16]",
        "channel_energies [batch, 2]",
    ],
}
FORMATS = {"tflite": "tflite", "scenes": "tflite", "onnx": "onnx", "hear": "hear"}


@pytest.mark.parametrize("name", WRITES)
def test_writes_an_export_with_a_card(folder, forked_exports, name, call, monkeypatch):
    monkeypatch.chdir(folder)
    result = call("export", *WRITES[name])
    assert result.status == 0, result.stderr
    assert "\n  ".join(["16000 Hz in, out:", *OUTPUTS[name]]) in result.stdout
    (output,) = (flag for flag in WRITES[name] if flag.startswith("--output="))
    output = folder / output.removeprefix("--output=")
    card = json.loads((output / "card.json").read_text())
    assert card["format"] == FORMATS.get(name, "saved_model")
    if name == "tflite":
        assert set(card["checks"]) == {"encoder_log_mel.tflite", "encoder_log_mel_int8.tflite"}
        assert "broken.wav" in result.stdout
    if name == "onnx":
        assert set(card["checks"]) == {"encoder_log_mel.onnx"}
        (model,) = card["training"]
        assert model["sha256"].encode() in (output / "encoder_log_mel.onnx").read_bytes()
    if name == "saved_model":
        assert card["license"] == "CC-BY-4.0"
        assert "CC-BY-4.0" in (output / "README.md").read_text()
    subprocess.run(["sha256sum", "--check", "--quiet", "manifest.sha256"], cwd=output, check=True)
