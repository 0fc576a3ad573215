"""Indexes read by perch-hoplite, and its own read here.

It cannot be installed beside this package. HOPLITE_PYTHON names a Python that has it:

    python3 -m venv hoplite && hoplite/bin/pip install --no-deps perch-hoplite==1.0.2
    hoplite/bin/pip install numpy 'usearch>=2.17' 'absl-py<2' 'ml-collections<0.2' \
        'etils[epath]' 'pandas<3' scipy tqdm librosa
    HOPLITE_PYTHON=hoplite/bin/python pytest tests/index/test_hoplite.py
"""

import json
import os
import pathlib
import subprocess

import numpy as np
import pytest

from sepssl.index.search import WindowIndex
from sepssl.index.store import SETTINGS, Rows, WindowStore
from sepssl.index.vectors import CONFIG_KEY, update_vectors, vectors_config

PEER = pathlib.Path(__file__).with_name("hoplite_peer.py")
PYTHON = os.environ.get("HOPLITE_PYTHON")
pytestmark = pytest.mark.skipif(not PYTHON, reason="HOPLITE_PYTHON does not name a Python")


def peer(*arguments):
    result = subprocess.run([PYTHON, PEER, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_ours_read_by_theirs(tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 16)).astype(np.float32)
    starts = np.arange(10) * 7680 / 16000
    with WindowStore(tmp_path, {"encoder": "0123"}) as store:
        names = ["a.wav", "site/SM4_20240131_061500.wav"]
        recordings = store.add_recordings("/data", names, ["/data/a.wav", ""], [0.0, 0.0])
        for recording, part in zip(recordings, np.split(vectors, 2), strict=True):
            spans = np.repeat(starts, 3)
            channels = np.tile([0, 1, 2], 10)
            store.append(recording.id, Rows(spans, spans + 0.975, channels, -5.0 * channels, part))
            store.finish(recording.id, "digest", 5.3)
        store.set_metadata(CONFIG_KEY, vectors_config(16))
        sources = {
            "audio_globs": [{"dataset_name": "/data", "base_path": "/data", "file_glob": "**/*"}]
        }
        store.set_metadata("audio_sources", sources)
        update_vectors(store, 16)
    found = peer("read", tmp_path)
    assert found["count"] == 60
    assert found["projects"] == ["/data"]
    assert found["deployments"] == ["/data", "site"]
    assert found["recordings"] == [["a.wav", None], [names[1], "2024-01-31T06:15:00"]]
    assert found["offsets"] == [[s, s + 0.975] for s in np.repeat(starts, 3).tolist()] * 2
    assert found["channels"] == [0, 1, 2] * 20
    assert found["levels"] == [0.0, -5.0, -10.0] * 20
    assert found["extra"]["windows"] == ["channel", "level_db", "norm"]
    assert found["metadata"] == ["audio_sources", SETTINGS, CONFIG_KEY]
    assert found["sources"]["audio_globs"][0]["base_path"] == "/data"
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_array_equal(found["vectors"], unit.astype(np.float16))
    np.testing.assert_allclose(found["norms"], np.linalg.norm(vectors, axis=1), rtol=1e-6)
    scores = unit @ unit[0]
    expected = np.argsort(-scores)[:5]
    for kind in ("exact", "approximate"):
        assert [number for number, _ in found[kind]] == (expected + 1).tolist()
        np.testing.assert_allclose([s for _, s in found[kind]], scores[expected], atol=2e-3)
    assert found["labelled"] == [1, 2, 3]  # 0.1 to 0.2 s is in the first window of a.wav

    # What they have added stays, and we go on.
    index = WindowIndex(tmp_path)
    assert index.annotations() == [("/data/a.wav", 0.1, 0.2, "owl", 1)]
    assert index.search(vectors[0], 5)[0].row == 1
    with WindowStore(tmp_path, {"encoder": "0123"}) as store:
        again = store.add_recordings("/data", names, ["", ""], [0.0, 0.0])
        assert [recording.complete for recording in again] == [True, True]
        store.start(recordings[1].id, "", "new")
        store.append(
            recordings[1].id, Rows(*np.zeros((2, 1)), np.array([0]), np.zeros(1), vectors[:1])
        )
        store.finish(recordings[1].id, "other", 1.0)
        update_vectors(store, 16)
    found = peer("read", tmp_path)
    assert found["count"] == 31
    assert len(found["offsets"]) == 31


def test_theirs_read_by_ours(tmp_path):
    vectors = np.array(peer("write", tmp_path)["vectors"])
    index = WindowIndex(tmp_path)
    assert len(index) == 40
    assert index.settings is None
    query = vectors[33] / np.linalg.norm(vectors[33])
    scores = vectors @ query
    best = np.argsort(-scores)[:7]
    found = index.search(vectors[33], 7)
    assert [row.row for row in found] == (best + 1).tolist()
    np.testing.assert_allclose([row.score for row in found], scores[best], atol=5e-3)
    assert [(row.recording, row.start) for row in found] == [
        ("ab"[i // 20] + ".wav", 5.0 * (i % 20)) for i in best
    ]
    row = index.row_at("b.wav", 66.0)
    assert (row.row, row.start, row.end, row.channel) == (34, 65.0, 70.0, 0)
    np.testing.assert_array_equal(index.vector(34), vectors[33])
