"""A separator and an encoder as one SavedModel; with perch-hoplite's own interface, too.

HOPLITE_PYTHON names a Python that has it, see tests/index/test_hoplite.py. TensorFlow is that of
these tests: perch-hoplite's environment has none.
"""

import os
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from sepssl.errors import InputError
from sepssl.export import save_scene
from sepssl.representation.windows import WindowEmbedder
from sepssl.separation import TDCN, Separator, STFTBasis
from tests.export.separators import LOOK, make_separator

PYTHON = os.environ.get("HOPLITE_PYTHON")

HOPLITE = """
import json, sys
import numpy as np

sys.path.append(sys.argv[1])  # what is there already comes first
import sepssl_hoplite
from ml_collections import config_dict
from perch_hoplite.zoo import zoo_interface

model = sepssl_hoplite.SceneModel.load()
assert isinstance(model, zoo_interface.EmbeddingModel)
audio = np.load(sys.argv[2])
one, batch = model.embed(audio[0]), model.batch_embed(audio)
assert isinstance(one, zoo_interface.InferenceOutputs) and batch.batched
config = config_dict.create(model_path=sys.argv[3], embed_raw=False)
channels = sepssl_hoplite.SceneModel.from_config(config).embed(audio[0])
np.savez(
    sys.argv[2] + ".found.npz", one=one.embeddings, batch=batch.embeddings,
    channels=channels.embeddings, separated=one.separated_audio,
    all_separated=batch.separated_audio, pooled=one.pooled_embeddings("mean", "max"),
    short=model.embed(audio[0, :1000]).embeddings,
)
sepssl = any(name.split(".")[0] == "sepssl" for name in sys.modules)
print(json.dumps([sepssl, model.sample_rate, model.window_size_s, model.hop_size_s]))
"""


@pytest.fixture(scope="module")
def separator():
    # Without the loop, whose blocks XLA compiles in training; test_separator.py has it.
    return make_separator(STFTBasis(512, 256), unroll=True, dilations_per_repeat=2, repeats=1)


@pytest.fixture(scope="module")
def scene(separator, encoder, forked_exports, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene") / "scene"
    save_scene(separator, encoder, folder)
    return folder


def test_scene(scene, separator, encoder, waveforms, saved_waveforms, run_python, tmp_path):
    told, _ = run_python(LOOK, scene, saved_waveforms, tmp_path / "found.npz")
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

    windows = tf.saved_model.load(str(scene)).signatures["windows"]
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


@pytest.mark.skipif(not PYTHON, reason="HOPLITE_PYTHON does not name a Python")
def test_a_scene_is_a_model_of_perch_hoplite(scene, separator, encoder, forks, tmp_path):
    site = subprocess.run(
        [PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, [2, 40_000]).astype(np.float32)
    np.save(tmp_path / "audio.npy", audio)
    arguments = [site, str(tmp_path / "audio.npy"), str(scene)]
    process = forks.run(*arguments, code=HOPLITE, cwd=tmp_path, path=[scene])
    assert process.returncode == 0, process.stderr[-3000:]
    assert process.stdout.splitlines()[-1] == "[false, 16000, 0.975, 0.48]"
    found = np.load(tmp_path / "audio.npy.found.npz")
    separated = np.asarray(separator(audio))
    np.testing.assert_allclose(found["all_separated"], separated, atol=1e-5)
    np.testing.assert_allclose(found["separated"], separated[0], atol=1e-5)
    sounds = np.stack([audio[0], *separated[0]])
    # Four windows on the grid; the fifth, which reaches the end, has no place on it.
    windows = [batch.embeddings for batch in WindowEmbedder(encoder)([sounds])]
    assert sum(map(len, windows)) == 5
    expected = np.concatenate(windows)[:4]
    limit = 1e-4 * np.abs(expected).max()
    assert found["one"].shape == (4, 4, 16)
    np.testing.assert_allclose(found["one"], expected, atol=limit)
    np.testing.assert_allclose(found["batch"][0], expected, atol=limit)
    np.testing.assert_allclose(found["channels"], expected[:, 1:], atol=limit)
    np.testing.assert_allclose(found["pooled"], expected.mean(axis=0).max(axis=0), atol=limit)
    assert found["short"].shape == (1, 4, 16)


def test_scene_of_two_sample_rates_is_refused(encoder, tmp_path):
    separator = Separator(2, STFTBasis(), TDCN(4, 4, 1, 1), sample_rate=22050)
    with pytest.raises(InputError, match="is for 22050 Hz, the encoder for 16000 Hz"):
        save_scene(separator, encoder, tmp_path / "scene")
    assert list(tmp_path.iterdir()) == []
