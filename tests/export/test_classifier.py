import json

import keras
import numpy as np
import pytest
import soundfile
from absl import flags

import sepssl
from sepssl import export
from sepssl.audio.log_mel import LogMel
from sepssl.cli import export as command
from sepssl.cli.main import execute, parse
from sepssl.data.annotations import Annotation
from sepssl.data.sources import open_clips
from sepssl.errors import InputError
from sepssl.pipelines.classify import require_encoder_of, score_windows, train_on_labels
from sepssl.pipelines.embed import embed_recordings
from sepssl.representation import Encoder, SmallBackbone

CLASSES = ["high", "low, \u00fc"]
RATE, WINDOW = 16000, 1.2  # of which a patch every 0.48 s leaves the end out

SAVED_MODEL = """
import json, sys
import numpy as np, tensorflow as tf

saved_model, waveforms, output = sys.argv[1:]
windows = tf.constant(np.load(waveforms))
loaded = tf.saved_model.load(saved_model)
served = loaded.signatures["serving_default"](waveform=windows)["scores"]
np.savez(output, called=loaded(windows)["scores"], served=served)
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
        labels.append(Annotation(f"{i}.wav", 0.0, 3.0, CLASSES[i % 2]))
    rows = folder / "rows.npz"
    embed_recordings(
        encoder, open_clips(folder / "in", RATE), rows, window_seconds=WINDOW, verbose=False
    )
    classifier, *_ = train_on_labels([rows], labels)
    return folder, rows, classifier


@pytest.fixture(scope="module")
def windows(made):
    """Windows [windows, samples], and what apply gives for them."""
    _, rows, classifier = made
    windows, scores, _ = score_windows(classifier, rows)
    assert np.ptp(scores, axis=0).min() > 0.1
    places = zip(windows.files, windows.starts, windows.ends, strict=True)
    sounds = [
        soundfile.read(file, dtype="float32")[0][round(start * RATE) : round(end * RATE)]
        for file, start, end in places
    ]
    return np.stack(sounds), scores


def check_labels(folder):
    card = json.loads((folder / "card.json").read_text())
    assert card["kind"] == "classifier"
    assert card["classes"] == CLASSES
    assert card["window_seconds"] == WINDOW
    assert (folder / "labels.txt").read_text(encoding="utf-8").splitlines() == CLASSES
    assert "labels.txt" in (folder / "manifest.sha256").read_text()


def test_a_saved_model_gives_the_scores_of_apply(made, windows, encoder, run_python, capsys):
    folder, _, classifier = made
    waveforms, scores = windows
    sepssl.save_model(encoder, folder / "e.keras")
    classifier.save(folder / "c.npz")
    arguments = [f"--encoder={folder}/e.keras", f"--classifier={folder}/c.npz"]
    assert call(f"--output={folder}/saved_model", *arguments) == 0
    assert "scores [batch, 2]" in capsys.readouterr().out
    np.save(folder / "windows.npy", waveforms)
    arguments = (folder / "saved_model", folder / "windows.npy", folder / "found.npz")
    told, _ = run_python(SAVED_MODEL, *arguments)
    found = np.load(folder / "found.npz")
    np.testing.assert_allclose(found["called"], scores, atol=1e-4)
    np.testing.assert_allclose(found["served"], scores, atol=1e-4)
    assert told == {"classes": CLASSES, "sepssl": False}
    check_labels(folder / "saved_model")


@pytest.mark.slow
def test_tflite_gives_the_scores_of_apply(made, windows, encoder):
    from ai_edge_litert.interpreter import Interpreter

    folder, _, classifier = made
    waveforms, scores = windows
    export.convert_classifier(encoder, classifier, folder / "tflite", None, ["float32", "float16"])
    for name, limit in (("classifier", 1e-3), ("classifier_float16", 0.05)):
        model = Interpreter(str(folder / "tflite" / f"{name}.tflite"))
        found = model.get_signature_runner("serving_default")(waveform=waveforms)["scores"]
        np.testing.assert_allclose(found, scores, atol=limit)
    check_labels(folder / "tflite")


def test_scores_of_whole_recordings_level_each_window(made, tmp_path):
    """As rows of pool="mean" do: its loud half does not set the level of its quiet one."""
    folder, *_ = made
    keras.utils.set_random_seed(0)
    log_mel = LogMel(normalize_level="waveform")
    encoder = Encoder(SmallBackbone(embedding_size=16, width=4), log_mel=log_mel)
    encoder.build()
    (tmp_path / "in").mkdir()
    labels, recordings = [], []
    for path in sorted((folder / "in").iterdir()):
        recording, _ = soundfile.read(path, dtype="float32")
        recording[len(recording) // 2 :] = 1e-2 * recording[len(recording) // 2 :][::-1]
        soundfile.write(tmp_path / "in" / path.name, recording, RATE, subtype="FLOAT")
        recordings.append(recording)
        labels.append(Annotation(path.name, 0.0, 3.0, CLASSES[int(path.stem) % 2]))
    rows = tmp_path / "rows.npz"
    clips = open_clips(tmp_path / "in", RATE)
    embed_recordings(encoder, clips, rows, pool="mean", verbose=False)
    classifier, *_ = train_on_labels([rows], labels)
    _, scores, _ = score_windows(classifier, rows)
    assert np.ptp(scores, axis=0).min() > 0.1
    recordings = np.stack(recordings)
    found = export.classifier.classifier_graph(encoder, classifier).call(recordings, False)
    np.testing.assert_allclose(found["scores"], scores, atol=1e-4)
    whole = np.asarray(encoder(recordings))  # the other way to bring it to a level
    assert np.abs(found["embedding"] - whole).max() > 0.1 * np.abs(whole).max()


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
            "--classifier: applies to an encoder as saved_model, tflite, onnx or hub",
        ),
        ([*common, "--format=tflite", "--input=patch"], "--input: does not apply to --classifier"),
        ([*common, f"--output={folder}/in"], "in: is not empty"),
    ):
        there = any(argument.startswith("--output=") for argument in arguments)
        assert call(*arguments, *[f"--output={tmp_path}/out"] * (not there)) == 1
        assert message in capsys.readouterr().err
