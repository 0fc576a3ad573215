"""What HEAR, X-ARES and MTEB check of the modules made for them, and what the embeddings are.

Of these X-ARES's check and hear-validator run in CI, MTEB only where somebody has installed it.
"""

import functools
import importlib.util
import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from sepssl.audio.log_mel import LogMel
from sepssl.errors import InputError
from sepssl.export import save_hear, sepssl_hear
from sepssl.representation import Encoder, SmallBackbone

LOOK = """
import importlib, inspect, json, sys
import numpy as np, tensorflow as tf

module = importlib.import_module("sepssl_hear")
model = module.load_model(*sys.argv[2:])
assert isinstance(model, tf.Module)
audio = tf.constant(np.load(sys.argv[1])["audio"])
scene = module.get_scene_embeddings(audio, model)
embeddings, times = module.get_timestamp_embeddings(audio, model)
assert scene.dtype == embeddings.dtype == tf.float32
np.savez(sys.argv[1] + ".found.npz", scene=scene, embeddings=embeddings, times=times)
sizes = [model.sample_rate, model.scene_embedding_size, model.timestamp_embedding_size]
sepssl = any(name.split(".")[0] == "sepssl" for name in sys.modules)
print(json.dumps({"sizes": sizes, "sepssl": sepssl}))
"""


# What of a benchmark's own package runs in a process without sepssl.
XARES = """
import json, sys
import numpy as np, sepssl_xares, torch
from xares.audio_encoder_checker import check_audio_encoder

encoder = sepssl_xares.SepsslEncoder()
checked = check_audio_encoder(encoder)
audio = torch.from_numpy(np.load(sys.argv[1])["audio"])
embeddings = encoder(audio)
one = encoder(audio[0])
assert isinstance(embeddings, torch.Tensor) and embeddings.dtype == torch.float32
np.savez(sys.argv[1] + ".found.npz", embeddings=embeddings.numpy(), one=one.numpy())
sepssl = any(name.split(".")[0] == "sepssl" for name in sys.modules)
about = [encoder.sampling_rate, encoder.output_dim, encoder.hop_size_in_ms]
print(json.dumps({"checked": checked, "about": about, "sepssl": sepssl}))
"""
MTEB = """
import json, sys
import mteb, numpy as np, sepssl_mteb
from datasets import Dataset, DatasetDict
from mteb.abstasks.classification import AbsTaskClassification
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models import EncoderProtocol
from torch.utils.data import DataLoader


def task(rows):
    unknown = "reference date domains task_subtypes license annotations_creators dialect"
    unknown += " sample_creation bibtex_citation"
    metadata = TaskMetadata(
        name="Tones", description="Low and high.", dataset={"path": "no/where", "revision": "1"},
        type="AudioClassification", category="a2c", eval_splits=["test"], eval_langs=["zxx-Zxxx"],
        main_score="accuracy", modalities=["audio"], **dict.fromkeys(unknown.split()),
    )
    tones = type("Tones", (AbsTaskClassification,), {"metadata": metadata})()
    tones.input_column_name, tones.n_experiments, tones.data_loaded = "audio", 2, True
    data = Dataset.from_list(rows).with_format("numpy")
    tones.dataset = {"default": DatasetDict(train=data, test=data)}
    return tones


model = sepssl_mteb.SepsslEncoder()
assert isinstance(model, EncoderProtocol)
audio = np.load(sys.argv[1])["audio"]
rows = [
    {"audio": {"array": waveform[: 9000 * (i + 1)], "sampling_rate": 16000}}
    for i, waveform in enumerate(audio)
]
embeddings = model.encode(DataLoader(rows, batch_size=2), task_metadata=None)
tones = []
for i in range(20):
    rate, frequency = (16000, 22050)[i // 2 % 2], (300, 2000)[i % 2]
    tone = 0.3 * np.sin(2 * np.pi * frequency * np.arange(rate) / rate + i)
    tones.append({"audio": {"array": tone, "sampling_rate": rate}, "label": i % 2})
results = mteb.evaluate(model, [task(tones)], cache=None, show_progress_bar=False)
np.savez(sys.argv[1] + ".found.npz", embeddings=embeddings)
about = [results.model_name, len(results.model_revision), results.task_results[0].get_score()]
sepssl = any(name.split(".")[0] == "sepssl" for name in sys.modules)
print(json.dumps({"about": about, "sepssl": sepssl}))
"""


@pytest.fixture(scope="module")
def hear(encoder, forked_exports, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "hear"
    save_hear(encoder, folder)
    return folder


@pytest.fixture
def look(forks, tmp_path):
    return functools.partial(look_at, forks, tmp_path)


def look_at(forks, tmp_path, folder, audio, *arguments, code=LOOK):
    np.savez(tmp_path / "audio.npz", audio=audio)
    file = str(tmp_path / "audio.npz")
    process = forks.run(file, *arguments, code=code, cwd=tmp_path, path=[folder])
    assert process.returncode == 0, process.stderr[-3000:]
    told = json.loads(process.stdout.splitlines()[-1])
    return told, dict(np.load(tmp_path / "audio.npz.found.npz"))


def test_embeddings_and_timestamps(encoder, hear, look):
    samples = 37777
    audio = np.random.default_rng(0).uniform(-1, 1, [3, samples]).astype(np.float32)
    told, found = look(hear, audio)
    assert told == {"sizes": [16000, 16, 16], "sepssl": False}
    expected = np.asarray(encoder(audio))
    np.testing.assert_allclose(found["scene"], expected, atol=1e-5 * expected.max())
    # Every 50 ms, from 0 to the end: 2.361 s.
    np.testing.assert_array_equal(found["times"], np.tile(50.0 * np.arange(48), (3, 1)))
    assert found["embeddings"].shape == (3, 48, 16)
    padded = np.pad(audio, [[0, 0], [15600, 15600]])
    for i in (0, 1, 20, 47):
        centre = 15600 + 800 * i
        patch = padded[:, centre - 7800 : centre + 7800]
        expected = np.asarray(encoder(patch))
        np.testing.assert_allclose(found["embeddings"][:, i], expected, atol=1e-5 * expected.max())


def test_recordings_longer_than_what_is_embedded_at_once(encoder, hear, look):
    audio = np.random.default_rng(0).uniform(-1, 1, [1, 16000 * 20]).astype(np.float32)
    _, found = look(hear, audio, str(hear))
    assert found["embeddings"].shape == (1, 401, 16)
    for i in (255, 256, 400):
        patch = np.pad(audio, [[0, 0], [7800, 7800]])[:, 800 * i : 800 * i + 15600]
        expected = np.asarray(encoder(patch))
        np.testing.assert_allclose(found["embeddings"][:, i], expected, atol=1e-5 * expected.max())


def test_other_sample_rates(look, tmp_path):
    encoder = Encoder(SmallBackbone(embedding_size=8, width=2), LogMel(sample_rate=22050))
    card = save_hear(encoder, tmp_path / "hear")
    # Frames are 220 samples apart, so 5 of them are a little less than 50 ms.
    assert card["timestamps"]["hop_samples"] == 1100
    audio = np.zeros([2, 22050], np.float32)
    told, found = look(tmp_path / "hear", audio)
    assert told["sizes"] == [22050, 8, 8]
    steps = np.diff(found["times"], axis=1)
    np.testing.assert_allclose(steps, 1000 * 1100 / 22050, atol=1e-3)
    encoder = Encoder(SmallBackbone(8, 2), LogMel(sample_rate=8000, high_hz=3800.0))
    with pytest.raises(InputError, match="is for 8000 Hz; expected a sample rate of HEAR's"):
        save_hear(encoder, tmp_path / "other")


def test_timestamps_of_hours_are_exact():
    """float32 resolves 1 ms from 2.3 hours on, and frames of 22,050 Hz are 49.887 ms apart."""

    def timestamps(waveform):
        return {"embedding": tf.zeros([1, waveform.shape[1] - 1, 1])}

    # A hop of one sample at 21 Hz: 10 hours are few samples, and no hop is a whole millisecond.
    model = types.SimpleNamespace(
        sample_rate=21,
        patch_samples=2,
        hop_samples=1,
        encoder=types.SimpleNamespace(signatures={"timestamps": timestamps}),
    )
    samples = 36000 * 21
    embeddings, times = sepssl_hear.get_timestamp_embeddings(np.zeros([1, samples]), model)
    assert embeddings.shape == (1, samples + 1, 1)
    expected = 1000 * np.arange(samples + 1) / 21
    np.testing.assert_allclose(times[0], expected, rtol=0, atol=1e-6)
    assert float(times[0, -1]) == 36_000_000.0
    # What hear-validator asks of the spacing.
    assert np.ptp(np.diff(times[0])) < 1e-3


def test_hear_validator(hear, tmp_path):
    """HEAR's own check, where it is installed: `pip install hearvalidator`, which needs PyTorch."""
    pytest.importorskip("hearvalidator")
    process = subprocess.run(
        [sys.executable, "-m", "hearvalidator.validate", "sepssl_hear"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(hear)},
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert "Looks good!" in process.stdout
    assert "Interval between timestamps is 50.0ms" in process.stdout


def installed(*packages) -> bool:
    """Without an import: PyTorch's takes seconds, and another process will do it."""
    return all(importlib.util.find_spec(package) for package in packages)


@pytest.mark.skipif(not installed("xares", "loguru", "torch"), reason="X-ARES is not installed")
def test_xares(encoder, hear, look):
    """With X-ARES's own check: `pip install --no-deps xares loguru`, which need PyTorch."""
    audio = np.random.default_rng(0).uniform(-1, 1, [2, 37777]).astype(np.float32)
    told, found = look(hear, audio, code=XARES)
    assert told == {"checked": True, "about": [16000, 16, 50.0], "sepssl": False}
    padded = np.pad(audio, [[0, 0], [7800, 7800]])
    assert found["embeddings"].shape == (2, 48, 16)
    for i in (0, 11, 40):
        expected = np.asarray(encoder(padded[:, 800 * i : 800 * i + 15600]))
        np.testing.assert_allclose(found["embeddings"][:, i], expected, atol=1e-5 * expected.max())
    np.testing.assert_array_equal(found["one"], found["embeddings"][:1])


@pytest.mark.slow
@pytest.mark.skipif(not installed("mteb", "torchaudio"), reason="MTEB is not installed")
def test_mteb(encoder, hear, look):
    """With MTEB's own classification: `pip install mteb torchaudio`."""
    audio = np.random.default_rng(0).uniform(-1, 1, [3, 30000]).astype(np.float32)
    told, found = look(hear, audio, code=MTEB)
    assert told == {"about": ["sepssl/encoder", 64, 1.0], "sepssl": False}
    for i, embedding in enumerate(found["embeddings"]):
        expected = np.asarray(encoder(audio[i : i + 1, : 9000 * (i + 1)]))[0]
        np.testing.assert_allclose(embedding, expected, atol=1e-5 * expected.max())
