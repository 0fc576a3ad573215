"""README's page for each kind of user: its commands, then every block of code, are run."""

import concurrent.futures
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from sepssl.representation import Encoder, SmallBackbone
from sepssl.separation import TDCN, Separator, STFTBasis
from sepssl.serialization import save_model

README = pathlib.Path(__file__).parents[2] / "README.md"
SECTION = README.read_text().split("## Exporting, and loading")[1].split("\n## ")[0]
COMMANDS = SECTION.split("\n\n")[1].replace("\\\n", " ").strip().splitlines()
# First words of a paragraph -> the code after it.
BLOCKS = {
    part.split("**")[0]: part.split("```python\n")[1].split("```")[0]
    for part in SECTION.split("\n**")
    if "```python" in part
}
# What must hold after it.
CHECKS = {
    "TensorFlow": "assert embedding.shape == (2, 256) and patches.shape == (2, 3, 256)",
    "Keras 3": """
import numpy as np
before = layer.trainable_weights[0].numpy()
model.fit(np.random.default_rng(0).uniform(-1, 1, [4, 16000]), np.arange(4), verbose=0)
assert np.any(layer.trainable_weights[0].numpy() != before)
""",
    "TF Hub and tf_keras": """
import numpy as np
model.compile("sgd", "mse")
before = layer.trainable_weights[0].numpy()
model.fit(np.random.default_rng(0).uniform(-1, 1, [4, 16000]), np.ones([4, 10]), verbose=0)
assert np.any(layer.trainable_weights[0].numpy() != before)
""",
    "TF Lite": "assert embedding.shape == (1, 256)",
    "Separators and scenes.": """
assert sources.shape == (1, 4, 48000) and embedding.shape == (1, 256)
assert of_channels.shape == (1, 4, 256) and energies.shape == (1, 4)
""",
    "scikit-learn": "assert classifier.score(stored['embeddings'], labels) == 1.0",
    "HEAR": """
assert embedding.shape == (1, 256) and embeddings.shape == (1, 41, 256)
assert milliseconds[0, -1] == 2000
""",
    "sepssl itself:": "assert channels.shape == (4, 100000)",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Name -> finished process, in a folder that stands for /tmp."""
    folder = tmp_path_factory.mktemp("readme")
    keras.utils.set_random_seed(0)  # of two channels, both can be dead
    encoder = Encoder(SmallBackbone(width=2))
    separator = Separator(4, STFTBasis(), TDCN(4, 8, 2, 1))
    for name, model in {"encoder": encoder, "separator": separator}.items():
        model.build()
        save_model(model, folder / name / "final.keras")
    names = [f"{kind}/{i}.wav" for kind in ("dogs", "cats") for i in range(5)]
    embeddings = np.eye(2)[np.repeat([0, 1], 5)].astype(np.float32)
    np.savez(folder / "embeddings.npz", names=names, embeddings=embeddings)

    def run(*command):
        return subprocess.run(
            [sys.executable, *(part.replace("/tmp/", f"{folder}/") for part in command)],
            capture_output=True,
            text=True,
            cwd=folder,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
        )

    def export(command):
        return run("-m", "sepssl.cli.export", *command.split()[1:])

    def use(name):
        return run("-c", BLOCKS[name] + "\n" + CHECKS[name])

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for process in pool.map(export, COMMANDS):
            assert process.returncode == 0, process.stderr[-3000:]
        return dict(zip(CHECKS, pool.map(use, CHECKS), strict=True))


def test_every_block_is_run():
    assert SECTION.count("sepssl-export ") == len(COMMANDS) == 5
    assert list(BLOCKS) == list(CHECKS)
    assert SECTION.count("```python") == len(BLOCKS)


@pytest.mark.parametrize("name", CHECKS)
def test_block(results, name):
    assert results[name].returncode == 0, results[name].stderr[-3000:]
    assert len(BLOCKS[name].strip().splitlines()) <= 8
