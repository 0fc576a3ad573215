"""The model for perch-hoplite, with perch-hoplite's own interface.

HOPLITE_PYTHON names a Python that has it, see tests/index/test_hoplite.py. TensorFlow is that of
these tests: perch-hoplite's environment has none.
"""

import os
import subprocess

import keras
import numpy as np
import pytest

from sepssl.export import save_scene
from sepssl.representation.windows import WindowEmbedder
from sepssl.separation import TDCN, Separator, STFTBasis

PYTHON = os.environ.get("HOPLITE_PYTHON")
pytestmark = pytest.mark.skipif(not PYTHON, reason="HOPLITE_PYTHON does not name a Python")

LOOK = """
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


def test_a_scene_is_a_model_of_perch_hoplite(encoder, forks, tmp_path):
    keras.utils.set_random_seed(0)
    separator = Separator(3, STFTBasis(), TDCN(4, 8, 1, 1), "uniform")
    save_scene(separator, encoder, tmp_path / "scene")
    site = subprocess.run(
        [PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, [2, 40_000]).astype(np.float32)
    np.save(tmp_path / "audio.npy", audio)
    arguments = [site, str(tmp_path / "audio.npy"), str(tmp_path / "scene")]
    process = forks.run(*arguments, code=LOOK, cwd=tmp_path, path=[tmp_path / "scene"])
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
