import json

import keras
import numpy as np
import pytest
import soundfile
from absl import flags

import sepssl
from sepssl import export
from sepssl.cli import export as command
from sepssl.cli.main import execute, parse
from sepssl.data.annotations import Annotation
from sepssl.data.sources import open_clips
from sepssl.errors import InputError
from sepssl.pipelines.classify import require_encoder_of, score_windows, train_on_labels
from sepssl.pipelines.embed import embed_recordings
from sepssl.representation import Encoder, SmallBackbone

RATE, WINDOW = 16000, 1.2  # of which a patch every 0.48 s leaves the end out

LOOK = """
import json, sys
import numpy as np, tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

saved_model, tflite, waveforms, output = sys.argv[1:]
windows = np.load(waveforms)
loaded = tf.saved_model.load(saved_model)
run = Interpreter(tflite).get_signature_runner("serving_default")
np.savez(
    output,
    called=loaded(tf.constant(windows))["scores"],
    served=loaded.signatures["serving_default"](waveform=tf.constant(windows))["scores"],
    tflite=run(waveform=windows)["scores"],
)
classes = loaded.signatures["classes"]()["classes"].numpy()
known = any(name.split(".")[0] == "sepssl" for name in sys.modules)
print(json.dumps({"classes": [name.decode() for name in classes], "sepssl": known}))
"""


def call(*arguments):
    values = flags.FlagValues()
    parse(command, values, ["sepssl-export", *arguments])
    return execute(command, values)


@pytest.fixture(scope="module")
def made(tmp_path_factory, encoder):
    """Rows of recordings of tones, and a classifier of two classes trained on them."""
    folder = tmp_path_factory.mktemp("classifier")
    (folder / "in").mkdir()
    rng = np.random.default_rng(0)
    labels = []
    for i in range(8):
        t = np.arange(3 * RATE) / RATE
        tone = 0.3 * np.sin(2 * np.pi * (400 if i % 2 else 3000) * rng.uniform(0.9, 1.1) * t)
        noisy = tone + 0.05 * rng.normal(size=len(t))
        soundfile.write(folder / "in" / f"{i}.wav", noisy, RATE, subtype="FLOAT")
        labels.append(Annotation(f"{i}.wav", 0.0, 3.0, "low, \u00fc" if i % 2 else "high"))
    rows = folder / "rows.npz"
    embed_recordings(
        encoder, open_clips(folder / "in", RATE), rows, window_seconds=WINDOW, verbose=False
    )
    classifier, *_ = train_on_labels([rows], labels)
    return folder, rows, classifier


def test_exports_give_the_scores_of_apply(made, encoder, run_python, capsys):
    folder, rows, classifier = made
    require_encoder_of(classifier, encoder)
    windows, scores, _ = score_windows(classifier, rows)
    assert np.ptp(scores, axis=0).min() > 0.1
    sepssl.save_model(encoder, folder / "e.keras")
    classifier.save(folder / "c.npz")
    arguments = [f"--encoder={folder}/e.keras", f"--classifier={folder}/c.npz"]
    assert call(f"--output={folder}/saved_model", *arguments) == 0
    assert "scores [batch, 2]" in capsys.readouterr().out
    card = json.loads((folder / "saved_model" / "card.json").read_text())
    export.convert_classifier(encoder, classifier, folder / "tflite")
    waveforms = np.stack(
        [
            soundfile.read(file, dtype="float32")[0][round(start * RATE) : round(end * RATE)]
            for file, start, end in zip(windows.files, windows.starts, windows.ends, strict=True)
        ]
    )
    np.save(folder / "windows.npy", waveforms)
    told, _ = run_python(
        LOOK,
        folder / "saved_model",
        folder / "tflite" / "classifier.tflite",
        folder / "windows.npy",
        folder / "found.npz",
    )
    found = np.load(folder / "found.npz")
    for way, limit in (("called", 1e-4), ("served", 1e-4), ("tflite", 1e-3)):
        np.testing.assert_allclose(found[way], scores, atol=limit, err_msg=way)
    assert told == {"classes": ["high", "low, \u00fc"], "sepssl": False}
    assert card["classes"] == told["classes"]
    assert card["window_seconds"] == WINDOW
    for name in ("saved_model", "tflite"):
        text = (folder / name / "labels.txt").read_text(encoding="utf-8")
        assert text.splitlines() == told["classes"]
        assert "labels.txt" in (folder / name / "manifest.sha256").read_text()
        assert json.loads((folder / name / "card.json").read_text())["kind"] == "classifier"


def test_other_encoders_are_refused(made):
    _, _, classifier = made
    keras.utils.set_random_seed(1)
    other = Encoder(SmallBackbone(embedding_size=16, width=4))
    other.build()
    with pytest.raises(InputError, match=r"rows of the encoder [0-9a-f]{16}, this one is [0-9a-f]"):
        require_encoder_of(classifier, other)
    larger = Encoder(SmallBackbone(embedding_size=32, width=4))
    with pytest.raises(
        InputError, match=r"vectors of 16 values, .* expected one of the encoder's 32"
    ):
        export.save_classifier(larger, classifier, "unwritten")


def test_flags_that_do_not_fit(made, tmp_path, capsys):
    folder, _, classifier = made
    classifier.save(tmp_path / "c.npz")
    (tmp_path / "e.keras").touch()
    common = [f"--encoder={tmp_path}/e.keras", f"--classifier={tmp_path}/c.npz"]
    for arguments, message in (
        (common[1:], "no model; expected --encoder"),
        (
            [*common, "--format=hear"],
            "--classifier: applies to an encoder as saved_model or tflite",
        ),
        ([*common, "--format=tflite", "--input=patch"], "--input: does not apply to --classifier"),
        ([*common, f"--output={folder}/in"], "in: is not empty"),
    ):
        assert call(f"--output={tmp_path}/out", *arguments) == 1
        assert message in capsys.readouterr().err
