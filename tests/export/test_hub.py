"""Folders for hubs: what is in them, loaded by what reads it elsewhere."""

import hashlib
import json
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from absl import flags
from scipy import special

import sepssl
from sepssl.cli import export
from sepssl.cli.main import execute, parse
from sepssl.errors import InputError
from sepssl.evaluation.window_classifier import WindowClassifier
from sepssl.export import (
    ExportError,
    card,
    hub,
    save_hub_classifier,
    save_hub_encoder,
    save_hub_separator,
)
from sepssl.export.kaggle import kaggle_license, write_kaggle_metadata
from sepssl.separation import TDCN, LearnedBasis, Separator
from sepssl.serialization import save_model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

KAGGLE = ("model-metadata.json", "model-instance-metadata.json")
# Without anything of ours.
LOOK = """
import json, pathlib, sys
import numpy as np, onnxruntime, tensorflow as tf

folder, kind, waveform = pathlib.Path(sys.argv[1]), sys.argv[2], np.load(sys.argv[3])
saved = tf.saved_model.load(str(folder / "saved_model"))(waveform)
name = "scores" if kind == "classifier" else ""
saved = saved[name].numpy() if name else saved.numpy()
lite = tf.lite.Interpreter(str(folder / "tflite" / f"{kind}.tflite"))
lite = lite.get_signature_runner("serving_default")(waveform=waveform)
lite = lite[name] if name else next(iter(lite.values()))
onnx = onnxruntime.InferenceSession(str(folder / "onnx" / f"{kind}.onnx"))
onnx = onnx.run([name] if name else None, {"waveform": waveform})[0]
np.savez(sys.argv[3] + ".found.npz", saved_model=saved, tflite=lite, onnx=onnx)
print(json.dumps(any(name.split(".")[0] == "sepssl" for name in sys.modules)))
"""


@pytest.fixture(scope="module")
def files(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    keras.utils.set_random_seed(0)
    separator = Separator(2, LearnedBasis(8), TDCN(4, 4, 1, 1))
    separator.build()
    models = {"encoder": encoder, "separator": separator}
    for kind, model in models.items():
        save_model(model, folder / f"{kind}.keras", half_precision=True)
    (folder / "ATTRIBUTION.csv").write_text("clip,by\nbird.wav,Somebody\n")
    return folder


@pytest.fixture(scope="module")
def folder(files, forked_exports, tmp_path_factory):
    """That of the encoder."""
    folder = tmp_path_factory.mktemp("hub") / "encoder"
    arguments = [f"--encoder={files}/encoder.keras", f"--output={folder}"]
    values = flags.FlagValues()
    parse(export, values, ["sepssl-export", *arguments, "--format=hub", "--license=CC-BY-4.0"])
    assert execute(export, values) == 0
    return folder


def test_every_format_computes_what_the_model_does(folder, run_python, tmp_path):
    # A folder with a model.keras is a model.
    assert_formats_agree(sepssl.load_encoder(folder), folder, "encoder", run_python, tmp_path)


@pytest.mark.slow
def test_separator(files, run_python, tmp_path):
    config = save_hub_separator(files / "separator.keras", tmp_path / "hub")
    assert (config["kind"], config["sources"]) == ("separator", 2)
    separator = sepssl.load_separator(tmp_path / "hub")
    assert_formats_agree(separator, tmp_path / "hub", "separator", run_python, tmp_path)


def assert_formats_agree(model, folder, kind, run_python, tmp_path):
    waveform = np.random.default_rng(3).uniform(-1, 1, [2, 20001]).astype(np.float32)
    np.save(tmp_path / "waveform.npy", waveform)
    sepssl_seen, _ = run_python(LOOK, folder, kind, tmp_path / "waveform.npy")
    assert not sepssl_seen
    expected = np.asarray(model(waveform))
    found = np.load(tmp_path / "waveform.npy.found.npz")
    for name, limit in {"saved_model": 1e-5, "tflite": 1e-3, "onnx": 1e-3}.items():
        error = np.max(np.abs(found[name] - expected)) / np.max(np.abs(expected))
        assert error < limit, name


def test_what_is_in_the_folder(folder, files):
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "config.json", "manifest.sha256", "model.keras", "ATTRIBUTION.csv"),
        *("saved_model", "tflite", "onnx", *KAGGLE),
    }
    assert (folder / "model.keras").read_bytes() == (files / "encoder.keras").read_bytes()
    for part in (".", "saved_model", "tflite", "onnx"):  # any of them may be passed on alone
        copied = (folder / part / "ATTRIBUTION.csv").read_bytes()
        assert copied == (files / "ATTRIBUTION.csv").read_bytes()
    subprocess.run(["sha256sum", "--check", "--quiet", "manifest.sha256"], cwd=folder, check=True)


def test_configuration_for_programs(folder, encoder):
    config = json.loads((folder / "config.json").read_text())
    digest = hashlib.sha256((folder / "model.keras").read_bytes()).hexdigest()
    assert (config["file"], config["sha256"]) == ("model.keras", digest)
    assert (config["kind"], config["format"], config["license"]) == ("encoder", "hub", "CC-BY-4.0")
    assert (config["sample_rate"], config["embedding_size"]) == (16000, 16)
    assert (config["patch_seconds"], config["patch_hop_seconds"]) == (0.975, 0.48)
    assert (config["sepssl"], config["keras"]) == (sepssl.__version__, keras.__version__)
    rebuilt = keras.saving.deserialize_keras_object(config["network"])
    rebuilt.build()
    rebuilt.set_weights(sepssl.load_encoder(folder).get_weights())
    noise = np.random.default_rng(0).uniform(-1, 1, [1, 16000]).astype(np.float32)
    expected = np.asarray(encoder(noise))
    np.testing.assert_allclose(rebuilt(noise), expected, atol=1e-2 * np.max(expected))  # float16
    assert list(config["checks"]) == ["saved_model", "tflite/encoder.tflite", "onnx/encoder.onnx"]
    for check in config["checks"].values():
        assert check["cosine"] > 0.9999
        assert check["bytes"] > 1000


def test_what_kaggle_reads(folder):
    assert "metadata.json" not in (folder / "manifest.sha256").read_text()
    model = json.loads((folder / "model-metadata.json").read_text())
    assert model["ownerSlug"] == "INSERT_OWNER_SLUG_HERE"  # all that is left to fill in
    assert (model["title"], model["slug"]) == ("Audio encoder", "audio-encoder")
    assert model["isPrivate"] is True
    assert model["description"].startswith("# Audio encoder")  # without Hugging Face's head
    frameworks = {".": "keras", "saved_model": "tensorFlow2", "tflite": "tfLite", "onnx": "onnx"}
    for part, framework in frameworks.items():
        variation = json.loads((folder / part / "model-instance-metadata.json").read_text())
        assert (variation["ownerSlug"], variation["modelSlug"]) == (
            model["ownerSlug"],
            "audio-encoder",
        )
        assert (variation["framework"], variation["instanceSlug"]) == (framework, "float32")
        assert variation["licenseName"] == "Attribution 4.0 International (CC BY 4.0)"
        assert "${PATH}" in variation["usage"]
        assert "DIRECTORY" not in variation["usage"]
        assert isinstance(variation["fineTunable"], bool)
        assert variation["trainingData"] == []


def test_licences_and_folders_of_kaggle(tmp_path, capsys):
    names = {
        "GPL-3.0-only": "GPL 3",
        "lgpl-3.0-or-later": "GNU Lesser General Public License 3.0",
        "MIT": "MIT",
        "EUPL-1.2": "",
        "": "",
    }
    assert {license: kaggle_license(license) for license in names} == names
    for license in names:
        export._print_license(license)
    assert capsys.readouterr().out == (
        "Kaggle has no licence EUPL-1.2: fill in licenseName in each model-instance-metadata.json\n"
    )
    for part in ("saved_model", "tflite", "onnx"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "README.md").write_text('load("DIRECTORY/a"), LABELLED_DIRECTORY')
    write_kaggle_metadata(tmp_path, "Audio encoder", "DIRECTORY is a copy", "GPL-2.0-only")
    variation = json.loads((tmp_path / "onnx" / "model-instance-metadata.json").read_text())
    assert variation["licenseName"] == "GPL 2"
    assert variation["usage"] == 'load("${PATH}/a"), LABELLED_DIRECTORY'


def test_hugging_face_reads_the_card(folder):
    from huggingface_hub import ModelCard

    encoder = ModelCard.load(folder / "README.md")
    assert encoder.data.to_dict() == {
        "license": "cc-by-4.0",
        "library_name": "sepssl",
        "pipeline_tag": "feature-extraction",
        "tags": ["audio", "audio-embedding", "keras", "tflite", "onnx"],
    }
    for part in (
        "# Audio encoder",
        'encoder = sepssl.load_encoder("hf://OWNER/REPOSITORY")',
        'tf.saved_model.load("DIRECTORY/saved_model")',
        'Interpreter("DIRECTORY/tflite/encoder.tflite")',
        'InferenceSession("DIRECTORY/onnx/encoder.onnx")',
        "are in `ATTRIBUTION.csv`.",
        "`config.json` has all of this",
    ):
        assert part in encoder.text
    assert len(re.findall(r"^\| `", encoder.text, re.MULTILINE)) == 3
    config = json.loads((folder / "config.json").read_text())
    separator = ModelCard(card._readme(config | {"kind": "separator", "license": ""})).data
    assert separator.license == "unknown"
    assert separator.pipeline_tag == "audio-to-audio"
    assert separator.tags[1] == "audio-source-separation"


@pytest.mark.parametrize("stated", ["Free: for birds", 'the "bird" licence\nof 2026', "mit or so"])
def test_licenses_that_hugging_face_does_not_know(stated, folder):
    from huggingface_hub import ModelCard

    config = json.loads((folder / "config.json").read_text())
    read = ModelCard(card._readme(config | {"license": stated})).data
    assert (read.license, read.license_name) == ("other", stated)


def test_the_extra_is_named(files, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)  # as if not installed
    with pytest.raises(InputError, match=r"needs onnx; .*pip install 'sepssl\[onnx\]'$"):
        save_hub_encoder(files / "encoder.keras", tmp_path / "out")


def test_a_format_that_goes_wrong_leaves_nothing(files, monkeypatch, tmp_path):
    def refuse(model, directory, origin):
        (directory / "half").mkdir(parents=True)
        raise ExportError(f"{directory}: clip 'sine': relative error of embedding 0.5")

    monkeypatch.setattr(hub, "save_encoder", refuse)
    with pytest.raises(ExportError) as error:
        save_hub_encoder(files / "encoder.keras", tmp_path / "out")
    folder = tmp_path / "out" / "saved_model"
    assert str(error.value) == f"{folder}: clip 'sine': relative error of embedding 0.5"
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_refused(files, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="full: is not empty"):
        save_hub_encoder(files / "encoder.keras", tmp_path / "full")
    with pytest.raises(InputError, match="holds a Separator; expected"):
        save_hub_encoder(files / "separator.keras", tmp_path / "new")


@pytest.mark.slow
def test_a_classifier(files, encoder, run_python, tmp_path):
    rng = np.random.default_rng(0)
    size = encoder.embedding_size
    weights = rng.normal(size=[size, 2]).astype(np.float32)
    zeros = np.zeros(2, np.float32)
    made = WindowClassifier(
        ("bird", "rain"), np.zeros(size, np.float32), weights, zeros, zeros + 0.5, {}
    )
    made.save(tmp_path / "made.npz")
    folder = tmp_path / "hub"
    config = save_hub_classifier(
        files / "encoder.keras", tmp_path / "made.npz", folder, license="MIT"
    )
    assert (config["kind"], config["classes"]) == ("classifier", ["bird", "rain"])
    assert (folder / "classifier.npz").read_bytes() == (tmp_path / "made.npz").read_bytes()
    text = (folder / "README.md").read_text()
    assert "pipeline_tag: audio-classification" in text
    assert "license: mit" in text
    assert 'encoder = sepssl.load_encoder("hf://OWNER/REPOSITORY")' in text
    variation = json.loads((folder / "onnx" / "model-instance-metadata.json").read_text())
    assert (variation["licenseName"], variation["modelSlug"]) == ("MIT", "sound-classifier")
    model = sepssl.load_encoder(folder).with_patches(cover_end=True)

    def scores(waveform):
        vectors = np.asarray(model(waveform))
        return special.expit(vectors / np.linalg.norm(vectors, axis=1, keepdims=True) @ weights)

    assert_formats_agree(scores, folder, "classifier", run_python, tmp_path)
