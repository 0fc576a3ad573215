import json
import pathlib

import keras
import numpy as np
import pytest

from sepssl.audio.log_mel import LogMel
from sepssl.export import processes, tflite
from sepssl.representation import Encoder, SmallBackbone

RUN_SCRIPT = processes.run_script


@pytest.fixture(scope="session")
def encoder():
    """A tiny encoder whose moving statistics are not those of a new one."""
    keras.utils.set_random_seed(0)  # Whether int8 files load and how exact they are depends on it.
    backbone = SmallBackbone(embedding_size=16, width=4, unpooled_channels=2)
    encoder = Encoder(backbone, LogMel(normalize_level="waveform"))
    for _ in range(3):
        encoder(np.random.default_rng(1).uniform(-1, 1, [4, 20000]), training=True)
    return encoder


@pytest.fixture(scope="session")
def waveforms():
    """Name -> [batch, samples]; none of them is among the clips that the exporter checks."""
    random = np.random.default_rng(2)
    shapes = {"one": [1, 1], "short": [2, 999], "long": [1, 50001], "batch": [5, 16000]}
    return {name: random.uniform(-1, 1, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(autouse=True)
def all_exports_are_forked(forked_exports):
    """But for a test that asks for `real_processes`."""


@pytest.fixture
def real_processes(all_exports_are_forked, monkeypatch):
    for module in (processes, tflite):
        monkeypatch.setattr(module, "run_script", RUN_SCRIPT)


@pytest.fixture(scope="session")
def run_python(forks, tmp_path_factory):
    """Function (script, *arguments) -> (JSON that the script prints last, its stderr)."""
    # Elsewhere, so that no module is found only because the tests run in the repository.
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def run(script, *arguments):
        process = forks.run(*map(str, arguments), code=script, cwd=elsewhere)
        assert process.returncode == 0, process.stderr[-3000:]
        return json.loads(process.stdout.splitlines()[-1]), process.stderr

    return run


@pytest.fixture(scope="session")
def saved_waveforms(waveforms, tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("waveforms") / "waveforms.npz"
    np.savez(path, **waveforms)
    return path


class MeanBackbone(keras.layers.Layer):
    """Mean over a patch, then whatever a test wants to be awkward about."""

    embedding_size = 64

    def __init__(self, awkward=lambda x: x, **kwargs):
        super().__init__(**kwargs)
        self.awkward = awkward
        self.dense = keras.layers.Dense(64, kernel_regularizer=keras.regularizers.L2(0.01))
        self.dropout = keras.layers.Dropout(0.5)

    def build(self, input_shape):
        self.dense.build((None, input_shape[-1]))
        self.built = True

    def call(self, patches, training=False):
        x = self.dense(keras.ops.mean(patches, axis=1))
        return self.awkward(self.dropout(x, training=training))


@pytest.fixture
def mean_backbone():
    return MeanBackbone
