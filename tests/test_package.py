"""The package as a library: its names, what importing it costs, and what it registers."""

import ast
import inspect
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import sepssl
from sepssl.audio.files import write_audio
from sepssl.registration import MODULES
from sepssl.representation.embed import embed_recording


def run(code, *arguments):
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, sepssl; dir(sepssl); print(*sys.modules)"
    loaded = set(run(code).split())
    assert not loaded & {"keras", "tensorflow", "numpy", "scipy", "soundfile", "absl"}


def test_every_public_name_is_there_documented_and_known_to_type_checkers():
    tree = ast.parse(pathlib.Path(sepssl.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {a.name: line.module for line in block.body for a in line.names}
    assert set(typed) | {"__version__"} == set(sepssl.__all__) <= set(dir(sepssl))
    assert set(typed) == set(sepssl._HOMES)
    for name, module in typed.items():
        value = getattr(sepssl, name)
        assert value is getattr(sys.modules[module], name)
        assert inspect.getdoc(value)
        if inspect.isfunction(value):
            assert value.__module__ == module
    with pytest.raises(AttributeError, match="'sepssl' has no attribute 'Separater'"):
        sepssl.Separater  # noqa: B018


def test_every_registered_class_is_defined_in_a_module_that_registration_imports():
    sources = pathlib.Path(sepssl.__file__).parent.rglob("*.py")
    defining = {
        path.relative_to(pathlib.Path(sepssl.__file__).parents[1]).with_suffix("").as_posix()
        for path in sources
        if '@keras.saving.register_keras_serializable(package="sepssl")' in path.read_text()
    }
    registered = {
        value.__module__
        for key, value in keras.saving.get_custom_objects().items()
        if key.startswith("sepssl>")
    }
    assert len(defining) > 10
    assert {name.replace("/", ".") for name in defining} <= registered
    assert all(name in sys.modules for name in MODULES)


RELOAD = """
import json, sys
{imports}
import numpy as np
model = keras.saving.load_model(sys.argv[1])
print(json.dumps(np.asarray(model(np.load(sys.argv[2]))).tolist()))
"""


@pytest.fixture(scope="module")
def larger_model(tmp_path_factory):
    """A Keras model around an encoder and a separator, its input, and its output."""
    folder = tmp_path_factory.mktemp("larger")
    keras.utils.set_random_seed(0)
    waveform = keras.Input((None,))
    separator = sepssl.Separator(2, sepssl.STFTBasis(64, 32), sepssl.TDCN(8, 12, 2, 1))
    first = separator(waveform)[:, 0]
    embedding = sepssl.Encoder(sepssl.SmallBackbone(8, width=2))(first)
    model = keras.Model(waveform, keras.layers.Dense(3)(embedding))
    x = np.random.default_rng(0).normal(size=(2, 16000)).astype(np.float32)
    model.save(folder / "model.keras")
    np.save(folder / "x.npy", x)
    return folder / "model.keras", folder / "x.npy", np.asarray(model(x))


@pytest.mark.parametrize(
    "imports",
    [
        "import keras; import sepssl",
        pytest.param("import sepssl; import keras", marks=pytest.mark.slow),
        pytest.param("import sepssl; import tensorflow; import keras", marks=pytest.mark.slow),
        # Imports Keras while it is itself being imported, and nothing of the encoders.
        "from sepssl.separation.tdcn import TDCN; import keras",
    ],
)
def test_a_larger_model_loads_after_the_package_is_imported(imports, larger_model):
    path, inputs, expected = larger_model
    found = json.loads(run(RELOAD.format(imports=imports), path, inputs).splitlines()[-1])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_recording_is_separated_from_array_or_file(tmp_path):
    separator = sepssl.Separator(2, sepssl.STFTBasis(64, 32), tdcn=sepssl.TDCN(8, 12, 2, 1))
    waveform = (0.1 * np.random.default_rng(0).normal(size=9000)).astype(np.float32)
    expected = np.asarray(separator(waveform[None]))[0]
    np.testing.assert_allclose(sepssl.separate(separator, waveform), expected, atol=1e-6)
    write_audio(tmp_path / "x.wav", waveform, 16000, "FLOAT")
    sepssl.save_model(separator, tmp_path / "separator.keras")
    found = sepssl.separate(tmp_path / "separator.keras", str(tmp_path / "x.wav"))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # At another rate: as many samples, which add up to the recording.
    channels = sepssl.separate(separator, waveform, sample_rate=8000)
    np.testing.assert_allclose(channels.sum(axis=0), waveform, atol=1e-5)


def test_a_recording_is_embedded_from_array_or_file(tmp_path):
    encoder = sepssl.Encoder(sepssl.SmallBackbone(8, width=2))
    time = np.arange(48000) / 16000
    waveform = np.sin(2 * np.pi * 440 * time).astype(np.float32)
    expected = embed_recording(encoder, waveform)
    np.testing.assert_array_equal(sepssl.embed(encoder, waveform), expected)
    slow = np.sin(2 * np.pi * 440 * np.arange(24000) / 8000).astype(np.float32)
    found = sepssl.embed(encoder, slow, sample_rate=8000)
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())
    write_audio(tmp_path / "x.wav", waveform, 16000, "FLOAT")
    sepssl.save_model(encoder, tmp_path / "encoder.keras")
    found = sepssl.embed(tmp_path / "encoder.keras", tmp_path / "x.wav")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"shape \(1, 9\): expected one channel, \[samples\]"):
        sepssl.embed(encoder, np.zeros((1, 9)))
