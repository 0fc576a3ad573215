import concurrent.futures
import json
import os
import subprocess
import sys

import pytest

from sepssl.representation import Encoder, SmallBackbone
from sepssl.separation import TDCN, LearnedBasis, Separator
from sepssl.serialization import save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    encoder = Encoder(SmallBackbone(embedding_size=16, width=4))
    encoder.build()
    save_model(encoder, folder / "encoder.keras")
    separator = Separator(
        num_sources=2,
        basis=LearnedBasis(num_coefficients=8),
        tdcn=TDCN(bottleneck_channels=4, conv_channels=4, dilations_per_repeat=1, repeats=1),
    )
    separator.build((None, 4000))
    save_model(separator, folder / "separator.keras")
    (folder / "text.keras").write_text("not a model")
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("mine")
    return folder


ERRORS = {
    "missing": (["--encoder=nothing.keras", "--output=a"], "nothing.keras: no such file"),
    "text": (["--encoder=text.keras", "--output=b"], "text.keras: could not be loaded"),
    "separator": (["--encoder=separator.keras", "--output=c"], "holds a Separator; expected"),
    "full": (["--encoder=encoder.keras", "--output=full"], "full: is not empty"),
    "format": (
        ["--encoder=encoder.keras", "--output=d", "--format=onnx"],
        "should be one of <saved_model|tflite>",
    ),
    "argument": (["--encoder=encoder.keras", "--output=e", "tflite"], "unexpected argument"),
    "flag": (["--encoder=encoder.keras", "--output=f", "--fromat=tflite"], "flag 'fromat'"),
    "no encoder": (["--output=g"], "--encoder"),
}
WRITES = {
    "saved_model": ["--encoder=encoder.keras", "--output=saved", "--format=saved_model"],
    "tflite": ["--encoder=encoder.keras", "--output=new/lite", "--format=tflite"],
}


@pytest.fixture(scope="module")
def results(folder):
    """Name -> finished process, two at a time: each imports TensorFlow for seconds."""

    def run(arguments):
        return subprocess.run(
            [sys.executable, "-m", "sepssl.cli.export", *arguments],
            capture_output=True,
            text=True,
            cwd=folder,
            # Not inherited from the tests' own TensorFlow: the entry point sets it.
            env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
            timeout=120,
        )

    commands = {name: arguments for name, (arguments, _) in ERRORS.items()} | WRITES
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return dict(zip(commands, pool.map(run, commands.values()), strict=True))


@pytest.mark.parametrize("name", ERRORS)
def test_bad_input_is_one_line_and_leaves_nothing(results, folder, name):
    process = results[name]
    assert process.returncode == 1
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith("sepssl-export: error: ")
    assert ERRORS[name][1] in line
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("encoder.keras", "separator.keras", "text.keras", "full"),
        *("saved", "new"),
    }
    assert [path.name for path in (folder / "full").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", WRITES)
def test_writes_an_export_with_a_card(results, folder, name):
    process = results[name]
    assert process.returncode == 0, process.stderr
    assert "16000 Hz -> 16 values" in process.stdout
    output = folder / ("saved" if name == "saved_model" else "new/lite")
    card = json.loads((output / "card.json").read_text())
    assert card["format"] == name
    assert all((output / file).is_file() for file in card["files"])


def test_help_names_the_flags():
    process = subprocess.run(
        [sys.executable, "-m", "sepssl.cli.export", "--help"], capture_output=True, text=True
    )
    assert process.returncode == 0
    for text in ("--encoder:", "--output:", "--format:", "Writes an encoder in a format"):
        assert text in process.stdout
